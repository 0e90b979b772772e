"""Commands about everything at once: run, demo, env."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from wsi_detect.cli.common import (
    ConfigFile,
    Device,
    EvidenceModel,
    MaxPixels,
    Model,
    Mpp,
    Out,
    Overrides,
    bundle_of,
)

app = typer.Typer()


@app.command()
def run(
    slides: Annotated[list[str], typer.Argument(help="Files, folders, patterns, CSV manifests.")],
    out: Out,
    model: Model = None,
    evidence_model: EvidenceModel = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes, a slide each; 0 works in this one.")] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster to map the slides over.")] = None,
    part: Annotated[str | None, typer.Option(help="i/n: take the i-th of n disjoint parts of the slides.")] = None,
    device: Device = "auto",
    mpp: Mpp = None,
    preparation: Annotated[str | None, typer.Option(help="conventional smear, ThinPrep, SurePath …")] = None,
    store: Annotated[
        Literal["auto", "jpeg_tiles", "jpeg", "zstd", "none"] | None,
        typer.Option(help="Keep the patches; none reads them from the slide."),
    ] = None,
    accept_resolution: Annotated[bool, typer.Option(help="Screen slides too coarse for the model.")] = False,
    allow_fluorescence: Annotated[bool, typer.Option(help="Screen slides that are not bright field.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Redo what was made under other settings.")] = False,
    max_pixels: MaxPixels = None,
) -> None:
    """Screen slides: from the files to reports. The same command again continues.

    With --evidence-model each slide gets a map of evidence as well, and --set gate.threshold=0.3 shows the detector
    only patches with evidence above it.

    Example: wsi-detect run slides/ --out work --workers 4
    """
    from wsi_detect.cli.screen import Progress, run_config, summarise
    from wsi_detect.run import Batch, RunOptions, exit_code, list_slides, run_batch
    from wsi_detect.slides import MAX_PIXELS

    rows = list_slides(slides)
    limit = int(max_pixels or MAX_PIXELS)
    options = RunOptions(mpp, preparation, accept_resolution, allow_fluorescence, overwrite, limit)
    settings = run_config(config, overrides, store)
    batch = Batch(
        out.absolute(), bundle_of(model), settings, options, device=device, part=part, evidence_bundle=evidence_model
    )
    with Progress(len(rows)) as progress:
        statuses = run_batch(rows, batch, workers=workers, ray_address=ray, on_done=progress.tell)
    summarise(statuses, batch)
    raise typer.Exit(exit_code(statuses))


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("demo"),
    model: Model = None,
) -> None:
    """Run everything on real fields that come along, and compare with their known cells.

    Example: wsi-detect demo
    """
    from wsi_detect.demo import run_demo

    for line in run_demo(out.absolute(), bundle_of(model)):
        typer.echo(line)


@app.command()
def env() -> None:
    """Say which versions are at work, and which WSI_DETECT_ variables are set.

    Example: wsi-detect env
    """
    from wsi_detect.cli.common import show
    from wsi_detect.cli.environment import describe

    show(describe())
