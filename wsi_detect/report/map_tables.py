"""The comparison of evidence maps as tables: each figure as its mean over folds, then mean and spread over seeds."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_NONE = "–"
#: Methods in the order of the rows.
_TITLES = {
    "oracle": "*oracle: centres of the cells known*",
    "negev": "**NEGEV**",
    "negev_otsu": "**NEGEV**, Otsu's seeds, w = 4",
    "cam": "CAM",
    "grad_cam_pp": "Grad-CAM++",
    "layer_cam": "LayerCAM",
    "cam_probability": "CAM as a probability",
    "mil": "multiple-instance learning",
    "random": "*random*",
}
_COLUMNS = {
    "pxap": "PxAP, all fields",
    "pxap_region": "PxAP, fields with region",
    "best_dice": "best Dice",
    "pointing": "pointing game",
    "negative_mean": "mean on negative fields",
}


def map_table(
    title: str, records: Sequence[Mapping[str, Any]], declared: tuple[int, int], negative: int, fields: int
) -> str:
    """Markdown table of a task, of the seeds whose folds are all there.

    Args:
        title: of the task.
        records: of its finished runs.
        declared: folds and seeds in all.
        negative: fields without a region.
        fields: in all.
    """
    folds, runs = declared[0], declared[0] * declared[1]
    counts = Counter(record["run"]["seed"] for record in records)
    seeds = sorted(seed for seed, count in counts.items() if count == folds)
    state = f"{title}**: {negative} of {fields} fields are fully negative. {len(records)} of {runs} runs are finished"
    state += "" if len(records) == runs else ": **not complete**"
    if not seeds:
        return f"**{state}, and no seed has all its folds.\n"
    named = ", ".join(str(seed) for seed in seeds)
    lines = [f"**{state}. Percent, of seed{'s' * (len(seeds) > 1)} {named}, whose folds are all there."]
    records = [record for record in records if record["run"]["seed"] in seeds]
    lines += ["", f"| method | {' | '.join(_COLUMNS.values())} |", "|---" * (len(_COLUMNS) + 1) + "|"]
    methods = [method for method in _TITLES if method in records[0]["figures"]]
    for method in methods:
        cells = [_cell(records, method, column) for column in _COLUMNS]
        lines.append(f"| {_TITLES[method]} | {' | '.join(cells)} |")
    chance = [_cell(records, methods[0], f"prevalence{part}") for part in ("", "_region")]
    lines += ["", f"Chance, the share of px that are region: {chance[0]} of all fields, {chance[1]} of those with one."]
    return "\n".join(lines) + "\n"


def _cell(records: Sequence[Mapping[str, Any]], method: str, column: str) -> str:
    """Mean over the folds of each seed, then over seeds, with the standard deviation of the seeds."""
    by_seed: dict[int, list[float]] = {}
    for record in records:
        value = record["figures"][method][column]
        if value is not None:
            by_seed.setdefault(record["run"]["seed"], []).append(value)
    means = [statistics.fmean(values) for values in by_seed.values()]
    if not means:
        return _NONE
    spread = f" ± {statistics.stdev(means):.1f}" if len(means) > 1 else ""
    return f"{statistics.fmean(means):.1f}{spread}"
