"""What became of a slide: the content of `status.json`, which the report, the summary and the exit code are made of."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from wsi_detect import __version__
from wsi_detect.run.config import LimitsConfig, RunConfig, RunOptions

if TYPE_CHECKING:
    from wsi_detect.detectors.info import DetectorInfo
    from wsi_detect.slides.reader import SlideInfo

SCREENED = "SCREENED"
PARTLY = "PARTLY SCREENED"
NOT_SCREENED = "NOT SCREENED"
STATUS = "status.json"

Status = dict[str, Any]
_SHARES = ("unreadable_fraction", "no_data_fraction", "failed_fraction", "gated_fraction")


def area_shares(patches: pa.Table) -> dict[str, float]:
    """Split the cell area into shares.

    Patches weigh as much as they cover of the cell mask; where they overlap, the area counts in each.

    Args:
        patches: rows of `schema.PATCHES`.

    Returns:
        examined_fraction, unreadable_fraction, no_data_fraction, failed_fraction and gated_fraction (the detector was
        not shown it), which add up to 1. A slide without cell area is examined: there was nothing to look at.
    """
    weight = patches["coverage"].to_numpy().astype(np.float64)
    if not weight.sum() > 0:
        return {"examined_fraction": 1.0, **dict.fromkeys(_SHARES, 0.0)}
    state = np.asarray(patches["status"].to_pylist(), dtype=object)
    # A patch that was not shown to the detector is unexamined as a whole.
    unreadable = np.where(state == "unreadable", 1.0, patches["unreadable"].to_numpy().astype(np.float64))
    no_data = np.minimum(patches["no_data"].to_numpy().astype(np.float64), 1 - unreadable)
    failed, gated = (np.where(state == name, 1 - unreadable - no_data, 0.0) for name in ("failed", "gated"))
    shares = dict(zip(_SHARES, (unreadable, no_data, failed, gated), strict=True))
    result = {name: round(float((share * weight).sum() / weight.sum()), 6) for name, share in shares.items()}
    return {"examined_fraction": round(max(1 - sum(result.values()), 0.0), 6), **result}


def focus_shares(patches: pa.Table, in_focus: float) -> dict[str, float | None]:
    """Return how much of the cell area is out of focus, and on how much that is not known.

    A patch has no focus where no cell was sampled, or where a gate kept it from the detector and its pixels are not
    stored. Such patches say nothing: they are not counted as sharp.

    Args:
        patches: rows of `schema.PATCHES`.
        in_focus: focus under which cells are out of focus.

    Returns:
        out_of_focus_fraction, of the cell area in patches with a focus (None if there is none), and
        focus_unmeasured_fraction, of the whole cell area (1 if there is none).
    """
    weight = patches["coverage"].to_numpy().astype(np.float64)
    focus = patches["focus"].to_numpy().astype(np.float64)
    measured = weight[~np.isnan(focus)].sum()
    if not measured > 0:
        return {"out_of_focus_fraction": None, "focus_unmeasured_fraction": 1.0}
    return {
        "out_of_focus_fraction": round(float(weight[focus < in_focus].sum() / measured), 6),
        "focus_unmeasured_fraction": round(float(weight[np.isnan(focus)].sum() / weight.sum()), 6),
    }


def judge(shares: Mapping[str, float], patches: pa.Table, limits: LimitsConfig) -> tuple[str, str | None]:
    """Return the status and, where there is one, the reason."""
    failed = sum(state == "failed" for state in patches["status"].to_pylist())
    lost = shares["unreadable_fraction"] + shares["failed_fraction"]
    problems = []
    if shares["unreadable_fraction"] > 0:
        problems.append(f"{shares['unreadable_fraction']:.2%} of the cell area cannot be decoded")
    if failed:
        problems.append(f"the model gave no usable output on {failed} of {patches.num_rows} patches")
    gated = sum(state == "gated" for state in patches["status"].to_pylist())
    if gated:
        problems.append(
            f"{gated} of {patches.num_rows} patches ({shares['gated_fraction']:.1%} of the cell area) were not shown "
            "to the detector: no evidence above the gate"
        )
    # What a gate leaves out on request was looked at, by the evidence model; it is no fault of the slide.
    if shares["examined_fraction"] + shares["gated_fraction"] < limits.min_examined:
        problems.append(f"only {shares['examined_fraction']:.1%} of the cell area was examined")
        return NOT_SCREENED, "; ".join(problems)
    if lost > limits.max_unexamined:
        return PARTLY, "; ".join(problems)
    if patches.num_rows == 0:
        problems.append("no area with cells was found")
    return SCREENED, "; ".join(problems) or None


def screened(
    slide: "SlideInfo",
    info: "DetectorInfo",
    config: RunConfig,
    options: RunOptions,
    *,
    preparation: str | None,
    patches: pa.Table,
    counts: Mapping[str, int],
) -> Status:
    """Return the status of a slide that went through all stages.

    Args:
        slide: its facts.
        info: the model's.
        config: resolved, as it was run.
        options: as they were given.
        preparation: of the slide, None if unknown.
        patches: rows of `schema.PATCHES`.
        counts: cells per class.
    """
    shares = area_shares(patches)
    status, reason = judge(shares, patches, config.limits)
    mpp, target = slide.resolution(), config.tiling.mpp or info.mpp
    resampled = abs(mpp / target - 1) > config.tiling.mpp_tolerance
    known = (preparation or "").strip().lower()
    return {
        "slide_id": slide.slide_id,
        "status": status,
        "reason": reason,
        **shares,
        **focus_shares(patches, config.quality.in_focus),
        "patches": patches.num_rows,
        "failed_patches": sum(state == "failed" for state in patches["status"].to_pylist()),
        "cells": sum(counts.values()),
        "counts": {name: counts.get(name, 0) for name in info.classes},
        "slide": {
            "width_px": slide.width_px,
            "height_px": slide.height_px,
            "mpp": mpp,
            "mpp_source": slide.mpp_source,
            "vendor": slide.vendor,
            "objective_power": slide.objective_power,
            "preparation": preparation,
        },
        "model": info.to_json(),
        "resampled": {"from": mpp, "to": target} if resampled else None,
        "upsampling": round(mpp / target, 4),
        "accepted_resolution": options.accept_resolution and mpp / target > config.limits.max_upsampling,
        "outside_domain": known != info.preparation.strip().lower(),
        "config": config.model_dump(mode="json"),
        "version": __version__,
    }


def behind_gate(status: Status, gate: Mapping[str, Any] | None) -> Status:
    """Enter what a gate left out, and what its audit found.

    An abnormal cell in a patch below the gate means that patches like it, which nobody was shown, may hold more;
    without an audit nobody knows what they hold. Such a slide is not SCREENED.

    Args:
        status: of the slide, as if there were no audit.
        gate: figures of the gate (`gate_report.gate_figures`), None without one.
    """
    entered = {**status, "gate": gate}
    if gate is None or not gate["not_shown"]:
        return entered
    hits, audited, hidden = gate["audit"]["patches_with_abnormal"], gate["audited"], gate["not_shown"]
    if audited and not hits:
        return entered
    found = f"{hidden} patches below the gate were not shown to the detector, and none was audited (gate.audit_share)"
    if audited:
        found = (
            f"in {hits} of {audited} audited patches below the gate the detector finds an abnormal cell, and {hidden} "
            "such patches were not shown to it"
        )
    entered["reason"] = found if status["reason"] is None else f"{status['reason']}; {found}"
    entered["status"] = PARTLY if status["status"] == SCREENED else status["status"]
    return entered


def not_screened(slide_id: str, path: Path, reason: str) -> Status:
    """Return the status of a slide that could not be screened; the reason names no file."""
    return {
        "slide_id": slide_id,
        "status": NOT_SCREENED,
        "reason": without_names(reason, slide_id, path),
        "examined_fraction": 0.0,
        "cells": None,
        "counts": {},
        "version": __version__,
    }


def without_names(text: str, slide_id: str, path: Path) -> str:
    """Put the slide's id wherever a text holds the slide's path or file name: a file name can hold a patient's."""
    for name in (str(path), str(path.resolve()), path.name):
        text = text.replace(name, slide_id)
    # A stem such as "3" is no name, and would be found in every number.
    if len(path.stem) >= 3 and not path.stem.isdigit():
        text = re.sub(rf"(?<!\w){re.escape(path.stem)}(?!\w)", slide_id, text)
    return text
