"""The one matcher: which detection has found which cell. Every metric and every interval stands on it.

It is COCO's rule at one threshold: detections from the highest score down, each takes the free cell it overlaps most if
their IoU reaches the threshold; a detection whose cell is taken (a duplicate) is a false positive; one that is
unmatched but lies by at least the threshold's share of its own area in an area to ignore is left out.

Taking turns is replaced by asking (Gale and Shapley 1962): every detection asks the cell it overlaps most, a cell keeps
the best-scored one that asks, who is refused asks its next. All cells prefer the higher score, so there is one stable
outcome, that of taking turns, and a round of asking is one operation on arrays.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.evaluation.columns import ANY, Columns, Index, Mask, Pairs, lay_out
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth

UNMATCHED = -1
IGNORED = -2
#: Group of a cell nobody asks about.
_NONE = -2


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Detections of all images in one order, each right or wrong; what curves are drawn from.

    Attributes:
        scores: (D,) descending; equal scores in the order of the images.
        hits: (D,) bool, True where the detection has found a cell nobody found before.
        image: (D,) int64, index of the image.
        cells: (F,) int64, cells to be found in each image.
    """

    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    image: NDArray[np.int64]
    cells: NDArray[np.int64]

    @property
    def n_cells(self) -> int:
        """Cells to be found in all images."""
        return int(self.cells.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Within:
    """A range of sizes: what lies outside is neither asked for nor counted against a detection, as COCO has it.

    Attributes:
        found: (D,) size of every detection, in any unit.
        cells: (M,) size of every cell, in the same.
        low: smallest size that counts.
        high: largest size that counts.
    """

    found: NDArray[np.float64]
    cells: NDArray[np.float64]
    low: float
    high: float

    def outside(self, sizes: NDArray[np.float64]) -> Mask:
        """Which of these sizes lie outside."""
        return np.asarray((sizes < self.low) | (sizes > self.high))


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Groups of classes, each looked at as one class; `ask` puts it.

    Attributes:
        columns: what is asked about.
        names: of the groups.
        rows: (K,) the detections that take part, by group, in a group from the highest score down.
        group: (K,) their groups.
        cell_group: (M,) group of each cell; `ANY` for an area to ignore.
        pairs: of detections that take part and cells of their group: by detection, best overlap first.
    """

    columns: Columns
    names: tuple[str, ...]
    rows: Index
    group: Index
    cell_group: Index
    pairs: Pairs

    def taken(self, threshold: float = 0.5, within: Within | None = None) -> tuple[Index, Mask]:
        """Match.

        Args:
            threshold: smallest IoU, from the columns' floor to 1.
            within: count only cells and detections of these sizes.

        Returns:
            (D,) the cell of each detection or `UNMATCHED`, and (M,) which cells are to be found.

        Raises:
            ValueError: the threshold is below the floor: such pairs were not kept.
        """
        if threshold < self.columns.floor:
            raise ValueError(f"threshold {threshold:g} is below {self.columns.floor:g}, the floor of these columns")
        cells = self.columns.cells
        asked = self.cell_group >= 0
        if within is not None:
            asked &= ~within.outside(within.cells)
        pairs = self.pairs
        if within is not None:
            # A cell that does not count is taken only by who finds no other.
            pairs = pairs.take(np.argsort(2 * pairs.first + ~asked[pairs.second], kind="stable"))
        matches = _assign(pairs, self.columns.detections.place, cells.label == ANY, threshold)
        return matches, asked

    def pools(self, threshold: float = 0.5, within: Within | None = None) -> dict[str, Pool]:
        """Match as `taken` does and return the detections of each group."""
        matches, asked = self.taken(threshold, within)
        match = matches[self.rows]
        hits = match != UNMATCHED
        counted = np.where(hits, np.append(asked, False)[match], within is None)
        if within is not None:
            counted |= ~hits & ~within.outside(within.found[self.rows])
        detections, images = self.columns.detections, self.columns.images
        place = self.cell_group[asked] * images + self.columns.cells.image[asked]
        cells = np.bincount(place, minlength=len(self.names) * images).reshape(len(self.names), images)
        edges = np.searchsorted(self.group, np.arange(len(self.names) + 1))
        found = {}
        for number, name in enumerate(self.names):
            mine = slice(edges[number], edges[number + 1])
            rows = self.rows[mine][counted[mine]]
            found[name] = Pool(
                detections.scores[rows], hits[mine][counted[mine]], detections.image[rows], cells[number]
            )
        return found


def ask(
    columns: Columns, groups: Mapping[str, Collection[str]], *, merge: bool = False, limit: int | None = None
) -> Question:
    """Prepare to match groups of classes.

    Args:
        columns: predictions and truth.
        groups: name → classes that are looked at as one; no class in two of them.
        merge: keep one label for each cell first, see `merge_labels`.
        limit: only so many detections of an image and a group take part, those that score highest.
    """
    detections, cells = columns.detections, columns.cells
    code = np.full(len(columns.names) + 2, _NONE, np.int64)
    code[ANY] = ANY
    for number, members in enumerate(groups.values()):
        code[np.flatnonzero(columns.codes(members))] = number
    group = code[detections.label]
    part = group >= 0
    if merge:
        part = _survivors(columns.rivals, part)
    rows = np.flatnonzero(part)
    rows = rows[np.lexsort((detections.place[rows], group[rows]))]
    if limit is not None:
        rows = rows[_rank(group[rows] * columns.images + detections.image[rows]) < limit]
        part = np.zeros(len(part), np.bool_)
        part[rows] = True
    cell_group = code[cells.label]
    theirs = cell_group[columns.found.second]
    pairs = columns.found.take(part[columns.found.first] & ((theirs == group[columns.found.first]) | (theirs == ANY)))
    # Of equal overlaps the last one, as COCO has it; areas to ignore after all cells.
    ignored = cell_group[pairs.second] == ANY
    pairs = pairs.take(np.lexsort((-pairs.second, -pairs.overlap, ignored, pairs.first)))
    return Question(columns, tuple(groups), rows, group[rows], cell_group, pairs)


def match(
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    truth: NDArray[np.floating],
    ignore: NDArray[np.floating],
    threshold: float = 0.5,
) -> NDArray[np.int64]:
    """Match the detections of one image to its cells.

    Args:
        boxes: (N, 4) xyxy, image px.
        scores: (N,).
        truth: (M, 4) cells.
        ignore: (L, 4) areas to ignore.
        threshold: smallest IoU, in (0, 1].

    Returns:
        (N,) for each detection the row of its cell, `UNMATCHED` or `IGNORED`.
    """
    found = FieldPrediction("", np.asarray(boxes, np.float64), np.asarray(scores, np.float64), [""] * len(boxes))
    there = FieldTruth("", 0, 0, np.asarray(truth, np.float64), [""] * len(truth), np.asarray(ignore, np.float64))
    matches, asked = ask(lay_out([found], [there], floor=threshold), {"": {""}}).taken(threshold)
    return np.where((matches == UNMATCHED) | np.append(asked, False)[matches], matches, IGNORED)


def pool(
    predictions: Collection[FieldPrediction],
    truths: Sequence[FieldTruth],
    labels: Collection[str] | None = None,
    threshold: float = 0.5,
) -> Pool:
    """Match every image and put the detections of all of them in one order.

    Args:
        predictions: at most one an image.
        truths: one an image.
        labels: cells and detections of these classes only, all of them as one class; None takes every one.
        threshold: smallest IoU of a match, in (0, 1].
    """
    columns = lay_out(predictions, truths, floor=threshold)
    return ask(columns, {"": columns.names if labels is None else labels}).pools(threshold)[""]


def merge_labels(prediction: FieldPrediction, threshold: float = 0.5) -> FieldPrediction:
    """Keep one label for each cell: of overlapping detections of *different* classes the higher score stays.

    A detector that suppresses within classes can name one nucleus NILM and LSIL at once; asked about the cell whatever
    its class, or whether it is abnormal, only one of them may count. Detections of one class are left alone: two of
    them on one cell are a duplicate, which is the detector's fault.

    Args:
        prediction: detections of one image.
        threshold: smallest IoU of boxes that mean the same cell.
    """
    nothing = FieldTruth(prediction.image_id, 0, 0, np.zeros((0, 4)), [])
    columns = lay_out([prediction], [nothing], threshold)
    kept = _survivors(columns.rivals, np.ones(len(prediction.labels), np.bool_))
    order = columns.detections.order
    return prediction.take(order[kept[order]])


def _assign(pairs: Pairs, place: Index, many: Mask, threshold: float) -> Index:
    """Let detections ask for cells, in the order of `pairs`, until nobody is refused.

    Args:
        pairs: by detection, the cell it wants most first.
        place: (D,) the lower, the earlier its turn.
        many: (M,) cells that take everyone who asks.
        threshold: smallest overlap.

    Returns:
        (D,) the cell or `UNMATCHED`.
    """
    # COCO's tolerance: a perfect box must match at threshold 1.
    wide = pairs.overlap >= min(threshold, 1 - 1e-10)
    first, second = pairs.first[wide], pairs.second[wide]
    result = np.full(len(place), UNMATCHED, np.int64)
    start = np.flatnonzero(np.diff(first, prepend=-1))
    stop = np.append(start[1:], len(first))[: len(start)]
    who, turn = first[start], place[first[start]]
    now = start.copy()
    best, holder = np.full(len(many), np.iinfo(np.int64).max), np.full(len(many), -1)
    asking = np.arange(len(start))
    while len(asking):
        cell = second[now[asking]]
        single = ~many[cell]
        np.minimum.at(best, cell[single], turn[asking[single]])
        wins = single & (best[cell] == turn[asking])
        sent_away = holder[cell[wins]]
        holder[cell[wins]] = asking[wins]
        refused = np.concatenate([asking[single & ~wins], sent_away[sent_away >= 0]])
        now[refused] += 1
        asking = refused[now[refused] < stop[refused]]
    lucky = now < stop
    result[who[lucky]] = second[now[lucky]]
    return result


def _survivors(rivals: Pairs, part: Mask) -> Mask:
    """Which detections stay when each, from the highest score down, takes away its rivals after it: (D,)."""
    both = part[rivals.first] & part[rivals.second]
    first, second = rivals.first[both], rivals.second[both]
    gone = np.zeros(len(part), np.bool_)
    while len(first):
        waiting = np.zeros(len(part), np.bool_)
        waiting[second] = True
        sure = ~waiting[first]
        gone[second[sure]] = True
        left = ~(sure | gone[first] | gone[second])
        first, second = first[left], second[left]
    return part & ~gone


def _rank(key: Index) -> Index:
    """How many with the same key come before each: (K,)."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    start = np.flatnonzero(np.diff(ordered, prepend=-1))
    rank = np.empty(len(key), np.int64)
    rank[order] = np.arange(len(key)) - np.repeat(start, np.diff(np.append(start, len(key))))
    return rank
