"""Assigners and codings of the detectors against numbers of the published reference programs.

`CHECKS` maps a file of vectors to `check(content, dtype)`. A check goes through every case of the file, wants
assignments exactly, numbers at the tolerance of the type, and fails on whatever it does not know.
"""

import torch

from wsi_detect.detectors.assign import (
    BACKGROUND,
    IGNORED,
    IoURule,
    assign_adaptive,
    assign_iou,
    assign_nearest_point,
    assign_uniform,
)
from wsi_detect.detectors.box_coding import boxes_from_points
from wsi_detect.detectors.points import anchors, per_point, pyramid_points
from wsi_detect.detectors.yolof import implicit_objectness

TOLERANCE = {torch.float64: {"rtol": 1e-9, "atol": 1e-9}, torch.float32: {"rtol": 1e-4, "atol": 1e-5}}


def known(case, *names):
    """Every key of a case must be one that the check reads: an option passed over is a check not made."""
    unknown = set(case) - set(names)
    assert not unknown, f"case {case.get('name')!r} has keys this check does not know: {sorted(unknown)}"


def merged(content, names):
    """The cases of a file, each over the facts the file states once; a file without cases is one case."""
    shared = {name: content[name] for name in names if name in content}
    return [{**shared, **case} for case in content["cases"]]


def boxes_of(values, dtype):
    return torch.tensor(values, dtype=dtype).reshape(-1, 4)


def gt_boxes(case, dtype):
    """Boxes and labels of a case; one called `no_gt` has none, whatever its file holds."""
    nothing = case.get("name", "").startswith("no_gt") or case["gt_boxes_xyxy"] == []
    labels = torch.tensor([] if nothing else case["gt_labels"], dtype=torch.int64)
    return boxes_of([] if nothing else case["gt_boxes_xyxy"], dtype), labels


def pyramid(case, strides=None):
    height, width = (case["image"], case["image"]) if isinstance(case["image"], int) else case["image"]
    strides = strides or case["strides"]
    shapes = [(-(-height // step), -(-width // step)) for step in strides]
    points = pyramid_points(shapes, strides, torch.device("cpu"))
    assert list(points.sizes) == case.get("anchors_per_level", list(points.sizes))
    return points


def squares(case, dtype):
    """One square of eight strides around every point, as the note in the files' headers says."""
    points = pyramid(case)
    found = anchors(points, (8.0,)).to(dtype)
    starts = [sum(points.sizes[:k]) for k in range(len(points.sizes))]
    if "first_anchor_per_level" in case:
        assert found[starts].tolist() == case["first_anchor_per_level"]
    return points, found


def check_assignment(matched, case, labels):
    """Positives with their boxes, ignored rows and the number of background rows, all exactly."""
    positive = torch.where(matched >= 0)[0]
    wanted = case.get("pos_index", case.get("pos_anchor_index"))
    if wanted is not None:
        assert positive.tolist() == wanted
    if case.get("all_background"):
        assert matched.unique().tolist() == [BACKGROUND]
    if "num_pos" in case:
        assert len(positive) == case["num_pos"]
    if "pos_gt_index_0based" in case:
        assert matched[positive].tolist() == case["pos_gt_index_0based"]
    if "pos_label" in case:
        assert labels[matched[positive]].tolist() == case["pos_label"]
    if "ignored_index" in case:
        assert torch.where(matched == IGNORED)[0].tolist() == case["ignored_index"]
    if "num_background" in case:
        assert int((matched == BACKGROUND).sum()) == case["num_background"]
    assert wanted is not None or case.get("all_background"), f"case {case['name']!r} expects nothing"


SCENE = ("image", "strides", "gt_boxes_xyxy", "gt_labels", "anchors_per_level", "first_anchor_per_level")
OUTCOME = (
    "name", "num_pos", "pos_index", "pos_anchor_index", "pos_gt_index_0based", "pos_label", "ignored_index",
    "num_background", "all_background",
)  # fmt: skip


UNUSED = {"ignore_iof_thr": -1, "ignore_wrt_candidates": True, "gpu_assign_thr": -1}


def check_max_iou(content, dtype):
    known(content, "header", "cases", *SCENE)
    for case in merged(content, SCENE):
        known(case, "hyper", "pos_iou", *SCENE, *OUTCOME)
        hyper = case["hyper"]
        known(
            hyper, "pos_iou_thr", "neg_iou_thr", "min_pos_iou", "match_low_quality", "gt_max_assign_all", "name",
            *UNUSED,
        )  # fmt: skip
        # The reference's other options at their defaults: nothing is ignored, and all is done in one go.
        assert all(hyper[name] == value for name, value in UNUSED.items() if name in hyper)
        negative = hyper["neg_iou_thr"]
        rule = IoURule(
            positive=hyper["pos_iou_thr"],
            negative=tuple(negative) if isinstance(negative, list) else negative,
            least=hyper.get("min_pos_iou", 0.0),
            rescue="forced" if hyper.get("match_low_quality", True) else "none",
            ties=hyper.get("gt_max_assign_all", True),
        )
        boxes, labels = gt_boxes(case, dtype)
        _, squared = squares(case, dtype)
        matched = assign_iou(squared, boxes, rule)
        check_assignment(matched, case, labels)
        check_overlaps(squared, boxes, matched, case)


def check_overlaps(squared, boxes, matched, case):
    """IoU of each positive with its box; the reference computed it in single precision."""
    if "pos_iou" in case:
        from torchvision.ops import box_iou

        positive = matched >= 0
        got = box_iou(squared, boxes)[positive, matched[positive]]
        torch.testing.assert_close(got, torch.tensor(case["pos_iou"], dtype=got.dtype), rtol=1e-6, atol=1e-6)


def check_atss(content, dtype):
    known(content, "header", "cases", *SCENE)
    for case in merged(content, SCENE):
        known(case, "topk", "pos_iou", *SCENE, *OUTCOME)
        boxes, labels = gt_boxes(case, dtype)
        points, squared = squares(case, dtype)
        matched = assign_adaptive(squared, points.sizes, boxes, nearest=case["topk"])
        check_assignment(matched, case, labels)
        check_overlaps(squared, boxes, matched, case)


def check_reppoints(content, dtype):
    known(content, "header", "cases", "points_to_box", *SCENE)
    for case in merged(content, SCENE):
        known(case, "scale", "pos_num", "pos_points_xy_stride", *SCENE, *OUTCOME)
        boxes, labels = gt_boxes(case, dtype)
        points = pyramid(case)
        matched = assign_nearest_point(points, boxes, scale=case["scale"], nearest=case["pos_num"])
        check_assignment(matched, case, labels)
        if "pos_points_xy_stride" in case:
            chosen = torch.cat([points.xy, points.stride[:, None]], dim=1)[matched >= 0]
            assert chosen.tolist() == case["pos_points_xy_stride"]
    for case in content.get("points_to_box", []):
        check_points_to_box(case, dtype)


def check_points_to_box(case, dtype):
    weight = "grad_points_of_sum_k_times_bbox_k_1to8"
    known(
        case, "mode", "moment_transfer", "moment_mul", "points", "bbox_y_first", "bbox_x_first", weight,
        "grad_moment_transfer",
    )  # fmt: skip
    flat = torch.tensor(case["points"], dtype=dtype, requires_grad=True)
    moment = torch.tensor(case["moment_transfer"], dtype=dtype, requires_grad=True)
    share = case["moment_mul"]
    slowed = moment * share + moment.detach() * (1 - share)
    pairs = flat.unflatten(1, (-1, 2))
    boxes = {
        "bbox_y_first": boxes_from_points(pairs.flip(-1), case["mode"], slowed),
        "bbox_x_first": boxes_from_points(pairs, case["mode"], slowed),
    }
    for name, found in boxes.items():
        torch.testing.assert_close(found, torch.tensor(case[name], dtype=dtype), **TOLERANCE[dtype])
    first = boxes["bbox_y_first"]
    total = (first * torch.arange(1, first.numel() + 1, dtype=dtype).view_as(first)).sum()
    gradients = torch.autograd.grad(total, (flat, moment), allow_unused=True)
    torch.testing.assert_close(gradients[0], torch.tensor(case[weight], dtype=dtype), **TOLERANCE[dtype])
    expected = case["grad_moment_transfer"]
    if expected is None:
        assert gradients[1] is None
    else:
        torch.testing.assert_close(gradients[1], torch.tensor(expected, dtype=dtype), **TOLERANCE[dtype])


MATCHER = ("image", "anchors_count", "pred_boxes", "gt_boxes_xyxy", "gt_labels")


def check_yolof_matcher(content, dtype):
    known(content, "header", "cases", *MATCHER)
    for case in merged(content, MATCHER):
        known(
            case, "match_times", "pos_ignore_thr", "neg_ignore_thr", "pair_valid_mask", "pair_predicted_boxes",
            "pair_target_boxes", *MATCHER, *OUTCOME,
        )  # fmt: skip
        boxes, labels = gt_boxes(case, dtype)
        predicted = boxes_of(case["pred_boxes"], dtype)
        points = pyramid(case, [32])
        squared = anchors(points, (1.0, 2.0, 4.0, 8.0, 16.0)).to(dtype)
        assert len(squared) == case["anchors_count"] == len(per_point(points, 5).xy)
        pairs = assign_uniform(
            squared, predicted, boxes,
            k=case["match_times"], least=case["pos_ignore_thr"], most=case["neg_ignore_thr"],
        )  # fmt: skip
        check_assignment(pairs.matched, case, labels)
        if "pair_valid_mask" in case:
            expected = (case["pair_valid_mask"], case["pair_predicted_boxes"], case["pair_target_boxes"])
            got = (pairs.valid.tolist(), predicted[pairs.row].tolist(), boxes[pairs.box].tolist())
            assert ranked(*got, len(boxes)) == ranked(*expected, len(boxes))


def ranked(valid, predicted, wanted, count):
    """The pairs of each box and side; anchors at equal cost have no order in the reference, so sets are compared.

    Which pairs are of which rank is settled by the assignments: the later of two pairs wins a row.
    """
    groups = [[] for _ in range(2 * count)]
    for k, pair in enumerate(zip(valid, predicted, wanted, strict=True)):
        groups[k % (2 * count)].append(pair)
    return [sorted(group) for group in groups]


def check_implicit_objectness(content, dtype):
    cases = content["cases"] if "cases" in content else [{k: v for k, v in content.items() if k != "header"}]
    for case in cases:
        known(case, "name", "cls_logits", "obj_logits", "normalised_logits", "sigmoid_of_normalised")
        cls, obj = (torch.tensor(case[name], dtype=dtype) for name in ("cls_logits", "obj_logits"))
        got = implicit_objectness(cls, obj)
        torch.testing.assert_close(got, torch.tensor(case["normalised_logits"], dtype=dtype), **TOLERANCE[dtype])
        expected = torch.tensor(case["sigmoid_of_normalised"], dtype=dtype)
        torch.testing.assert_close(torch.sigmoid(got), expected, **TOLERANCE[dtype])


#: File, without its ending → check(content, dtype).
CHECKS = {
    "max_iou_assigner": check_max_iou,
    "atss_assigner": check_atss,
    "yolof_matcher": check_yolof_matcher,
    "yolof_implicit_objectness": check_implicit_objectness,
    "reppoints": check_reppoints,
}
