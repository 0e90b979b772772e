"""Deciding what can be decided of views some of whose partners may not have been seen yet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsi_detect.stitching import alternatives, nms
from wsi_detect.stitching.cells import Cells
from wsi_detect.stitching.columns import Said
from wsi_detect.stitching.merging import cells_of
from wsi_detect.stitching.nms import Links
from wsi_detect.stitching.ownership import Views
from wsi_detect.stitching.pairs import Index
from wsi_detect.stitching.rules import StitchingConfig


@dataclass(frozen=True, slots=True)
class Rest:
    """Views whose fate is open.

    Attributes:
        views: the detections.
        said: what the detector said of them.
        links: the partners they have so far.
        penalty: (N,) what soft suppression has taken off their scores so far, see `alternatives.soften`.
    """

    views: Views
    said: Said
    links: Links
    penalty: Index

    def __len__(self) -> int:
        return len(self.penalty)

    @classmethod
    def of(cls, views: Views, said: Said, config: StitchingConfig) -> "Rest":
        """Take views of which nothing is decided."""
        known = views if config.method == "views" else alternatives.plain(views)
        return cls(known, said, Links.none(), np.zeros(len(views.patch), dtype=np.int64))

    @classmethod
    def join(cls, above: "Rest", below: "Rest") -> "Rest":
        """Put two parts of a slide together."""
        return cls(
            Views.join([above.views, below.views]),
            Said.join([above.said, below.said]),
            Links.join([above.links, below.links.moved(len(above))]),
            np.append(above.penalty, below.penalty),
        )

    def left(self, unsettled: NDArray[np.bool_], links: Links) -> "Rest":
        """Return what is left when the rest is settled; the links left are between such views."""
        index = np.flatnonzero(unsettled)
        links = links.renumbered(np.cumsum(unsettled) - 1)
        return Rest(self.views.take(index), self.said.take(index), links, self.penalty[index])


def settle(known: Rest, apart: Index, open_views: NDArray[np.bool_], config: StitchingConfig) -> tuple[Cells, Rest]:
    """Pair the views that differ in `apart`, and decide what no view yet to come can change.

    Args:
        known: the views, and the partners they have.
        apart: (N,) views that agree in it are no new partners.
        open_views: (N,) views that may have partners not seen yet.
        config: the rules.

    Returns:
        The cells that are complete, and the views that are not part of them but may yet be.
    """
    views, said = known.views, known.said
    kinds = None if config.class_agnostic else said.label
    iou = 0.0 if config.method == "soft_nms" and config.decay == "gaussian" else config.iou
    pairs = nms.candidates(views, apart, kinds, iou=iou, ios=config.ios)
    place = _places(views, said, (pairs.first, pairs.second, known.links.first, known.links.second))
    if config.method == "soft_nms":
        links = Links.join([known.links, alternatives.weighted(pairs, config)])
        soft = alternatives.soften(links, said.score, known.penalty, place, open_views, config)
        cells = cells_of(views, replace(said, score=soft.score), soft.founder, place, config)
        return cells, replace(known, penalty=soft.penalty).left(soft.unsettled, soft.links)
    new = nms.partners(pairs, views, place) if config.method == "views" else nms.in_order(pairs, place)
    fate = nms.found(Links.join([known.links, new]), views.owned, place, open_views)
    return cells_of(views, said, fate.founder, place, config), known.left(fate.unsettled, fate.links)


def _places(views: Views, said: Said, linked: Sequence[Index]) -> Index:
    """Return places in the total order (N,) of the views that have partners; those without need none."""
    wanted = np.zeros(len(views.patch), dtype=bool)
    for index in linked:
        wanted[index] = True
    rows = np.flatnonzero(wanted)
    mine = said.take(rows)
    place = np.full(len(wanted), -1)
    place[rows] = nms.rank(views.take(rows), mine.score, mine.label, mine.class_scores)
    return place
