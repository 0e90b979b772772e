"""A source of annotations → what of it is sound: cells with boxes, and the areas that were labelled."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import shapely

from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.class_map import ClassMap
from wsi_detect.annotations.facts import SlideFacts, SourceFacts
from wsi_detect.annotations.faults import Fault, find_faults, fitted, listed, mended
from wsi_detect.annotations.rois import Roi
from wsi_detect.annotations.rules import ImportRules
from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box

_LISTED = 20
#: Files that lie among those of a data set and hold no annotations.
_OTHER_FILES = ("classes.txt", "obj.names", "train.txt", "val.txt", "test.txt")

_log = logging.getLogger(__name__)


class Importer(Protocol):
    """What a dialect's file offers. `testing.contracts.check_importer` is its executable meaning."""

    SUFFIXES: tuple[str, ...]

    def read(self, path: Path, facts: SourceFacts) -> Iterator[Annotation]:
        """Annotations of one file, in its order; broken ones as they are.

        Raises:
            LabelError: the file cannot be read as this dialect, or facts are missing; the message names file and row.
        """


@dataclass(frozen=True, slots=True)
class Sound:
    """What is left of a source: sound cells and areas, and how many annotations there were."""

    cells: list[Annotation] = field(default_factory=list)
    rois: list[Roi] = field(default_factory=list)
    found: int = 0


def read_source(source: Path, importer: Importer, class_map: ClassMap, facts: SourceFacts, rules: ImportRules) -> Sound:
    """Read all files of a source.

    Raises:
        UnmappedLabelError: a label is not in the class map.
        LabelError: a file cannot be read, an image has no slide id, points have no declared size, or annotations are
            broken and are to be refused.
    """
    cells: list[Annotation] = []
    rois: list[Roi] = []
    files: Counter[str] = Counter()
    refused: list[str] = []
    count = 0
    for path, annotator in _files(source, importer):
        found = list(importer.read(path, facts))
        if annotator is not None:
            found = [entry if entry.annotator else replace(entry, annotator=annotator) for entry in found]
        count += len(found)
        areas = [entry for entry in found if entry.kind == "roi" or entry.source_label in rules.roi_labels]
        labelled = [entry for entry in found if entry.kind != "roi" and entry.source_label not in rules.roi_labels]
        class_map.check(entry.source_label for entry in labelled)
        _check_images(found, facts.slides, path)
        wanted = [entry for entry in labelled if class_map.labels[entry.source_label] is not None]
        gravities = [class_map.gravity(entry.source_label) for entry in wanted]
        sound, broken = _sound(_boxed(wanted, facts, rules, path), gravities, rules)
        areas, broken_areas = _sound(areas, [0] * len(areas), rules)
        if broken or broken_areas:
            refused.append(f"{path}: {listed([*broken, *broken_areas])}")
        cells += [_numbered(entry, files) for entry in sound]
        rois += [_roi(_numbered(entry, files), facts) for entry in areas]
        files.update({entry.image for entry in found})
    _report(refused, rules)
    return Sound(cells, rois, count)


def boxed_point(entry: Annotation, side_px: float) -> Annotation:
    """Lay a square of a side around a point and cut it to the image; a point outside is said to be a problem."""
    x, y = entry.box.x0, entry.box.y0
    half = side_px / 2
    width, height = entry.image_size or (float("inf"), float("inf"))
    if x < 0 or y < 0 or x > width or y > height:
        return replace(entry, problem=f"point [{x:g}, {y:g}] lies outside its image of {width:g} x {height:g} px")
    if entry.image_size is None:
        return replace(entry, box=Box(x - half, y - half, x + half, y + half))
    # Not min and max: they lose NaN, which is still to be reported.
    x0, y0 = (0.0 if value - half < 0 else value - half for value in (x, y))
    x1, y1 = (
        side if value + half > side else value + half for value, side in ((x, float(width)), (y, float(height)))
    )  # fmt: skip
    return replace(entry, box=Box(x0, y0, x1, y1))


def _files(source: Path, importer: Importer) -> list[tuple[Path, str | None]]:
    """Files of a source, each with the annotator whose folder it is in, where folders are annotators'."""
    if not source.is_dir():
        return [(source, None)]
    found: list[tuple[Path, str | None]] = [(path, None) for path in _in_folder(source, importer)]
    if not found:
        folders = sorted(folder for folder in source.iterdir() if folder.is_dir())
        found = [(path, folder.name) for folder in folders for path in _in_folder(folder, importer)]
    if not found:
        raise LabelError(f"{source} holds no file that ends in {' or '.join(importer.SUFFIXES)}")
    return found


def _in_folder(folder: Path, importer: Importer) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(importer.SUFFIXES) and path.is_file() and path.name not in _OTHER_FILES
    )


def _check_images(annotations: Sequence[Annotation], slides: Mapping[str, SlideFacts], path: Path) -> None:
    unknown = sorted({entry.image for entry in annotations} - set(slides))
    if unknown:
        more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        raise LabelError(f"{path}: no slide id for {', '.join(unknown[:_LISTED])}{more}")


def _boxed(annotations: Sequence[Annotation], facts: SourceFacts, rules: ImportRules, path: Path) -> list[Annotation]:
    points = [entry for entry in annotations if entry.kind == "point"]
    if points and rules.point_um is None and rules.point_px is None:
        raise LabelError(
            f"{path}: {len(points)} cells are points (the first in row {points[0].row}); say how large the box of a "
            "point is, in µm or px"
        )
    sides = {
        image: _side_px(facts.slides[image], image, rules, path) for image in sorted({entry.image for entry in points})
    }
    return [boxed_point(entry, sides[entry.image]) if entry.kind == "point" else entry for entry in annotations]


def _side_px(slide: SlideFacts, image: str, rules: ImportRules, path: Path) -> float:
    if rules.point_px is not None:
        return rules.point_px
    if slide.mpp is None or rules.point_um is None:
        raise LabelError(f"{path}: the µm per px of {image} is not known, so a point cannot get a box in µm; state it")
    return rules.point_um / slide.mpp


def _sound(
    annotations: Sequence[Annotation], gravities: Sequence[int], rules: ImportRules
) -> tuple[list[Annotation], list[Fault]]:
    """Drop or mend what is broken."""
    faults = find_faults(annotations, gravities)
    hopeless = {fault.entry for fault in faults if rules.faulty != "repair" or fault.doubled}
    broken = {fault.entry for fault in faults}
    kept = (mended(entry) if k in broken else fitted(entry) for k, entry in enumerate(annotations) if k not in hopeless)
    return [entry for entry in kept if entry is not None], faults


def _report(broken: Sequence[str], rules: ImportRules) -> None:
    """Refuse a source with faults, all its files at once; or say what was done with them."""
    if not broken:
        return
    more = [f"and {len(broken) - _LISTED} more files"] if len(broken) > _LISTED else []
    text = "\n".join([*broken[:_LISTED], *more])
    if rules.faulty == "refuse":
        raise LabelError(f"{text}; correct that, or have it dropped or repaired on purpose")
    done = "dropped" if rules.faulty == "drop" else "mended, or dropped where that cannot be"
    _log.warning("annotate: %s: %s", done, text)


def _numbered(entry: Annotation, files: Mapping[str, int]) -> Annotation:
    """Tell ids apart where a slide has several files: ids are unique within a file only."""
    before = files[entry.image]
    return entry if not before else replace(entry, annotation_id=f"{before + 1}:{entry.annotation_id}")


def _roi(entry: Annotation, facts: SourceFacts) -> Roi:
    shape = shapely.box(*entry.box) if entry.geometry is None else shapely.from_wkb(entry.geometry)
    return Roi(facts.slides[entry.image].slide_id, entry.annotation_id, shape)
