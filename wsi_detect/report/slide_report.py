"""The report of a slide: one HTML file that needs no network, no script and nothing beside it."""

import json
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from wsi_detect import artifact
from wsi_detect.errors import StaleArtifactError
from wsi_detect.report import facts
from wsi_detect.report.evidence_overlay import EvidencePicture, draw_evidence, evidence_figures
from wsi_detect.report.gallery import make_gallery
from wsi_detect.report.overview import PIN_SIZE, Overview, draw_overview, gated, unexamined
from wsi_detect.schema import PATCHES
from wsi_detect.slides.reader import SlideReader
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.taxonomy import CLASSES, cell_class, colour_hex, gravest_first
from wsi_detect.tiling.evidence_map import HEATMAP, EvidenceMap

REPORT = "report.html"
_TEMPLATES = Path(__file__).parent / "templates"
#: Cells that score at least this are counted apart.
CONFIDENT = 0.5


def write_report(folder: Path, slide: SlideReader | None = None) -> Path:
    """Write `report.html` for a slide.

    Equal inputs give equal bytes. The page names no file: the slide is its id.

    Args:
        folder: of the slide, with `status.json` and, unless nothing was examined, `cells.parquet` and
            `patches.parquet`; a map of evidence, `heatmap.zarr`, is shown if it is there.
        slide: for the pictures; None writes a report without them, as for a slide that does not open.

    Returns:
        Path of the report.

    Raises:
        MissingArtifactError: `status.json` is missing, or the tables of a slide that was screened.
        StaleArtifactError: `slide` is of another size than the slide that was screened.
    """
    status = artifact.read_json(folder / "status.json")
    cells, patches = _tables(folder, status)
    if slide is not None and cells is not None:
        _check_same(cells, slide)
    largest = status["model"]["largest_cell_um"] if "model" in status else None
    gallery = [] if cells is None else make_gallery(cells, slide, largest)
    picture: Overview | None = None
    if slide is not None and cells is not None:
        crops = [crop for shelf in gallery for crop in shelf.crops]
        store = folder / "patches.zarr"
        picture = draw_overview(slide, cells, unexamined(store, patches), crops, gated(store, patches))
    evidence = _evidence(folder, status, slide) if cells is not None else (None, None)
    page = environment().get_template("slide_report.html").render(
        status=status,
        meaning=facts.meaning(status),
        shares=facts.shares(status),
        focus=facts.focus(status),
        domain=facts.domain(status),
        banners=facts.resolution_banners(status),
        counts=None if cells is None else _counts(cells, facts.visible(status)),
        overview=picture,
        evidence=evidence[0],
        evidence_picture=evidence[1],
        gate=facts.gate(status),
        gallery=gallery,
        pin_size=PIN_SIZE,
        visible=facts.visible(status),
        invisible=facts.invisible(status),
        provenance=facts.provenance(status),
        config=json.dumps(status["config"], indent=1, sort_keys=True) if status.get("config") else None,
        confident=CONFIDENT,
    )  # fmt: skip
    artifact.write_bytes(folder / REPORT, page.encode())
    return folder / REPORT


def _tables(folder: Path, status: facts.Status) -> tuple[CellMap | None, list[dict[str, Any]]]:
    """Cells and patches; none for a slide that never came so far."""
    if status["status"] == "NOT SCREENED" and not (folder / "cells.parquet").exists():
        return None, []
    cells = CellMap.read(folder / "cells.parquet")
    return cells, artifact.read_table(folder / "patches.parquet", PATCHES).to_pylist()


def _evidence(
    folder: Path, status: facts.Status, slide: SlideReader | None
) -> tuple[dict[str, Any] | None, EvidencePicture | None]:
    """Figures of the map of evidence and its picture; none for a run without."""
    if not (folder / HEATMAP).exists():
        return None, None
    found = EvidenceMap.open(folder / HEATMAP)
    given = status.get("config", {}).get("contours") or {}
    level = found.threshold if given.get("threshold") is None else float(given["threshold"])
    return evidence_figures(found, level), None if slide is None else draw_evidence(slide, found, level)


def _check_same(cells: CellMap, slide: SlideReader) -> None:
    was, now = (cells.slide.width_px, cells.slide.height_px), (slide.info.width_px, slide.info.height_px)
    if was != now:
        raise StaleArtifactError(
            f"{cells.slide.slide_id} was screened as a slide of {was[0]} x {was[1]} px, this one has "
            f"{now[0]} x {now[1]}; its pictures would show other cells: give the slide that was screened"
        )


def _counts(cells: CellMap, visible: list[str]) -> list[dict[str, Any]]:
    """One row a class the model knows or the slide has, gravest first."""
    labels = np.asarray(cells.table["label"].to_pylist(), dtype=object)
    scores = cells.table["score"].to_numpy()
    rows = []
    for name in gravest_first({*visible, *labels.tolist()}):
        mine = scores[labels == name]
        best = float(mine.max()) if len(mine) else None
        rows.append({"name": name, "cells": len(mine), "confident": int((mine >= CONFIDENT).sum()), "best": best})
    return rows


def environment() -> jinja2.Environment:
    """Return what pages are made with: templates of this room, class colours, everything escaped."""
    # Ids and reasons come from files of others: everything is escaped, whatever the template's name ends in.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "colours": {name: colour_hex(name) for name in CLASSES},
        "inks": {name: _darker(cell_class(name).colour) for name in CLASSES},
        "titles": {name: cell_class(name).title for name in CLASSES},
        "abnormal": {name for name in CLASSES if cell_class(name).abnormal},
    }
    environment.filters |= {"thin": _thin, "percent": facts.percent}
    return environment


def _thin(number: float) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{round(number):,}".replace(",", "\u202f")


def _darker(colour: tuple[int, int, int]) -> str:
    """A class colour dark enough to be read as a number on white."""
    brightness = 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]
    factor = min(1.0, 95 / max(brightness, 1.0))
    return "#{:02x}{:02x}{:02x}".format(*(round(part * factor) for part in colour))
