"""Several annotators of one slide: whose boxes are of one cell, what its label is, and the votes themselves, kept.

Annotators are taken in the order of their names. A box goes to the cell it overlaps most, if that is at least the
declared IoU and the annotator has no other box there; else it begins a cell of its own. So nobody votes twice.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from wsi_detect import artifact, schema, taxonomy
from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.rules import VoteRule
from wsi_detect.errors import LabelError

VOTES_NAME = "votes.parquet"
_LISTED = 20


class Vote(NamedTuple):
    """What one annotator said of one cell; `annotation_id` is the cell's."""

    slide_id: str
    annotation_id: str
    annotator: str
    label: str
    source_label: str


class Settled(NamedTuple):
    """Cells, each with the label that was settled on and without an annotator, and the votes on them."""

    cells: list[Annotation]
    votes: list[Vote]


def settle(
    annotations: Sequence[Annotation], names: Mapping[str, str], slide_ids: Mapping[str, str], rule: VoteRule
) -> Settled:
    """Make cells of what several annotators marked.

    A cell gets box, outline and id of the first annotator, in the order of names, who gave it its label.

    Args:
        annotations: sound cells of any number of slides, each with its annotator.
        names: source label → taxonomy name.
        slide_ids: image → slide id.
        rule: how votes are settled.

    Raises:
        LabelError: an annotation has no annotator, or votes are tied and that is to be refused.
    """
    nameless = sum(entry.annotator is None for entry in annotations)
    if nameless:
        raise LabelError(f"{nameless} annotations have no annotator, so there are no votes to settle")
    cells: list[Annotation] = []
    votes: list[Vote] = []
    ties: list[str] = []
    by_slide: dict[str, list[Annotation]] = {}
    for entry in annotations:
        by_slide.setdefault(entry.image, []).append(entry)
    for image, marked in sorted(by_slide.items()):
        for group in _groups(marked, rule.min_iou):
            labels = [names[entry.source_label] for entry in group]
            label, tied = _verdict(labels, rule)
            chosen = group[labels.index(label)]
            if tied:
                ties.append(f"{chosen.annotation_id} ({', '.join(labels)})")
            cells.append(chosen)
            votes += [
                Vote(slide_ids[image], chosen.annotation_id, str(entry.annotator), name, entry.source_label)
                for entry, name in zip(group, labels, strict=True)
            ]
    if ties and rule.ties == "refuse":
        more = f" and {len(ties) - _LISTED} more" if len(ties) > _LISTED else ""
        raise LabelError(f"votes on {len(ties)} cells are tied: {'; '.join(ties[:_LISTED])}{more}")
    return Settled(cells, votes)


def read_votes(folder: Path) -> list[Vote]:
    """Read the votes of a data set; none if nobody voted.

    Raises:
        ArtifactError: the table is damaged or of another version.
    """
    path = folder / VOTES_NAME
    if not path.exists():
        return []
    columns = artifact.read_table(path, schema.VOTES).to_pydict()
    return [Vote(*row) for row in zip(*(columns[name] for name in Vote._fields), strict=True)]


def write_votes(folder: Path, votes: Sequence[Vote]) -> Path:
    """Write the votes of a data set in the order of slides, cells and annotators; without any, no file is left."""
    path = folder / VOTES_NAME
    if not votes:
        path.unlink(missing_ok=True)
        return path
    rows = sorted(votes)
    columns = {name: pa.array([getattr(vote, name) for vote in rows], pa.string()) for name in Vote._fields}
    artifact.write_table(path, pa.table(columns, schema=schema.VOTES), schema.VOTES)
    return path


def _verdict(labels: Sequence[str], rule: VoteRule) -> tuple[str, bool]:
    """Label of a cell, and whether a majority was sought and there was none."""
    if rule.settle == "gravest":
        return taxonomy.gravest_first(labels)[0], False
    counts = Counter(labels)
    most = max(counts.values())
    leading = [label for label, count in counts.items() if count == most]
    return taxonomy.gravest_first(leading)[0], len(leading) > 1


def _groups(marked: Sequence[Annotation], min_iou: float) -> list[list[Annotation]]:
    """Annotations of one slide by cell; in a group, one an annotator, in the order of their names."""
    groups: list[list[Annotation]] = []
    for annotator in sorted({str(entry.annotator) for entry in marked}):
        own = [entry for entry in marked if entry.annotator == annotator]
        firsts = np.array([group[0].box for group in groups], np.float64).reshape(-1, 4)
        boxes = np.array([entry.box for entry in own], np.float64).reshape(-1, 4)
        placed: set[int] = set()
        filled: set[int] = set()
        for mine, cell in _pairs(boxes, firsts, min_iou):
            if mine not in placed and cell not in filled:
                groups[cell].append(own[mine])
                placed.add(mine)
                filled.add(cell)
        groups += [[entry] for k, entry in enumerate(own) if k not in placed]
    return groups


def _pairs(boxes: NDArray[np.float64], firsts: NDArray[np.float64], min_iou: float) -> list[tuple[int, int]]:
    """Pairs (box, cell) that overlap enough, the closest first."""
    tree = shapely.STRtree(shapely.box(*firsts.T))
    mine, cell = tree.query(shapely.box(*boxes.T))
    a, b = boxes[mine], firsts[cell]
    sides = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    shared = sides.prod(axis=1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1)
    iou = shared / (areas - shared)
    order = np.lexsort([cell, mine, -iou])
    return [(int(mine[k]), int(cell[k])) for k in order if iou[k] >= min_iou]
