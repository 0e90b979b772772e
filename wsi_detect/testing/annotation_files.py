"""Painted truth in every annotation dialect, written the plain way: what importers are held against."""

import csv
import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_detect.annotations.facts import SourceFacts
from wsi_detect.annotations.tianchi import ROI
from wsi_detect.geometry import Box
from wsi_detect.testing.painter import PaintedCell

Points = NDArray[np.float64]
_Write = Callable[[Path, Sequence[PaintedCell], SourceFacts], None]
_WriteOutline = Callable[[Path, Points, SourceFacts], None]


class Dialect(NamedTuple):
    """How a dialect is written.

    Attributes:
        file: a name such files have; it begins like that of the one slide of the facts where the dialect needs that.
        kind: what the file is made of. In `lines` the end of a file cannot be told from a cut between two of them.
        write: writes cells of the one slide of the facts.
        write_outline: writes one cell of the first class name with an outline (N, 2); None where the dialect has none.
        points: whether it keeps centres alone.
        tolerance_px: half a unit of the last digit it keeps.
    """

    file: str
    kind: Literal["json", "xml", "lines"]
    write: _Write
    write_outline: _WriteOutline | None = None
    points: bool = False
    tolerance_px: float = 1e-6


def _corners(box: Box) -> Points:
    x0, y0, x1, y1 = box
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)


def _image(facts: SourceFacts) -> str:
    return next(iter(facts.slides))


def _size(facts: SourceFacts) -> tuple[int, int]:
    size = facts.size_of(_image(facts))
    if size is None:
        raise ValueError("the slide of the facts needs a size")
    return size


def _save(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_csv(path: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header.split())
        writer.writerows(rows)


def _coco(path: Path, entries: Sequence[tuple[str, Box, list[list[float]]]], facts: SourceFacts) -> None:
    names = sorted({label for label, _, _ in entries})
    width, height = _size(facts)
    annotations = [
        {"id": 100 + k, "image_id": 5, "category_id": 10 + names.index(label), "iscrowd": 0, "segmentation": rings,
         "bbox": [box.x0, box.y0, box.width, box.height]}
        for k, (label, box, rings) in enumerate(entries)
    ]  # fmt: skip
    images = [{"id": 5, "file_name": _image(facts), "width": width, "height": height}]
    categories = [{"id": 10 + k, "name": name} for k, name in enumerate(names)]
    _save(path, {"images": images, "categories": categories, "annotations": annotations})


def _write_coco(path: Path, cells: Sequence[PaintedCell], facts: SourceFacts) -> None:
    _coco(path, [(cell.label, cell.box, []) for cell in cells], facts)


def _write_coco_outline(path: Path, points: Points, facts: SourceFacts) -> None:
    box = Box(*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
    _coco(path, [(facts.names[0], box, [points.ravel().tolist()])], facts)


def _write_voc(path: Path, cells: Sequence[PaintedCell], facts: SourceFacts) -> None:
    width, height = _size(facts)
    names = ("xmin", "ymin", "xmax", "ymax")
    objects = [
        f"<object><name>{html.escape(cell.label)}</name><difficult>0</difficult><bndbox>"
        + "".join(f"<{name}>{value!r}</{name}>" for name, value in zip(names, cell.box, strict=True))
        + "</bndbox></object>\n"
        for cell in cells
    ]
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    path.write_text(
        f"<annotation><filename>{html.escape(_image(facts))}</filename>{size}\n{''.join(objects)}</annotation>\n",
        encoding="utf-8",
    )


def _write_yolo(path: Path, cells: Sequence[PaintedCell], facts: SourceFacts) -> None:
    sides = np.array(_size(facts) * 2, np.float64)
    lines = []
    for cell in cells:
        x0, y0, x1, y1 = cell.box
        shares = np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]) / sides
        lines.append(f"{facts.names.index(cell.label)} {' '.join(map(repr, shares.tolist()))}\n")
    path.write_text("".join(lines), encoding="utf-8")


def _write_yolo_outline(path: Path, points: Points, facts: SourceFacts) -> None:
    path.write_text(f"0 {' '.join(map(repr, (points / _size(facts)).ravel().tolist()))}\n", encoding="utf-8")


def _write_table(path: Path, cells: Sequence[PaintedCell], facts: SourceFacts) -> None:
    rows = [(_image(facts), cell.label, *cell.box) for cell in cells]
    _write_csv(path, "image label x0 y0 x1 y1", rows)


def _geojson(path: Path, entries: Sequence[tuple[str, Points]]) -> None:
    features = [
        {"type": "Feature", "id": "PathAnnotationObject",
         "geometry": {"type": "Polygon", "coordinates": [[*points.tolist(), points[0].tolist()]]},
         "properties": {"objectType": "annotation", "classification": {"name": label, "color": [200, 0, 0]}}}
        for label, points in entries
    ]  # fmt: skip
    _save(path, {"type": "FeatureCollection", "features": features})


def _write_geojson(path: Path, cells: Sequence[PaintedCell], facts: SourceFacts) -> None:
    _geojson(path, [(cell.label, _corners(cell.box)) for cell in cells])


def _write_geojson_outline(path: Path, points: Points, facts: SourceFacts) -> None:
    _geojson(path, [(facts.names[0], points)])


def _asap(path: Path, entries: Sequence[tuple[str, Points]]) -> None:
    annotations = []
    for k, (label, points) in enumerate(entries):
        corners = "".join(f'<Coordinate Order="{n}" X="{x!r}" Y="{y!r}" />' for n, (x, y) in enumerate(points.tolist()))
        annotations.append(
            f'<Annotation Name="Annotation {k}" Type="Polygon" PartOfGroup="{html.escape(label)}" Color="#F4FA58">'
            f"<Coordinates>{corners}</Coordinates></Annotation>\n"
        )
    path.write_text(
        f'<?xml version="1.0"?>\n<ASAP_Annotations><Annotations>\n{"".join(annotations)}</Annotations>'
        "<AnnotationGroups /></ASAP_Annotations>\n",
        encoding="utf-8",
    )


def _write_asap(path: Path, cells: Sequence[PaintedCell], facts: SourceFacts) -> None:
    _asap(path, [(cell.label, _corners(cell.box)) for cell in cells])


def _write_asap_outline(path: Path, points: Points, facts: SourceFacts) -> None:
    _asap(path, [(facts.names[0], points)])


def _imagescope(path: Path, entries: Sequence[tuple[str, Points]]) -> None:
    layers = []
    for k, (label, points) in enumerate(entries):
        corners = "".join(f'<Vertex X="{x!r}" Y="{y!r}" Z="0"/>' for x, y in points.tolist())
        layers.append(
            f'<Annotation Id="{k + 1}" Name="{html.escape(label)}" LineColor="65280"><Attributes/><Regions>'
            f'<Region Id="1" Type="0" Text="" NegativeROA="0"><Vertices>{corners}</Vertices></Region>'
            "</Regions></Annotation>\n"
        )
    path.write_text(f'<Annotations MicronsPerPixel="0.25">\n{"".join(layers)}</Annotations>\n', encoding="utf-8")


def _write_imagescope(path: Path, cells: Sequence[PaintedCell], facts: SourceFacts) -> None:
    _imagescope(path, [(cell.label, _corners(cell.box)) for cell in cells])


def _write_imagescope_outline(path: Path, points: Points, facts: SourceFacts) -> None:
    _imagescope(path, [(facts.names[0], points)])


def _ndpa(path: Path, entries: Sequence[tuple[str, Points]], facts: SourceFacts) -> None:
    slide = facts.slides[_image(facts)]
    if slide.mpp is None or slide.centre_um is None:
        raise ValueError("the slide of the facts needs µm per px and a place on the glass")
    states = []
    for k, (label, points) in enumerate(entries):
        nanometres = ((points - np.array(_size(facts)) / 2) * slide.mpp + slide.centre_um) * 1000
        corners = "".join(f"<point><x>{x!r}</x><y>{y!r}</y></point>" for x, y in nanometres.tolist())
        states.append(
            f'<ndpviewstate id="{k + 1}"><title>{html.escape(label)}</title><details/>'
            '<coordformat>nanometers</coordformat><annotation type="freehand" displayname="AnnotateFreehand">'
            f"<closed>1</closed><pointlist>{corners}</pointlist></annotation></ndpviewstate>\n"
        )
    path.write_text(f"<annotations>\n{''.join(states)}</annotations>\n", encoding="utf-8")


def _write_ndpa(path: Path, cells: Sequence[PaintedCell], facts: SourceFacts) -> None:
    _ndpa(path, [(cell.label, _corners(cell.box)) for cell in cells], facts)


def _write_ndpa_outline(path: Path, points: Points, facts: SourceFacts) -> None:
    _ndpa(path, [(facts.names[0], points)], facts)


def _write_tianchi(path: Path, cells: Sequence[PaintedCell], facts: SourceFacts) -> None:
    width, height = _size(facts)
    entries: list[dict[str, object]] = [{"x": 0, "y": 0, "w": width, "h": height, "class": ROI}] if cells else []
    entries += [
        {"x": c.box.x0, "y": c.box.y0, "w": c.box.width, "h": c.box.height, "class": c.label} for c in cells
    ]  # fmt: skip
    _save(path, entries)


def _write_cric(path: Path, cells: Sequence[PaintedCell], facts: SourceFacts) -> None:
    found = [
        {"cell_id": 5000 + k, "bethesda_system": cell.label, "nucleus_x": (cell.box.x0 + cell.box.x1) / 2 + 0.5,
         "nucleus_y": (cell.box.y0 + cell.box.y1) / 2 + 0.5}
        for k, cell in enumerate(cells)
    ]  # fmt: skip
    _save(path, [{"image_id": 1, "image_doi": "none", "image_name": _image(facts), "classifications": found}])


def _write_riva(path: Path, cells: Sequence[PaintedCell], facts: SourceFacts) -> None:
    rows = [
        (_image(facts), (c.box.x0 + c.box.x1) / 2, (c.box.y0 + c.box.y1) / 2, c.box.width, c.box.height, c.label, 0)
        for c in cells
    ]
    _write_csv(path, "image_filename x y width height class_name class", rows)


#: Format → how it is written.
DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "coco": Dialect("truth.json", "json", _write_coco, _write_coco_outline),
        "voc": Dialect("field.xml", "xml", _write_voc),
        "yolo": Dialect("field.txt", "lines", _write_yolo, _write_yolo_outline),
        "table": Dialect("truth.csv", "lines", _write_table),
        "geojson": Dialect("field.geojson", "json", _write_geojson, _write_geojson_outline),
        "asap": Dialect("field.xml", "xml", _write_asap, _write_asap_outline),
        "imagescope": Dialect("field.xml", "xml", _write_imagescope, _write_imagescope_outline),
        "ndpa": Dialect("field.png.ndpa", "xml", _write_ndpa, _write_ndpa_outline),
        "tianchi": Dialect("field.json", "json", _write_tianchi),
        "cric": Dialect("truth.json", "json", _write_cric, points=True),
        "riva": Dialect("truth.csv", "lines", _write_riva),
    }
)
