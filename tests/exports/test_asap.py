"""ASAP XML, read by a parser that knows the format and nothing of ours."""

from xml.etree import ElementTree

import pytest

from wsi_detect.exports import asap


def read(path):
    """Annotations as (name, group, type, colour, corners by `Order`), and groups as name → colour."""
    root = ElementTree.parse(path).getroot()  # noqa: S314 - what was just written
    assert root.tag == "ASAP_Annotations"
    assert [child.tag for child in root] == ["Annotations", "AnnotationGroups"]
    found = []
    for entry in root.find("Annotations"):
        assert set(entry.attrib) == {"Name", "Type", "PartOfGroup", "Color"}
        (coordinates,) = entry
        ordered = sorted(coordinates, key=lambda corner: int(corner.get("Order")))
        assert [int(corner.get("Order")) for corner in ordered] == list(range(len(ordered)))
        corners = [(float(corner.get("X")), float(corner.get("Y"))) for corner in ordered]
        found.append((entry.get("Name"), entry.get("PartOfGroup"), entry.get("Type"), entry.get("Color"), corners))
    groups = {}
    for group in root.find("AnnotationGroups"):
        assert [child.tag for child in group] == ["Attributes"]
        assert group.get("PartOfGroup") == "None"
        groups[group.get("Name")] = group.get("Color")
    return found, groups


def test_every_cell_is_an_annotation_in_the_group_of_its_class(cell_map, ids, tmp_path):
    found, groups = read(asap.write(cell_map(), tmp_path / "cells.xml"))
    assert found == [
        (ids[0], "NILM", "Rectangle", "#0072b2", [(0, 0.25), (10.5, 0.25), (10.5, 20), (0, 20)]),
        (ids[1], "HSIL", "Polygon", "#d52b1e", [(45, 45), (55, 45), (50, 55)]),
        (ids[2], "TRICHOMONAS", "Rectangle", "#009e73", [(100, 60.125), (130, 60.125), (130, 90), (100, 90)]),
    ]
    assert groups == {"HSIL": "#d52b1e", "TRICHOMONAS": "#009e73", "NILM": "#0072b2"}
    assert list(groups) == ["HSIL", "TRICHOMONAS", "NILM"]


@pytest.mark.parametrize("number", [0, 1])
def test_few_cells(cell_map, number, tmp_path):
    found, groups = read(asap.write(cell_map(number=number), tmp_path / "cells.xml"))
    assert (len(found), len(groups)) == (number, number)
