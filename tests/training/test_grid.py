"""A declared comparison: which runs follow, in which order, with which settings, and how each is known."""

import numpy as np
import pytest

from wsi_detect.data.split import grouped_folds
from wsi_detect.errors import ConfigError, UnknownKeyError
from wsi_detect.training.grid import ComparisonJob, Row, Run, merged, planned, resolve, trials
from wsi_detect.training.records import Results


def job(**changes):
    """Two methods, two detectors, three seeds in two grids."""
    axes = {
        "folds": 2,
        "baseline": "ce",
        "detectors": {
            "small": {"training": {"options": {"prior": 0.01, "channels": 16}, "steps": 7}},
            "large": {"tiling": {"patch_px": 512}, "training": {"options": {"channels": 32}}},
        },
        "methods": {
            "ce": {"training": {"options": {"loss": "bce"}}},
            "bare": {"training": {"options": {"loss": "bce", "prior": 0.5}}},
        },
        "samplers": {"uniform": {"training": {"loader": {"sampler": "uniform"}}}},
        "grids": {
            "first": {"detectors": ["small"], "methods": ["ce", "bare"], "samplers": ["uniform"], "seeds": [0, 1]},
            "later": {"detectors": ["large"], "methods": ["ce"], "samplers": ["uniform"], "seeds": [0]},
        },
        **changes,
    }
    return ComparisonJob.model_validate({"fields": {"mpp": 0.25, "classes": ["NILM"]}, "cross_validation": axes})


def test_seed_by_seed_then_grid_by_grid_then_fold_by_fold():
    assert [run.name for run in planned(job().cross_validation)] == [
        "small-ce-uniform-s0-f0",
        "small-bare-uniform-s0-f0",
        "small-ce-uniform-s0-f1",
        "small-bare-uniform-s0-f1",
        "large-ce-uniform-s0-f0",
        "large-ce-uniform-s0-f1",
        "small-ce-uniform-s1-f0",
        "small-bare-uniform-s1-f0",
        "small-ce-uniform-s1-f1",
        "small-bare-uniform-s1-f1",
    ]


@pytest.mark.parametrize(("only", "number"), [([], 10), (["later"], 2), (["-bare-"], 4), (["later", "s1-f0"], 4)])
def test_some_of_the_runs(only, number):
    assert len(planned(job().cross_validation, only)) == number


def test_a_word_that_fits_nothing_is_refused():
    with pytest.raises(ConfigError, match="grids: first, later"):
        planned(job().cross_validation, ["first", "latter"])


def test_settings_are_the_sections_with_what_detector_sampler_and_method_change():
    run = Run(Row("small", "bare", "uniform"), 3, 1)
    tiling, training = resolve(job(), run)
    assert training.options == {"prior": 0.5, "channels": 16, "loss": "bce"}
    assert (training.steps, training.seed, training.loader.sampler) == (7, 3, "uniform")
    assert tiling.patch_px == 1024
    assert resolve(job(), Run(Row("large", "ce", "uniform"), 0, 0))[0].patch_px == 512


def test_every_method_tries_every_learning_rate_on_fields_of_its_own_training():
    tuned = job(tuning={"learning_rates": [0.1, 0.2], "steps": 3})
    run = Run(Row("small", "ce", "uniform"), 1, 1)
    tried = trials(tuned.cross_validation, run)
    assert [one.name for one in tried] == ["small-ce-uniform-s0-f1-t0", "small-ce-uniform-s0-f1-t1"]
    for other in planned(tuned.cross_validation):
        assert len(trials(tuned.cross_validation, other)) == 2
    rates = [resolve(tuned, one)[1] for one in tried]
    assert [(one.optimiser.learning_rate, one.steps) for one in rates] == [(0.1, 3), (0.2, 3)]
    assert resolve(tuned, run, 0.2)[1].steps == 7
    # One rate is declared, not tried.
    single = job(tuning={"learning_rates": [0.3]})
    assert not trials(single.cross_validation, run)
    assert resolve(single, run)[1].optimiser.learning_rate == 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "focal"}, "baseline 'focal' is not a method"),
        ({"detectors": {"a b": {}}}, "letters, digits"),
        ({"methods": {"ce": {}}}, "'bare' is not declared"),
        ({"methods": {"ce": {"training": {"start_from": "bundle"}}, "bare": {}}}, "may have been trained on"),
    ],
)
def test_declarations_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        job(**changes)


def test_a_wrong_key_of_a_method_is_named_with_its_run():
    wrong = job(methods={"ce": {"training": {"stepps": 3}}, "bare": {}})
    with pytest.raises(UnknownKeyError, match=r"run small-ce-uniform-s0-f0.*'steps'"):
        resolve(wrong, planned(wrong.cross_validation)[0])


def test_changes_are_put_in_key_by_key():
    base = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert merged(base, {"a": {"c": [2], "e": 3}, "d": {"f": 4}}) == {"a": {"b": 1, "c": [2], "e": 3}, "d": {"f": 4}}
    assert base == {"a": {"b": 1, "c": [1]}, "d": 2}


def test_a_run_is_known_by_everything_that_decides_it(tmp_path):
    results = Results.enter(tmp_path, {"fields": {}})
    run = Run(Row("small", "ce", "uniform"), 0, 0)
    digests = {
        results.digest(job(), run),
        results.digest(job(), run, 0.5),
        results.digest(job(), Run(run.row, 1, 0)),
        results.digest(job(), Run(run.row, 0, 1)),
        results.digest(job(), Run(Row("small", "bare", "uniform"), 0, 0)),
        Results.enter(tmp_path, {"fields": {"a": 1}}).digest(job(), run),
        results.digest(job(detectors={"small": {"training": {"steps": 8}}, "large": {}}), run),
    }
    assert len(digests) == 7
    # Another row or seed in the declaration changes nothing for a run that is there.
    grids = {"first": {"detectors": ["small"], "methods": ["ce"], "samplers": ["uniform"], "seeds": [0, 1, 2]}}
    assert results.digest(job(grids=grids), run) == results.digest(job(), run)


#: Fields of a long tail: one class everywhere, one in some, two in few fields, with most cells in one of them.
TAIL = np.array([[9, k % 3, 27 * (k == 0) + (0 < k < 7), 4 * (k in (3, 9, 11, 17, 25))] for k in range(40)])


@pytest.mark.parametrize("seed", range(5))
def test_fields_of_rare_classes_are_spread_over_the_folds(seed):
    folds = grouped_folds([f"field{k}" for k in range(40)], (TAIL > 0).astype(int), 5, seed)
    fields = np.array([(TAIL[folds == fold] > 0).sum(axis=0) for fold in range(5)])
    assert fields[:, 3].tolist() == [1] * 5
    assert sorted(fields[:, 2]) == [1, 1, 1, 2, 2]
    assert fields[:, 0].tolist() == pytest.approx([8] * 5, abs=1)
