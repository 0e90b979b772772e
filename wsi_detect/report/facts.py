"""What a report says in words: from the status of a slide to sentences and shares, without a word of judgement."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsi_detect.taxonomy import CLASSES, cell_class, gravest_first

Status = Mapping[str, Any]

_MEANING = {
    "SCREENED": "The cell area found on this slide was examined by the model. This is not a statement about the "
    "patient: cells may have been missed, and classes the model does not know cannot be found.",
    "PARTLY SCREENED": "Part of the cell area was not examined. What lies there is unknown.",
    "NOT SCREENED": "This slide was not examined well enough to say anything about it.",
}
_FAMILIES = {
    "squamous": "Squamous cell abnormalities",
    "glandular": "Glandular cell abnormalities",
    "organism": "Organisms",
    "non-neoplastic": "Non-neoplastic findings",
}


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the cell area, 0 to 1; `kind` is how it is drawn."""

    kind: str
    title: str
    value: float

    @property
    def text(self) -> str:
        """In percent."""
        return percent(self.value)


@dataclass(frozen=True, slots=True)
class Banner:
    """Something a reader must know before looking at a cell; `grave` if it puts every cell in doubt."""

    title: str
    text: str
    grave: bool = False


def percent(value: float) -> str:
    """Percent with one digit; only all of it is 100 %, only nothing is 0 %."""
    if value <= 0 or value >= 1:
        return "0 %" if value <= 0 else "100 %"
    if value < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if value > 0.999 else f"{100 * value:.1f} %"


def meaning(status: Status) -> str:
    """Return what the status does and does not mean."""
    text = _MEANING[status["status"]]
    if (status.get("gate") or {}).get("not_shown"):
        text = f"{text} The detector was shown a part of that area only: see the gate below."
    return text


def shares(status: Status) -> list[Share]:
    """Return the cell area in parts, those that are nothing left out but for the examined one."""
    parts = [
        Share("examined", "examined", status["examined_fraction"]),
        Share("unreadable", "unreadable: the file cannot be decoded there", status.get("unreadable_fraction", 0.0)),
        Share("failed", "failed: the model gave no usable output", status.get("failed_fraction", 0.0)),
        Share("no-data", "without data: not scanned", status.get("no_data_fraction", 0.0)),
        Share("gated", "not shown to the detector: no evidence above the gate", status.get("gated_fraction", 0.0)),
    ]
    return [part for part in parts if part.kind == "examined" or part.value > 0]


def gate(status: Status) -> Banner | None:
    """Return what a gate has left out and what its audit found; None without one."""
    rule = status.get("gate")
    if not rule:
        return None
    if not rule["not_shown"]:
        text = f"It hid nothing: the detector was shown all {rule['patches']} patches."
        return Banner("A gate was used", text)
    text = (
        f"{rule['not_shown']} of {rule['patches']} patches, those without evidence above {rule['threshold']:g}, were "
        "not shown to the detector. Cells there are not in the counts. "
    )
    audited, hits = rule["audited"], rule["audit"]["patches_with_abnormal"]
    if audited:
        text += (
            f"Of {audited} more such patches, drawn at random and shown to it, {hits} hold an abnormal cell it finds."
        )
        if hits:
            text += " Those it was not shown may hold more."
    else:
        text += "How many it would find there was not tried."
    return Banner("A gate was used", text, grave=True)


def focus(status: Status) -> str | None:
    """Return what is known about focus, in a sentence; None for a slide that was not looked at."""
    if "out_of_focus_fraction" not in status:
        return None
    share, unknown = status["out_of_focus_fraction"], status.get("focus_unmeasured_fraction", 0.0)
    if share is None:
        return "How sharp the cells are was not measured."
    if share <= 0:
        where = "Nowhere that focus was measured" if unknown > 0 else "Nowhere"
        text = f"{where} do the cells look out of focus to the program; it judges by how steep their edges are."
    else:
        where = "the cell area where focus was measured" if unknown > 0 else "the cell area"
        text = (
            f"{percent(share)} of {where} looks out of focus. It was examined all the same, but cells "
            "there may have been missed or misjudged: look at the slide itself. The program judges by how steep the "
            "cells' edges are."
        )
    if unknown > 0:
        text += (
            f" On {percent(unknown)} of the cell area focus was not measured: no cell was sampled there, or the "
            "detector was not shown it."
        )
    return text


def domain(status: Status) -> Banner | None:
    """Return the preparation the model was trained on against the slide's; None without a model in the status."""
    if "model" not in status:
        return None
    trained, here = status["model"]["preparation"], (status.get("slide") or {}).get("preparation")
    text = f"The model was trained on: {trained}. This slide: {here or 'not stated'}."
    if status.get("outside_domain", True):
        return Banner("Outside the validated domain", text, grave=True)
    return Banner("Same preparation as the training slides", text)


def resolution_banners(status: Status) -> list[Banner]:
    """Return what is doubtful about sizes and pixels, the gravest first."""
    if "model" not in status:
        return []
    model, slide, resampled = status["model"], status["slide"], status.get("resampled")
    found = []
    if status.get("accepted_resolution"):
        found.append(
            Banner(
                "Resolution too low for this model",
                f"The slide has {slide['mpp']:.4g} µm/px, the model works at {model['mpp']:.4g}. It was enlarged "
                f"{status['upsampling']:.2f} times on request (--accept-resolution). Detail the model relies on is "
                "not in the pixels; treat every cell with reserve.",
                grave=True,
            )
        )
    elif resampled:
        found.append(
            Banner("Resampled", f"From {resampled['from']:.4g} to {resampled['to']:.4g} µm/px, where the model works.")
        )
    if model.get("mpp_assumed"):
        found.append(
            Banner(
                "The model's resolution is assumed",
                f"Its training images do not state how large a pixel is; {model['mpp']:.4g} µm/px is a plausible "
                "value, not a measured one.",
            )
        )
    if slide.get("mpp_source") not in (None, "file"):
        found.append(
            Banner(
                "The slide's resolution was stated by hand",
                f"{slide['mpp']:.4g} µm/px comes from {slide['mpp_source']}, not from the scanner's file.",
            )
        )
    return found


def visible(status: Status) -> list[str]:
    """Return the classes the model can answer with, gravest first."""
    return gravest_first(status["model"]["classes"]) if "model" in status else []


def invisible(status: Status) -> list[tuple[str, list[str]]]:
    """Return the classes of the Bethesda System the model cannot see, by family, gravest first."""
    known = set(visible(status))
    names = gravest_first(name for name in CLASSES if name not in known)
    groups = [(title, [n for n in names if cell_class(n).family == family]) for family, title in _FAMILIES.items()]
    return [(title, members) for title, members in groups if members]


def provenance(status: Status) -> list[tuple[str, str]]:
    """Return what was looked at by what: pairs of a name and a value."""
    facts = [("Slide", status["slide_id"])]
    slide, model = status.get("slide"), status.get("model")
    if slide:
        size = f"{slide['width_px']:,} x {slide['height_px']:,} px".replace(",", "\u202f").replace(" x ", " × ")
        facts.append(("Slide size", size))
        facts.append(("Slide resolution", f"{slide['mpp']:.4g} µm/px ({slide['mpp_source']})"))
        power = f", {slide['objective_power']:g}×" if slide.get("objective_power") else ""
        facts.append(("Scanner format", f"{slide['vendor']}{power}"))
        facts.append(("Slide preparation", slide.get("preparation") or "not stated"))
    if model:
        facts.append(("Model", model["model_id"]))
        facts.append(("Model resolution", f"{model['mpp']:.4g} µm/px{' (assumed)' if model['mpp_assumed'] else ''}"))
        facts.append(("Model's training data", model["data_card"]))
        facts.append(("Lowest score kept", f"{model['score_threshold']:g}"))
    if "patches" in status:
        facts.append(("Patches", f"{status['patches']} ({status.get('failed_patches', 0)} failed)"))
    if status.get("config"):
        facts.append(("Configuration", config_digest(status["config"])))
    return [*facts, ("Program", f"wsi-detect {status['version']}")]


def config_digest(values: Mapping[str, Any]) -> str:
    """Hash of resolved values, the same 16 hex digits as `config.digest`."""
    text = json.dumps(values, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
