"""Commands about models: train, detect."""

from pathlib import Path
from typing import Annotated

import typer

from wsi_detect.cli.common import ConfigFile, Device, Model, Mpp, Out, Overrides, bundle_of, section

app = typer.Typer()


@app.command()
def train(
    index: Annotated[Path, typer.Argument(help="index.parquet of a data set.")],
    out: Out,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Train a detector; the same command again goes on where it stopped.

    Example: wsi-detect train data/dataset/index.parquet --config train.yaml --out runs/first
    """
    from wsi_detect.report.training_plot import plot_training
    from wsi_detect.training.config import TrainingConfig
    from wsi_detect.training.trainer import train_detector

    rule = section(config, "training", TrainingConfig, overrides)
    bundle = train_detector(index, out, rule)
    typer.echo(plot_training(out / "logs", out / "training.png", rule.description.name))
    typer.echo(bundle)


@app.command()
def detect(
    work: Annotated[Path, typer.Argument(help="Folder of a tiled slide, with patches.zarr.")],
    slide: Annotated[Path | None, typer.Option(help="The slide file; needed when the store keeps no pixels.")] = None,
    model: Model = None,
    mpp: Mpp = None,
    device: Device = "auto",
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Find the cells in every patch of a store.

    Example: wsi-detect detect work/S0123456789 --model bundle
    """
    from wsi_detect.cli.facts import load_detector, open_store
    from wsi_detect.inference.detect import DetectionConfig, detect_patches

    rule = section(config, "detection", DetectionConfig, overrides)
    detector = load_detector(bundle_of(model), device, rule)
    with open_store(work, slide, mpp) as store:
        typer.echo(detect_patches(store, detector, work, rule))
