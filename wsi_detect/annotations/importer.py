"""A vendor's annotation file → `annotations.parquet` (STAGE annotate)."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wsi_detect import artifact, schema
from wsi_detect.annotations import coco
from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.class_map import ClassMap
from wsi_detect.errors import ConfigError, LabelError
from wsi_detect.geometry import Box

ANNOTATIONS_NAME = "annotations.parquet"

#: Format → `read(path)`.
IMPORTERS: dict[str, Callable[[Path], Iterator[Annotation]]] = {"coco": coco.read}

#: A box may stick out of its image by this much, px, from rounding; it is cut without a word.
_ROUNDING_PX = 1.0

#: Faults a message lists before it only counts.
_LISTED = 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one annotation; `row` is its place in the file, from 1."""

    row: int
    annotation_id: str
    problem: str

    def __str__(self) -> str:
        return f"row {self.row} (id {self.annotation_id}): {self.problem}"


def import_annotations(
    source: Path,
    format: str,  # noqa: A002 - the word everybody uses
    class_map: ClassMap,
    out: Path,
    slide_ids: Mapping[str, str],
    *,
    faulty: Literal["refuse", "drop"] = "refuse",
) -> Path:
    """Write the annotations of a file as a table, labels in the words of the taxonomy.

    Args:
        source: the vendor's file.
        format: a name of `IMPORTERS`.
        class_map: of the data card.
        out: folder; the table is `annotations.parquet` in it.
        slide_ids: image or slide name as the file has it → slide id.
        faulty: refuse a file with broken boxes, or drop them (a box partly inside its image is cut to it) and say so.

    Raises:
        ConfigError: there is no such format.
        UnmappedLabelError: a label is not in the class map.
        LabelError: an image has no slide id, or boxes are broken; every row is named.
    """
    if format not in IMPORTERS:
        raise ConfigError(f"unknown annotation format {format!r}; known: {', '.join(sorted(IMPORTERS))}")
    found = list(IMPORTERS[format](source))
    class_map.check(entry.source_label for entry in found)
    _check_images(found, slide_ids, source)
    wanted = [entry for entry in found if class_map.labels[entry.source_label] is not None]
    faults = find_faults(wanted)
    if faults and faulty == "refuse":
        raise LabelError(f"{source}: {_listed(faults)}; correct the file, or drop them on purpose")
    if faults:
        _log.warning("annotate: dropped or cut: %s", _listed(faults))
    rows = [row for entry in wanted if (row := _row(entry, class_map, slide_ids)) is not None]
    rows.sort(key=lambda row: (row["slide_id"], *(row[name] for name in schema.BOX_COLUMNS), row["annotation_id"]))
    target = out / ANNOTATIONS_NAME
    artifact.write_table(target, artifact.table_of(rows, schema.ANNOTATIONS), schema.ANNOTATIONS)
    _log.info("annotate: %d of %d annotations, %d slides", len(rows), len(found), len({r["slide_id"] for r in rows}))
    return target


def find_faults(annotations: Sequence[Annotation]) -> list[Fault]:
    """Judge boxes: not finite, without area, outside the image or reaching beyond it."""
    judged = ((entry, _problem(entry)) for entry in annotations)
    return [Fault(entry.row, entry.annotation_id, problem) for entry, problem in judged if problem is not None]


def _problem(entry: Annotation) -> str | None:
    box = entry.box
    text = "[{:g}, {:g}, {:g}, {:g}]".format(*box)
    if not all(math.isfinite(value) for value in box):
        return f"box {text} is not finite"
    if box.width <= 0 or box.height <= 0:
        return f"box {text} has no area"
    if entry.image_size is None:
        return None
    width, height = entry.image_size
    if box.x1 <= 0 or box.y1 <= 0 or box.x0 >= width or box.y0 >= height:
        return f"box {text} lies outside its image of {width} x {height} px"
    if min(box.x0, box.y0, width - box.x1, height - box.y1) < -_ROUNDING_PX:
        return f"box {text} reaches beyond its image of {width} x {height} px"
    return None


def _row(entry: Annotation, class_map: ClassMap, slide_ids: Mapping[str, str]) -> dict[str, Any] | None:
    box = _cut(entry)
    if box is None:
        return None
    return {
        "slide_id": slide_ids[entry.image],
        "annotation_id": entry.annotation_id,
        "label": class_map.labels[entry.source_label],
        **dict(zip(schema.BOX_COLUMNS, box, strict=True)),
        "geometry": entry.geometry,
        "annotator": entry.annotator,
        "source_label": entry.source_label,
    }


def _cut(entry: Annotation) -> Box | None:
    box = entry.box
    if not all(math.isfinite(value) for value in box):
        return None
    if entry.image_size is not None:
        width, height = entry.image_size
        box = Box(max(box.x0, 0.0), max(box.y0, 0.0), min(box.x1, float(width)), min(box.y1, float(height)))
    return box if box.width > 0 and box.height > 0 else None


def _check_images(annotations: Sequence[Annotation], slide_ids: Mapping[str, str], source: Path) -> None:
    unknown = sorted({entry.image for entry in annotations} - set(slide_ids))
    if unknown:
        more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        raise LabelError(f"{source}: no slide id for {', '.join(unknown[:_LISTED])}{more}")


def _listed(faults: Sequence[Fault]) -> str:
    more = f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
    return f"{len(faults)} broken annotations: {'; '.join(map(str, faults[:_LISTED]))}{more}"
