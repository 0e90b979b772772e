"""Cells lost and doubled where the truth is known: ours, and SAHI with the setting that suits each scene best."""

import itertools
from dataclasses import dataclass

import numpy as np
import shapely
from bench_common import peer
from stitching_peers import PEERS, Peer, ours, sahi
from stitching_scenes import OVERLAP, PATCH, SIDE, Floats, Index, Scene, never_whole, see, truth_of

from wsi_detect.geometry import box_area
from wsi_detect.stitching.stitcher import StitchingConfig
from wsi_detect.tiling.grid import TileGrid

#: What of a large object must come out, as IoU with it, for it to count as whole.
WHOLE = 0.8


@dataclass(frozen=True)
class Case:
    """A scene by name; five slides of it make 20,000 cells, or 8,000 large objects."""

    kind: str
    jitter: int
    cut: str

    @property
    def name(self) -> str:
        """As it stands in the figures."""
        return f"{self.kind}/{self.jitter}px/{self.cut}"


def cases(quick: bool) -> list[Case]:
    """Which scenes are measured."""
    jitters = (0, 2) if quick else (0, 2, 5)
    small = [Case(*values) for values in itertools.product(("alone", "clumps"), jitters, ("low", "high"))]
    return small + [Case(*values) for values in itertools.product(("large", "mixed"), jitters, ("alike",))]


def quality(quick: bool) -> dict[str, float]:
    """Measure every case: `<figure>/<scene>/<jitter>/<scores of pieces>/<program and setting>` → number of cells.

    Figures are `lost` and `doubled`; with large objects also `broken`: no patch shows it whole, and it did not come
    out once and whole. `cells` is how many there are, `cut` how many of them no patch shows whole.
    """
    found: dict[str, float] = {}
    rivals = _rivals(quick) if peer("sahi") is not None else {}
    for case in cases(quick):
        number, seeds = (1000, 1) if quick else (4000, 5)
        scenes = [_scene(case, seed, number) for seed in range(seeds)]
        programs = {"ours": _mine(case)}
        # The setting that does best on the first slide is counted on all of them.
        wrong = {name: sum(_errors(rival, scenes[:1]).values()) for name, rival in rivals.items()}
        if wrong:
            best = min(wrong, key=lambda name: wrong[name])
            programs[best] = rivals[best]
        for name, program in programs.items():
            errors = _errors(program, scenes)
            found |= {f"{figure}/{case.name}/{name}": value for figure, value in errors.items()}
            print(f"{case.name}, {name}: {errors}")
        found[f"cells/{case.name}"] = float(sum(len(scene.cells) for scene in scenes))
        found[f"cut/{case.name}"] = float(sum(never_whole(scene).sum() for scene in scenes))
    return found


def _scene(case: Case, seed: int, number: int) -> Scene:
    grid = TileGrid(SIDE, SIDE, PATCH, OVERLAP)
    rng = np.random.default_rng(100 + seed)
    return see(truth_of(case.kind, seed, number), grid, rng, jitter=case.jitter, cut=case.cut)


def _mine(case: Case) -> Peer:
    """Our defaults; for objects larger than the overlap with the option that is meant for them."""
    return (
        ours(StitchingConfig.model_validate({"join": True} if "join" in StitchingConfig.model_fields else {}))
        if case.kind in ("large", "mixed")
        else PEERS["ours"]
    )


def _rivals(quick: bool) -> dict[str, Peer]:
    limits = (0.3, 0.5, 0.7) if quick else (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    settings = itertools.product(("NMS", "GreedyNMM", "NMM"), ("IOU", "IOS"), limits)
    return {
        f"SAHI {way} {metric} {limit}": sahi(way, metric=metric, threshold=limit) for way, metric, limit in settings
    }


def _errors(program: Peer, scenes: list[Scene]) -> dict[str, float]:
    """Cells lost, cells in excess, large objects broken, over some scenes."""
    errors = {"lost": 0.0, "doubled": 0.0}
    for scene in scenes:
        kept = program.merge(program.prepare(scene))
        truth = _assigned(kept, scene)
        # A merged box may lie beside every cell: one too many.
        stray = truth < 0
        kept, truth = kept[~stray], truth[~stray]
        times = np.bincount(truth, minlength=len(scene.cells))
        errors["lost"] += int((times == 0).sum())
        errors["doubled"] += int(np.maximum(times - 1, 0).sum() + stray.sum())
        cut = never_whole(scene)
        if cut.any():
            whole = np.zeros(len(scene.cells), dtype=bool)
            whole[truth[_iou(kept, scene.cells[truth]) >= WHOLE]] = True
            errors["broken"] = errors.get("broken", 0.0) + int((cut & ~(whole & (times == 1))).sum())
    return errors


def _assigned(kept: Floats, scene: Scene) -> Index:
    """The cell (K,) each box stands for: that of the detection it is, or, if it was merged, the one most like it.

    -1 for a merged box that touches none.
    """
    known = {box.tobytes(): cell for box, cell in zip(scene.boxes, scene.truth.tolist(), strict=True)}
    truth = np.array([known.get(box.tobytes(), -1) for box in kept], dtype=np.int64).reshape(-1)
    merged = np.flatnonzero(truth < 0)
    near, cell = shapely.STRtree(shapely.box(*scene.cells.T)).query(shapely.box(*kept[merged].T))
    order = np.argsort(_iou(kept[merged][near], scene.cells[cell]), kind="stable")
    # Of several entries for one box the last stays, the most alike.
    truth[merged[near[order]]] = cell[order]
    return truth


def _iou(a: Floats, b: Floats) -> Floats:
    shared = box_area(np.column_stack([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])]))
    result: Floats = shared / (box_area(a) + box_area(b) - shared)
    return result
