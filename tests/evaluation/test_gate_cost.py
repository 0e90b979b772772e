import numpy as np
import pytest

from wsi_detect.evaluation.gate_cost import (
    NOWHERE,
    GatedSlide,
    SlideSample,
    audit_findings,
    gate_table,
    hidden_interval,
    owner_rows,
    share_interval,
)
from wsi_detect.tiling.grid import TileGrid

#: Nine patches of 100 px, overlapping by 20: cores end at 90, 170 and 260.
GRID = TileGrid(260, 260, 100, 20)
IDS = np.array([0, 1, 2, 4, 5, 8])


def at(*middles):
    return np.array([[x - 5, y - 5, x + 5, y + 5] for x, y in middles], dtype=np.float64).reshape(-1, 4)


@pytest.mark.parametrize(
    ("middle", "row"),
    [
        ((0, 0), 0),
        ((89.9, 10), 0),
        ((90, 10), 1),
        ((169, 89), 1),
        ((170, 0), 2),
        ((259.9, 89), 2),
        ((120, 120), 3),
        ((259, 259), 5),
        ((300, 300), 5),
        ((10, 120), NOWHERE),
        ((10, 250), NOWHERE),
    ],
)
def test_a_cell_belongs_to_the_patch_whose_core_has_its_middle(middle, row):
    assert owner_rows(GRID, IDS, at(middle)).tolist() == [row]


@pytest.mark.parametrize(
    ("middle", "row"),
    [
        # Patch 3 is not in the store, its core is 0 to 90 by 90 to 170. Patch 0 shows it down to 100, 4 from 80 on.
        ((84, 95), 0),
        ((88, 97), 3),
        ((84, 120), 3),
        # Patch 6: 5 is a column off, 4 shows it down to 180.
        ((85, 175), 3),
        ((79, 120), NOWHERE),
        ((79, 100), NOWHERE),
        # Patch 7, 90 to 170 by 170 to 260: 8 begins at 160.
        ((165, 200), 5),
    ],
)
def test_a_cell_in_no_core_belongs_to_the_nearest_patch_that_shows_it(middle, row):
    assert owner_rows(GRID, IDS, at(middle)).tolist() == [row]


def test_a_cell_at_the_edge_of_the_store_is_lost_with_the_patch_that_shows_it():
    """It was called outside, as if no gate could lose it."""
    peaks = np.array([0.1, 0.9, 0.9, 0.9, 0.9, 0.9], np.float32)
    (row,) = gate_table([GatedSlide(GRID, IDS, peaks, at((70, 95)), ["HSIL"])], [0.5])
    assert (row["abnormal"], row["outside"]) == ({"cells": 1, "lost": 1}, 0)
    assert owner_rows(GRID, IDS[:0], at((70, 95))).tolist() == [NOWHERE]


def test_owners_agree_with_the_cores():
    rng = np.random.default_rng(0)
    middles = rng.random((400, 2)) * 260
    ids = np.arange(len(GRID))
    cores = GRID.cores()
    inside = (middles[:, None] >= cores[:, :2]) & (middles[:, None] < cores[:, 2:])
    assert owner_rows(GRID, ids, at(*middles)).tolist() == inside.all(axis=2).argmax(axis=1).tolist()


def slides():
    peaks = np.array([0.05, 0.2, np.nan, 0.6, 0.3, 0.0], np.float32)
    cells = at((10, 10), (100, 10), (200, 10), (120, 120), (10, 120), (250, 250))
    labels = ["HSIL", "HSIL", "HSIL", "LSIL", "SCC", "NILM"]
    empty = GatedSlide(GRID, IDS, np.full(6, 0.01, np.float32), at(), [])
    return [GatedSlide(GRID, IDS, peaks, cells, labels), empty]


def test_what_gates_cost_and_save():
    """Patches of evidence 0.05, 0.2, none, 0.6, 0.3, 0 and six of 0.01; HSIL in the first three."""
    rows = gate_table(slides(), [0.0, 0.1, 0.25, 0.9])
    assert [(row["not_shown"], row["patches"]) for row in rows] == [(1, 12), (8, 12), (9, 12), (11, 12)]
    assert [row["saved"] for row in rows] == pytest.approx([1 / 12, 8 / 12, 9 / 12, 11 / 12])
    assert [row["cells"]["HSIL"] for row in rows] == [
        {"cells": 3, "lost": 0},
        {"cells": 3, "lost": 1},
        {"cells": 3, "lost": 2},
        # Where the model gave no answer the gate is open.
        {"cells": 3, "lost": 2},
    ]
    assert [row["abnormal"]["lost"] for row in rows] == [0, 1, 2, 3]
    assert [row["cells"]["NILM"]["lost"] for row in rows] == [1, 1, 1, 1]
    # In no patch of the store: no gate had anything to do with it.
    assert rows[0]["outside"] == 1
    assert rows[0]["cells"]["SCC"] == {"cells": 0, "lost": 0}


def test_nothing_to_measure_is_a_case():
    (row,) = gate_table([], [0.5])
    assert (row["patches"], row["saved"], row["cells"], row["abnormal"]) == (0, 0.0, {}, {"cells": 0, "lost": 0})


def test_what_an_audit_finds():
    cells = at((10, 10), (20, 20), (100, 10), (120, 120), (10, 120))
    found = audit_findings(GRID, IDS, np.array([1, 1, 0, 0, 0, 1], bool), cells, ["HSIL", "NILM", "NILM", "SCC", "SCC"])
    assert found == {"cells": {"HSIL": 1, "NILM": 2}, "patches_with_abnormal": 1}


@pytest.mark.parametrize(
    ("hits", "number", "interval"),
    [
        # Wilson's interval as published tables have it (Newcombe 1998, table I, method 3).
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (0, 0, (0.0, 1.0)),
    ],
)
def test_interval_of_a_share(hits, number, interval):
    assert share_interval(hits, number) == pytest.approx(interval, abs=5e-5)


@pytest.mark.parametrize(
    ("samples", "like"),
    [
        # One slide: 30 of 100, at 100 / 2000 of the 1900 not shown.
        ([(1900, 100, 30)], (28.5, 95)),
        # Fields of which the only patch below the gate was audited hide nothing, and say nothing of what is hidden.
        ([(0, 1, 0)] * 400 + [(1900, 100, 30)], (28.5, 95)),
        # Half of one slide is hidden, a tenth of what is below the gate on the other: the lowest part audited counts.
        ([(10, 10, 5), (90, 10, 1)], (10 * (10 * 0.5 + 90 * 0.1) / 100, 10)),
        # Audited alike: all patches together.
        ([(90, 10, 1), (180, 20, 5), (9, 1, 1)], (7 * 0.9, 31 * 0.9)),
    ],
)
def test_each_slide_weighs_as_much_as_it_hides(samples, like):
    assert hidden_interval([SlideSample(*sample) for sample in samples]) == pytest.approx(share_interval(*like))


def test_an_interval_of_nothing_and_from_nothing():
    assert hidden_interval([]) == hidden_interval([SlideSample(0, 5, 2)]) == (0.0, 0.0)
    assert hidden_interval([SlideSample(10, 0, 0), SlideSample(90, 10, 1)]) == (0.0, 1.0)


#: Number of slides, patches below the gate on each, and how often such a patch holds an abnormal cell.
MIXES = {
    "fields and a slide": ((40, 2, 0.02), (1, 1000, 0.3)),
    "empty fields, a full slide": ((300, 2, 0.0), (1, 400, 0.5)),
    "slides unlike each other": ((5, 100, 0.3), (5, 100, 0.02)),
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_the_interval_covers_what_was_hidden(mix):
    """1,000 audits of 5 %, at least one patch a slide, of slides drawn anew: at least 94 % have the truth inside."""
    rng = np.random.default_rng(7)
    below, often = (np.concatenate([np.full(row[0], row[k]) for row in mix]) for k in (1, 2))
    audited = np.ceil(0.05 * below).astype(int)
    hidden, inside = below - audited, 0
    for _ in range(1000):
        abnormal = rng.binomial(below, often)
        hits = rng.hypergeometric(abnormal, below - abnormal, audited)
        truth = (abnormal - hits).sum() / hidden.sum()
        rows = zip(hidden.tolist(), audited.tolist(), hits.tolist(), strict=True)
        low, high = hidden_interval([SlideSample(*row) for row in rows])
        inside += low <= truth <= high
    assert inside >= 940
