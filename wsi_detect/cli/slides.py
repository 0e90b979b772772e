"""Commands about slides and data sets: info, tile, annotate, index."""

from pathlib import Path
from typing import Annotated

import typer

from wsi_detect.cli.common import ConfigFile, Mpp, Out, Overrides, Workers, section, show

app = typer.Typer()


@app.command()
def info(
    slide: Annotated[Path, typer.Argument(help="A slide file.")],
    mpp: Mpp = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a lab wants to know of a slide.

    Example: wsi-detect info slide.svs
    """
    from wsi_detect.cli.facts import slide_facts, to_json
    from wsi_detect.slides import open_slide
    from wsi_detect.slides.describe import describe

    with open_slide(slide, mpp=mpp) as opened:
        if as_json:
            typer.echo(to_json(slide_facts(opened)))
        else:
            show(dict(describe(opened)))


@app.command()
def tile(
    slide: Annotated[Path, typer.Argument(help="A slide file.")],
    out: Out,
    config: ConfigFile = None,
    overrides: Overrides = None,
    mpp: Mpp = None,
    slide_id: Annotated[
        str | None, typer.Option(help="Name of the results; made from the content if not given.")
    ] = None,
    workers: Workers = 1,
) -> None:
    """Cut a slide into a patch store.

    Example: wsi-detect tile slide.svs --out work --workers 4 --set tiling.mpp=0.27
    """
    from wsi_detect.artifact import lock
    from wsi_detect.run.slide_list import id_faults
    from wsi_detect.slides import open_slide
    from wsi_detect.tiling.plan import TilingConfig
    from wsi_detect.tiling.tiler import tile_slide

    if slide_id is not None and id_faults(slide_id):
        raise typer.BadParameter("; ".join(id_faults(slide_id)), param_hint="--slide-id")
    rule = section(config, "tiling", TilingConfig, overrides)
    with open_slide(slide, mpp=mpp, slide_id=slide_id) as opened, lock(out / opened.info.slide_id):
        store = tile_slide(opened, out / opened.info.slide_id, rule, workers=workers, progress=True)
    typer.echo(f"{store.path}: {len(store)} patches of {store.patch_px} px at {store.mpp:.4g} µm/px")


@app.command()
def annotate(
    source: Annotated[Path, typer.Argument(help="The annotations, in a vendor's or a community's format.")],
    out: Out,
    slides: Annotated[Path, typer.Option(help="Slides they lie on: a folder, a CSV manifest or slides.parquet.")],
    card: Annotated[Path, typer.Option(help="Data card folder, with the map of classes.")],
    form: Annotated[str, typer.Option("--format", help="Format of the source.")] = "coco",
) -> None:
    """Import an expert's labels.

    Example: wsi-detect annotate train.json --slides images/ --card data_cards/cric --out data
    """
    from wsi_detect.annotations.class_map import ClassMap
    from wsi_detect.annotations.importer import import_annotations
    from wsi_detect.cli.facts import ids_by_name

    path = import_annotations(source, form, ClassMap.from_card(card), out, ids_by_name(slides))
    typer.echo(path)


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
