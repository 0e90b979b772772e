import pytest

from wsi_detect.errors import LabelError
from wsi_detect.evaluation.splits import Split, check_apart


def test_splits_that_share_nothing_are_apart():
    check_apart(Split.of("val", ["p1", "p2", "p2"]), Split.of("test", ["p3"]), "the threshold")
    check_apart(Split.of("val", []), Split.of("test", []), "the threshold")


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (Split.of("val", ["p9"]), "the threshold was chosen on split 'val'; read it on another"),
        (Split.of("test", ["p3", "p2", "p1"]), r"shares 'p1' \(2 in all\) with 'test'; split by patient"),
    ],
)
def test_the_same_data_are_refused_whatever_their_name(read, message):
    with pytest.raises(LabelError, match=message):
        check_apart(Split.of("val", ["p1", "p2"]), read, "the threshold")
