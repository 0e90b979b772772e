"""Flat tables: CSV for spreadsheets, Parquet for programs. Pixels are level 0; micrometres are derived here."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wsi_detect.artifact import atomic
from wsi_detect.exports import columns
from wsi_detect.exports.text import joined, raw
from wsi_detect.stitching.cell_map import CellMap


def write_csv(cells: CellMap, path: Path) -> Path:
    """Write CSV (UTF-8, comma, header); text a spreadsheet would run as a formula gets a leading apostrophe."""
    header = _fields(pa.array(columns.flat_schema(cells).names))
    with atomic(path) as partial, partial.open("wb") as stream:
        stream.write(raw(header, ",") + b"\n")
        for batch in columns.chunks(cells):
            table = columns.flat(batch, cells)
            parts = [part for column in table.columns for part in (_fields(column), ",")]
            stream.write(raw(joined(*parts[:-1]), "\n") + b"\n")
    return path


def write_parquet(cells: CellMap, path: Path) -> Path:
    """Write the same table as Parquet, text as it is, with the outlines (WKB, slide px) if there are any."""
    schema = columns.flat_schema(cells).append(pa.field("geometry", pa.binary()))
    with atomic(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for batch in columns.chunks(cells):
            table = columns.flat(batch, cells)
            writer.write_batch(pa.record_batch([*table.columns, batch["geometry"]], schema=schema))
    return path


def _fields(values: pa.Array) -> pa.Array:
    """Values as CSV fields: null is empty; text on one line, harmless to a spreadsheet, quoted where it must be."""
    text = pc.fill_null(values.cast(pa.string()), "")
    if not pa.types.is_string(values.type):
        return text
    text = pc.replace_substring_regex(text, "[\r\n]", " ")
    # A spreadsheet trims blanks before it looks whether a text is to be calculated.
    formula = pc.match_substring_regex(pc.utf8_trim_whitespace(text), r"^[=+\-@]")
    text = pc.if_else(formula, joined("'", text), text)
    quoted = joined('"', pc.replace_substring(text, '"', '""'), '"')
    return pc.if_else(pc.match_substring_regex(text, '[",]'), quoted, text)
