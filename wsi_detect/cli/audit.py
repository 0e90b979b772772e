"""The command audit: how many cells change when the patch edges fall elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsi_detect.cli.common import Device, Model, Overrides, bundle_of

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer()


@app.command()
def audit(
    work: Annotated[Path, typer.Argument(help="Folder of a screened slide.")],
    slide: Annotated[Path, typer.Option(help="The slide file.")],
    model: Model = None,
    device: Device = "auto",
    overrides: Overrides = None,
) -> None:
    """Detect once more with the patches shifted by half a patch, and count the cells that change.

    Takes as long as detection did. Of the run's settings only detection.… may be set otherwise.

    Example: wsi-detect audit work/S0123456789 --slide slide.svs
    """
    from rich.console import Console

    from wsi_detect.cli.facts import load_detector
    from wsi_detect.run.audit import AUDIT, audit_slide, recorded

    rule = recorded(work, overrides or ())[1].detection
    figures = audit_slide(work, slide, load_detector(bundle_of(model), device, rule), overrides or ())
    console = Console()
    console.print(_table(figures))
    if figures["compared_fraction"] < 1:
        typer.echo(
            f"a gate was used: cells are compared on the {figures['compared_fraction']:.1%} of the cell area the run "
            f"showed the detector; {figures['behind_gate']['second']} cells the audit found elsewhere are left out"
        )
    typer.echo(work / AUDIT)


def _table(figures: Mapping[str, Any]) -> "Table":
    from rich.table import Table

    heads = ("class", "run", "audit", "same", "became another", "was another", "run only", "audit only", "changed")
    keys = ("first", "second", "same", "renamed_from", "renamed_to", "first_only", "second_only")
    table = Table()
    for head in heads:
        table.add_column(head, justify="left" if head == "class" else "right")
    everything = {**figures["cells"], "renamed_from": figures["cells"]["renamed"], "renamed_to": ""}
    for name, counts in {**figures["classes"], "all": everything}.items():
        table.add_row(name, *(str(counts[key]) for key in keys), f"{counts['changed']:.2%}")
    return table
