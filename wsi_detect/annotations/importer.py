"""A vendor's annotation files → `annotations.parquet`, `rois.parquet` and `votes.parquet` (STAGE annotate)."""

import gc
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from wsi_detect import artifact, schema
from wsi_detect.annotations import asap, coco, cric, geojson, imagescope, ndpa, riva, table, tianchi, voc, yolo
from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.class_map import ClassMap
from wsi_detect.annotations.facts import SlideFacts, SourceFacts
from wsi_detect.annotations.rois import write_rois
from wsi_detect.annotations.rules import ImportRules
from wsi_detect.annotations.sources import Importer, read_source
from wsi_detect.annotations.votes import Settled, settle, write_votes
from wsi_detect.errors import ConfigError, LabelError
from wsi_detect.geometry import Box

ANNOTATIONS_NAME = "annotations.parquet"
_LISTED = 20
_NO_RULES = ImportRules()
_log = logging.getLogger(__name__)

#: Format → the file that reads it.
IMPORTERS: dict[str, Importer] = {
    "coco": coco,
    "voc": voc,
    "yolo": yolo,
    "table": table,
    "geojson": geojson,
    "asap": asap,
    "imagescope": imagescope,
    "ndpa": ndpa,
    "tianchi": tianchi,
    "cric": cric,
    "riva": riva,
}


@contextmanager
def _without_search_for_cycles() -> Iterator[None]:
    """Leave out the interpreter's search for reference cycles.

    A hundred thousand records hold none, and looking through all of them again and again takes a third of the time.
    """
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


def import_annotations(
    source: Path,
    format: str,  # noqa: A002 - the word everybody uses
    class_map: ClassMap,
    out: Path,
    slides: Mapping[str, str] | SourceFacts,
    rules: ImportRules = _NO_RULES,
) -> Path:
    """Write the annotations of a source as a table, labels in the words of the taxonomy.

    Beside it, areas that the source says were labelled go to `rois.parquet`, and where votes are settled, what each
    annotator said to `votes.parquet`; what an earlier import left there is replaced.

    Args:
        source: the vendor's file, a folder of them, or a folder with a folder of them for each annotator.
        format: a name of `IMPORTERS`.
        class_map: of the data card.
        out: folder; the table is `annotations.parquet` in it.
        slides: image or slide name as the source has it → slide id; or all that is known of slides and source.
        rules: what is done with points, areas, votes and broken annotations.

    Raises:
        ConfigError: there is no such format.
        UnmappedLabelError: a label is not in the class map.
        LabelError: the source cannot be read, an image has no slide id, points or votes have no declared rule, or
            annotations are broken (every row is named). Nothing is written then.
    """
    if format not in IMPORTERS:
        raise ConfigError(f"unknown annotation format {format!r}; known: {', '.join(sorted(IMPORTERS))}")
    facts = slides if isinstance(slides, SourceFacts) else _facts(slides)
    return write_annotations(IMPORTERS[format], source, class_map, out, facts, rules)


@_without_search_for_cycles()
def write_annotations(
    importer: Importer, source: Path, class_map: ClassMap, out: Path, facts: SourceFacts, rules: ImportRules
) -> Path:
    """Write the annotations of a source that an importer of any origin reads; else as `import_annotations`."""
    read = read_source(source, importer, class_map, facts, rules)
    names = {label: name for label, name in class_map.labels.items() if name is not None}
    slide_ids = {image: slide.slide_id for image, slide in facts.slides.items()}
    settled = Settled(read.cells, [])
    if rules.votes is not None:
        settled = settle(read.cells, names, slide_ids, rules.votes)
    else:
        _check_annotators(read.cells, source)
    _check_ids(settled.cells, slide_ids, source)
    _check_places(settled.cells, slide_ids, source)
    rows = _table(settled.cells, names, slide_ids)
    # The table last: who finds it finds what belongs to it.
    write_rois(out, read.rois)
    write_votes(out, settled.votes)
    target = out / ANNOTATIONS_NAME
    artifact.write_table(target, rows, schema.ANNOTATIONS)
    _log.info(
        "annotate: %d of %d annotations, %d labelled areas, %d slides",
        len(settled.cells), read.found, len(read.rois), len({entry.image for entry in settled.cells}),
    )  # fmt: skip
    return target


def _facts(slide_ids: Mapping[str, str]) -> SourceFacts:
    return SourceFacts({name: SlideFacts(slide_id) for name, slide_id in slide_ids.items()})


def _check_annotators(cells: Sequence[Annotation], source: Path) -> None:
    readers: dict[str, set[str]] = {}
    for entry in cells:
        if entry.annotator is not None:
            readers.setdefault(entry.image, set()).add(entry.annotator)
    for image, names in sorted(readers.items()):
        if len(names) > 1:
            raise LabelError(
                f"{source}: {image} was read by {', '.join(sorted(names))}; say how votes on one cell are settled, or "
                "its cells would be counted once for each of them"
            )


def _check_ids(cells: Sequence[Annotation], slide_ids: Mapping[str, str], source: Path) -> None:
    seen: dict[tuple[str, str], int] = {}
    twice = []
    for entry in cells:
        first = seen.setdefault((slide_ids[entry.image], entry.annotation_id), entry.row)
        if first != entry.row:
            twice.append(f"id {entry.annotation_id} in rows {first} and {entry.row}")
    if twice:
        more = f"; and {len(twice) - _LISTED} more" if len(twice) > _LISTED else ""
        raise LabelError(f"{source}: different annotations of a slide have one id: {'; '.join(twice[:_LISTED])}{more}")


def _check_places(cells: Sequence[Annotation], slide_ids: Mapping[str, str], source: Path) -> None:
    """Within a file two cells at one place are a fault; in two files of a slide they are one cell, exported twice."""
    seen: dict[tuple[str, Box], str] = {}
    twice = []
    for entry in cells:
        first = seen.setdefault((slide_ids[entry.image], entry.box), entry.annotation_id)
        if first != entry.annotation_id:
            twice.append(f"{first} and {entry.annotation_id} of {entry.image}")
    if twice:
        more = f"; and {len(twice) - _LISTED} more" if len(twice) > _LISTED else ""
        raise LabelError(
            f"{source}: different files of a slide have a cell at one place: {'; '.join(twice[:_LISTED])}{more}; "
            "keep one of the files, or put each reader's into a folder and say how votes are settled"
        )


def _table(cells: Sequence[Annotation], names: Mapping[str, str], slide_ids: Mapping[str, str]) -> pa.Table:
    ids = [slide_ids[entry.image] for entry in cells]
    order = sorted(range(len(cells)), key=lambda k: (ids[k], cells[k].box, cells[k].annotation_id))
    rows = [cells[k] for k in order]
    boxes = np.array([entry.box for entry in rows], dtype=np.float64).reshape(-1, 4)
    columns = {
        "slide_id": [ids[k] for k in order],
        "annotation_id": [entry.annotation_id for entry in rows],
        "label": [names[entry.source_label] for entry in rows],
        **dict(zip(schema.BOX_COLUMNS, boxes.T, strict=True)),
        "geometry": [entry.geometry for entry in rows],
        "annotator": [entry.annotator for entry in rows],
        "source_label": [entry.source_label for entry in rows],
    }
    arrays = [pa.array(columns[field.name], field.type) for field in schema.ANNOTATIONS]
    return pa.Table.from_arrays(arrays, schema=schema.ANNOTATIONS)
