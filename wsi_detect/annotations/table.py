"""Tables of boxes or points, CSV or Parquet: one row a cell, columns by name."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.facts import SourceFacts
from wsi_detect.annotations.text import number, read_rows
from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box

SUFFIXES: tuple[str, ...] = (".csv", ".tsv", ".csv.gz", ".parquet")
#: Our name of a column → what it is called in a file unless the user says otherwise; the second is the name in the
#: tables this package writes.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "slide_id"),
    "label": ("label",),
    "x0": ("x0", "x0_px"),
    "y0": ("y0", "y0_px"),
    "x1": ("x1", "x1_px"),
    "y1": ("y1", "y1_px"),
    "x": ("x", "x_px"),
    "y": ("y", "y_px"),
    "width": ("width",),
    "height": ("height",),
    "annotation_id": ("annotation_id", "cell_id"),
    "annotator": ("annotator",),
}
_CORNERS, _SIDES, _POINT = ("x0", "y0", "x1", "y1"), ("x", "y", "width", "height"), ("x", "y")
_PARQUET = b"PAR1"


def read(path: Path, facts: SourceFacts) -> Iterator[Annotation]:
    """Read a table; `facts.columns` says how its columns are called, where not as in `COLUMNS`.

    Needs `label`, and `image` unless the whole file is about one slide. A cell is what the first of these has columns
    for: corners `x0 y0 x1 y1`; top left corner and sides `x y width height`; a point `x y`.

    Raises:
        LabelError: the file is absent or no table, or a column is missing or named that is not there; a row has not as
            many fields as the header, an empty label, or text for a number.
    """
    names, rows = _table(path)
    places = _places(path, names, facts.columns)
    form = next((form for form in (_CORNERS, _SIDES, _POINT) if set(form) <= set(places)), None)
    if form is None or "label" not in places:
        raise LabelError(
            f"{path} has columns {', '.join(names)}; expected label, and x0 y0 x1 y1, or x y width height, or x y"
        )
    fixed = None if "image" in places else facts.slide_of(path)
    for row, cells in rows:
        where = f"{path}: row {row}"
        values = {name: cells[place] for name, place in places.items()}
        if not values["label"]:
            raise LabelError(f"{where} has no label")
        a, b, c, d = (*(number(values[name], where) for name in form), 0.0, 0.0)[:4]
        image = str(values["image"]) if fixed is None else fixed
        yield Annotation(
            annotation_id=str(values.get("annotation_id") or row),
            source_label=str(values["label"]),
            box=Box(a, b, c, d) if form is _CORNERS else Box(a, b, a + c, b + d),
            image=image,
            image_size=facts.size_of(image),
            annotator=str(values["annotator"]) if values.get("annotator") else None,
            row=row,
            kind="point" if form is _POINT else "cell",
        )


def _table(path: Path) -> tuple[Sequence[str], Iterator[tuple[int, Sequence[Any]]]]:
    try:
        with path.open("rb") as stream:
            parquet = stream.read(len(_PARQUET)) == _PARQUET
        if not parquet:
            return read_rows(path)
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise LabelError(f"{path} cannot be read as Parquet ({error}); copy it again") from error
    except OSError as error:
        raise LabelError(f"cannot read annotations {path}: {error.strerror or error}") from error
    columns = [column.to_pylist() for column in table.columns]
    return table.column_names, enumerate(zip(*columns, strict=True), start=1)


def _places(path: Path, names: Sequence[str], given: Mapping[str, str]) -> dict[str, int]:
    unknown = sorted(set(given) - set(COLUMNS))
    absent = sorted(set(given.values()) - set(names))
    if unknown or absent:
        what = f"no column of ours is called {', '.join(unknown)}" if unknown else f"it has no {', '.join(absent)}"
        raise LabelError(f"{path}: {what}; ours: {', '.join(COLUMNS)}; the file's: {', '.join(names)}")
    places = {}
    for ours, usual in COLUMNS.items():
        wanted = (given[ours],) if ours in given else usual
        found = [names.index(name) for name in wanted if name in names]
        if found:
            places[ours] = found[0]
    return places
