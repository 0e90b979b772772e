"""The Bethesda System as this project knows it."""

import pytest

from wsi_detect import taxonomy
from wsi_detect.errors import UnmappedLabelError

SQUAMOUS = ["ASC-US", "ASC-H", "LSIL", "HSIL", "SCC"]
GLANDULAR = ["AGC", "AGC-EC", "AGC-EM", "AGC-FN", "AGC-EC-FN", "AIS", "ADC", "ADC-EC", "ADC-EM", "ADC-EX"]
ORGANISMS = ["TRICHOMONAS", "CANDIDA", "FLORA", "ACTINOMYCES", "HSV", "CMV"]


@pytest.mark.parametrize("name", [*SQUAMOUS, *GLANDULAR])
def test_epithelial_abnormalities_are_abnormal(name):
    assert taxonomy.is_abnormal(name)
    assert taxonomy.gravity(name) >= 4


@pytest.mark.parametrize("name", [*ORGANISMS, "NILM", "REACTIVE", "INFL", "REPAIR", "ATROPHY", "METAPLASIA", "ENDO"])
def test_findings_that_are_not_abnormalities(name):
    assert not taxonomy.is_abnormal(name)
    assert taxonomy.gravity(name) <= 3


@pytest.mark.parametrize("name", SQUAMOUS)
def test_family_of_squamous(name):
    assert taxonomy.cell_class(name).family == "squamous"


@pytest.mark.parametrize("name", ORGANISMS)
def test_family_of_organisms(name):
    assert taxonomy.cell_class(name).family == "organism"


def test_order_of_gravity():
    shuffled = ["NILM", "LSIL", "SCC", "ASC-US", "HSIL", "INFL", "ASC-H"]
    assert taxonomy.gravest_first(shuffled) == ["SCC", "HSIL", "ASC-H", "LSIL", "ASC-US", "INFL", "NILM"]
    assert taxonomy.gravest_first(reversed(shuffled)) == taxonomy.gravest_first(shuffled)


def test_equals_in_gravity_are_sorted_by_name():
    assert taxonomy.gravest_first(["TRICHOMONAS", "CANDIDA"]) == ["CANDIDA", "TRICHOMONAS"]


def test_nilm_is_the_background():
    assert [name for name in taxonomy.CLASSES if taxonomy.gravity(name) == 0] == ["NILM"]


def test_every_abnormality_is_graver_than_every_other_finding():
    grave = [c.gravity for c in taxonomy.CLASSES.values() if c.abnormal]
    mild = [c.gravity for c in taxonomy.CLASSES.values() if not c.abnormal]
    assert min(grave) > max(mild)


def test_names_can_be_file_and_column_names():
    assert all(name.isascii() and name.replace("-", "").isalnum() for name in taxonomy.CLASSES)


def test_colours_are_written_for_the_web():
    assert taxonomy.colour_hex("HSIL") == "#d52b1e"
    assert all(0 <= part <= 255 for entry in taxonomy.CLASSES.values() for part in entry.colour)


@pytest.mark.parametrize("name", ["hsil", "ASCUS", "", "HSIL "])
def test_another_name_is_refused_with_the_menu(name):
    with pytest.raises(UnmappedLabelError, match="HSIL"):
        taxonomy.cell_class(name)
