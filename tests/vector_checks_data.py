"""Sampling and the metric of score maps against reference numbers: file stem → check(content, dtype)."""

import numpy as np
import pytest
import torch

from wsi_detect.data.repeats import class_repeats, image_frequency, instance_frequency, patch_repeats
from wsi_detect.evaluation.pixel_ap import pixel_figures


def known(case, names):
    unknown = set(case) - set(names.split())
    assert not unknown, f"keys this check does not know: {sorted(unknown)}"


def near(expected, dtype):
    return pytest.approx(expected, rel=1e-9 if dtype == torch.float64 else 1e-4)


def check_rfs(content, dtype):
    """Repeat factors are float64 whatever the type of anything else."""
    known(content, "header images image_frequency instance_frequency rfs irfs_formula_derived")
    images = content["images"]
    classes = 1 + max((label for labels in images for label in labels), default=0)
    counts = np.array([np.bincount(labels, minlength=classes) for labels in images])
    by_image, by_instance = image_frequency(counts), instance_frequency(counts)
    _check_by_class(by_image, content.get("image_frequency", {}), dtype)
    _check_by_class(by_instance, content.get("instance_frequency", {}), dtype)
    for case in content.get("rfs", []):
        _check_repeat_factor(case, counts, dtype)
    for case in content.get("irfs_formula_derived", []):
        known(case, "name threshold class_repeat repeat_factor_per_image")
        repeats = class_repeats(np.sqrt(by_image * by_instance), case["threshold"])
        _check_by_class(repeats, case["class_repeat"], dtype)
        assert patch_repeats(counts, repeats).tolist() == near(case["repeat_factor_per_image"], dtype)


def _check_by_class(values, expected, dtype):
    for label, value in expected.items():
        assert values[int(label)] == near(value, dtype), label


def _check_repeat_factor(case, counts, dtype):
    known(
        case,
        "name threshold images_without_boxes_never_repeated repeat_factor_per_image len_after_ceil_repeat "
        "repeat_indices_ceil",
    )
    if not case["images_without_boxes_never_repeated"]:
        # The reference then takes "no box" as one more class.
        counts = np.column_stack([counts, ~counts.any(axis=1)])
    factors = patch_repeats(counts, class_repeats(image_frequency(counts), case["threshold"]))
    assert factors.tolist() == near(case["repeat_factor_per_image"], dtype)
    # Copies of the reference, rounded up; the epoch sampler rounds at random instead.
    copies = np.repeat(np.arange(len(counts)), np.ceil(factors).astype(int))
    assert len(copies) == case["len_after_ceil_repeat"]
    assert copies.tolist() == case["repeat_indices_ceil"]


def check_pxap(content, dtype):
    known(content, "header scoremaps masks cases")
    for case in content["cases"]:
        shared = {name: content[name] for name in ("scoremaps", "masks") if name in content}
        case = {**shared, **case}
        known(case, "name scoremaps masks threshold_step pxap_percent best_miou_percent best_dice_percent")
        # In double whatever the type: scores lie on edges of the bins, where rounding puts them into another.
        maps = np.array(case["scoremaps"])
        masks = np.array(case["masks"])
        found = pixel_figures(zip(maps, masks, strict=True), case["threshold_step"])
        for name, value in (("pxap", found.pxap), ("best_miou", found.best_miou), ("best_dice", found.best_dice)):
            if f"{name}_percent" in case:
                expected = case[f"{name}_percent"]
                assert value == (expected if expected is None else near(expected, dtype)), name


CHECKS = {"pxap": check_pxap, "rfs": check_rfs}
