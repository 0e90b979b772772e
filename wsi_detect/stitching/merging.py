"""The views of a cell made one: its box, its class, its scores."""

import numpy as np

from wsi_detect.geometry import Boxes
from wsi_detect.stitching import labels
from wsi_detect.stitching.cells import Cells
from wsi_detect.stitching.columns import GRAVITIES, Said
from wsi_detect.stitching.groups import Groups
from wsi_detect.stitching.joins import united
from wsi_detect.stitching.ownership import Views
from wsi_detect.stitching.pairs import Index
from wsi_detect.stitching.rules import StitchingConfig


def cells_of(views: Views, said: Said, founder: Index, place: Index, config: StitchingConfig) -> Cells:
    """Return the cells that views founded.

    A cell has the box of its founding view, the class and score of the view the clinical rule chose, and the highest
    score each class got in any view.

    Args:
        views: the detections.
        said: what the detector said of them.
        founder: (N,) index of the founding view of each; -1 for views that belong to no cell.
        place: (N,) the total order, of views that share a cell.
        config: the margin of the clinical rule, and what to do with the boxes of a cell; lengths in slide px.
    """
    groups = Groups.of(founder)
    founding, support = groups.founding, groups.sizes()
    # Most views are a cell on their own; the rest of the work is for the others.
    shared = groups.only(support > 1)
    several, member = np.flatnonzero(support > 1), shared.member
    opinions = labels.Opinions(GRAVITIES[said.label[member]], said.score[member], views.cut[member], place[member])
    voice = founding.copy()
    voice[several] = member[labels.decide(shared.cell, opinions, margin=config.score_margin)]
    scores = None
    if said.class_scores is not None:
        scores = said.class_scores.take(founding, axis=0)
        scores[several] = labels.merge_class_scores(shared.cell, said.class_scores.take(member, axis=0))
    sides, edges = views.sides.take(founding, axis=1), np.zeros(len(founding), dtype=np.uint8)
    cut = views.cut[founding]
    if config.refine:
        mean = ~cut & (support > 1)
        sides[:, mean] = refined(views, said, groups.only(mean).of_views(~views.cut).in_order(place))
    if config.join:
        sides[:, cut], edges[cut] = united(views, groups.only(cut), config.cut_margin_px)
    return Cells(
        sides=sides,
        label=said.label[voice].astype(np.int16),
        score=said.score[voice].astype(np.float32),
        support=support.astype(np.int32),
        edges=edges,
        class_scores=scores,
        members=None if said.number is None else said.number[groups.in_order(place).member],
    )


def refined(views: Views, said: Said, groups: Groups) -> Boxes:
    """Return the mean boxes (4, G) of views, weighted by their scores.

    R. Solovyev, W. Wang, T. Gabruseva, "Weighted boxes fusion", Image Vis. Comput. 107 (2021) 104117, equations 2
    and 3, without their change of the score. Sums are taken in the order given.

    Args:
        views: the detections.
        said: their scores.
        groups: whole views, those of a cell together, in the total order.
    """
    if not len(groups.member):
        return np.empty((4, 0))
    # A detector may score at or below zero; such a view still counts, if hardly.
    weight = np.maximum(said.score[groups.member], 1e-6)
    start = np.flatnonzero(np.diff(groups.cell, prepend=-1))
    sums = np.add.reduceat(views.sides.take(groups.member, axis=1) * weight, start, axis=1)
    return np.asarray(sums / np.add.reduceat(weight, start))
