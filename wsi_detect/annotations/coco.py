"""COCO detection files → annotations. Boxes are `[x, y, width, height]` in px of the image."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.facts import SourceFacts
from wsi_detect.annotations.outline import Outline, points_of, united
from wsi_detect.annotations.text import read_json
from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box

SUFFIXES: tuple[str, ...] = (".json", ".json.gz")


def read(path: Path, facts: SourceFacts) -> Iterator[Annotation]:
    """Read a COCO file.

    Boxes are handed on as they stand; `faults` judges them. Of `segmentation`, polygons are kept, masks are not.

    Raises:
        LabelError: the file is absent or no COCO file, or an entry is incomplete, refers to an image or a category
            that is not in the file, or is a crowd region; the message names the row.
    """
    content = _load(path)
    images = {entry["id"]: entry for entry in _entries(path, content, "images", ("id", "file_name"))}
    categories = {entry["id"]: entry for entry in _entries(path, content, "categories", ("id", "name"))}
    fields = ("id", "image_id", "category_id", "bbox")
    for row, entry in enumerate(_entries(path, content, "annotations", fields), start=1):
        where = f"{path}: annotation {row} (id {entry['id']})"
        if entry["image_id"] not in images or entry["category_id"] not in categories:
            raise LabelError(
                f"{where} refers to image {entry['image_id']} and category {entry['category_id']}; not both are there"
            )
        if entry.get("iscrowd"):
            raise LabelError(f"{where} is a crowd region, which says nothing about single cells; remove it")
        image = images[entry["image_id"]]
        outline = _outline(entry.get("segmentation"), where)
        yield Annotation(
            annotation_id=str(entry["id"]),
            source_label=str(categories[entry["category_id"]]["name"]),
            box=_box(entry["bbox"], where),
            image=str(image["file_name"]),
            image_size=_size(image) or facts.size_of(str(image["file_name"])),
            geometry=outline.geometry if outline else None,
            row=row,
            problem=outline.problem if outline else None,
        )


def _load(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise LabelError(f"{path} is no COCO file: a mapping with images, annotations and categories is expected")
    return content


def _entries(path: Path, content: Mapping[str, Any], name: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    entries = content.get(name)
    if not isinstance(entries, list):
        raise LabelError(f"{path} is no COCO file: it has no list of {name}")
    for row, entry in enumerate(entries, start=1):
        missing = [field for field in fields if not isinstance(entry, dict) or field not in entry]
        if missing:
            raise LabelError(f"{path}: entry {row} of {name} lacks {', '.join(missing)}")
    return entries


def _box(values: Any, where: str) -> Box:
    try:
        x, y, width, height = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise LabelError(f"{where}: bbox {values!r} is not four numbers x, y, width, height") from error
    return Box(x, y, x + width, y + height)


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return (int(width), int(height)) if width and height else None


def _outline(segmentation: Any, where: str) -> Outline | None:
    if not isinstance(segmentation, list) or not segmentation:
        return None
    try:
        pairs = [list(zip(ring[::2], ring[1::2], strict=True)) for ring in segmentation]
    except (TypeError, ValueError) as error:
        raise LabelError(f"{where}: segmentation is not a list of polygons: {error}") from error
    return united([[points_of(ring, where)] for ring in pairs])
