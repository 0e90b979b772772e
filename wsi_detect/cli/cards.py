"""The command about data cards: list them, check them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wsi_detect.data.card_schema import Card, Fact

app = typer.Typer()

#: What is shown without a mark of doubt.
_SURE = ("counted", "stated")


@app.command()
def cards(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Cards, or folders of cards; data_cards if not given.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="List every fault; exit code 4 if there is one.")] = False,
    images: Annotated[
        Path | None, typer.Option(help="Pictures of the one card given: with --check, look for leaks between splits.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the data cards: what each data set is, and what its licence allows; or check them.

    Example: wsi-detect cards --check data_cards/cric-cervix-pap --images fields/
    """
    from wsi_detect.data.cards import find_cards

    found = find_cards(folders or [])
    if images is not None and (not check or len(found) != 1):
        raise typer.BadParameter("pictures are checked of one card, with --check", param_hint="--images")
    if check:
        _check(found, images, as_json)
    else:
        _list(found, as_json)


def _check(found: list[Path], images: Path | None, as_json: bool) -> None:
    from wsi_detect.data.cards import check_card, check_pictures
    from wsi_detect.errors import EXIT_INVALID_INPUT, LabelError

    faults = [fault for folder in found for fault in check_card(folder)]
    if images is not None:
        try:
            faults += [f"{found[0]}: {leak}; move one of them" for leak in check_pictures(found[0], images)]
        except LabelError as error:
            faults.append(str(error))
    if as_json:
        typer.echo(json.dumps({"cards": [str(folder) for folder in found], "faults": faults}, indent=1))
    else:
        for fault in faults:
            typer.echo(fault)
        typer.echo(f"cards: {len(found)}, faults: {len(faults)}")
    if faults:
        raise typer.Exit(EXIT_INVALID_INPUT)


def _list(found: list[Path], as_json: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from wsi_detect.data.cards import load_card

    loaded = [(folder, load_card(folder)) for folder in found]
    if as_json:
        typer.echo(json.dumps([_entry(*each) for each in loaded], indent=1, ensure_ascii=False))
        return
    rows = [_row(*each) for each in loaded]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, justify="right" if name in ("images", "annotations", "mpp") else "left")
    for row in rows:
        table.add_row(*("?" if value is None else escape(value) for value in row.values()))
    # A terminal decides how wide a table is; a file is not wrapped.
    Console(width=None if Console().is_terminal else 200).print(table)
    typer.echo("? nobody says · ~ not counted or stated, but assumed, unchecked or said by others")


def _entry(folder: Path, card: "Card") -> dict[str, Any]:
    """All of a card for a program, and what follows from it."""
    from wsi_detect.data.use import allowed_uses

    return card.model_dump(mode="json") | {
        "folder": str(folder),
        "may_be_used_for": list(allowed_uses(card)),
        "taxonomy": _names(folder, card.specimen),
    }


def _row(folder: Path, card: "Card") -> dict[str, str | None]:
    """One line of the list; None where nobody says, a leading ~ where it is not sure."""
    from wsi_detect.data.use import allowed_uses

    licence = card.licence.spdx or card.licence.name
    return {
        "card": card.name,
        "licence": licence if card.licence.sure in _SURE else f"~{licence}",
        "may be used for": ", ".join(allowed_uses(card)) or "nothing",
        "images": _said(card.images),
        "annotations": _said(card.annotations),
        "preparation": _said(card.preparation),
        "mpp": _said(card.mpp),
        "classes": ", ".join(_names(folder, card.specimen)) or "none",
    }


def _names(folder: Path, specimen: str) -> list[str]:
    """Names of the taxonomy that a card gives; what is not cells of the cervix has none."""
    from wsi_detect.annotations.class_map import ClassMap
    from wsi_detect.taxonomy import gravest_first

    if specimen == "other":
        return []
    return gravest_first(ClassMap.from_card(folder, may_be_empty=True).classes)


def _said(fact: "Fact[Any]") -> str | None:
    if fact.value is None:
        return None
    text = f"{fact.value:,}" if isinstance(fact.value, int) else str(fact.value)
    return text if fact.sure in _SURE else f"~{text}"
