import numpy as np
import pytest

from wsi_detect.errors import LabelError
from wsi_detect.evaluation.fields import FieldTruth
from wsi_detect.evaluation.groups import groups_of


def truth(name: str, patient=None, slide=None, field=None) -> FieldTruth:
    return FieldTruth(name, 9, 9, np.zeros((0, 4)), [], patient_id=patient, slide_id=slide, field_id=field)


@pytest.mark.parametrize(
    ("truths", "unit", "expected"),
    [
        ([], None, ("patient", [])),
        ([truth("a"), truth("b")], None, ("field", ["a", "b"])),
        ([truth("a", field="f"), truth("b", field="f"), truth("c")], None, ("field", ["f", "f", "c"])),
        ([truth("a", slide="s"), truth("b", slide="s")], None, ("slide", ["s", "s"])),
        # One image whose patient nobody knows: patients are no use for any.
        ([truth("a", "p", "s"), truth("b", None, "t")], None, ("slide", ["s", "t"])),
        ([truth("a", "p", "s"), truth("b", "p", "t")], None, ("patient", ["p", "p"])),
        ([truth("a", "p", "s"), truth("b", "p", "t")], "slide", ("slide", ["s", "t"])),
        ([truth("a", "p", "s"), truth("b", "p", "t")], "field", ("field", ["a", "b"])),
    ],
)
def test_the_largest_unit_known_of_all_images(truths, unit, expected):
    assert groups_of(truths, unit) == expected


def test_a_unit_that_is_not_known_is_refused():
    with pytest.raises(LabelError, match="image b: its patient is not known"):
        groups_of([truth("a", "p"), truth("b")], "patient")
