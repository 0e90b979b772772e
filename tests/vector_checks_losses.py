"""Losses against numbers of their published programs: file stem → check(content, dtype)."""

import re

import torch

from wsi_detect.losses import ClassCounts, make_loss
from wsi_detect.losses.class_balanced import balanced_weights, effective_number
from wsi_detect.losses.iif import VARIANTS, iif_weights
from wsi_detect.losses.negative_evidence import (
    NegativeEvidenceLoss,
    SeedRule,
    draw_seeds,
    log_barrier,
    seed_probabilities,
)

#: The reference adds 1.2e-7 to its divisor.
LOOSE = 1e-6
EXACT = 1e-9
#: The reference ran in float32.
SINGLE = 1e-5


def known(case, names):
    """Every key of a case must be one that the check reads: an option passed over is a check not made."""
    unknown = set(case) - set(names.split())
    assert not unknown, f"keys this check does not know: {sorted(unknown)}"


def cases_of(content, names, shared=""):
    """The cases of a file, each with what the file says once for all; a file without cases is one case."""
    known(content, f"header cases {names} {shared}")
    if "cases" not in content:
        return [{key: value for key, value in content.items() if key != "header"}]
    common = {key: value for key, value in content.items() if key not in ("header", "cases")}
    found = [{**common, **case} for case in content["cases"]]
    for case in found:
        known(case, f"name {names} {shared}")
    return found


def close(actual, expected, dtype, rtol, what=""):
    """Compare at the file's tolerance in float64, at 1e-4 in float32."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    # What a float32 program lost by cancellation is relative to 1, not to what is left.
    absolute = rtol if rtol == SINGLE else rtol * 1e-2
    limits = {"rtol": 1e-4, "atol": max(1e-6, absolute)} if dtype == torch.float32 else {"rtol": rtol, "atol": absolute}
    actual = torch.as_tensor(actual).detach().double()
    torch.testing.assert_close(actual, expected, **limits, msg=lambda text: f"{what}: {text}")


def one_hot(labels, classes, columns):
    """(A, columns) of labels 0 to classes - 1; every other label is background, column `classes` if there is one."""
    labels = torch.tensor(labels, dtype=torch.int64)
    own = torch.where((labels >= 0) & (labels < classes), labels, classes)
    return torch.nn.functional.one_hot(own, classes + 1)[:, :columns]


def call(loss, logits, targets, *, normaliser, weights=None):
    """Loss and gradient; rows of equal weight go in one call, those of weight 0 in none."""
    rows = len(logits)
    weights = torch.ones(rows) if weights is None else torch.tensor(weights)
    value = logits.sum() * 0
    for weight in weights[weights > 0].unique().tolist():
        value = value + weight * loss(
            logits,
            targets,
            valid=weights == weight,
            image=torch.zeros(rows, dtype=torch.int64),
            normaliser=normaliser,
        )
    return value, torch.autograd.grad(value, logits)[0]


def leaf(values, dtype, columns=1):
    """Logits; without a row they have as many columns as the file says elsewhere, or 1 where it does not."""
    tensor = torch.tensor(values, dtype=dtype)
    return (tensor if len(values) else tensor.reshape(0, columns)).requires_grad_()


def check_focal(content, dtype):
    names = "alpha gamma avg_factor logits labels_bg_is_C label_weights loss grad_logits torchvision_loss"
    for case in cases_of(content, names):
        logits = leaf(case["logits"], dtype)
        classes = logits.shape[1]
        loss = make_loss("focal", classes, {"alpha": case["alpha"], "gamma": case["gamma"]})
        targets = one_hot(case["labels_bg_is_C"], classes, classes)
        value, gradient = call(loss, logits, targets, normaliser=case["avg_factor"], weights=case.get("label_weights"))
        close(value, case["loss"], dtype, LOOSE, "loss")
        close(gradient, case["grad_logits"], dtype, LOOSE, "gradient")
        if "torchvision_loss" in case:
            close(value, case["torchvision_loss"], dtype, EXACT, "torchvision's loss")


def check_ghm(content, dtype):
    for case in cases_of(content, "bins momentum steps"):
        loss = None
        for step in case["steps"]:
            known(step, "logits labels_bg_is_C label_weights loss grad_logits acc_sum")
            logits = leaf(step["logits"], dtype)
            classes = logits.shape[1]
            options = {"bins": case["bins"], "momentum": case["momentum"]}
            loss = loss or make_loss("ghm", classes, options)
            rows = len(logits)
            value = loss(
                logits,
                one_hot(step["labels_bg_is_C"], classes, classes),
                valid=torch.tensor(step["label_weights"]) > 0,  # the reference asks no more of them
                image=torch.zeros(rows, dtype=torch.int64),
                normaliser=1.0,
            )
            close(value, step["loss"], dtype, LOOSE, "loss")
            close(torch.autograd.grad(value, logits)[0], step["grad_logits"], dtype, LOOSE, "gradient")
            if step["acc_sum"] is not None:
                close(loss.acc_sum, step["acc_sum"], dtype, EXACT, "counts")
            else:
                assert case["momentum"] == 0


def check_dr(content, dtype):
    for case in cases_of(content, "hyper logits targets loss grad_logits"):
        hyper = case["hyper"]
        known(hyper, "margin pos_lambda neg_lambda L tau")
        logits = leaf(case["logits"], dtype)
        classes = logits.shape[1]
        options = {"sharpness" if name == "L" else name: value for name, value in hyper.items()}
        labels = torch.tensor(case["targets"])
        value, gradient = call(
            make_loss("dr", classes, options),
            logits,
            one_hot((labels - 1).tolist(), classes, classes),
            normaliser=1.0,
            weights=(labels >= 0).double().tolist(),
        )
        close(value, case["loss"], dtype, EXACT, case.get("name"))
        close(gradient, case["grad_logits"], dtype, EXACT, case.get("name"))


def check_eql(content, dtype):
    for case in cases_of(content, "image_frequency lambda_ logits labels_bg_is_C loss grad_logits"):
        frequency = case["image_frequency"]
        logits = leaf(case["logits"], dtype, len(frequency))
        rows, classes = logits.shape
        counts = ClassCounts(tuple(frequency), tuple(frequency), 1.0)
        loss = make_loss("eql", classes, {"class_counts": counts, "threshold": case["lambda_"]})
        targets = one_hot(case["labels_bg_is_C"], classes, classes)
        value, gradient = call(loss, logits, targets, normaliser=max(rows, 1))
        close(value, case["loss"], dtype, EXACT, "loss")
        close(gradient, case["grad_logits"], dtype, EXACT, "gradient")


def check_eqlv2(content, dtype):
    for case in cases_of(content, "hyper steps inference"):
        hyper = dict(case["hyper"])
        known(hyper, "gamma mu alpha num_classes initial_ratio")
        classes = hyper.pop("num_classes")
        loss = make_loss("eqlv2", classes, {**hyper, "background": True}, kinds=("sigmoid", "softmax"))
        for step in case["steps"]:
            known(step, "logits labels_bg_is_C loss grad_logits pos_grad_after neg_grad_after ratio_after")
            logits = leaf(step["logits"], dtype, classes + 1)
            targets = one_hot(step["labels_bg_is_C"], classes, classes + 1)
            value, gradient = call(loss, logits, targets, normaliser=max(len(logits), 1))
            close(value, step["loss"], dtype, EXACT, "loss")
            close(gradient, step["grad_logits"], dtype, EXACT, "gradient")
            close(loss.pos_grad, step["pos_grad_after"], dtype, EXACT, "positive gradients")
            close(loss.neg_grad, step["neg_grad_after"], dtype, EXACT, "negative gradients")
            close(loss.ratio, step["ratio_after"], dtype, EXACT, "ratios")
        if "inference" in case:
            known(case["inference"], "logits scores note")
            scores = loss.scores(torch.tensor(case["inference"]["logits"], dtype=dtype))
            close(scores, case["inference"]["scores"], dtype, EXACT, "scores")


def check_efl(content, dtype):
    for case in cases_of(content, "hyper steps"):
        hyper = case["hyper"]
        known(hyper, "num_classes_fg focal_gamma focal_alpha scale_factor")
        classes = hyper["num_classes_fg"]
        options = {"gamma": hyper["focal_gamma"], "alpha": hyper["focal_alpha"], "scale": hyper["scale_factor"]}
        loss = make_loss("efl", classes, options)
        for step in case["steps"]:
            known(
                step,
                "logits targets_0bg_1toC_minus1ignore normalizer loss grad_logits pos_grad_after neg_grad_after "
                "ratio_after",
            )
            logits = leaf(step["logits"], dtype, classes)
            labels = torch.tensor(step["targets_0bg_1toC_minus1ignore"])
            value = loss(
                logits,
                one_hot((labels - 1).tolist(), classes, classes),
                valid=labels >= 0,
                image=torch.zeros(len(labels), dtype=torch.int64),
                normaliser=step["normalizer"],
            )
            close(value, step["loss"], dtype, EXACT, "loss")
            close(torch.autograd.grad(value, logits)[0], step["grad_logits"], dtype, EXACT, "gradient")
            close(loss.pos_grad, step["pos_grad_after"], dtype, EXACT, "positive gradients")
            close(loss.neg_grad, step["neg_grad_after"], dtype, EXACT, "negative gradients")
            close(loss.ratio, step["ratio_after"], dtype, EXACT, "ratios")


def check_seesaw(content, dtype):
    for case in cases_of(content, "p q eps num_classes steps"):
        classes = case["num_classes"]
        options = {name: case[name] for name in ("p", "q", "eps")}
        loss = make_loss("seesaw", classes, options, kinds=("softmax",))
        for step in case["steps"]:
            known(
                step,
                "logits labels_bg_is_C avg_factor loss_objectness loss_classes grad_logits cum_samples_after scores",
            )
            logits = leaf(step["logits"], dtype, classes + 2)
            valid = torch.ones(len(logits), dtype=torch.bool)
            targets = one_hot(step["labels_bg_is_C"], classes, classes + 1)
            of_classes, objectness = loss.terms(logits, targets, valid=valid, normaliser=step["avg_factor"])
            close(of_classes, step["loss_classes"], dtype, LOOSE, "loss of the classes")
            close(objectness, step["loss_objectness"], dtype, LOOSE, "loss of objectness")
            gradient = torch.autograd.grad(of_classes + objectness, logits)[0]
            close(gradient, step["grad_logits"], dtype, LOOSE, "gradient")
            close(loss.cum_samples, step["cum_samples_after"], dtype, EXACT, "counts")
            close(loss.scores(logits), step["scores"], dtype, EXACT, "scores")


def check_class_balanced(content, dtype):
    for case in cases_of(content, "beta effective_number weights_sum_to_C", shared="counts"):
        counts = torch.tensor(case["counts"], dtype=dtype)
        close(effective_number(counts, case["beta"]), case["effective_number"], dtype, EXACT, "effective numbers")
        close(balanced_weights(counts, case["beta"]), case["weights_sum_to_C"], dtype, EXACT, "weights")
        counted = ClassCounts(tuple(case["counts"]), tuple(case["counts"]), sum(case["counts"]))
        loss = make_loss("class_balanced", len(counts), {"class_counts": counted, "beta": case["beta"]})
        close(loss.class_weights, case["weights_sum_to_C"], torch.float64, EXACT, "weights of the loss")


def check_iif(content, dtype):
    known(content, "header classification detection lvis_v1_table_check")
    for case in content.get("classification", []):
        _check_iif_classification(case, dtype)
    for case in content.get("detection", []):
        _check_iif_detection(case, dtype)
    if "lvis_v1_table_check" in content:
        _check_iif_table(content["lvis_v1_table_check"])


def _check_iif_classification(case, dtype):
    known(case, "name counts variant iif_norm weights logits targets loss grad_logits infer_logits infer_softmax")
    logits = leaf(case["logits"], dtype, len(case["counts"]))
    rows, classes = logits.shape
    counts = ClassCounts(tuple(case["counts"]), tuple(case["counts"]), sum(case["counts"]))
    options = {"variant": case["variant"], "norm": case["iif_norm"], "background": False, "guard": "keep"}
    loss = make_loss("iif", classes, {"class_counts": counts, **options}, kinds=("softmax",))
    value, gradient = call(loss, logits, one_hot(case["targets"], classes, classes), normaliser=max(rows, 1))
    close(loss.class_weights, case["weights"], torch.float64, SINGLE, case["name"])
    close(value, case["loss"], dtype, SINGLE, case["name"])
    close(gradient, case["grad_logits"], dtype, SINGLE, case["name"])
    after = make_loss("iif", classes, {"class_counts": counts, **options, "post_hoc": True}, kinds=("softmax",))
    for model in (loss, after):
        if "infer_logits" in case:
            close(model.weighted(logits), case["infer_logits"], dtype, SINGLE, case["name"])
        if "infer_softmax" in case:
            close(model.scores(logits), case["infer_softmax"], dtype, SINGLE, case["name"])


def _check_iif_detection(case, dtype):
    known(
        case,
        "name num_classes counts_images total_images counts_instances total_instances variant weights_with_bg_last "
        "logits labels_bg_is_C label_weights avg_factor loss grad_logits scores",
    )
    classes = case["num_classes"]
    counts = ClassCounts(tuple(case["counts_instances"]), tuple(case["counts_images"]), case["total_images"])
    assert sum(counts.cells) == case["total_instances"]
    # The repository calls the column of `rel` prob.
    variant = case["variant"].replace("prob", "rel")
    loss = make_loss("iif", classes, {"class_counts": counts, "variant": variant, "guard": "keep"}, kinds=("softmax",))
    logits = leaf(case["logits"], dtype, classes + 1)
    targets = one_hot(case["labels_bg_is_C"], classes, classes + 1)
    value, gradient = call(loss, logits, targets, normaliser=case["avg_factor"], weights=case["label_weights"])
    close(loss.class_weights, case["weights_with_bg_last"], torch.float64, SINGLE, case["name"])
    close(value, case["loss"], dtype, SINGLE, case["name"])
    close(gradient, case["grad_logits"], dtype, SINGLE, case["name"])
    close(loss.scores(logits), case["scores"], dtype, SINGLE, case["name"])


def _check_iif_table(table):
    """The file holds no table, only how far the published one is from the formula: every column must be one of ours."""
    totals = ("N_images", "N_instances", "sum_img_freq", "sum_inst")
    known(table, " ".join(("explain", *totals, *_table_columns())))
    assert table["N_instances"] == table["sum_inst"]
    for column, variant in _table_columns().items():
        assert 0 <= table[column] < 1e-13, column
        assert torch.isfinite(iif_weights([7, 900], table["N_images"], variant)).all()


def _table_columns():
    return {("prob(rel)" if name == "rel" else name) + suffix: name for name in VARIANTS for suffix in ("", "_obj")}


#: Kind of case → (name with its weight, which images the seeds term takes, which terms count).
NEGEV_CASES = {
    "seeds_term_positive_images_only_lambda": (False, ("seeds",)),
    "seeds_term_all_images_lambda": (True, ("seeds",)),
    "fully_negative_term_lambda": (False, ("negative",)),
    "total_lambda_seed_": (False, ("seeds", "negative")),
}


def check_negev(content, dtype):
    known(content, "header logits image_labels seeds cases extended_log_barrier seed_sampling")
    for case in content.get("cases", []):
        shared = {name: content[name] for name in ("logits", "image_labels", "seeds") if name in content}
        _check_negev_terms({**shared, **case}, dtype)
    for case in content.get("extended_log_barrier", []):
        known(case, "t z value derivative")
        z = leaf(case["z"], dtype)
        value = log_barrier(z, case["t"])
        close(value, case["value"], dtype, EXACT, f"barrier, t = {case['t']}")
        close(torch.autograd.grad(value.sum(), z)[0], case["derivative"], dtype, EXACT, f"its slope, t = {case['t']}")
    sampling = content.get("seed_sampling", [])
    for case in sampling if isinstance(sampling, list) else [sampling]:
        _check_seed_sampling(case, dtype)


def _check_negev_terms(case, dtype):
    known(case, "name logits image_labels seeds loss grad_logits")
    match = re.fullmatch(r"(.*?)(\d+(?:p\d+)?)", case["name"])
    assert match, f"no weight in the name of case {case['name']!r}"
    kind, weight = match[1], float(match[2].replace("p", "."))
    assert kind in NEGEV_CASES, f"unknown kind of case {kind!r}"
    seeds_of_negatives, counted = NEGEV_CASES[kind]
    weights = {"negative_weight": weight} if counted == ("negative",) else {"seed_weight": weight}
    loss = NegativeEvidenceLoss(**weights, seeds_of_negatives=seeds_of_negatives)
    logits = leaf(case["logits"], dtype)
    negative = torch.tensor(case["image_labels"]) == 0
    terms = loss(logits, torch.tensor(case["seeds"]), negative=negative)
    value = torch.stack([terms[name] for name in counted]).sum()
    close(value, case["loss"], dtype, EXACT, case["name"])
    close(torch.autograd.grad(value, logits)[0], case["grad_logits"], dtype, EXACT, case["name"])


def _check_seed_sampling(case, dtype):
    known(case, "note name eps cam fg_prob bg_weight bg_prob_normalised")
    cam = torch.tensor(case["cam"], dtype=dtype)
    region, background = seed_probabilities(cam[None], case["eps"])
    close(region[0], case["fg_prob"], dtype, EXACT, "weights of the region")
    close(background[0], case["bg_weight"], dtype, EXACT, "weights of the background")
    close(background[0] / background.sum(), case["bg_prob_normalised"], dtype, EXACT, "background, normalised")
    # What is drawn follows these weights.
    draws = 4000
    rule = SeedRule(dilation_px=1, eps=case["eps"])
    seeds = draw_seeds(cam.expand(draws, -1, -1), rule, torch.Generator().manual_seed(0))
    for label, other, weight in ((1, background[0], region[0]), (0, region[0], background[0] / background.sum())):
        # A pixel drawn for both is neither.
        share = (seeds == label).double().mean(dim=0)
        expected = (weight * (1 - (other if label == 0 else other / background.sum()))).double()
        assert (share - expected).abs().max() < 5 * (expected * (1 - expected) / draws).sqrt().max()


CHECKS = {
    "cb_loss_weights": check_class_balanced,
    "dr_loss": check_dr,
    "efl": check_efl,
    "eql": check_eql,
    "eqlv2": check_eqlv2,
    "focal": check_focal,
    "ghm_c": check_ghm,
    "iif": check_iif,
    "negev": check_negev,
    "seesaw": check_seesaw,
}
