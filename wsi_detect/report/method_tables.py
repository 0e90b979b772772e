"""A comparison of methods as tables: what was reached, what could have been seen, and how it was made."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_detect import artifact
from wsi_detect.evaluation.compare import Difference
from wsi_detect.evaluation.methods import MethodFigures, compare_methods
from wsi_detect.evaluation.out_of_fold import MACRO, Endpoints, found_cells
from wsi_detect.taxonomy import CLASSES
from wsi_detect.training.grid import ComparisonJob, Row
from wsi_detect.training.records import Finished

_NONE = "–"
UNDER_TRAINED = "under-trained"


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """All methods of one detector with one sampler, which are held against each other.

    Attributes:
        detector, sampler: of all its rows.
        rows: in the order of the declaration.
        figures: of the rows with a whole seed.
        alphas: of the baseline and of Grad-Libra at all its parameters, on the seeds that all of these have.
        label: `under-trained` and why, or that it is not.
        trained: whether the baseline was trained enough.
        prefix: beginning of the name of its plot's file.
    """

    detector: str
    sampler: str
    rows: tuple[Finished, ...]
    figures: tuple[MethodFigures, ...]
    alphas: tuple[MethodFigures, ...]
    label: str
    trained: bool
    prefix: str

    @property
    def picture(self) -> str:
        """File of its plot, in the folder `img` beside the document."""
        return f"{self.prefix}-{self.detector}-{self.sampler}.svg"


def blocks(rows: Sequence[Finished], job: ComparisonJob, groups: Mapping[str, int]) -> list[Block]:
    """Compare what is finished, methods of one detector and one sampler with each other.

    Args:
        rows: what is there.
        job: the declaration.
        groups: field → number of the patient, slide or field that is resampled.
    """
    axes = job.cross_validation
    found = []
    for detector, sampler in dict.fromkeys((one.row.detector, one.row.sampler) for one in rows):
        mine = tuple(one for one in rows if (one.row.detector, one.row.sampler) == (detector, sampler))
        methods = {one.row.method: one.seeds for one in mine if one.seeds}
        libra = {
            one.row.method for one in mine if one.seeds and (alphas_of(one.made) or one.row.method == axes.baseline)
        }
        common = set.intersection(*(set(methods[name]) for name in libra)) if libra else set()
        alike = {name: {seed: methods[name][seed] for seed in sorted(common)} for name in methods if name in libra}
        figures, alphas = (
            compare_methods(some, axes.baseline, job.fields.classes, axes.endpoints, groups, job.comparison)
            for some in (methods, alike)
        )
        label, trained = _label(figures, rows, job)
        prefix = job.report.prefix
        found.append(Block(detector, sampler, mine, tuple(figures), tuple(alphas), label, trained, prefix))
    return found


def tables(found: Sequence[Block], job: ComparisonJob, folds: Sequence[int] = ()) -> dict[str, str]:
    """Return every table, Markdown, by the name of its place in a document; `folds` are those it is a first look at.

    Names begin with `report.prefix`, so that a document has places for the tables of several declarations. The table of
    alphas is there only if the declaration varies them.
    """
    shown = [block for block in found if any(one.done for one in block.rows)] or list(found)
    waiting = [f"{block.detector} with {block.sampler}" for block in found if block not in shown]
    later = [f"Declared and not begun: {', '.join(waiting)}."] if waiting else []
    parts = {
        "label": [*_first_look(folds, job), *(_title(block, job) + block.label for block in shown), *later],
        "primary": [_title(block, job) + _primary(block, job) for block in shown],
        "secondary": [_title(block, job) + _secondary(block, job) for block in shown],
        "rare": [_title(block, job) + _rare(block, job) for block in shown],
        "made": [_made(shown, job)],
    }
    if _varies_alphas(job):
        parts["alphas"] = [text for block in shown if (text := _alphas(block, job))]
    prefix = job.report.prefix
    return {f"{prefix}-{name}": "\n\n".join(texts) or "Nothing is finished yet." for name, texts in parts.items()}


def write_between_marks(document: Path, texts: Mapping[str, str]) -> list[str]:
    """Put texts between their marks `<!-- name -->` and `<!-- end -->` of a document.

    Returns:
        Names the document has no place for.
    """
    content = document.read_text()
    lost = []
    for name, text in texts.items():
        marked = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        pieces = marked.split(content)
        places = len(pieces) // 3
        for k in range(places):
            pieces[3 * k + 1] += f"{text}\n"
        content = "".join(pieces)
        lost += [] if places else [name]
    artifact.write_bytes(document, content.encode())
    return lost


def _first_look(folds: Sequence[int], job: ComparisonJob) -> list[str]:
    if not folds:
        return []
    names = ", ".join(str(fold) for fold in sorted(folds))
    return [
        f"**A first look**: folds {names} of {job.cross_validation.folds} only, which is not the declared endpoint."
    ]


def state(rows: Sequence[Finished]) -> str:
    """What is finished, a line a row; for the screen."""
    lines = [f"{one.done:>4} of {one.declared:<4} {_name(one.row)}, {one.seconds:.0f} s" for one in rows]
    return "\n".join(lines)


def _label(figures: Sequence[MethodFigures], rows: Sequence[Finished], job: ComparisonJob) -> tuple[str, bool]:
    axes = job.cross_validation
    reached = next((one.figures[MACRO] for one in figures if one.name == axes.baseline), None)
    if reached is None:
        return f"**{UNDER_TRAINED}**: the baseline is not finished.", False
    rule = axes.reference
    if rule is None:
        return f"**{UNDER_TRAINED}**: no reference is declared; the baseline has {_number(reached)}.", False
    row = Row(rule.detector, rule.method, rule.sampler)
    there = next((one for one in rows if one.row == row and one.seeds), None)
    if there is None:
        return (
            f"**{UNDER_TRAINED}**: the baseline has macro AP50 {_number(reached)}; the reference ({_name(row)}) "
            "was not cross-validated with this declaration, so nobody knows whether that is enough.",
            False,
        )
    classes, endpoints = job.fields.classes, axes.endpoints
    groups = {name: k for k, name in enumerate(next(iter(there.seeds.values())).fields)}
    quick = job.comparison.model_copy(update={"replicates": 1})
    (best,) = compare_methods({"reference": there.seeds}, "reference", classes, endpoints, groups, quick)
    limit = best.figures[MACRO]
    enough = limit is not None and reached >= rule.share * limit
    word = f"trained to {rule.share:.0%} of the reference or more" if enough else f"**{UNDER_TRAINED}**"
    return f"{word}: the baseline has macro AP50 {_number(reached)}, the reference {_number(limit)}.", enough


def _primary(block: Block, job: ComparisonJob) -> str:
    head = (
        "method", "seeds", f"macro AP50 ({job.comparison.confidence:.0%} interval)", "by seed",
        "minus baseline (interval)", "smallest detectable", "p, Holm", "undefined replicates", "runs",
    )  # fmt: skip
    lines = []
    for one in block.rows:
        found = _figures(block, one.row.method)
        if found is None:
            lines.append((_method(one, job), "0", *[_NONE] * 6, _runs(one)))
            continue
        gap = found.differences.get(MACRO)
        by_seed = ", ".join(_number(values[MACRO]) for values in found.by_seed.values())
        lines.append(
            (
                _method(one, job), str(len(found.by_seed)), _with_interval(found, MACRO), by_seed,
                _gap(gap), _detectable(gap), _NONE if gap is None or gap.holm is None else f"{gap.holm:.3f}",
                f"{found.intervals[MACRO].undefined} of {job.comparison.replicates}", _runs(one),
            )
        )  # fmt: skip
    seen = any(MACRO in found.differences for found in block.figures)
    picture = f"\n\n![Macro AP50 of each method minus the baseline's](img/{block.picture})" if seen else ""
    return _table(head, lines) + picture


def _secondary(block: Block, job: ComparisonJob) -> str:
    endpoints = job.cross_validation.endpoints
    wanted = _wanted(job.fields.classes, endpoints)
    names = [_said(figure) for figure in wanted]
    lines = []
    for found in block.figures:
        cells = [_with_gap(found, figure) for figure in wanted]
        title = job.cross_validation.methods[found.name].title or found.name
        lines.append((title, *cells))
    return _table(("method", *names), lines)


def _wanted(classes: Sequence[str], endpoints: Endpoints) -> list[str]:
    """Secondary endpoints: groups and abnormal cells where classes are of the taxonomy, else each class."""
    close = [] if endpoints.close_iou is None else [endpoints.close_macro]
    if not set(classes) <= set(CLASSES):
        return [*close, *(f"ap50/{name}" for name in classes)]
    healthy = [f"ap50/{name}" for name in ("NILM",) if name in classes]
    recalls = [f"recall@{n:g}fppi/any_abnormal" for n in endpoints.false_positives]
    return [*close, *healthy, *(f"ap50/{name}" for name in endpoints.groups), *recalls]


def _rare(block: Block, job: ComparisonJob) -> str:
    """Counts alone: so few fields rank nothing."""
    endpoints = job.cross_validation.endpoints
    known = {one.row.method: one for one in block.rows if one.seeds}
    if not known:
        return "Nothing is finished yet."
    any_seed = next(iter(next(iter(known.values())).seeds.values()))
    rare = [c for c in job.fields.classes if 0 < int((any_seed.cells[c] > 0).sum()) <= endpoints.rare_fields]
    if not rare:
        return f"No class is in {endpoints.rare_fields} fields or fewer."
    heads = [f"{c}: of {int(any_seed.cells[c].sum())} in {int((any_seed.cells[c] > 0).sum())} fields" for c in rare]
    lines = []
    for name, one in known.items():
        counts = []
        for label in rare:
            pools = [found.pools()[label] for found in one.seeds.values()]
            counts.append(", ".join(str(found_cells(pool, endpoints.rare_false_positives)) for pool in pools))
        lines.append((job.cross_validation.methods[name].title or name, *counts))
    return _table(("method (found, by seed)", *heads), lines)


def alphas_of(made: Mapping[str, Any]) -> tuple[float, float] | None:
    """alpha_pos and alpha_neg of a row, by how it was made; None for another loss, or another form of this one.

    The focal loss with gamma 1 and no balance is Grad-Libra with both at 0.
    """
    options = made.get("loss_options", {})
    if made.get("loss") == "grad_libra" and set(options) <= {"alpha_pos", "alpha_neg"}:
        return float(options.get("alpha_pos", 0.5)), float(options.get("alpha_neg", 0.5))
    if made.get("loss") == "focal" and options.get("gamma") == 1 and options.get("alpha", 0.25) < 0:
        return 0.0, 0.0
    return None


def _varies_alphas(job: ComparisonJob) -> bool:
    options = [method.training.get("options", {}) for method in job.cross_validation.methods.values()]
    return sum(alphas_of({"loss_options": {}, **one}) is not None for one in options) > 1


def _alphas(block: Block, job: ComparisonJob) -> str:
    known = {one.row.method: alphas_of(one.made) for one in block.rows}
    lines = []
    for found in block.alphas:
        pair, gap = known[found.name], found.differences.get(MACRO)
        if pair is not None:
            cells = str(len(found.by_seed)), _with_interval(found, MACRO), _gap(gap), _detectable(gap)
            lines.append((f"{pair[0]:g}", f"{pair[1]:g}", *cells))
    head = ("alpha_pos", "alpha_neg", "seeds", "macro AP50", "minus baseline (interval)", "smallest detectable")
    return _title(block, job) + _table(head, sorted(lines)) if len(lines) > 1 else ""


def _made(found: Sequence[Block], job: ComparisonJob) -> str:
    head = (
        "method", "detector, sampler", "loss and options", "prior", "normaliser", "initialisation", "learning rate",
        "trials", "steps × batch", "crop, µm/px", "seconds a run", "version",
    )  # fmt: skip
    lines = []
    for one in (one for block in found for one in block.rows if one.made):
        made = one.made
        options = ", ".join(f"{name} {value}" for name, value in made["loss_options"].items())
        lines.append(
            (
                _method(one, job), f"{made['detector']}, {made['sampler']}",
                f"{made['loss']}{': ' if options else ''}{options}", str(made["prior"]), made["normaliser"],
                made["initialisation"], f"{made['learning_rate']:g}", str(made["trials"]),
                f"{made['steps']} × {made['batch_size']}", f"{made['crop_px']} px, {made['mpp']:g}",
                f"{one.seconds / one.done:.0f}", ", ".join(one.versions),
            )
        )  # fmt: skip
    return _table(head, lines) if lines else "Nothing is finished yet."


def _figures(block: Block, method: str) -> MethodFigures | None:
    return next((found for found in block.figures if found.name == method), None)


def _title(block: Block, job: ComparisonJob) -> str:
    detector = job.cross_validation.detectors[block.detector].title or block.detector
    sampler = job.cross_validation.samplers[block.sampler].title or block.sampler
    return f"**{detector}, sampler {sampler}.**\n\n"


def _name(row: Row) -> str:
    return f"{row.detector}, {row.method}, {row.sampler}"


def _method(one: Finished, job: ComparisonJob) -> str:
    title = job.cross_validation.methods[one.row.method].title or one.row.method
    return f"{title} (baseline)" if one.row.method == job.cross_validation.baseline else title


def _runs(one: Finished) -> str:
    return f"{one.done}" if one.complete else f"**incomplete**: {one.done} of {one.declared}"


def _said(figure: str) -> str:
    if figure.startswith("ap50/"):
        return f"AP50 {figure.removeprefix('ap50/')}"
    if figure.startswith("macro_ap"):
        return f"macro AP{figure.removeprefix('macro_ap')}"
    return f"abnormal recall at {figure.partition('@')[2].partition('fppi')[0]}"


def _with_interval(found: MethodFigures, figure: str) -> str:
    interval = found.intervals[figure]
    value = found.figures[figure]
    if value is None or interval.low is None or interval.high is None:
        return _number(value)
    return f"{value:.3f} ({interval.low:.3f}–{interval.high:.3f})"


def _with_gap(found: MethodFigures, figure: str) -> str:
    gap = found.differences.get(figure)
    value = _number(found.figures[figure])
    if gap is None or gap.difference is None:
        return value
    return f"{value}; {gap.difference:+.3f}, detectable {_detectable(gap)}"


def _gap(gap: Difference | None) -> str:
    if gap is None or gap.difference is None:
        return _NONE
    if gap.ci_low is None or gap.ci_high is None:
        return f"{gap.difference:+.3f}"
    return f"{gap.difference:+.3f} ({gap.ci_low:+.3f} to {gap.ci_high:+.3f})"


def _detectable(gap: Difference | None) -> str:
    return _number(None if gap is None else gap.detectable)


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
