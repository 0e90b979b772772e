"""Labels of slides: which kinds of region a report says a slide has.

A label file is a CSV with the columns `slide_id` and either `label`, names separated by `;`, or `positive`, 0 or 1.
"""

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_detect.annotations.text import read_rows
from wsi_detect.errors import LabelError
from wsi_detect.taxonomy import CLASSES

#: The only column where kinds of region are not told apart.
ANY = "region"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LabelRule:
    """What labels mean.

    Attributes:
        region: labels that count as region.
        per_class: a column for each of them instead of one for all.
        negative: labels, beside the names of the taxonomy, that say nothing of a region. Whatever else is written is a
            mistake: a slide whose label has a typing error would be taught as healthy everywhere.
    """

    region: Sequence[str]
    per_class: bool = False
    negative: Sequence[str] = ("0", "negative")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the classifier's columns: one for every kind of region, or one for all."""
        return tuple(self.region) if self.per_class else (ANY,)


def read_slide_labels(path: Path, rule: LabelRule) -> dict[str, NDArray[np.bool_]]:
    """Read which kinds of region each slide has.

    Returns:
        Slide id → (K,) bool, K the columns of the rule.

    Raises:
        LabelError: the file cannot be read or lacks a column; a row has no label, one that is not known, two that
            contradict each other, or is there twice.
    """
    header, rows = read_rows(path)
    header = [name.lower() for name in header]
    if "slide_id" not in header or not {"label", "positive"} & set(header):
        raise LabelError(f"{path}: it needs the columns slide_id and label, or slide_id and positive (0 or 1)")
    if rule.per_class and "label" not in header:
        raise LabelError(f"{path}: to tell kinds of region apart it needs the column label")
    found: dict[str, NDArray[np.bool_]] = {}
    for line, cells in rows:
        row, where = dict(zip(header, (cell.strip() for cell in cells), strict=True)), f"{path}: line {line}"
        name = row["slide_id"]
        if not name or name in found:
            raise LabelError(f"{where}: " + (f"slide {name} is there twice" if name else "no slide_id"))
        found[name] = _targets(row, rule, where)
    if not found:
        raise LabelError(f"{path}: it has no row")
    return found


def label_targets(label: str, rule: LabelRule, where: str) -> NDArray[np.bool_]:
    """Which kinds of region (K,) bool a label names, names separated by `;`.

    Args:
        label: the text.
        rule: what labels mean.
        where: it stands, for messages.

    Raises:
        LabelError: it names nothing, or something that is not known.
    """
    names = [part.strip() for part in label.split(";") if part.strip()]
    if not names:
        raise LabelError(f"{where}: no label; leave out slides of which nothing is known")
    known = {*rule.region, *rule.negative, *CLASSES}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or [
                word for word in known if word.lower() == name.lower()
            ]
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise LabelError(
                f"{where}: label {name!r} is not known; {hint}Known are the region ({', '.join(rule.region)}), the "
                f"names of the taxonomy, and {', '.join(rule.negative)} (evidence_training.negative)"
            )
        if name not in rule.region and name in CLASSES and CLASSES[name].abnormal:
            _log.warning("%s: %s is abnormal and not in the region; the slide is taught as having none", where, name)
    each = [name in names for name in rule.region]
    return np.array(each if rule.per_class else [any(each)])


def _targets(row: Mapping[str, str], rule: LabelRule, where: str) -> NDArray[np.bool_]:
    said = row.get("positive", "")
    if "positive" in row and said not in ("0", "1"):
        raise LabelError(f"{where}: positive is 0 or 1, not {said!r}")
    if "label" not in row:
        return np.array([said == "1"])
    targets = label_targets(row["label"], rule, where)
    if said and targets.any() != (said == "1"):
        raise LabelError(f"{where}: label {row['label']!r} and positive {said} contradict each other")
    return targets
