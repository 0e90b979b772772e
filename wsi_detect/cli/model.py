"""Commands about models: train, detect, evaluate."""

from pathlib import Path
from typing import Annotated

import typer

from wsi_detect.cli.common import ConfigFile, Device, Model, Mpp, Out, Overrides, bundle_of, section, show

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


@app.command()
def evaluate(
    coco: Annotated[Path, typer.Option("--coco", help="The truth, COCO JSON.")],
    images: Annotated[Path, typer.Option(help="Folder of the labelled fields.")],
    model: Model = None,
    json_out: Annotated[Path | None, typer.Option("--out", "--json", help="Write the figures here, JSON.")] = None,
    device: Device = "auto",
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Measure a model on labelled fields of any size.

    Detections are kept down to a score of 0.01 and suppressed within each class, whatever the model does on slides:
    average precision asks for the whole ranking. The section `detection` says otherwise.

    Example: wsi-detect evaluate --model bundle --coco val.json --images images/ --out figures.json
    """
    from wsi_detect.cli.facts import load_detector, write_json
    from wsi_detect.evaluation.evaluate import WholeImage, evaluate_fields
    from wsi_detect.evaluation.figures import EvaluationConfig
    from wsi_detect.inference.detect import DetectionConfig

    whole_ranking = DetectionConfig(score_threshold=0.01, nms="class")
    how = section(config, "detection", DetectionConfig, overrides)
    given = {name: getattr(how, name) for name in how.model_fields_set}
    detector = load_detector(bundle_of(model), device, whole_ranking.model_copy(update=given))
    rule = section(config, "evaluation", EvaluationConfig, overrides)
    figures = evaluate_fields(WholeImage(detector), coco, images, rule)
    write_json(json_out, figures)
    show({name: "n/a" if value is None else f"{value:.4g}" for name, value in figures.items()})
