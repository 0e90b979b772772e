"""Patch stores as other programs want them: a folder of pictures, a WebDataset, a COCO data set.

A patch is named after its slide's id and its own, never after a file. One that is stored as a JPEG is handed on as it
is. Patches go through one at a time, and everything goes into a folder of another name that is renamed at the end.
"""

import csv
import io
import itertools
import json
import math
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import numpy as np

from wsi_detect.artifact import PARTIAL
from wsi_detect.data.index import SlideLabels, read_labels
from wsi_detect.data.targets import MIN_VISIBLE, PatchTargets, patch_targets
from wsi_detect.errors import ConfigError, MissingArtifactError
from wsi_detect.taxonomy import cell_class
from wsi_detect.tiling.chunk import encode_jpeg
from wsi_detect.tiling.patch_store import PatchStore

FORMATS = ("folder", "webdataset", "coco")

_Suffix = Literal["jpg", "png"]
#: Of patches that are not one JPEG already: a second loss nobody sees.
_JPEG_LEVEL, _PNG_LEVEL = 95, 1
_NOTHING = SlideLabels(np.zeros((0, 4)), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class Labels:
    """Boxes to hand on with the patches.

    Attributes:
        annotations: `annotations.parquet`.
        classes: names, in the order of their numbers; boxes of others become regions to ignore.
        min_visible: share of a box that must be in a patch for the box to count; less is ignored.
    """

    annotations: Path
    classes: Sequence[str]
    min_visible: float = MIN_VISIBLE


@dataclass(frozen=True, slots=True)
class _Patch:
    """One patch: its name, facts for a table, and what is labelled in it (None: labels were not asked for)."""

    name: str
    facts: dict[str, Any]
    targets: PatchTargets | None
    store: PatchStore
    row: int


def export_stores(
    stores: Sequence[PatchStore], out: Path, form: str, *, labels: Labels | None = None, png: bool = False
) -> Path:
    """Write the patches of stores for other programs.

    Args:
        stores: with pixels; each of another slide.
        out: folder to make; it must not exist, or be empty.
        form: `folder`: pictures and `patches.csv`. `webdataset`: one uncompressed tar a slide, a picture and a JSON
            each patch. `coco`: `images/` and `annotations.json`, boxes in px of the picture; what a patch shows too
            little of is entered as crowd under every category, which evaluation leaves out.
        labels: boxes; `coco` needs them, `webdataset` takes them, `folder` has no place for them.
        png: write lossless pictures instead of JPEG.

    Raises:
        ConfigError: the folder is not empty, form and labels do not fit together, or two stores are of one slide.
        MissingArtifactError: a store is index-only, or a shard is gone.
        DamagedArtifactError: a patch fails its checksum.
        LabelError: a box is not finite or has no area.
    """
    _check(stores, out, form, labels)
    suffix: _Suffix = "png" if png else "jpg"
    known = read_labels(labels.annotations, labels.classes) if labels else {}

    def patches() -> Iterator[_Patch]:
        for store in stores:
            yield from _patches(store, labels, known.get(store.slide.slide_id, _NOTHING))

    with _folder(out) as folder:
        if form == "folder":
            _write_folder(patches(), folder, suffix)
        elif form == "webdataset":
            _write_tars(patches(), folder, suffix)
        elif labels is not None:
            (folder / "images").mkdir()
            with (folder / "annotations.json").open("w", encoding="utf-8", newline="\n") as stream:
                stream.write(f'{{"categories":{json.dumps(_categories(labels.classes))},\n"images":[')
                _write_list(stream, (_coco_image(k, p, folder, suffix) for k, p in enumerate(patches(), start=1)))
                stream.write('],\n"annotations":[')
                _write_list(stream, _coco_annotations(patches(), len(labels.classes)))
                stream.write("]}\n")
    return out


def _check(stores: Sequence[PatchStore], out: Path, form: str, labels: Labels | None) -> None:
    if form not in FORMATS:
        raise ConfigError(f"unknown format {form!r}; known: {', '.join(FORMATS)}")
    if form == "coco" and labels is None:
        raise ConfigError("a COCO data set needs boxes; give --annotations")
    if form == "folder" and labels is not None:
        raise ConfigError("a folder of pictures has no place for boxes; use coco or webdataset, or leave them out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; give another --out, or delete it")
    names = [store.slide.slide_id for store in stores]
    if len(set(names)) < len(names):
        raise ConfigError("two stores are of the same slide; export them to two folders")
    for store in stores:
        if store.index_only:
            raise MissingArtifactError(f"{store.path} is index-only and holds no pixels; tile the slide with a codec")


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A folder that gets its name when all is in it."""
    partial = out.with_name(out.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        # Once for all: to sync thousands of small files one by one takes longer than to make them.
        os.sync()
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _patches(store: PatchStore, labels: Labels | None, known: SlideLabels) -> Iterator[_Patch]:
    slide = store.slide.slide_id
    boxes, numbers = known.everything()
    for row, patch_id in enumerate(store.patch_ids.tolist()):
        frame = store.frame(row)
        facts = {
            "slide_id": slide,
            "patch_id": patch_id,
            "x_px": int(frame.x_px),
            "y_px": int(frame.y_px),
            "scale": frame.scale,
            "mpp": store.mpp,
            **{name: _number(values[row]) for name, values in store.columns.items()},
        }
        targets = None
        if labels is not None:
            share = labels.min_visible
            targets = patch_targets(boxes, numbers, frame, store.patch_px, min_visible=share)
        # Up to its first dot, a name is the key of a sample.
        yield _Patch(f"{slide.replace('.', '~')}_{patch_id:06d}", facts, targets, store, row)


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def _picture(patch: _Patch, suffix: _Suffix) -> bytes:
    stored = patch.store.jpeg(patch.row) if suffix == "jpg" else None
    if stored is not None:
        return stored
    region = patch.store.read(patch.row)
    patch.facts["unreadable"] = _number(region.unreadable)
    if suffix == "jpg":
        return encode_jpeg(region.rgb, _JPEG_LEVEL)
    return bytes(imagecodecs.png_encode(region.rgb, level=_PNG_LEVEL))


def _write_folder(patches: Iterator[_Patch], folder: Path, suffix: _Suffix) -> None:
    with (folder / "patches.csv").open("w", encoding="utf-8", newline="") as stream:
        table: csv.DictWriter[str] | None = None
        for patch in patches:
            name = f"{patch.name}.{suffix}"
            (folder / name).write_bytes(_picture(patch, suffix))
            line = {"file": name, **patch.facts}
            if table is None:
                table = csv.DictWriter(stream, list(line), lineterminator="\n")
                table.writeheader()
            table.writerow(line)


def _write_tars(patches: Iterator[_Patch], folder: Path, suffix: _Suffix) -> None:
    for slide, group in itertools.groupby(patches, key=lambda patch: str(patch.facts["slide_id"])):
        with tarfile.open(folder / f"{slide}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for patch in group:
                picture = _picture(patch, suffix)
                for kind, content in ((suffix, picture), ("json", _described(patch))):
                    # All else about a member stays as it is by default, time 0 and nobody's: equal stores, equal tars.
                    member = tarfile.TarInfo(f"{patch.name}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def _described(patch: _Patch) -> bytes:
    facts = dict(patch.facts)
    if patch.targets is not None:
        boxes = {"boxes": patch.targets.boxes, "ignore_boxes": patch.targets.ignore_boxes}
        facts |= {name: np.round(values.astype(np.float64), 3).tolist() for name, values in boxes.items()}
        facts["labels"] = patch.targets.labels.tolist()
    return json.dumps(facts, sort_keys=True, allow_nan=False).encode()


def _categories(classes: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"id": k, "name": name, "supercategory": cell_class(name).family} for k, name in enumerate(classes, start=1)
    ]


def _coco_image(number: int, patch: _Patch, folder: Path, suffix: _Suffix) -> dict[str, Any]:
    name, side = f"{patch.name}.{suffix}", patch.store.patch_px
    (folder / "images" / name).write_bytes(_picture(patch, suffix))
    return {"id": number, "file_name": name, "width": side, "height": side, **patch.facts}


def _coco_annotations(patches: Iterator[_Patch], classes: int) -> Iterator[dict[str, Any]]:
    number = 0
    for image, patch in enumerate(patches, start=1):
        if patch.targets is None:
            continue
        found = [
            (box, [label + 1], 0) for box, label in zip(patch.targets.boxes, patch.targets.labels.tolist(), strict=True)
        ]
        found += [(box, list(range(1, classes + 1)), 1) for box in patch.targets.ignore_boxes]
        for box, categories, crowd in found:
            x0, y0, x1, y1 = (round(float(value), 3) for value in box)
            bbox = [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)]
            for category in categories:
                number += 1
                yield {
                    "id": number,
                    "image_id": image,
                    "category_id": category,
                    "bbox": bbox,
                    "area": round(bbox[2] * bbox[3], 3),
                    "iscrowd": crowd,
                    "segmentation": [],
                }


def _write_list(stream: io.TextIOBase, entries: Iterator[Mapping[str, Any]]) -> None:
    for k, entry in enumerate(entries):
        stream.write((",\n" if k else "\n") + json.dumps(entry, allow_nan=False))
