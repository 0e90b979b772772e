"""Commands about finished patch stores: store verify, store repair, store export."""

from pathlib import Path
from typing import Annotated

import typer

from wsi_detect.cli.common import Out

app = typer.Typer(name="store", help="Check, mend and export patch stores.", no_args_is_help=True)

Store = Annotated[Path, typer.Argument(help="A patch store, or the slide's folder that holds it.")]


@app.command()
def verify(
    store: Store,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read all of a store and list what is missing or damaged; exit code 4 if anything is.

    Example: wsi-detect store verify work/S0123456789/patches.zarr
    """
    import json
    from dataclasses import asdict

    from wsi_detect.errors import EXIT_INVALID_INPUT
    from wsi_detect.tiling.repair import verify as find_faults

    path = _store(store)
    faults = find_faults(path)
    if as_json:
        typer.echo(json.dumps({"store": str(path), "faults": [asdict(fault) for fault in faults]}, indent=1))
    else:
        for fault in faults:
            typer.echo(fault)
        typer.echo(f"{path}: {len(faults)} damaged; mend with: store repair" if faults else f"{path}: sound")
    if faults:
        raise typer.Exit(EXIT_INVALID_INPUT)


@app.command()
def repair(
    store: Store,
    slide: Annotated[Path, typer.Option(help="The slide it was made from.")],
) -> None:
    """Make what is damaged in a store again, to the same bytes; only the damaged shards are read from the slide.

    Example: wsi-detect store repair work/S0123456789/patches.zarr --slide slide.svs
    """
    from wsi_detect.tiling.repair import repair as mend

    path = _store(store)
    done = mend(path, slide)
    for fault in done.faults:
        typer.echo(f"mended: {fault}")
    typer.echo(
        f"{path}: {len(done.faults)} mended, {done.shards_read} shards read" if done.faults else f"{path}: sound"
    )


@app.command()
def export(
    stores: Annotated[list[Path], typer.Argument(help="Patch stores, or the slides' folders that hold them.")],
    out: Out,
    form: Annotated[str, typer.Option("--format", help="folder, webdataset or coco.")],
    annotations: Annotated[
        Path | None, typer.Option(help="annotations.parquet; its boxes go with the patches.")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Lossless pictures instead of JPEG.")] = False,
) -> None:
    """Write the patches for other programs.

    Example: wsi-detect store export work/S0123456789 --format coco --annotations annotations.parquet --out coco
    """
    from wsi_detect.cli.facts import classes_of
    from wsi_detect.data.store_export import Labels, export_stores
    from wsi_detect.tiling.patch_store import PatchStore

    labels = Labels(annotations, classes_of(annotations)) if annotations else None
    opened = [PatchStore.open(_store(store)) for store in stores]
    path = export_stores(opened, out, form, labels=labels, png=png)
    typer.echo(f"{path}: {sum(map(len, opened))} patches of {len(opened)} slides")


def _store(path: Path) -> Path:
    """The store itself, where a slide's folder is given."""
    inner = path / "patches.zarr"
    return inner if inner.exists() else path
