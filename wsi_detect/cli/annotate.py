"""The command that takes an expert's labels in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_detect.cli.common import Mpp, Out

if TYPE_CHECKING:
    from wsi_detect.annotations import ImportRules

app = typer.Typer()

FORMATS = "coco, voc, yolo, table, geojson, asap, imagescope, ndpa, tianchi, cric or riva"


@app.command()
def annotate(
    source: Annotated[Path, typer.Argument(help="A file, a folder of files, or a folder of folders, one a reader.")],
    out: Out,
    slides: Annotated[Path, typer.Option(help="Slides they lie on: a folder, a CSV manifest or slides.parquet.")],
    card: Annotated[Path, typer.Option(help="Data card folder, with the map of classes.")],
    form: Annotated[str, typer.Option("--format", help=f"Of the source: {FORMATS}.")] = "coco",
    slide: Annotated[str | None, typer.Option(help="File name of the slide that the one file is about.")] = None,
    names: Annotated[Path | None, typer.Option(help="yolo: class names, one a line, or a data.yaml.")] = None,
    columns: Annotated[list[str] | None, typer.Option("--column", help="table: ours=theirs, as image=file.")] = None,
    first_px: Annotated[int, typer.Option(min=0, max=1, help="voc: number of the first px.")] = 0,
    centre_um: Annotated[
        tuple[float, float] | None, typer.Option(help="ndpa: centre of the picture on the glass, if the slide is mute.")
    ] = None,
    mpp: Mpp = None,
    point_um: Annotated[float | None, typer.Option(help="Side of the box a point gets, µm.")] = None,
    point_px: Annotated[float | None, typer.Option(help="The same in px of the slide.")] = None,
    roi_labels: Annotated[
        list[str] | None, typer.Option("--roi-label", help="A label that marks an area labelled throughout.")
    ] = None,
    faulty: Annotated[str, typer.Option(help="Broken annotations: refuse, drop or repair.")] = "refuse",
    votes: Annotated[str | None, typer.Option(help="Several readers: majority or gravest.")] = None,
    ties: Annotated[str, typer.Option(help="Of a majority: gravest or refuse.")] = "gravest",
) -> None:
    """Import an expert's labels: a class for each, a box for each, every fault named.

    Example: wsi-detect annotate train.json --slides images/ --card data_cards/cric-cervix-pap --out data

    Other kinds of source:

    wsi-detect annotate xml/ --format voc --slides images/ --card cards/lab --faulty repair --out data

    wsi-detect annotate labels/ --format yolo --names data.yaml --slides images/ --card cards/lab --out data

    wsi-detect annotate cells.csv --format table --column label=class --point-um 20 --slides s.csv --card c --out data

    wsi-detect annotate a.geojson.gz --format geojson --roi-label Region --slides slides/ --card cards/lab --out data

    wsi-detect annotate a.xml --format asap --slide a.mrxs --roi-label rect --slides slides/ --card c --out data

    wsi-detect annotate readers/ --format geojson --votes majority --slides slides/ --card cards/lab --out data
    """
    import logging

    from wsi_detect.annotations import ClassMap, SourceFacts, import_annotations
    from wsi_detect.annotations.agreement import agreement
    from wsi_detect.annotations.votes import read_votes
    from wsi_detect.cli.facts import annotated_slides, class_names
    from wsi_detect.data.cards import take_card

    rules = _rules((faulty, votes, ties), (point_um, point_px), roi_labels or [])
    facts = SourceFacts(
        slides=annotated_slides(slides, mpp, centre_um),
        slide=slide,
        names=() if names is None else class_names(names),
        columns=dict(_pair(column) for column in columns or []),
        first_px=1 if first_px else 0,
    )
    path = import_annotations(source, form, ClassMap.from_card(card), out, facts, rules)
    take_card(card, path)
    for found in agreement(read_votes(out)):
        kappa = "n/a" if found.kappa is None else f"{found.kappa:.3f}"
        logging.getLogger(__name__).info(
            "agreement of %s: kappa %s on %d cells, %d marked by some of them only",
            ", ".join(found.annotators), kappa, found.cells, found.left_out,
        )  # fmt: skip
    typer.echo(path)


def _rules(
    words: tuple[str, str | None, str], sizes: tuple[float | None, float | None], roi_labels: list[str]
) -> "ImportRules":
    """Put rules together; they refuse a word they do not know."""
    from wsi_detect.annotations import ImportRules, VoteRule

    faulty, votes, ties = words
    point_um, point_px = sizes
    return ImportRules(
        faulty=faulty,  # type: ignore[arg-type]
        point_um=point_um,
        point_px=point_px,
        roi_labels=tuple(roi_labels),
        votes=None if votes is None else VoteRule(settle=votes, ties=ties),  # type: ignore[arg-type]
    )


def _pair(text: str) -> tuple[str, str]:
    ours, sign, theirs = text.partition("=")
    if not sign or not theirs:
        raise typer.BadParameter(f"{text!r} is not ours=theirs", param_hint="--column")
    return ours.strip(), theirs.strip()
