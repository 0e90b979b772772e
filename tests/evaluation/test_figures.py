"""The figures of an evaluation: what counts as finding an abnormal cell."""

import numpy as np

from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.figures import make_pools


def test_a_cell_is_shown_at_its_abnormal_score_whatever_nilm_says():
    box = np.array([[0.0, 0.0, 10.0, 10.0]])
    truth = [FieldTruth("a", 100, 100, box, ["LSIL"])]
    both = [FieldPrediction("a", np.vstack([box, box, box]), np.array([0.6, 0.4, 0.3]), ["NILM", "LSIL", "HSIL"])]
    pools = make_pools(both, truth, ["NILM", "LSIL", "HSIL"], 0.5)
    assert (pools.abnormal.scores.tolist(), pools.abnormal.hits.tolist()) == ([0.4], [True])
    assert pools.figures((1.0,))["recall@1fppi/any_abnormal"] == 1.0
