"""Commands about maps of evidence: evidence, contours, gate-cost, hard-negatives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wsi_detect.cli.common import ConfigFile, Device, Overrides, section
from wsi_detect.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from wsi_detect.evaluation.gate_cost import GatedSlide
    from wsi_detect.run.folders import Need

app = typer.Typer()

Work = Annotated[Path, typer.Argument(help="Folder of a tiled slide.")]
Works = Annotated[list[Path], typer.Argument(help="Folders of slides with a map; files are passed over.")]
_THRESHOLDS = "0.05,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"


@app.command()
def evidence(
    work: Work,
    model: Annotated[Path, typer.Option("--model", help="Bundle of an evidence model.")],
    slide: Annotated[
        Path | None, typer.Option(help="The slide file, unless patches are kept that overlap enough.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes, a shard each; 0 works in this one.")] = 1,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace a map of another model, slide file or settings.")] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Map the evidence of a tiled slide. The same command again continues.

    Example: wsi-detect evidence work/S0123456789 --model bundle --slide slide.svs
    """
    from wsi_detect.inference.evidence import EvidenceConfig
    from wsi_detect.run.evidence import EvidenceJob, map_slide

    rule = section(config, "evidence", EvidenceConfig, overrides)
    typer.echo(map_slide(EvidenceJob(work, model, slide, rule, device), workers, overwrite=overwrite))


@app.command()
def contours(
    work: Work,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file; exports/evidence.geojson if not given.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Outline the evidence of a slide above a threshold, as GeoJSON for QuPath.

    Example: wsi-detect contours work/S0123456789 --set contours.threshold=0.4
    """
    from wsi_detect.exports.evidence_contours import CONTOURS, ContourConfig, find_regions, write_contours
    from wsi_detect.tiling.evidence_map import HEATMAP, EvidenceMap

    rule = section(config, "contours", ContourConfig, overrides)
    found = EvidenceMap.open(work / HEATMAP)
    regions, specks = find_regions(found, rule)
    path = write_contours(found, out or work / "exports" / CONTOURS, rule)
    area = sum(region.area_um2 for region in regions) / 1e6
    typer.echo(f"{path}: {len(regions)} regions, {area:.4g} mm², {specks} specks left out")


@app.command("gate-cost")
def gate_cost(
    works: Works,
    annotations: Annotated[
        Path | None, typer.Option(help="annotations.parquet; the cells of runs without a gate if not given.")
    ] = None,
    thresholds: Annotated[str, typer.Option(help="Of the gates, with commas between.")] = _THRESHOLDS,
    area: Annotated[str, typer.Option(help="patch or core: where evidence is looked for.")] = "patch",
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures here, JSON.")] = None,
) -> None:
    """Count what a gate would cost in cells, by class, and save in patches.

    Example: wsi-detect gate-cost work/* --annotations data/annotations.parquet
    """
    from rich.console import Console

    from wsi_detect.cli.facts import write_json
    from wsi_detect.evaluation.gate_cost import gate_table

    levels = _numbers(thresholds)
    slides, left_out = _gated_slides(works, annotations, area)
    rows = gate_table(slides, levels)
    write_json(json_out, {"area": area, "slides": len(slides), "left_out": left_out, "gates": rows})
    console = Console()
    console.print(_cost_table(rows))
    console.print(_lost_table(rows))
    counted = sum(counts["cells"] for counts in rows[0]["cells"].values())
    typer.echo(
        f"{counted} cells of {len(slides)} slides are counted; {rows[0]['outside']} more lie outside, in no patch of "
        "their slide: no gate could lose them"
    )


@app.command("hard-negatives")
def hard_negatives(
    works: Works,
    index: Annotated[Path, typer.Option(help="index.parquet of the data set.")],
    slides: Annotated[Path, typer.Option(help="slides.parquet, or what `run` takes: with a slide_label.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the table.")],
    negative: Annotated[str, typer.Option(help="Slide labels that mean nothing abnormal, with commas.")] = "NILM",
    split: Annotated[str, typer.Option(help="Whose patches.")] = "train",
    most: Annotated[int, typer.Option(min=1, help="Patches in all.")] = 1000,
    most_per_slide: Annotated[int, typer.Option(min=1, help="Patches of one slide.")] = 50,
) -> None:
    """List the patches of negative slides that look abnormal, for the sampler and for people.

    Training draws them with training.loader.hard_negatives.

    Example: wsi-detect hard-negatives work/* --index data/dataset/index.parquet --slides slides.csv --out hard
    """
    from wsi_detect.cli.facts import read_rows
    from wsi_detect.data.hard_negatives import LIST, HardNegatives, find_hard_negatives, write_hard_negatives
    from wsi_detect.data.index import read_index
    from wsi_detect.tiling.evidence_map import HEATMAP

    words = {word.strip() for word in negative.split(",")}
    named = {row.slide_id for row in read_rows(slides) if (row.slide_label or "").strip() in words}
    maps: dict[str, Path] = {}
    for work in _folders(works, ["evidence"])[0]:
        first = maps.setdefault(work.resolve().name, work / HEATMAP)
        if first.resolve() != (work / HEATMAP).resolve():
            raise ConfigError(f"{first.parent} and {work} are folders of one slide; give one of them")
    rule = HardNegatives(most, most_per_slide)
    table = find_hard_negatives(read_index(index), maps, named, rule, split=split)
    path = write_hard_negatives(table, out)
    typer.echo(
        f"{path}: {table.num_rows} patches of {len(set(table['slide_id'].to_pylist()))} slides; see {out / LIST}"
    )


def _numbers(text: str) -> list[float]:
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--thresholds {text!r}: expected numbers with commas between") from error
    if not all(0 <= number < 1 for number in found):
        raise ConfigError(f"--thresholds {text!r}: a threshold lies in [0, 1)")
    return found


def _folders(works: Sequence[Path], needs: "Sequence[Need]") -> tuple[list[Path], dict[str, str]]:
    """Choose folders of slides; say which are left out, and why."""
    from wsi_detect.run.folders import slide_folders

    found, left_out = slide_folders(works, needs)
    for name, reason in left_out.items():
        typer.echo(f"left out: {name}: {reason}", err=True)
    return found, left_out


def _gated_slides(
    works: Sequence[Path], annotations: Path | None, area: str
) -> "tuple[list[GatedSlide], dict[str, str]]":
    """Slides with their cells, and those left out with the reason."""
    from wsi_detect.inference.gate_truth import labelled_slides, ungated_slides

    if area not in ("patch", "core"):
        raise ConfigError(f"--area {area!r}: patch or core")
    where: Literal["patch", "core"] = "core" if area == "core" else "patch"
    if annotations is None:
        found, left_out = _folders(works, ["patches", "evidence", "cells"])
        return ungated_slides(found, where), left_out
    found, left_out = _folders(works, ["patches", "evidence"])
    return labelled_slides(found, annotations, where), left_out


def _cost_table(rows: Sequence[Mapping[str, Any]]) -> "Table":
    """One row a gate: what it saves, and abnormal cells in patches not shown."""
    from rich.table import Table

    table = Table()
    for head in ("gate", "not shown", "saved", "abnormal lost", "sensitivity"):
        table.add_column(head, justify="right")
    for row in rows:
        abnormal = row["abnormal"]
        kept = "n/a" if not abnormal["cells"] else f"{1 - abnormal['lost'] / abnormal['cells']:.4f}"
        hidden, lost = f"{row['not_shown']} of {row['patches']}", f"{abnormal['lost']} of {abnormal['cells']}"
        table.add_row(f"{row['threshold']:g}", hidden, f"{row['saved']:.1%}", lost, kept)
    return table


def _lost_table(rows: Sequence[Mapping[str, Any]]) -> "Table":
    """One row a class: its cells, and how many of them each gate loses."""
    from rich.table import Table

    table = Table()
    table.add_column("class")
    for head in ("cells", *(f"{row['threshold']:g}" for row in rows)):
        table.add_column(head, justify="right")
    for name in rows[0]["cells"]:
        table.add_row(name, str(rows[0]["cells"][name]["cells"]), *(str(row["cells"][name]["lost"]) for row in rows))
    return table
