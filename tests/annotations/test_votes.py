"""Several readers of one slide: which boxes are one cell, which label wins, how far they agree."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from wsi_detect.annotations import Annotation, VoteRule
from wsi_detect.annotations.agreement import Agreement, agreement, cohen_kappa, fleiss_kappa
from wsi_detect.annotations.votes import VOTES_NAME, Vote, read_votes, settle, write_votes
from wsi_detect.errors import ConfigError, LabelError
from wsi_detect.geometry import Box

NAMES = {"hsil": "HSIL", "lsil": "LSIL", "ok": "NILM", "normal": "NILM"}


def marked(annotator, label, x, name=None, *, size=10.0, image="a.svs"):
    name = name or f"{annotator}{x:g}"
    return Annotation(name, label, Box(x, 0, x + size, size), image, annotator=annotator)


def settled(annotations, **rule):
    found = settle(annotations, NAMES, {"a.svs": "A", "b.svs": "B"}, VoteRule(**rule))
    return [(cell.annotation_id, NAMES[cell.source_label], cell.box.x0) for cell in found.cells], found.votes


@pytest.mark.parametrize(
    ("labels", "rule", "expected"),
    [
        (["lsil", "lsil", "hsil"], {}, ("ann0", "LSIL")),
        (["lsil", "lsil", "hsil"], {"settle": "gravest"}, ("cy0", "HSIL")),
        (["ok", "hsil", "normal"], {}, ("ann0", "NILM")),
        (["ok", "hsil"], {}, ("bob0", "HSIL")),
        (["lsil"], {}, ("ann0", "LSIL")),
    ],
)
def test_the_label_follows_the_declared_rule(labels, rule, expected):
    readers = ["ann", "bob", "cy"]
    cells, votes = settled([marked(r, label, 0) for r, label in zip(readers, labels, strict=False)], **rule)
    assert [cell[:2] for cell in cells] == [expected]
    assert [(v.slide_id, v.annotation_id, v.annotator, v.source_label) for v in votes] == [
        ("A", expected[0], reader, label) for reader, label in zip(readers, labels, strict=False)
    ]


def test_a_tie_can_be_refused_with_its_cells():
    tied = [marked("ann", "lsil", 0), marked("bob", "hsil", 0), marked("ann", "ok", 50), marked("bob", "ok", 50)]
    with pytest.raises(LabelError, match=r"votes on 1 cells are tied: bob0 \(LSIL, HSIL\)"):
        settled(tied, ties="refuse")
    assert [cell[1] for cell in settled(tied[2:], ties="refuse")[0]] == ["NILM"]


def test_boxes_that_overlap_enough_are_one_cell_and_nobody_votes_twice():
    # Against ann's box at 0: bob's at 2 has IoU 8/12, his at 1 has 9/11; cy's at 4 has 6/14, which is too little.
    annotations = [
        marked("cy", "lsil", 4), marked("bob", "ok", 2), marked("bob", "lsil", 1), marked("ann", "lsil", 0),
    ]  # fmt: skip
    cells, votes = settled(annotations)
    assert cells == [("ann0", "LSIL", 0), ("cy4", "LSIL", 4)]
    assert {(v.annotation_id, v.annotator) for v in votes} == {
        ("ann0", "ann"), ("ann0", "bob"), ("cy4", "bob"), ("cy4", "cy"),
    }  # fmt: skip
    assert len(settled(annotations, min_iou=0.9)[0]) == 4


def test_slides_do_not_share_cells_and_order_does_not_matter():
    annotations = [marked("ann", "ok", 0), marked("bob", "ok", 0), marked("bob", "hsil", 0, "other", image="b.svs")]
    assert settled(annotations) == settled(annotations[::-1])
    assert len(settled(annotations)[0]) == 2
    assert settled([]) == ([], [])


def test_a_label_without_a_reader_is_no_vote():
    with pytest.raises(LabelError, match="1 annotations have no annotator"):
        settled([marked("ann", "ok", 0), marked(None, "ok", 50)])


@pytest.mark.parametrize("rule", [{"settle": "oldest"}, {"ties": "drop"}, {"min_iou": 0}, {"min_iou": 1.5}])
def test_a_rule_that_means_nothing_is_refused(rule):
    with pytest.raises(ConfigError):
        VoteRule(**rule)


def test_votes_are_kept_as_they_were_and_none_leave_no_table(tmp_path):
    votes = [Vote("A", "2", "bob", "HSIL", "hsil"), Vote("A", "1", "ann", "NILM", "ok")]
    first = write_votes(tmp_path, votes).read_bytes()
    assert read_votes(tmp_path) == votes[::-1]
    assert write_votes(tmp_path, votes[::-1]).read_bytes() == first
    write_votes(tmp_path, [])
    assert (read_votes(tmp_path), (tmp_path / VOTES_NAME).exists()) == ([], False)


# --- agreement -------------------------------------------------------------------------------------------------------


def pairs(both_yes, first_only, second_only, neither):
    counts = zip(
        (("y", "y"), ("y", "n"), ("n", "y"), ("n", "n")), (both_yes, first_only, second_only, neither), strict=True
    )
    cells = [pair for pair, count in counts for _ in range(count)]
    return [a for a, _ in cells], [b for _, b in cells]


@pytest.mark.parametrize(
    ("table", "kappa"),
    [
        # p_o = 35/50; p_e = 25/50 x 30/50 + 25/50 x 20/50 = 1/2.
        ((20, 5, 10, 15), 0.4),
        # p_o = 60/100; p_e = 70/100 x 60/100 + 30/100 x 40/100 = 54/100.
        ((45, 25, 15, 15), 6 / 46),
        ((10, 0, 0, 10), 1.0),
        ((0, 5, 5, 0), -1.0),
        ((5, 5, 5, 5), 0.0),
        ((10, 0, 0, 0), None),
        ((0, 0, 0, 0), None),
    ],
)
def test_cohens_kappa_by_hand(table, kappa):
    assert cohen_kappa(*pairs(*table)) == (kappa if kappa is None else pytest.approx(kappa, abs=1e-12))


@pytest.mark.parametrize("seed", range(20))
def test_cohens_kappa_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 5, 200)
    second = np.where(rng.random(200) < 0.6, first, rng.integers(0, 5, 200))
    assert cohen_kappa(first.tolist(), second.tolist()) == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


def test_readers_of_different_cells_cannot_be_compared():
    with pytest.raises(LabelError, match="have 1 and 2 labels"):
        cohen_kappa(["a"], ["a", "b"])


@pytest.mark.parametrize(
    ("counts", "kappa"),
    [
        # Shares of agreeing pairs 1, 1/3, 1, 1/3: mean 2/3; both labels are half of all: P_e = 1/2.
        ([[3, 0], [2, 1], [0, 3], [1, 2]], 1 / 3),
        # The worked table of Fleiss' definition, ten cells and fourteen readers.
        (
            [
                [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
                [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
            ],
            0.20993,
        ),
        ([[2, 0], [0, 2]], 1.0),
        ([[1, 1], [1, 1]], -1.0),
        ([[3, 0], [3, 0]], None),
        (np.zeros((0, 3), int), None),
    ],
)  # fmt: skip
def test_fleiss_kappa_by_hand(counts, kappa):
    assert fleiss_kappa(np.array(counts)) == (kappa if kappa is None else pytest.approx(kappa, abs=1e-5))


@pytest.mark.parametrize("counts", [[[3, 0], [1, 1]], [[1, 0], [0, 1]]])
def test_fleiss_kappa_wants_the_same_number_of_readers(counts):
    with pytest.raises(LabelError, match="same number of readers"):
        fleiss_kappa(np.array(counts))


def test_agreement_counts_cells_that_all_compared_have_marked():
    said = {
        "1": {"ann": "HSIL", "bob": "HSIL", "cy": "HSIL"},
        "2": {"ann": "NILM", "bob": "HSIL", "cy": "NILM"},
        "3": {"ann": "NILM", "bob": "NILM", "cy": "NILM"},
        "4": {"ann": "NILM", "bob": "NILM"},
        "5": {"cy": "HSIL"},
    }
    votes = [Vote("A", cell, reader, label, label) for cell, says in said.items() for reader, label in says.items()]
    found = agreement(votes)
    # ann, bob: p_o = 3/4, p_e = 3/4 x 1/2 + 1/4 x 1/2 = 1/2. ann, cy: complete. bob, cy: p_o = 2/3, p_e = 4/9.
    # All: agreeing pairs 1, 1/3, 1: 7/9; HSIL is 4/9 of all: P_e = 16/81 + 25/81 = 41/81; (63 - 41) / 40.
    assert found == [
        Agreement(("ann", "bob"), 4, 0, pytest.approx(0.5)),
        Agreement(("ann", "cy"), 3, 2, pytest.approx(1.0)),
        Agreement(("bob", "cy"), 3, 2, pytest.approx(0.4)),
        Agreement(("ann", "bob", "cy"), 3, 2, pytest.approx(22 / 40)),
    ]
    assert agreement([]) == []
