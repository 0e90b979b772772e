"""What dialects of one slide a file mean by their fields, and which words a file gets that means nothing."""

import gzip
import json

import pytest
import shapely
from dialect_files import SQUARE, asap, closed, feature, read, seen

from wsi_detect.annotations import SlideFacts, SourceFacts
from wsi_detect.errors import LabelError

# --- which slide a file is about -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.json", "a.svs.json", "a.svs.json.gz", "a.geojson"])
def test_a_file_of_one_slide_is_called_like_it(tmp_path, name):
    content = json.dumps([feature("Polygon", [closed(SQUARE)])]).encode()
    (entry,) = read(tmp_path, "geojson", name, gzip.compress(content) if name.endswith("gz") else content)
    assert (entry.image, entry.image_size) == ("a.svs", (2000, 1000))


def test_a_file_of_one_slide_called_otherwise_needs_to_be_told(tmp_path):
    with pytest.raises(LabelError, match=r"c\.json: no slide is called like it \(slides: a\.svs, b\.svs\)"):
        read(tmp_path, "geojson", "c.json", "[]")
    twice = SourceFacts({"a.svs": SlideFacts("A"), "a.ndpi": SlideFacts("B")})
    with pytest.raises(LabelError, match="2 slides are called like it"):
        read(tmp_path, "geojson", "a.json", "[]", twice)
    assert read(tmp_path, "geojson", "c.json", "[]", SourceFacts({}, slide="a.svs")) == []


# --- GeoJSON -------------------------------------------------------------------------------------------------------


UUID = "7b8d7d35-6c45-4a2b-8c46-3a9c8a1f0d11"
HOLE = [[2, 2], [4, 2], [4, 4], [2, 4]]


@pytest.mark.parametrize(
    ("entry", "expected", "area"),
    [
        (feature("Polygon", [closed(SQUARE)], id=UUID), [(UUID, "HSIL", "cell", (0, 0, 10, 20))], 200),
        (feature("Polygon", [closed(SQUARE)], id="PathAnnotationObject"), [("1", "HSIL", "cell", (0, 0, 10, 20))], 200),
        (feature("Polygon", [closed(SQUARE), closed(HOLE)]), [("1", "HSIL", "cell", (0, 0, 10, 20))], 196),
        (
            feature("MultiPolygon", [[closed(SQUARE)], [[[20, 0], [30, 0], [30, 10], [20, 0]]]]),
            [("1", "HSIL", "cell", (0, 0, 30, 20))],
            250,
        ),
        (feature("Point", [3, 4]), [("1", "HSIL", "point", (3, 4, 3, 4))], None),
        (
            feature("MultiPoint", [[3, 4], [5, 6]], id=UUID),
            [(f"{UUID}/1", "HSIL", "point", (3, 4, 3, 4)), (f"{UUID}/2", "HSIL", "point", (5, 6, 5, 6))],
            None,
        ),
    ],
)
def test_geometries_of_geojson(tmp_path, entry, expected, area):
    for content in ({"type": "FeatureCollection", "features": [entry]}, [entry], entry):
        found = read(tmp_path, "geojson", "a.geojson", json.dumps(content))
        assert seen(found) == expected
        assert [e.problem for e in found] == [None] * len(expected)
        assert (shapely.from_wkb(found[0].geometry).area if found[0].geometry else None) == area


@pytest.mark.parametrize(
    ("properties", "label"),
    [
        ({"classification": {"name": "HSIL", "colorRGB": -377282}}, "HSIL"),
        ({"classification": "HSIL"}, "HSIL"),
        ({"classification": {"names": ["HSIL", "large"]}}, "HSIL: large"),
        ({"classification": None}, ""),
        ({"name": "HSIL"}, ""),
        (None, ""),
    ],
)
def test_labels_of_geojson(tmp_path, properties, label):
    (entry,) = read(tmp_path, "geojson", "a.json", json.dumps([feature("Point", [1, 2], properties=properties)]))
    assert entry.source_label == label


def test_other_keys_around_the_features_do_not_matter(tmp_path):
    text = '{"type": "FeatureCollection", "crs": {"features": []}, "features": [%s], "name": [1, {"a": 2}]}'
    assert len(read(tmp_path, "geojson", "a.json", text % json.dumps(feature("Point", [1, 2])))) == 1
    for tail in ("}", ",", "[]"):
        with pytest.raises(LabelError, match="not valid JSON"):
            read(tmp_path, "geojson", "a.json", text % "" + tail)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (feature("LineString", [[0, 0], [1, 1]]), "is a LineString, which is no cell"),
        (feature("Polygon", [[[0, 0], [1, 1], [0, 0]]]), "has an outline of 2 points"),
        (feature("Polygon", [[]]), "has an outline of 0 points"),
        (feature("MultiPolygon", []), "has no outline"),
    ],
)
def test_what_is_no_cell_is_a_fault_of_its_feature(tmp_path, entry, problem):
    (found,) = read(tmp_path, "geojson", "a.json", json.dumps([entry]))
    assert found.problem == problem


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (5, "feature 1 is no GeoJSON feature"),
        ({"type": "Feature"}, "feature 1 is no GeoJSON feature"),
        (feature("Circle", [1, 2]), "'Circle' is no geometry"),
        (feature("Polygon", [[[0, 0], [1, "x"], [2, 2]]]), "feature 1: the outline is not a list of points"),
        (feature("Polygon", [5]), "feature 1: the outline is not a list of points"),
        (feature("MultiPolygon", [5]), "not those of a MultiPolygon"),
        (feature("Point", [1]), "not a list of points"),
        (feature("Point", [1, 2], properties={"classification": {"name": 5}}), "its classification has no name"),
    ],
)
def test_geojson_that_means_nothing(tmp_path, entry, words):
    with pytest.raises(LabelError, match=words):
        read(tmp_path, "geojson", "a.json", json.dumps([entry]))


# --- ASAP ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        ("Group  HSIL 3", "None", ("1", "Group HSIL")),
        ("Metaplasia ", "None", ("1", "Metaplasia")),
        ("Artifact", "", ("1", "Artifact")),
        ("Annotation 7", "HSIL", ("Annotation 7", "HSIL")),
        ("", "HSIL", ("1", "HSIL")),
        ("12", "None", ("1", "")),
    ],
)
def test_labels_of_asap(tmp_path, name, group, expected):
    (entry,) = read(tmp_path, "asap", "a.xml", asap(name, "Polygon", group, SQUARE))
    assert (entry.annotation_id, entry.source_label) == expected


def test_corners_of_asap_come_in_their_order(tmp_path):
    (entry,) = read(tmp_path, "asap", "a.xml", asap("x", "Spline", "HSIL", SQUARE, [0, 2, 1, 3]))
    assert not shapely.from_wkb(entry.geometry).is_valid
    (entry,) = read(
        tmp_path, "asap", "a.xml", asap("x", "Spline", "HSIL", [SQUARE[k] for k in (0, 2, 1, 3)], [0, 2, 1, 3])
    )
    assert shapely.from_wkb(entry.geometry).area == 200


def test_dots_of_asap_are_points_and_a_measurement_is_none(tmp_path):
    assert seen(read(tmp_path, "asap", "a.xml", asap("d", "Dot", "HSIL", [(3, 4)]))) == [
        ("d", "HSIL", "point", (3, 4, 3, 4))
    ]
    assert [e[0] for e in seen(read(tmp_path, "asap", "a.xml", asap("d", "PointSet", "HSIL", [(3, 4), (5, 6)])))] == [
        "d/1", "d/2",
    ]  # fmt: skip
    (entry,) = read(tmp_path, "asap", "a.xml", asap("m", "Measurement", "HSIL", [(0, 0), (5, 5)]))
    assert entry.problem == "is a Measurement, which is no cell"


def test_asap_without_a_coordinate(tmp_path):
    for text in ('<Coordinate Order="0" X="1"/>', '<Coordinate X="1" Y="2"/>'):
        content = asap("x", "Polygon", "HSIL", []).replace("<Coordinates>", f"<Coordinates>{text}")
        with pytest.raises(LabelError, match=r"annotation 1: (a corner lacks a coordinate|<Coordinate> has no Order)"):
            read(tmp_path, "asap", "a.xml", content)


# --- ImageScope ----------------------------------------------------------------------------------------------------


def scope(points, attributes='Type="0"', layer="HSIL"):
    corners = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    region = f"<Region {attributes}><Attributes/><Vertices>{corners}</Vertices></Region>"
    head = "<Regions><RegionAttributeHeaders><AttributeHeader/></RegionAttributeHeaders>"
    return f'<Annotations><Annotation Id="1" Name="{layer}">{head}{region}</Regions></Annotation></Annotations>'


@pytest.mark.parametrize(
    ("attributes", "points", "label", "area", "problem"),
    [
        ('Type="0"', SQUARE, "HSIL", 200, None),
        ('Type="0" Text=" LSIL "', SQUARE, "LSIL", 200, None),
        ('Type="1"', SQUARE, "HSIL", 200, None),
        ('Type="1"', [(0, 0), (10, 20)], "HSIL", 200, None),
        ('Type="2"', [(0, 0), (10, 20)], "HSIL", 156.8, None),
        ('Type="3"', [(0, 0), (10, 20)], "HSIL", None, "is an arrow, which is no cell"),
        ('Type="4"', [(0, 0), (10, 20)], "HSIL", None, "is a ruler, which is no cell"),
        ('Type="9"', SQUARE, "HSIL", 200, "is of type 9, which is no cell"),
        ('Type="0" NegativeROA="1"', SQUARE, "HSIL", 200, "is a negative region, cut out of another"),
    ],
)
def test_regions_of_imagescope(tmp_path, attributes, points, label, area, problem):
    (entry,) = read(tmp_path, "imagescope", "a.xml", scope(points, attributes))
    assert (entry.source_label, tuple(entry.box), entry.problem) == (label, (0, 0, 10, 20), problem)
    assert (shapely.from_wkb(entry.geometry).area if entry.geometry else None) == (
        area and pytest.approx(area, rel=1e-3)
    )


# --- NDPA ----------------------------------------------------------------------------------------------------------


def ndpa(shape, kind="freehand", unit="nanometers"):
    head = f"<title>HSIL</title><coordformat>{unit}</coordformat>"
    state = f'<ndpviewstate id="1">{head}<annotation type="{kind}">{shape}</annotation></ndpviewstate>'
    return f"<annotations>{state}</annotations>"


def nanometres(points):
    # 2000 x 1000 px at 0.5 µm/px, centre at 100, -50 µm: px 0, 0 lies at -400, -300 µm.
    return "".join(f"<point><x>{-400_000 + 500 * x}</x><y>{-300_000 + 500 * y}</y></point>" for x, y in points)


@pytest.mark.parametrize(
    ("shape", "kind", "expected", "problem"),
    [
        (f"<pointlist>{nanometres(SQUARE)}</pointlist>", "freehand", ("cell", (0, 0, 10, 20)), None),
        ("<x>100000</x><y>-50000</y><radius>5000</radius>", "circle", ("cell", (990, 490, 1010, 510)), None),
        ("<x>-400000</x><y>-300000</y>", "pin", ("point", (0, 0, 0, 0)), None),
        (
            f"<closed>0</closed><pointlist>{nanometres(SQUARE)}</pointlist>",
            "freehand", ("cell", (0, 0, 10, 20)), "is an open line, which is no cell",
        ),
        (
            f"<pointlist>{nanometres(SQUARE)}</pointlist>",
            "linearmeasure", ("cell", (0, 0, 10, 20)), "is a linearmeasure, which is no cell",
        ),
    ],
)  # fmt: skip
def test_shapes_of_ndpa_are_counted_from_the_centre_of_the_glass(tmp_path, shape, kind, expected, problem):
    (entry,) = read(tmp_path, "ndpa", "a.svs.ndpa", ndpa(shape, kind))
    assert (entry.source_label, entry.problem) == ("HSIL", problem)
    assert (entry.kind, tuple(entry.box)) == (expected[0], pytest.approx(expected[1], abs=1e-9))


def test_ndpa_needs_facts_of_the_slide_and_nanometres(tmp_path):
    with pytest.raises(LabelError, match=r"b\.ndpa: NDPA files count nanometres .*; of b\.svs the size"):
        read(tmp_path, "ndpa", "b.ndpa", ndpa(""))
    with pytest.raises(LabelError, match="annotation 1 has coordinates in 'pixels'"):
        read(tmp_path, "ndpa", "a.ndpa", ndpa("", unit="pixels"))
    with pytest.raises(LabelError, match="annotation 1 has no shape"):
        read(tmp_path, "ndpa", "a.ndpa", '<annotations><ndpviewstate id="1"/></annotations>')


# --- what an XML file may not do -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><ASAP_Annotations/>', "DOCTYPE"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><ASAP_Annotations>&x;</ASAP_Annotations>', "DOCTYPE"),
        ("<ASAP_Annotations>&unknown;</ASAP_Annotations>", "not well-formed"),
        ("<annotation/>", "its root is <annotation>, expected <ASAP_Annotations>"),
        (f"<ASAP_Annotations>{'<a>' * 70}{'</a>' * 70}</ASAP_Annotations>", "nested deeper than 64"),
        ('<?xml version="1.0" encoding="klingon"?><ASAP_Annotations/>', "not well-formed XML: unknown encoding"),
    ],
)
def test_xml_is_data_and_nothing_else(tmp_path, content, words):
    with pytest.raises(LabelError, match=words):
        read(tmp_path, "asap", "a.xml", content)


def test_the_encoding_an_xml_file_declares_counts(tmp_path):
    text = asap("x", "Polygon", "Atypie modérée", SQUARE)
    for encoding in ("iso-8859-1", "utf-16"):
        content = f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding)
        assert read(tmp_path, "asap", "a.xml", content)[0].source_label == "Atypie modérée"


def test_a_packed_file_that_is_cut_off(tmp_path):
    packed = gzip.compress(json.dumps([feature("Point", [1, 2])] * 500).encode())
    for cut in (packed[: len(packed) // 2], packed[:12], packed[:-4] + b"\0\0\0\0"):
        with pytest.raises(LabelError, match=r"a\.json\.gz is damaged"):
            read(tmp_path, "geojson", "a.json.gz", cut)
