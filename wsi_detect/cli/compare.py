"""The command compare: what is different between two evaluations, and how sure that is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_detect.cli.common import ConfigFile, Out, Overrides, section

if TYPE_CHECKING:
    from rich.table import Table

    from wsi_detect.evaluation.compare import Comparison

app = typer.Typer()


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="Folder of an evaluation.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of another, on the same images and labels.")],
    out: Out,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Compare two evaluations of the same labelled images, figure by figure.

    Both are resampled together, by patient, slide or field; see docs/comparing.md for how to read the table.

    Example: wsi-detect compare eval/old eval/new --out eval/new-against-old
    """
    from rich.console import Console

    from wsi_detect.evaluation.compare import ComparisonConfig, compare_runs, fewest_replicates
    from wsi_detect.evaluation.results import EvaluationRun

    rule = section(config, "comparison", ComparisonConfig, overrides)
    found = compare_runs(EvaluationRun.read(run_a), EvaluationRun.read(run_b), rule)
    path = found.write(out)
    console = Console()
    console.print(_table(found))
    typer.echo(
        f"A {run_a}, B {run_b}: {found.images} images; {rule.replicates} replicates of {found.groups} {found.unit}s"
    )
    if found.groups < 2:
        typer.echo(f"fewer than two {found.unit}s: nothing can be said about how sure a difference is")
    needed = fewest_replicates(sum(entry.share is not None for entry in found.differences), rule.confidence)
    if rule.replicates < needed:
        typer.echo(f"so many figures need more replicates before any is sure: --set comparison.replicates={needed}")
    typer.echo(path)


def _table(found: "Comparison") -> "Table":
    from rich.table import Table

    confidence = found.config.confidence
    heads = ("figure", "A", "B", "B - A", f"{confidence:.0%} interval", "share", "Holm", "better", "detectable")
    table = Table()
    for head in (*heads, "undefined"):
        table.add_column(head, justify="left" if head == "figure" else "right")
    for entry in found.differences:
        ends = entry.ci_low, entry.ci_high
        interval = "n/a" if None in ends else " … ".join(_number(end, "+.4f") for end in ends)
        table.add_row(
            entry.figure,
            *(_number(value) for value in (entry.first, entry.second)),
            _number(entry.difference, "+.4f"),
            interval,
            *(_number(value) for value in (entry.share, entry.holm)),
            entry.better(confidence) or "",
            _number(entry.detectable),
            str(entry.undefined),
        )
    return table


def _number(value: float | None, form: str = ".4f") -> str:
    return "n/a" if value is None else format(value, form)
