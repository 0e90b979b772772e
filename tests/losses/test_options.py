"""Options of losses under the whole contract, worked numbers, and what is refused, with the way out."""

import math
from functools import partial

import pytest
import torch

from wsi_detect.errors import ConfigError
from wsi_detect.losses import (
    DENSE,
    LOSSES,
    TWO_STAGE,
    ClassCounts,
    check_fits,
    class_scores,
    extra_columns,
    make_loss,
    with_class_counts,
)
from wsi_detect.losses.class_balanced import balanced_weights
from wsi_detect.losses.iif import VARIANTS, CosineClassifier, IIFLoss, IIFSigmoidLoss
from wsi_detect.losses.processes import shared_normaliser
from wsi_detect.testing.contracts import check_loss

COUNTS = ClassCounts((60.0, 30.0, 4.0), (30.0, 20.0, 3.0), 100.0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("class_balanced", {"base": "ce"}),
        ("class_balanced", {"base": "bce", "beta": 0.0}),
        ("eql", {"threshold": 0.1}),
        ("eqlv2", {"background": True}),
        ("focal", {"gamma": 0.5, "alpha": -1.0}),
        ("ghm", {"momentum": 0.0, "bins": 5}),
        ("grad_libra", {"form": "gradient", "alpha_pos": 1.0, "alpha_neg": 1.0}),
        ("grad_libra", {"form": "gradient", "hardness": "sin2pi"}),
        ("grad_libra", {"form": "mean_weight"}),
        ("grad_libra", {"detach_weight": True, "per_class_alpha": ([0.0, 0.5, 1.0], [1.0, 0.5, 0.0])}),
        ("iif", {"variant": "smooth"}),
        ("iif", {"post_hoc": True}),
        ("iif", {"variant": "rel_obj", "guard": "clamp"}),
        ("seesaw", {"p": 0.0}),
        ("seesaw", {"q": 0.0}),
    ],
    ids=str,
)
def test_contract_under_options(name, options):
    check_loss(partial(LOSSES[name], **options))


def call(loss, logits, targets, *, valid=None, image=None, normaliser=1.0):
    rows = len(logits)
    valid = torch.ones(rows, dtype=torch.bool) if valid is None else valid
    image = torch.zeros(rows, dtype=torch.int64) if image is None else image
    return loss(logits, targets, valid=valid, image=image, normaliser=normaliser)


@pytest.mark.parametrize("name", LOSSES)
def test_what_lies_in_an_ignored_row_reaches_nothing(name):
    loss = make(name)
    columns = 3 + extra_columns(loss)
    torch.manual_seed(0)
    logits = torch.randn(6, columns)
    logits[4] = math.nan
    logits[5] = math.inf
    logits.requires_grad_()
    targets = torch.zeros(6, min(columns, 4))
    targets[torch.arange(6), torch.arange(6) % 3] = 1
    valid = torch.arange(6) < 4
    value = call(loss, logits, targets, valid=valid)
    value.backward()
    clean = call(make(name), logits.detach()[:4], targets[:4])
    assert value.item() == pytest.approx(clean.item(), rel=1e-5)
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[4:] == 0).all()
    assert all(torch.isfinite(kept).all() for kept in loss.state_dict().values())


def make(name, options=None, classes=3):
    needed = {"class_counts": COUNTS} if "class_counts" in getattr(LOSSES[name], "needs", ()) else {}
    return make_loss(name, classes, {**needed, **(options or {})}, kinds=TWO_STAGE)


# --- what fits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ce", "iif", "seesaw"])
def test_a_softmax_loss_does_not_fit_a_dense_head_and_the_message_says_what_does(name):
    options = {"class_counts": COUNTS} if name == "iif" else {}
    with pytest.raises(ConfigError, match="does not fit") as caught:
        make_loss(name, 3, options)
    fitting = str(caught.value).rpartition(": ")[2].split(", ")
    assert fitting == sorted(set(LOSSES) - {"ce", "iif", "seesaw"})
    for other in fitting:
        check_fits(make(other), other, DENSE)


@pytest.mark.parametrize(
    ("name", "options"), [("class_balanced", {"base": "ce", "class_counts": COUNTS}), ("eqlv2", {"background": True})]
)
def test_an_option_can_make_a_loss_unfit(name, options):
    with pytest.raises(ConfigError, match="does not fit"):
        make_loss(name, 3, options)
    assert extra_columns(make_loss(name, 3, options, kinds=TWO_STAGE)) == 1


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fokal", {}, "known: bce, ce, class_balanced"),
        ("focal", {"gama": 2}, "gama"),
        ("focal", {"gamma": -1}, "gamma is at least 0"),
        ("eql", {}, "class_counts; training fills"),
        ("eql", {"class_counts": ClassCounts((1.0, 2.0), (1.0, 2.0), 3.0)}, "not those of the detector's 3 classes"),
        ("eql", {"class_counts": {"cells": [1, 2, 3]}}, "holds cells, images and total_images"),
        ("eql", {"class_counts": COUNTS, "threshold": -0.1}, "threshold"),
        ("ghm", {"momentum": 1.0}, "momentum"),
        ("dr", {"neg_lambda": 0.0}, "lambdas"),
        ("efl", {"gamma": 0.0}, "gamma is positive"),
        ("seesaw", {"eps": 0.0}, "eps is positive"),
        ("class_balanced", {"class_counts": COUNTS, "beta": 1.0}, "beta"),
        ("class_balanced", {"class_counts": COUNTS, "base": "dice"}, "dice"),
        ("iif", {"class_counts": COUNTS, "variant": "base3"}, "known: raw, base2"),
        ("iif", {"class_counts": COUNTS, "guard": "hope"}, "hope"),
        ("iif_sigmoid", {"class_counts": COUNTS, "prior": 1.0}, "prior"),
    ],
)
def test_what_is_refused(name, options, words):
    with pytest.raises(ConfigError, match=words):
        make_loss(name, 3, options, kinds=TWO_STAGE)


@pytest.mark.parametrize(
    "wrong",
    [
        ((1.0,), (1.0, 2.0), 3.0),
        ((), (), 3.0),
        ((math.nan,), (1.0,), 3.0),
        ((-1.0,), (1.0,), 3.0),
        ((0.0, 0.0), (0.0, 0.0), 3.0),
        ((5.0,), (4.0,), 3.0),
    ],
)
def test_counts_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="class_counts"):
        ClassCounts(*wrong)


def test_a_softmax_loss_that_says_no_more_has_a_background_column():
    class Plain(torch.nn.Module):
        kind = "softmax"

    assert extra_columns(Plain()) == 1
    assert class_scores(Plain(), torch.zeros(2, 4)).tolist() == [[0.25] * 3] * 2
    assert class_scores(torch.nn.Module(), torch.zeros(2, 3)).tolist() == [[0.5] * 3] * 2


def test_counts_go_to_the_losses_that_need_them_and_to_no_other():
    assert with_class_counts({"loss": "focal"}, COUNTS) == {"loss": "focal"}
    assert with_class_counts({}, COUNTS) == {}
    filled = with_class_counts({"loss": "iif", "loss_options": {"variant": "smooth"}}, COUNTS)
    assert filled["loss_options"]["variant"] == "smooth"
    assert ClassCounts.of(filled["loss_options"]["class_counts"]) == COUNTS
    given = {"loss": "eql", "loss_options": {"class_counts": {"cells": [1], "images": [1], "total_images": 1}}}
    assert with_class_counts(given, COUNTS) == given


def test_outside_a_distributed_run_the_normaliser_is_the_count():
    assert shared_normaliser(torch.tensor(7)).item() == 7
    assert shared_normaliser(torch.tensor(0)).item() == 1


# --- worked numbers ------------------------------------------------------------------------------------------------


def test_dr_is_a_mean_over_images():
    """Each image is ranked for itself; one without a valid row costs nothing, but counts."""
    torch.manual_seed(0)
    logits = torch.randn(12, 3, dtype=torch.float64)
    targets = torch.nn.functional.one_hot(torch.arange(12) % 4, 4)[:, :3].double()
    image = torch.arange(12) // 4
    valid = image < 2
    parts = [call(LOSSES["dr"](), logits[image == k], targets[image == k]) for k in range(2)]
    value = call(LOSSES["dr"](), logits, targets, valid=valid, image=image)
    assert value.item() == pytest.approx(sum(parts).item() / 3, rel=1e-12)
    assert value.item() != pytest.approx(call(LOSSES["dr"](), logits, targets).item(), rel=1e-3)


def test_ghm_gives_every_filled_bin_the_same_share():
    """Three entries at g = 0.5 and one at g = 0.9: half of the loss from each bin."""
    logits = torch.tensor([[0.0], [0.0], [0.0], [math.log(9)]], dtype=torch.float64)
    value = call(LOSSES["ghm"](bins=10, momentum=0.0), logits, torch.zeros(4, 1))
    assert value.item() == pytest.approx((3 * math.log(2) / 3 + math.log(10)) / 2, rel=1e-9)


def test_class_balanced_weighs_rows_and_leaves_background():
    weights = balanced_weights(torch.tensor([60.0, 30.0, 0.0], dtype=torch.float64), 0.9)
    assert weights.sum().item() == pytest.approx(3.0)
    assert weights[2] == weights.max()
    loss = make("class_balanced", {"base": "bce", "beta": 0.9})
    zeros = torch.zeros(1, 3, dtype=torch.float64)
    of_class = [call(loss, zeros, torch.eye(3)[k : k + 1]).item() / (3 * math.log(2)) for k in range(3)]
    assert of_class == pytest.approx(loss.class_weights.tolist(), rel=1e-9)
    assert call(loss, zeros, zeros).item() == pytest.approx(3 * math.log(2))


def test_eql_chooses_the_tail_by_its_share_of_the_cells():
    assert make("eql").tail.tolist() == [False, False, True]  # 4 of 94 cells
    assert make("eql", {"threshold": 0.25}).tail.tolist() == [False, True, True]  # 20 % and 3 % of the images
    assert not make("eql", {"threshold": 0.0}).tail.any()
    even = ClassCounts((10.0, 10.0), (5.0, 5.0), 20.0)
    assert make_loss("eql", 2, {"class_counts": even}).tail.tolist() == [False, False]


def test_statistics_are_of_training_alone():
    for name in ("eqlv2", "efl", "ghm", "seesaw"):
        loss = make(name).eval()
        before = {key: kept.clone() for key, kept in loss.state_dict().items()}
        columns = 3 + extra_columns(loss)
        targets = torch.zeros(5, min(columns, 4))
        targets[:, 0] = 1
        assert 0 < call(loss, torch.randn(5, columns), targets) < 1e3, name
        assert all(torch.equal(kept, before[key]) for key, kept in loss.state_dict().items()), name


@pytest.mark.parametrize(("name", "first"), [("eqlv2", 100.0), ("efl", 1.0)])
def test_ratios_are_those_of_the_gradients_from_the_first_step_on(name, first):
    """As in the authors' programs, where nothing divided by nothing is 0."""
    loss = make(name)
    assert loss.ratio.tolist() == [first] * 3
    call(loss, torch.full((1, 3), 80.0, dtype=torch.float64), torch.ones(1, 3))
    assert loss.ratio.tolist() == pytest.approx([0.0] * 3, abs=1e-12)


def test_a_loss_that_knows_the_prior_gets_that_of_the_head():
    given = {"class_counts": COUNTS}
    assert make_loss("iif_sigmoid", 3, given, prior=0.5).bias == 0
    assert make_loss("iif_sigmoid", 3, {**given, "prior": 0.5}, prior=0.5).bias == 0
    with pytest.raises(ConfigError, match=r"its prior is 0\.2, the head begins at 0\.01"):
        make_loss("iif_sigmoid", 3, {**given, "prior": 0.2}, prior=0.01)


def test_alphas_are_as_many_as_classes():
    with pytest.raises(ConfigError, match="its options are of 2 classes, the detector has 3"):
        make_loss("grad_libra", 3, {"per_class_alpha": ([0.5, 0.5], [0.5, 0.5])})


# --- inverse image frequency ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "weights"),
    [
        ("raw", [math.log(100 / 30), math.log(5), math.log(100 / 3), 1]),
        ("base10", [math.log10(100 / 30), math.log10(5), math.log10(100 / 3), 1]),
        ("base2_obj", [math.log2(94 / 60), math.log2(94 / 30), math.log2(94 / 4), 1]),
        ("smooth_obj", [math.log(95 / 61) + 1, math.log(95 / 31) + 1, math.log(95 / 5) + 1, 1]),
        ("rel", [math.log(70 / 30), math.log(4), math.log(97 / 3), 1]),
        ("normit", [0.52440051, 0.84162123, 1.88079361, 1]),
        ("gombit", [-math.log(-math.log(0.7)), -math.log(-math.log(0.8)), -math.log(-math.log(0.97)), 1]),
    ],
)
def test_iif_weights_written_out_with_a_background_of_one(variant, weights):
    assert IIFLoss(class_counts=COUNTS, variant=variant).class_weights.tolist() == pytest.approx(weights, rel=1e-7)


@pytest.mark.parametrize("variant", ["rel", "normit", "gombit", "raw", "base2", "base10"])
def test_iif_refuses_weights_that_are_not_positive(variant):
    everywhere = ClassCounts((60.0, 4.0), (100.0, 3.0), 100.0)
    with pytest.raises(ValueError, match=r"gives class 0 the weight .*take smooth"):
        IIFLoss(class_counts=everywhere, variant=variant)
    clamped = IIFLoss(class_counts=everywhere, variant=variant, guard="clamp").class_weights
    assert clamped[0] == pytest.approx(0.1)
    assert set(VARIANTS) >= {variant}


def test_iif_counts_an_unseen_class_as_one_example():
    unseen = ClassCounts((60.0, 0.0), (50.0, 0.0), 100.0)
    one = ClassCounts((60.0, 1.0), (50.0, 1.0), 100.0)
    for variant in VARIANTS:
        a, b = (IIFLoss(class_counts=counts, variant=variant, guard="keep") for counts in (unseen, one))
        assert a.class_weights.tolist() == b.class_weights.tolist()
        assert torch.isfinite(a.class_weights).all()


@pytest.mark.parametrize(
    ("guard", "least"), [("refuse", math.log10(1000 / 990)), ("keep", math.log10(1000 / 990)), ("clamp", 0.1)]
)
def test_a_small_weight_is_as_published_unless_it_is_to_be_raised(guard, least):
    counts = ClassCounts((990.0, 10.0), (90.0, 10.0), 100.0)
    loss = IIFLoss(class_counts=counts, variant="base10_obj", guard=guard)
    assert loss.class_weights.tolist() == pytest.approx([least, 2.0, 1.0])


def test_iif_after_training_alone():
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 4), torch.eye(4)[[0, 1, 2, 3, 3]]
    after = IIFLoss(class_counts=COUNTS, variant="raw", post_hoc=True)
    within = IIFLoss(class_counts=COUNTS, variant="raw")
    assert call(after, logits, targets).item() == pytest.approx(call(LOSSES["ce"](), logits, targets).item())
    assert after.scores(logits).tolist() == within.scores(logits).tolist()
    assert class_scores(after, logits).shape == (5, 3)


def test_sigmoid_iif_leaves_the_prior_where_it_is():
    loss = IIFSigmoidLoss(class_counts=COUNTS, prior=0.01)
    bias = math.log(0.01 / 0.99)
    assert class_scores(loss, torch.full((1, 3), bias)).tolist()[0] == pytest.approx([0.01] * 3, rel=1e-4)
    assert loss.class_weights.mean().item() == pytest.approx(1.0)
    higher = class_scores(loss, torch.full((1, 3), bias + 2))[0]
    assert higher[2] > higher[1] > higher[0] > 0.01


def test_cosine_classifier():
    torch.manual_seed(0)
    layer = CosineClassifier(16, 4, temperature=8.0)
    x = torch.randn(5, 16)
    logits = layer(x)
    assert logits.shape == (5, 4)
    torch.testing.assert_close(layer(3 * x), logits)
    assert layer(layer.weight[:1])[0, 0].item() == pytest.approx(8.0, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_scores_are_probabilities_of_the_classes(name):
    loss = make(name)
    torch.manual_seed(0)
    scores = class_scores(loss, torch.randn(2, 5, 3 + extra_columns(loss)) * 20)
    assert scores.shape == (2, 5, 3)
    assert ((scores >= 0) & (scores <= 1)).all()
    if loss.kind == "softmax":
        assert (scores.sum(dim=-1) <= 1 + 1e-6).all()
