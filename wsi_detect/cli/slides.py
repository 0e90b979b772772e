"""Commands about slides and data sets: info, tile, index."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_detect.cli.common import ConfigFile, MaxPixels, Mpp, Out, Overrides, section, show

if TYPE_CHECKING:
    from wsi_detect.run.slide_list import SlideRow

app = typer.Typer()


@app.command()
def info(
    slide: Annotated[Path, typer.Argument(help="A slide file.")],
    mpp: Mpp = None,
    max_pixels: MaxPixels = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a lab wants to know of a slide.

    Example: wsi-detect info slide.svs
    """
    from wsi_detect.cli.facts import slide_facts, to_json
    from wsi_detect.slides import MAX_PIXELS, open_slide
    from wsi_detect.slides.describe import describe

    with open_slide(slide, mpp=mpp, max_pixels=int(max_pixels or MAX_PIXELS)) as opened:
        if as_json:
            typer.echo(to_json(slide_facts(opened)))
        else:
            show(dict(describe(opened)))


@app.command()
def tile(
    slides: Annotated[list[str], typer.Argument(help="Files, folders, patterns, CSV manifests.")],
    out: Out,
    config: ConfigFile = None,
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, a slide each.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each process; all CPUs if not given.")] = None,
    mpp: Mpp = None,
    slide_id: Annotated[str | None, typer.Option(help="Name of the results, where it is one slide.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it will take; write nothing.")] = False,
    index_only: Annotated[bool, typer.Option("--index-only", help="Leave the pixels in the slide.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Redo what was made under other settings.")] = False,
    allow_bad: Annotated[bool, typer.Option(help="Take slides with unreadable pixels for tiled.")] = False,
    max_pixels: MaxPixels = None,
    max_memory: Annotated[float | None, typer.Option(min=0, help="GB a process; 2 + 0.5 a thread; 0: any.")] = None,
    stall: Annotated[float, typer.Option(min=0, help="Give a slide up after s without progress; 0: never.")] = 300,
) -> None:
    """Cut slides into patch stores. The same command again continues.

    Example: wsi-detect tile slides/ --out work --workers 2 --set tiling.mpp=0.27
    """
    from wsi_detect.cli.tile_screen import TileProgress, cpus, limits_of, show_plan, show_results
    from wsi_detect.run.tile import TABLE, TileBatch, tile_slides
    from wsi_detect.run.tile_plan import check_room, plan_slides, plans_code, room_for
    from wsi_detect.run.tile_result import exit_code
    from wsi_detect.slides import MAX_PIXELS
    from wsi_detect.tiling.plan import TilingConfig

    rule = section(config, "tiling", TilingConfig, [*(overrides or []), *(["tiling.codec=none"] if index_only else [])])
    rows = _rows(slides, slide_id)
    threads = threads or max(cpus() // workers, 1)
    limits = limits_of(max_memory, stall, threads)
    batch = TileBatch(out.absolute(), rule, threads, mpp, int(max_pixels or MAX_PIXELS), overwrite)
    with TileProgress(len(rows)) as progress:
        if plan:
            plans = plan_slides(rows, batch, workers=workers, limits=limits, on_done=progress.tell)
        else:
            check_room(rows, batch, workers=workers, limits=limits)
            results = tile_slides(
                rows, batch, workers=workers, limits=limits, on_progress=progress.advance, on_done=progress.tell
            )
    if plan:
        room = room_for(plans, batch.out)
        show_plan(plans, room, min(workers * threads, cpus()))
        room.check()
        raise typer.Exit(plans_code(plans))
    show_results(results, batch.out / TABLE)
    raise typer.Exit(exit_code(results, allow_bad=allow_bad))


def _rows(slides: list[str], slide_id: str | None) -> "list[SlideRow]":
    """Resolve what was given; a name for the results goes with one slide only."""
    from dataclasses import replace

    from wsi_detect.run.slide_list import id_faults, list_slides

    if slide_id is not None and id_faults(slide_id):
        raise typer.BadParameter("; ".join(id_faults(slide_id)), param_hint="--slide-id")
    rows = list_slides(slides)
    if slide_id is None:
        return rows
    if len(rows) > 1:
        raise typer.BadParameter(f"{len(rows)} slides cannot share a name", param_hint="--slide-id")
    return [replace(rows[0], slide_id=slide_id)]


@app.command()
def index(
    slides: Annotated[Path, typer.Argument(help="Slides with their split: a CSV manifest or slides.parquet.")],
    stores: Annotated[Path, typer.Option(help="Folder with <slide_id>/patches.zarr.")],
    annotations: Annotated[Path, typer.Option(help="annotations.parquet")],
    out: Out,
) -> None:
    """Count the cells of every patch: the table that training draws from.

    Example: wsi-detect index slides.csv --stores data --annotations data/annotations.parquet --out data/dataset
    """
    from wsi_detect.cli.facts import classes_of, open_stores, read_rows
    from wsi_detect.data.index import build_index

    rows = read_rows(slides)
    split = {row.slide_id: row.split or "train" for row in rows}
    path = build_index(open_stores(stores, rows), annotations, split, out, classes_of(annotations))
    typer.echo(path)
