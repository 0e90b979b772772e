"""The command evaluate: a model on labelled fields, or the cells of finished slides against annotations."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsi_detect.cli.common import ConfigFile, Device, Model, Overrides, bundle_of, section
from wsi_detect.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from wsi_detect.evaluation.figures import EvaluationConfig
    from wsi_detect.evaluation.results import EvaluationRun

app = typer.Typer()

_NAMES = {"mean": "mean of classes", "agnostic": "all cells as one class", "any_abnormal": "any abnormal cell"}


@app.command()
def evaluate(
    coco: Annotated[Path | None, typer.Option("--coco", help="Truth of fields, COCO JSON.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the labelled fields.")] = None,
    cells: Annotated[list[Path] | None, typer.Option(help="cells.parquet of a finished slide; again for more.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="annotations.parquet, with rois.parquet.")] = None,
    slides: Annotated[Path | None, typer.Option(help="slides.parquet: whose slides they are.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for artefact and page.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the plain figures here, JSON.")] = None,
    chosen_on: Annotated[Path | None, typer.Option(help="Evaluation of another split to choose thresholds on.")] = None,
    name: Annotated[
        str | None, typer.Option(help="What the data are called; the truth's file name if not given.")
    ] = None,
    model: Model = None,
    device: Device = "auto",
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Measure a model on labelled fields, or the cells of finished slides.

    On fields, detections are kept down to a score of 0.01 and suppressed within each class, whatever the model does on
    slides: average precision asks for the whole ranking. The section `detection` says otherwise. docs/evaluation.md
    says what each figure means.

    Example: wsi-detect evaluate --model bundle --coco val.json --images images/ --out runs/val
    """
    from wsi_detect.cli.facts import write_json
    from wsi_detect.evaluation.results import EvaluationRun
    from wsi_detect.evaluation.runs import flat

    if out is not None and out.suffix == ".json":
        raise ConfigError(f"--out {out} is a folder for the artefact; the plain figures are written by --json {out}")
    called = {} if name is None else {"data": name}
    reference = None if chosen_on is None else EvaluationRun.read(chosen_on)
    if coco and images and not (cells or annotations or slides):
        run = _on_fields(coco, images, (model, device), (config, overrides), (called, reference))
    elif cells and annotations and not (coco or images):
        run = _on_slides((cells, annotations, slides), (config, overrides), (called, reference))
    else:
        raise ConfigError("give --coco and --images to evaluate on fields, or --cells and --annotations on slides")
    write_json(json_out, flat(run))
    _say(run)
    if out is not None:
        from wsi_detect.report.evaluation_page import write_page

        run.write(out)
        typer.echo(write_page(out, images))


def _on_fields(
    coco: Path,
    images: Path,
    device: tuple[Path | None, str],
    words: tuple[Path | None, list[str] | None],
    known: tuple[dict[str, str], "EvaluationRun | None"],
) -> "EvaluationRun":
    from wsi_detect.cli.facts import load_detector
    from wsi_detect.evaluation.evaluate import WholeImage, run_on_fields
    from wsi_detect.inference.detect import DetectionConfig

    whole_ranking = DetectionConfig(score_threshold=0.01, nms="class")
    how = section(words[0], "detection", DetectionConfig, words[1])
    given = {name: getattr(how, name) for name in how.model_fields_set}
    bundle, settings = bundle_of(device[0]), whole_ranking.model_copy(update=given)
    detector = load_detector(bundle, device[1], settings)
    rule = _rule(words)
    more: dict[str, Any] = {}
    if "min_score" not in rule.model_fields_set:
        more["min_score"] = detector.info.score_threshold
    trained = detector.info.training.get("cells")
    if isinstance(trained, dict) and "training_counts" not in rule.model_fields_set:
        more["training_counts"] = {name: int(number) for name, number in trained.items()}
    info = detector.info
    about: dict[str, Any] = {"model": info.model_id, "training_data": info.data_card, "preparation": info.preparation}
    about |= {"detection": settings.model_dump(mode="json"), **known[0]}
    rule = rule.model_copy(update=more)
    return run_on_fields(WholeImage(detector), coco, images, rule, about=about, chosen_on=known[1])


def _on_slides(
    files: tuple[list[Path], Path, Path | None],
    words: tuple[Path | None, list[str] | None],
    known: tuple[dict[str, str], "EvaluationRun | None"],
) -> "EvaluationRun":
    from wsi_detect.annotations.rois import read_rois
    from wsi_detect.evaluation.slides import facts_of, run_on_cells
    from wsi_detect.run.slide_list import read_slides

    cells, annotations, slides = files
    patients = {} if slides is None else {row.slide_id: row.patient_id for row in read_slides(slides)}
    facts = facts_of(patients, read_rois(annotations.parent))
    return run_on_cells(cells, annotations, _rule(words), facts=facts, about=known[0], chosen_on=known[1])


def _rule(words: tuple[Path | None, list[str] | None]) -> "EvaluationConfig":
    from wsi_detect.evaluation.figures import EvaluationConfig

    return section(words[0], "evaluation", EvaluationConfig, words[1])


def _say(run: "EvaluationRun") -> None:
    """Print what most people ask for; everything is in `metrics.parquet`."""
    from rich.console import Console

    Console().print(_table(run))
    typer.echo(f"{len(run.truths)} {run.about.get('kind', 'images')}")
    groups = next((row["groups"] for row in run.metrics if row["groups"] is not None), None)
    if groups is not None and groups > 1:
        typer.echo(
            f"intervals: {run.config.confidence:.0%}, {run.config.replicates} replicates of {groups} "
            f"{run.about['resampled']}s; undefined: replicates without a cell of the class, left out"
        )
    elif run.config.replicates:
        typer.echo("no intervals: fewer than two groups to draw from")


def _table(run: "EvaluationRun") -> "Table":
    from rich.table import Table

    table = Table()
    for head in ("figure", "of", "value", "interval", "n", "undefined"):
        table.add_column(head, justify="left" if head in ("figure", "of") else "right")
    for row in run.metrics:
        name = _figure(row)
        if name is not None:
            ends = row["ci_low"], row["ci_high"]
            interval = "n/a" if None in ends else f"{ends[0]:.3f} … {ends[1]:.3f}"
            value = "n/a" if row["value"] is None else f"{row['value']:.3f}"
            undefined = "" if row["undefined"] is None else str(row["undefined"])
            table.add_row(name, _NAMES.get(row["label"], row["label"]), value, interval, str(row["n"]), undefined)
    return table


def _figure(row: Mapping[str, Any]) -> str | None:
    """Name of a figure that is printed."""
    metric, abnormal = row["metric"], row["label"] == "any_abnormal"
    if metric == "ap50" and row["subset"] is None:
        return "AP at IoU 0.5"
    if metric == "ap" and row["subset"] is None and row["label"] in ("mean", "agnostic"):
        return "AP at IoU 0.5 to 0.95"
    if metric == "recall" and abnormal:
        return f"sensitivity at {row['threshold']:g} false alarms per {row['unit']}"
    if metric in ("sensitivity", "specificity", "auc"):
        return f"{metric}, by {row['unit']}"
    return "severity-weighted cost an image" if metric == "cost" else None
