"""Programs that merge the boxes of overlapping patches: how each is prepared, and how it is called.

Everything is asked for the same: no regard to classes, IoU of 0.5 where the program has no better default of its own.
A peer is two functions: `prepare` makes what the program takes of a scene, `merge` gives the boxes (K, 4) it keeps.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from bench_common import peer
from stitching_scenes import CLASSES, Floats, Scene

from wsi_detect import artifact
from wsi_detect.schema import BOX_COLUMNS, DETECTIONS
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.stitcher import StitchingConfig, stitch, stitch_detections

IOU = 0.5
_PART_ROWS = 50_000


@dataclass(frozen=True)
class Peer:
    """How a program is measured; `package` is what must be installed."""

    package: str
    prepare: Callable[[Scene], Any]
    merge: Callable[[Any], Floats]


def boxes_in(table: Any) -> Floats:
    """Boxes (K, 4) of a table of ours."""
    return np.column_stack([table[name].to_numpy() for name in BOX_COLUMNS])


def ours(config: StitchingConfig) -> Peer:
    """The stitcher on a table in memory: detections in, cells with ids, classes and scores out."""

    def merge(prepared: Any) -> Floats:
        table, grid = prepared
        return boxes_in(stitch(table, grid, config, model_id="bench"))

    return Peer("wsi_detect", lambda scene: (scene.table(), scene.grid), merge)


def _write_parts(scene: Scene) -> Any:
    """Part files as the stage detect leaves them."""
    kept = tempfile.TemporaryDirectory(prefix="stitching")
    folder = Path(kept.name)
    table = scene.table()
    for number, start in enumerate(range(0, table.num_rows, _PART_ROWS)):
        part = table.slice(start, _PART_ROWS)
        artifact.write_table(
            folder / "detections" / f"part-{number:05d}.parquet", part, DETECTIONS, {"classes": json.dumps(CLASSES)}
        )
    # The folder goes when nobody holds it any more.
    return kept, scene.grid


def _stitch_parts(prepared: Any) -> Floats:
    folder, grid = Path(prepared[0].name), prepared[1]
    slide = SlideInfo("painted", Path("painted"), grid.width, grid.height, 0.25, "file", (1.0,))
    cells = stitch_detections(folder / "detections", grid, slide, folder, StitchingConfig(), model_id="bench")
    return cells.boxes()


def _strtree(scene: Scene) -> Floats:
    """Greedy suppression as one writes it with shapely: one query for all boxes, then the pairs in order."""
    boxes = scene.boxes[np.argsort(-scene.score, kind="stable")]
    shapes = shapely.box(*boxes.T)
    first, second = shapely.STRtree(shapes).query(shapes)
    first, second = first[first < second], second[first < second]
    a, b = boxes[first], boxes[second]
    shared = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - shared
    same = shared >= IOU * union
    first, second = first[same], second[same]
    order = np.argsort(first, kind="stable")
    kept = np.ones(len(boxes), dtype=bool)
    alive = bytearray(kept)
    for one, other in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if alive[one]:
            alive[other] = 0
    return boxes[np.frombuffer(alive, dtype=np.uint8).astype(bool)]


def _sahi_objects(scene: Scene) -> list[Any]:
    from sahi.prediction import ObjectPrediction

    rows = zip(scene.boxes.tolist(), scene.label.tolist(), scene.score.tolist(), strict=True)
    size = [scene.grid.height, scene.grid.width]
    return [
        ObjectPrediction(bbox=box, category_id=label, category_name=CLASSES[label], score=score, full_shape=size)
        for box, label, score in rows
    ]


def sahi(method: str, backend: str = "auto", *, metric: str = "IOU", threshold: float = IOU) -> Peer:
    """SAHI's `<method>Postprocess`, on the list of objects its users have."""

    def merge(objects: list[Any]) -> Floats:
        from sahi.postprocess import backends, combine

        backends.set_postprocess_backend(backend)
        rule = getattr(combine, f"{method}Postprocess")(
            match_threshold=threshold, match_metric=metric, class_agnostic=True
        )
        # It merges within the list it is given.
        kept = rule(list(objects))
        return np.array([entry.bbox.to_xyxy() for entry in kept]).reshape(-1, 4)

    return Peer("sahi", _sahi_objects, merge)


def _torchvision(prepared: Any) -> Floats:
    from torchvision.ops import batched_nms

    boxes, score, label = prepared
    kept: Floats = boxes[batched_nms(boxes, score, label, IOU)].numpy()
    return kept


def _tensors(scene: Scene) -> Any:
    import torch

    return torch.from_numpy(scene.boxes), torch.from_numpy(scene.score), torch.from_numpy(scene.label)


def _supervision(method: str) -> Peer:
    def prepare(scene: Scene) -> Any:
        import supervision

        return supervision.Detections(
            xyxy=scene.boxes.astype(np.float32), confidence=scene.score.astype(np.float32), class_id=scene.label
        )

    def merge(found: Any) -> Floats:
        kept: Floats = getattr(found, method)(threshold=IOU, class_agnostic=True).xyxy
        return kept

    return Peer("supervision", prepare, merge)


PEERS: dict[str, Peer] = {
    "ours": ours(StitchingConfig()),
    "ours, files": Peer("wsi_detect", _write_parts, _stitch_parts),
    "STRtree": Peer("shapely", lambda scene: scene, _strtree),
    "SAHI NMS numpy": sahi("NMS", "numpy"),
    "SAHI NMS numba": sahi("NMS", "numba"),
    "SAHI GreedyNMM": sahi("GreedyNMM"),
    "torchvision": Peer("torchvision", _tensors, _torchvision),
    "supervision NMS": _supervision("with_nms"),
    "supervision NMM": _supervision("with_nmm"),
}


def installed() -> list[str]:
    """Names of the programs that can be measured here; a line for each package that is missing."""
    there = {package: peer(package) is not None for package in dict.fromkeys(p.package for p in PEERS.values())}
    return [name for name, entry in PEERS.items() if there[entry.package]]
