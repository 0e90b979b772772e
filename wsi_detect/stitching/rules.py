"""How views of one cell are recognised, and what becomes of them: the configuration of the stitch stage."""

from typing import Literal

from pydantic import Field

from wsi_detect.config import Config


class StitchingConfig(Config):
    """How views of one cell are recognised.

    The defaults were chosen on painted boxes of 20 to 80 px, patches of 512 px overlapping by 80 px, pieces scored
    below or above whole cells. `python scripts/bench_stitching.py --only quality` gives, of 20,000 cells: none lost or
    doubled at 0 and 2 px of jitter, 3 doubled at 5 px; of 20,000 cells in clumps of 2 to 5 with an IoU up to 0.6: none
    at 0 and 2 px, 11 lost and 13 doubled at 5 px.

    Attributes:
        method: `views` knows patches: who owns a cell, what an edge has cut, one view a patch. `nms` and `soft_nms`
            are what other programs do, over the same candidate pairs: see `alternatives.py`.
        iou: least intersection over union of two views of one cell.
        ios: least intersection over the smaller box, where a patch edge has cut one of the two.
        cut_margin_px: a box this close to an inner edge of its patch may be cut, patch px; at least the detector's
            localisation error.
        jitter: by how much of the overlap a patch's core grows, so that a cell on a seam has an owner although
            patches disagree about its centre.
        decay: how soft suppression lowers the score of a box by what it shares with a better one.
        sigma: width of the Gaussian of `decay`.
        least_score: soft suppression drops a box whose score has fallen below it.
        score_margin: how much less a graver class may score and still name the cell.
        class_agnostic: one cell called ASC-US here and LSIL there is one cell. If False, it is two.
        refine: a cell gets the mean of its whole views, weighted by their scores, instead of its founder's box.
        join: pieces of an object larger than the overlap, facing each other across an edge, become one cell.
        clusters: every cell keeps the numbers of its views in the column `members`.
        workers: bands of the slide worked on at a time, in threads; any number gives the same cells.
        largest_cell_um: side of the largest cell expected, µm; an overlap that cannot hold it is refused. None: the
            caller has checked.
    """

    method: Literal["views", "nms", "soft_nms"] = "views"
    iou: float = Field(default=0.3, gt=0, le=1)
    ios: float = Field(default=0.6, gt=0, le=1)
    cut_margin_px: float = Field(default=6.0, ge=0)
    jitter: float = Field(default=0.15, ge=0, le=0.5)
    decay: Literal["gaussian", "linear"] = "gaussian"
    sigma: float = Field(default=0.5, gt=0)
    least_score: float = Field(default=0.05, gt=0)
    score_margin: float = Field(default=0.1, ge=0, le=1)
    class_agnostic: bool = True
    refine: bool = False
    join: bool = False
    clusters: bool = False
    workers: int = Field(default=1, ge=1)
    largest_cell_um: float | None = Field(default=None, gt=0)
