"""Commands that make results of detections: stitch, export, report."""

from pathlib import Path
from typing import Annotated

import typer

from wsi_detect.cli.common import ConfigFile, Mpp, Overrides, section

app = typer.Typer()

Work = Annotated[Path, typer.Argument(help="Folder of a slide.")]


@app.command()
def stitch(
    work: Work,
    model_id: Annotated[str, typer.Option(help="Which detector it was; part of every cell's id.")] = "unknown",
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Merge the detections of overlapping patches into cells.

    Example: wsi-detect stitch work/S0123456789
    """
    from wsi_detect.stitching.stitcher import StitchingConfig, stitch_detections
    from wsi_detect.tiling.patch_store import PatchStore

    rule = section(config, "stitching", StitchingConfig, overrides)
    store = PatchStore.open(work / "patches.zarr")
    scale = store.grid.patch / store.patch_px
    found = work / "detections"
    cells = stitch_detections(found, store.grid, store.slide, work, rule, model_id=model_id, scale=scale)
    typer.echo(f"{work / 'cells.parquet'}: {len(cells)} cells")


@app.command()
def export(
    work: Work,
    formats: Annotated[list[str] | None, typer.Option("--format", help="geojson, csv, parquet, coco.")] = None,
) -> None:
    """Write the cells for other programs.

    Example: wsi-detect export work/S0123456789 --format geojson --format csv
    """
    from wsi_detect.exports.exporter import export_cells
    from wsi_detect.stitching.cell_map import CellMap

    cells = CellMap.read(work / "cells.parquet")
    for name in formats or ["geojson"]:
        typer.echo(export_cells(cells, work / "exports", name))


@app.command()
def report(
    work: Work,
    slide: Annotated[Path, typer.Option(help="The slide file, for the pictures.")],
    mpp: Mpp = None,
) -> None:
    """Write the report of a screened slide again.

    Example: wsi-detect report work/S0123456789 --slide slide.svs
    """
    from wsi_detect.report.slide_report import write_report
    from wsi_detect.slides import open_slide

    with open_slide(slide, mpp=mpp, slide_id=work.resolve().name) as opened:
        typer.echo(write_report(work, slide=opened))
