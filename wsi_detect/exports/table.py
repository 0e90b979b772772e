"""Flat tables: CSV for spreadsheets, Parquet for programs. Pixels are level 0; micrometres are derived here."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_detect.artifact import atomic
from wsi_detect.schema import BOX_COLUMNS
from wsi_detect.stitching.cell_map import CellMap

#: What makes a spreadsheet take a text for a formula.
_FORMULA = ("=", "+", "-", "@")


def frame(cells: CellMap) -> pd.DataFrame:
    """Return one row a cell: id, slide, class, score, support, the box in px and µm, a column `score_<class>` each.

    µm columns are empty when the slide's mpp is unknown.
    """
    rows: pd.DataFrame = cells.table.select(
        ["cell_id", "slide_id", "label", "score", "support", *BOX_COLUMNS]
    ).to_pandas()
    mpp = np.nan if cells.slide.mpp is None else cells.slide.mpp
    for name in BOX_COLUMNS:
        rows[name.replace("_px", "_um")] = rows[name] * mpp
    rows["width_um"] = (rows["x1_px"] - rows["x0_px"]) * mpp
    rows["height_um"] = (rows["y1_px"] - rows["y0_px"]) * mpp
    if cells.classes:
        # Column by column, so that a cell without class scores stays empty rather than zero.
        lists = cells.table["class_scores"].to_pylist()
        empty = [None] * len(cells.classes)
        scores = np.array([entry or empty for entry in lists], dtype=np.float32).reshape(-1, len(cells.classes))
        for k, name in enumerate(cells.classes):
            rows[f"score_{name}"] = scores[:, k]
    return rows


def write_csv(cells: CellMap, path: Path) -> Path:
    """Write CSV (UTF-8, comma, header); text a spreadsheet would run as a formula gets a leading apostrophe."""
    rows = frame(cells)
    for name in ("cell_id", "slide_id", "label"):
        rows[name] = [_harmless(text) for text in rows[name]]
    rows.columns = pd.Index([_harmless(name) for name in rows.columns])
    with atomic(path) as partial:
        rows.to_csv(partial, index=False, lineterminator="\n", encoding="utf-8", compression=None)
    return path


def write_parquet(cells: CellMap, path: Path) -> Path:
    """Write the same table as Parquet, text as it is, with the outlines (WKB, slide px) if there are any."""
    flat = pa.Table.from_pandas(frame(cells), preserve_index=False).replace_schema_metadata(None)
    flat = flat.append_column("geometry", cells.table["geometry"])
    with atomic(path) as partial:
        pq.write_table(flat, partial, compression="zstd")
    return path


def _harmless(text: str) -> str:
    """Text on one line, with an apostrophe if a spreadsheet, blanks trimmed, would calculate it."""
    line = text.replace("\r", " ").replace("\n", " ")
    return f"'{line}" if line.lstrip().startswith(_FORMULA) else line
