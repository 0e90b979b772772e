"""What an evaluation says in words: each figure with what it means, and with what it does not say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsi_detect.evaluation.results import EvaluationRun
from wsi_detect.taxonomy import gravest_first, is_abnormal

Row = Mapping[str, Any]
NOTHING = "n/a"


@dataclass(frozen=True, slots=True)
class Headline:
    """One figure for everybody: its value and interval as text, what it means, and what not to take it for."""

    title: str
    value: str
    interval: str
    meaning: str
    limits: str


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One line of the table of classes; all values as text.

    Attributes:
        name: of the class.
        cells: labelled ones.
        figures: value and interval of each column.
        undefined: replicates without a cell of the class.
    """

    name: str
    cells: int
    figures: list[tuple[str, str]]
    undefined: str


class Table:
    """The figures of a run, found by what they are about."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = {(r["metric"], r["label"], r["threshold"], r["subset"], r["unit"]): r for r in rows}

    def get(
        self,
        metric: str,
        label: str,
        threshold: float | None = None,
        subset: str | None = None,
        unit: str | None = None,
    ) -> Row | None:
        """Return a row, None if this was not computed."""
        return self._rows.get((metric, label, threshold, subset, unit))

    def of(self, metric: str) -> list[Row]:
        """Return all rows of a metric."""
        return [row for key, row in self._rows.items() if key[0] == metric]


def share(row: Row | None) -> str:
    """Percent, or n/a."""
    return NOTHING if row is None or row["value"] is None else f"{100 * row['value']:.0f} %"


def number(row: Row | None) -> str:
    """Two digits, or n/a."""
    return NOTHING if row is None or row["value"] is None else f"{row['value']:.2f}"


def interval(row: Row | None, *, percent: bool = False) -> str:
    """The interval; empty where there is none."""
    if row is None or row["ci_low"] is None or row["ci_high"] is None:
        return ""
    low, high = row["ci_low"], row["ci_high"]
    return f"{100 * low:.0f}–{100 * high:.0f} %" if percent else f"{low:.2f}–{high:.2f}"


def unit_of(run: EvaluationRun) -> str:
    """What an image of the run is called."""
    return "slide" if run.about.get("kind") == "slides" else "field"


def headlines(run: EvaluationRun) -> list[Headline]:
    """Return the figures to begin with."""
    table, unit = Table(run.metrics), unit_of(run)
    found = []
    for row in (r for r in table.of("recall") if r["label"] == "any_abnormal" and r["unit"] == unit):
        allowed = f"{row['threshold']:g} false {'alarm' if row['threshold'] == 1 else 'alarms'}"
        found.append(
            Headline(
                f"Abnormal cells found at {allowed} per {unit}",
                share(row),
                interval(row, percent=True),
                f"Of {row['n']} cells an expert labelled abnormal, this share is marked when the threshold is set so "
                f"that, on average, each {unit} also carries {allowed}.",
                "whether the grade was right: an HSIL marked as ASC-US counts as found.",
            )
        )
    mean = table.get("ap50", "mean", 0.5)
    found.append(
        Headline(
            "Average precision, mean of classes",
            number(mean),
            interval(mean),
            "How well each class is found under its own name, over all thresholds; 1 is perfect. Every class that the "
            "labels have counts the same.",
            "how the common classes do: one of ten cells moves it as much as one of five hundred. Where a draw has no "
            "cell of a rare class, it is the mean of the others, so its range can be lopsided.",
        )
    )
    every = table.get("ap50", "agnostic", 0.5)
    found.append(
        Headline(
            "Average precision, all cells as one class",
            number(every),
            interval(every),
            "How well cells are found at all, whatever they are called.",
            "anything about lesions: most cells are normal, and finding those is what this measures.",
        )
    )
    return [*found, *_judgements(run, table, unit)]


def _judgements(run: EvaluationRun, table: Table, unit: str) -> list[Headline]:
    found = []
    for row in table.of("cost"):
        found.append(
            Headline(
                f"Severity-weighted cost per {unit}",
                NOTHING if row["value"] is None else f"{row['value']:.0f}",
                _whole(row),
                f"Every wrong call at score {row['threshold']:g} and above costs its distance in gravity, "
                f"{run.config.under:g} a step where the call is too mild or the cell missed, {run.config.over:g} where "
                "it is too grave; 0 is perfect.",
                "what harm an error does: the weights are a convention for comparing models.",
            )
        )
    for row in table.of("auc"):
        found.append(
            Headline(
                f"{row['unit'].capitalize()}s told apart (area under the curve)",
                number(row),
                interval(row),
                f"The chance that a {row['unit']} with abnormal cells scores above one without; 0.5 is guessing.",
                _few(run, row["unit"]),
            )
        )
    for row in (*table.of("sensitivity"), *table.of("specificity")):
        found.append(
            Headline(
                f"{row['metric'].capitalize()} by {row['unit']}",
                share(row),
                interval(row, percent=True),
                f"At the threshold {row['threshold']:.3g}, chosen on {run.about.get('chosen', {}).get('split')} and "
                "only read here.",
                f"anything about a patient: a {row['unit']} is positive here when an abnormal cell is labelled in it.",
            )
        )
    return found


def _few(run: EvaluationRun, unit: str) -> str:
    names = [t.slide_id if unit == "slide" else t.image_id for t in run.truths]
    sick = {n for n, t in zip(names, run.truths, strict=True) if any(map(is_abnormal, t.labels))}
    well = set(names) - sick
    number = f"{len(sick)} {unit}s with abnormal cells and {len(well)} without"
    return f"much, where there are few of either: it rests on {number}."


def _whole(row: Row) -> str:
    low, high = row["ci_low"], row["ci_high"]
    return "" if low is None or high is None else f"{low:.0f}–{high:.0f}"


def class_table(run: EvaluationRun) -> tuple[list[str], list[ClassRow]]:
    """Return heads of the columns, and one line a class, gravest first."""
    table, unit = Table(run.metrics), unit_of(run)
    rates = sorted({r["threshold"] for r in table.of("recall") if r["unit"] == unit})
    ranges = [name for name in run.config.size_ranges_um if table.get("ap", "mean", None, name)]
    heads = ["AP at IoU 0.5", "AP at IoU 0.5–0.95", *(f"found at {rate:g} false per {unit}" for rate in rates)]
    names = gravest_first(r["label"] for r in table.of("ap50") if r["label"] not in ("mean", "agnostic"))
    rows = []
    for name in names:
        half = table.get("ap50", name, 0.5)
        figures = [(number(half), interval(half)), (number(table.get("ap", name)), "")]
        for rate in rates:
            row = table.get("recall", name, rate, None, unit)
            figures.append((share(row), interval(row, percent=True)))
        error = table.get("ece", name)
        figures.append((number(error), interval(error)))
        figures += [(number(table.get("ap", name, None, key)), "") for key in ranges]
        undefined = NOTHING if half is None or half["undefined"] is None else str(half["undefined"])
        rows.append(ClassRow(name, 0 if half is None else half["n"], figures, undefined))
    return [*heads, "calibration error", *(f"AP, {name}" for name in ranges)], rows


def further(run: EvaluationRun) -> list[tuple[str, str, str, str]]:
    """Return figures for the end of the page: name, value, interval, meaning."""
    table, found = Table(run.metrics), []
    for row in (r for r in table.of("froc") if r["label"] == "any_abnormal"):
        points = ", ".join(f"{value:g}" for value in run.config.froc_points)
        meaning = f"mean share of abnormal cells found at {points} false alarms per {row['unit']}"
        found.append((f"FROC score per {row['unit']}", number(row), interval(row), meaning))
    for row in table.of("hit"):
        what = "an abnormal cell" if row["label"] == "any_abnormal" else "a cell of the gravest class present"
        meaning = (
            f"{unit_of(run)}s with an abnormal cell whose first {row['threshold']:g} crops show {what} ({row['n']})"
        )
        found.append((f"Hit@{row['threshold']:g}, {row['label']}", share(row), interval(row, percent=True), meaning))
    for row in table.of("kappa"):
        meaning = f"agreement of the gravest class per {row['unit']} with the labels; 1 is perfect, 0 is chance"
        found.append((f"Quadratic kappa by {row['unit']}", number(row), interval(row), meaning))
    for row in (r for r in table.of("ap") if r["subset"] and r["label"] == "mean"):
        meaning = f"AP at IoU 0.5–0.95, mean of classes, {row['subset']} ({row['n']} cells)"
        found.append((f"AP, {row['subset']}", number(row), "", meaning))
    return found


def cautions(run: EvaluationRun) -> list[str]:
    """Return what a reader must know before trusting an interval."""
    found = []
    groups = next((r["groups"] for r in run.metrics if r["groups"] is not None), None)
    level = run.about.get("resampled", "field")
    if level == "field" and unit_of(run) == "field":
        found.append(
            "Which slides and patients the fields come from is not known. Fields of one smear resemble each other, so "
            "the intervals are narrower than they should be, and fields of one smear may also have been trained on."
        )
    if groups is not None and groups < 2:
        found.append("There is one group only: nothing can be said about how far the figures would vary.")
    elif groups is not None and groups < 50:
        found.append(f"{groups} {level}s are few. Read an interval as “at least this uncertain”.")
    rare = [r["label"] for r in Table(run.metrics).of("ap50") if 0 < r["n"] < 30 and r["subset"] is None]
    if rare:
        found.append(
            f"Fewer than 30 labelled cells of {', '.join(rare)}: their figures can change with a single {level}."
        )
    return found
