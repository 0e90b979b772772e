"""What a sampler really draws of each class, beside what there is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wsi_detect.data.repeats import Counts, Weights, checked_counts


class RateRow(NamedTuple):
    """How often a class occurs and how often it is drawn; `label` is a class, or `background`.

    `cells_per_patch` is the mean number of its cells in a drawn patch.
    """

    label: str
    patches: int
    cells: int
    natural_share: float
    drawn_share: float
    cells_per_patch: float


def realised_rates(counts: Counts, weights: Weights, classes: Sequence[str]) -> tuple[RateRow, ...]:
    """Hold what a sampler draws against what there is.

    Args:
        counts: (P, K) cells of each class in each patch.
        weights: (P,) of a sampler, or the number of times each row was drawn; any scale.
        classes: (K,) names.
    """
    checked = checked_counts(counts)
    w = np.asarray(weights, dtype=np.float64) / max(float(np.sum(weights)), 1e-300)
    present = checked > 0
    rows = [
        RateRow(
            label=name,
            patches=int(present[:, k].sum()),
            cells=int(checked[:, k].sum()),
            natural_share=float(present[:, k].mean()),
            drawn_share=float(w @ present[:, k]),
            cells_per_patch=float(w @ checked[:, k]),
        )
        for k, name in enumerate(classes)
    ]
    empty = ~present.any(axis=1)
    rows.append(RateRow("background", int(empty.sum()), 0, float(empty.mean()), float(w @ empty), 0.0))
    return tuple(rows)


def rates_table(rows: Sequence[RateRow]) -> str:
    """Lay out realised rates as text, one class a line."""
    width = max(len(row.label) for row in rows)
    head = f"{'class':<{width}}  patches   cells  natural   drawn  drawn/natural  cells a patch"
    lines = [head, "-" * len(head)]
    for row in rows:
        gain = f"{row.drawn_share / row.natural_share:.2f}" if row.natural_share else "-"
        shares = f"{row.natural_share:>7.1%}  {row.drawn_share:>6.1%}  {gain:>13}"
        lines.append(f"{row.label:<{width}}  {row.patches:>7}  {row.cells:>6}  {shares}  {row.cells_per_patch:>13.2f}")
    return "\n".join(lines)
