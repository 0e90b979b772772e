"""Commands that make results of detections, or show them: stitch, export, view-counts, report."""

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
    cells: Annotated[Path, typer.Argument(help="cells.parquet, or the folder of a slide.")],
    formats: Annotated[list[str] | None, typer.Option("--format", "-f", help="Names, with commas between.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A folder, or a file; exports/ if not given.")] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Write the cells for other programs.

    Formats: geojson (QuPath), csv, parquet, geoparquet, coco, asap, dicom, sqlite, heatmap, heatmap_png.

    Example: wsi-detect export work/S0123456789 --format geojson,csv --set export.max_cells_per_file=100000
    """
    from wsi_detect.exports.exporter import ExportConfig, check_format, export_cells
    from wsi_detect.stitching.cell_map import CellMap

    names = [name.strip() for name in ",".join(formats or ["geojson"]).split(",")]
    for name in names:
        check_format(name)
    options = section(config, "export", ExportConfig, overrides)
    path = cells / "cells.parquet" if cells.is_dir() else cells
    found = CellMap.read(path)
    for name in names:
        typer.echo(export_cells(found, out or path.parent / "exports", name, options))


@app.command("view-counts")
def view_counts(
    cells: Annotated[Path, typer.Argument(help="cells.parquet, or the folder of a slide.")],
    region: Annotated[
        str | None, typer.Option(help="Part of the slide, slide px: x0,y0,x1,y1, or a GeoJSON file of polygons.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count the cells of each class, and per mm², the gravest first.

    A cell lies in a region if the middle of its box does.

    Example: wsi-detect view-counts work/S0123456789 --region 10000,8000,14000,12000
    """
    from wsi_detect.cli.facts import to_json
    from wsi_detect.stitching.cell_map import CellMap
    from wsi_detect.stitching.counts import lines, read_region, tally

    found = CellMap.read(cells / "cells.parquet" if cells.is_dir() else cells)
    counted = tally(found, None if region is None else read_region(region))
    typer.echo(to_json(counted) if as_json else "\n".join(lines(counted)))
    if found.slide.mpp is None:
        typer.echo("no densities: the slide's file does not say how large a pixel is; run it with --mpp", err=True)


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
