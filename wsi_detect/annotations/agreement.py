"""How far readers agree beyond chance: Cohen's kappa for two, Fleiss' for more."""

from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_detect.annotations.votes import Vote
from wsi_detect.errors import LabelError


class Agreement(NamedTuple):
    """Agreement of some readers.

    Attributes:
        annotators: who.
        cells: that all of them marked; only these are compared.
        left_out: that some of them marked, but not all.
        kappa: 1 complete, 0 as by chance; None where there is no cell, or chance alone would agree completely.
    """

    annotators: tuple[str, ...]
    cells: int
    left_out: int
    kappa: float | None


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Return Cohen's kappa of two readers of the same cells.

    κ = (p_o - p_e) / (1 - p_e), p_o the share of cells with the same label, p_e the sum over labels of the product of
    both readers' shares. Cohen, "A Coefficient of Agreement for Nominal Scales", 1960, equation 1.

    Returns:
        None without cells, or where both gave one and the same label throughout.

    Raises:
        LabelError: the readers have different numbers of labels.
    """
    if len(first) != len(second):
        raise LabelError(f"two readers of the same cells have {len(first)} and {len(second)} labels")
    if not first:
        return None
    names = {name: k for k, name in enumerate(dict.fromkeys([*first, *second]))}
    table = np.zeros((len(names), len(names)), dtype=np.int64)
    for a, b in zip(first, second, strict=True):
        table[names[a], names[b]] += 1
    n = len(first)
    # In whole numbers, so that complete agreement by chance is seen as such.
    chance = int((table.sum(axis=0) * table.sum(axis=1)).sum())
    if chance == n * n:
        return None
    return float((n * int(np.trace(table)) - chance) / (n * n - chance))


def fleiss_kappa(counts: NDArray[np.integer]) -> float | None:
    """Return Fleiss' kappa of any number of readers.

    κ = (P - P_e) / (1 - P_e), P the mean over cells of the share of pairs of readers that agree, P_e the sum of the
    squared shares of the labels. Fleiss, "Measuring Nominal Scale Agreement Among Many Raters", 1971, equations 1-7.

    Args:
        counts: (N, K) readers that gave cell n the label k; every cell has the same number of readers, at least two.

    Returns:
        None without cells, or where only one label occurs.

    Raises:
        LabelError: cells have different numbers of readers, or fewer than two.
    """
    table = np.asarray(counts, dtype=np.int64)
    if not len(table):
        return None
    readers = np.unique(table.sum(axis=1))
    if len(readers) != 1 or readers[0] < 2:
        raise LabelError("Fleiss' kappa compares cells that all have the same number of readers, two or more")
    n = int(readers[0])
    if (table.sum(axis=0) > 0).sum() == 1:
        return None
    agreeing = (table * (table - 1)).sum(axis=1) / (n * (n - 1))
    chance = float(((table.sum(axis=0) / table.sum()) ** 2).sum())
    return (float(agreeing.mean()) - chance) / (1 - chance)


def agreement(votes: Sequence[Vote]) -> list[Agreement]:
    """Agreement of every two readers, and of all of them where there are more than two.

    Where a reader marked nothing is not known to be a statement: only cells that all readers compared have marked
    count, and how many others there were is said.
    """
    said: dict[tuple[str, str], dict[str, str]] = {}
    for vote in votes:
        said.setdefault((vote.slide_id, vote.annotation_id), {})[vote.annotator] = vote.label
    readers = sorted({vote.annotator for vote in votes})
    found = []
    for pair in combinations(readers, 2):
        both = [(cell[pair[0]], cell[pair[1]]) for cell in said.values() if cell.keys() >= set(pair)]
        marked = sum(not cell.keys().isdisjoint(pair) for cell in said.values())
        kappa = cohen_kappa([a for a, _ in both], [b for _, b in both])
        found.append(Agreement(pair, len(both), marked - len(both), kappa))
    if len(readers) > 2:
        complete = [cell for cell in said.values() if len(cell) == len(readers)]
        names = sorted({label for cell in complete for label in cell.values()})
        counts = [[list(cell.values()).count(name) for name in names] for cell in complete]
        kappa = fleiss_kappa(np.array(counts, dtype=np.int64).reshape(-1, len(names)))
        found.append(Agreement(tuple(readers), len(complete), len(said) - len(complete), kappa))
    return found
