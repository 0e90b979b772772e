"""Options that make every detector small enough to be trained by heart in seconds on one core."""

from typing import Any

_COMMON: dict[str, Any] = {
    "backbone": "resnet18",
    "first_stage": 2,
    "last_stage": 2,
    "extra_levels": 0,
    "channels": 32,
    "tower_depth": 1,
    "norm": "group",
    "input_scale": 0.5,
}

#: Detector → options, for patches with cells of about 40 px.
TINY: dict[str, dict[str, Any]] = {
    "fcos": _COMMON,
    "atss": {**_COMMON, "head": {"size": 2.5}},
    "retinanet": {**_COMMON, "head": {"sizes": [2.0, 2.5, 3.2]}},
    "reppoints": _COMMON,
    "yolof": {**_COMMON, "head": {"sizes": [2.5], "dilations": [1, 2]}},
    "faster_rcnn": {
        **_COMMON,
        "head": {
            "proposals": {
                "sizes": [2.5],
                "ratios": [1.0],
                "before": 100,
                "after": 50,
                "before_test": 100,
                "after_test": 20,
            },
            "width": 64,
        },
    },
}

#: Steps and learning rate of AdamW by which two painted patches are known by heart.
STEPS = {"fcos": 40, "atss": 40, "retinanet": 40, "reppoints": 100, "yolof": 50, "faster_rcnn": 60}
RATES = {"fcos": 2e-3, "atss": 2e-3, "retinanet": 2e-3, "reppoints": 4e-3, "yolof": 2e-3, "faster_rcnn": 2e-3}
