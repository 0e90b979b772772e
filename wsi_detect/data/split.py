"""Splits by slide or patient, alike in their classes; and the check that nobody is on both sides."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import LabelError


def grouped_split(
    groups: Sequence[str], labels: NDArray[np.integer], fractions: Mapping[str, float], seed: int
) -> list[str]:
    """Share out items so that no group is divided and every class is divided alike, rare classes first.

    Sechidis, Tsoumakas, Vlahavas, "On the Stratification of Multi-label Data", ECML PKDD 2011, with groups as items.

    Args:
        groups: (N,) patient or slide of each item.
        labels: (N, K) how often each class occurs in each item.
        fractions: share of each split; they sum to 1.
        seed: decides among equals.

    Returns:
        (N,) name of the split of each item.

    Raises:
        LabelError: fractions do not sum to 1, or there are fewer groups than splits.
    """
    names = list(fractions)
    shares = np.array([fractions[name] for name in names], dtype=np.float64)
    if not names or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise LabelError(f"split fractions must be positive and sum to 1, got {dict(fractions)}")
    parts = _share_out(groups, labels, shares, seed)
    return [names[part] for part in parts]


def grouped_folds(groups: Sequence[str], labels: NDArray[np.integer], folds: int, seed: int) -> NDArray[np.int64]:
    """Number of the cross-validation fold of each item, (N,) in [0, folds); groups and classes as in `grouped_split`.

    Raises:
        LabelError: fewer than two folds, or fewer groups than folds.
    """
    if folds < 2:
        raise LabelError(f"cross-validation needs at least 2 folds, got {folds}")
    return _share_out(groups, labels, np.full(folds, 1 / folds), seed)


def check_leak(groups: Sequence[str], splits: Sequence[str]) -> None:
    """Refuse a division that puts one group into two splits.

    Raises:
        LabelError: with every such group.
    """
    seen: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        seen[group].add(split)
    leaks = [f"{group} ({', '.join(sorted(found))})" for group, found in sorted(seen.items()) if len(found) > 1]
    if leaks:
        raise LabelError(f"{len(leaks)} groups are in more than one split: {'; '.join(leaks)}")


def read_splits(path: Path) -> dict[str, str]:
    """Read a data card's `splits.csv` (columns image, group, split): split of each image.

    Raises:
        LabelError: the file is absent, has other columns, names an image twice, or a group is in two splits.
    """
    rows = read_split_rows(path)
    check_leak([row["group"] for row in rows], [row["split"] for row in rows])
    return {row["image"]: row["split"] for row in rows}


def read_split_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a data card's `splits.csv`, leaks and all.

    Raises:
        LabelError: the file is absent, has other columns, or names an image twice.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise LabelError(f"cannot read splits {path}: {error.strerror}") from error
    if not rows or not {"image", "group", "split"} <= set(rows[0]):
        raise LabelError(f"{path}: expected rows with the columns image, group, split")
    named_twice = len(rows) - len({row["image"] for row in rows})
    if named_twice:
        raise LabelError(f"{path}: {named_twice} images are named twice")
    if not all(row["split"] and row["group"] for row in rows):
        raise LabelError(f"{path}: a row has no group or no split")
    return rows


def _share_out(
    groups: Sequence[str], labels: NDArray[np.integer], shares: NDArray[np.float64], seed: int
) -> NDArray[np.int64]:
    names, member = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    if len(names) < len(shares):
        raise LabelError(f"{len(names)} groups cannot be divided into {len(shares)} parts")
    # The last column counts items: parts should also be alike in size.
    columns = np.column_stack([np.asarray(labels, dtype=np.float64), np.ones(len(member))])
    content = np.zeros((len(names), columns.shape[1]))
    np.add.at(content, member, columns)
    need = shares[:, None] * content.sum(axis=0)
    rng = np.random.default_rng(seed)
    part = np.full(len(names), -1, dtype=np.int64)
    rarest_first = sorted(range(columns.shape[1]), key=lambda k: (k == columns.shape[1] - 1, content[:, k].sum(), k))
    for k in rarest_first:
        waiting = np.flatnonzero((part < 0) & (content[:, k] > 0))
        # The largest first, while there is room to even them out.
        for g in sorted(rng.permutation(waiting), key=lambda g: -content[g, k]):
            order = sorted(rng.permutation(len(shares)), key=lambda p: (-need[p, k], -need[p, -1]))
            part[g] = order[0]
            need[order[0]] -= content[g]
    _fill_empty(part, content, len(shares))
    return np.asarray(part[member], dtype=np.int64)


def _fill_empty(part: NDArray[np.int64], content: NDArray[np.float64], parts: int) -> None:
    """Give a part that got nothing the smallest group of the part with most groups."""
    for empty in sorted(set(range(parts)) - set(part.tolist())):
        donor = int(np.bincount(part, minlength=parts).argmax())
        members = np.flatnonzero(part == donor)
        part[members[content[members, -1].argmin()]] = empty
