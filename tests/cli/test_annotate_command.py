"""`annotate`: every kind of source at the command line, and what it says of one that is wrong."""

import json
import sys

import pytest
from PIL import Image

from wsi_detect import artifact, schema
from wsi_detect.annotations import IMPORTERS, SlideFacts
from wsi_detect.annotations.rois import read_rois
from wsi_detect.annotations.votes import read_votes
from wsi_detect.cli.annotate import FORMATS
from wsi_detect.cli.facts import annotated_slides
from wsi_detect.cli.main import main
from wsi_detect.errors import LabelError

SIZE = (400, 300)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slides").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", SIZE, (240, 230 + (name == "a.png"), 240)).save(tmp_path / "slides" / name)
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "classes.yaml").write_text("HSIL: HSIL\nNILM: NILM\nNegative: NILM\n")
    return tmp_path


@pytest.fixture
def cli(folder, monkeypatch, capfd):
    def go(*words, code=0):
        given = ["--slides", "slides", "--card", "card", "--out", "data"]
        monkeypatch.setattr(sys, "argv", ["wsi-detect", "annotate", *map(str, words), *given])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capfd.readouterr()
        assert (caught.value.code or 0) == code, err
        go.said = err
        return out.strip() or err

    return go


def rows(path):
    table = artifact.read_table(path, schema.ANNOTATIONS)
    return [(row["label"], *(row[name] for name in schema.BOX_COLUMNS)) for row in table.to_pylist()]


def square(label, x, y, side=20):
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": label}}}


def test_every_format_is_named_in_the_help():
    assert set(FORMATS.replace(" or ", ", ").split(", ")) == set(IMPORTERS)


def test_points_of_a_table_whose_columns_are_called_otherwise(cli, folder, tmp_path):
    (folder / "cells.csv").write_text("file;class;cx;cy\na.png;HSIL;100;50\nb.png;NILM;5;290\n")
    words = ["cells.csv", "--format", "table", "--column", "image=file", "--column", "label=class"]
    words += ["--column", "x=cx", "--column", "y=cy"]
    assert "say how large the box of a point is" in cli(*words, code=4)
    assert "the µm per px of a.png is not known" in cli(*words, "--point-um", 10, code=4)
    found = rows(tmp_path / cli(*words, "--point-um", 10, "--mpp", 0.5))
    assert sorted(found) == [("HSIL", 90, 40, 110, 60), ("NILM", 0, 280, 15, 300)]
    assert "ours=theirs" in cli(*words, "--column", "odd", code=2)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "NILM\nHSIL\n"),
        ("data.yaml", "names: [NILM, HSIL]\n"),
        ("data.yaml", "names:\n  0: NILM\n  1: HSIL\n"),
    ],
)
def test_yolo_needs_names(cli, folder, name, text):
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("1 0.5 0.5 0.1 0.2\n")
    (folder / "labels" / "b.txt").write_text("")
    (folder / "labels" / name).write_text(text)
    assert "class 1 has no name" in cli("labels", "--format", "yolo", code=4)
    assert rows(folder / cli("labels", "--format", "yolo", "--names", f"labels/{name}")) == [
        ("HSIL", 180, 120, 220, 180)
    ]


def test_names_that_do_not_run_from_0_are_refused(cli, folder):
    (folder / "data.yaml").write_text("names: {1: NILM}\n")
    (folder / "a.txt").write_text("")
    assert "numbers from 0" in cli("a.txt", "--format", "yolo", "--names", "data.yaml", code=4)


def test_areas_and_a_file_whose_slide_is_said(cli, folder):
    features = [square("Region", 0, 0, 200), square("HSIL", 50, 60)]
    (folder / "export.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    words = ["export.geojson", "--format", "geojson", "--roi-label", "Region"]
    assert "no slide is called like it (slides: a.png, b.png)" in cli(*words, code=4)
    assert rows(folder / cli(*words, "--slide", "a.png")) == [("HSIL", 50, 60, 70, 80)]
    (area,) = read_rois(folder / "data").values()
    assert area.bounds == (0, 0, 200, 200)


def test_three_readers_vote_and_their_agreement_is_said(cli, folder):
    says = {"ann": ["HSIL", "NILM"], "bob": ["HSIL", "NILM"], "cy": ["NILM", "NILM"]}
    for reader, labels in says.items():
        (folder / "readers" / reader).mkdir(parents=True)
        features = [square(label, 50 + 100 * k, 60) for k, label in enumerate(labels)]
        (folder / "readers" / reader / "a.geojson").write_text(json.dumps(features))
    words = ["readers", "--format", "geojson"]
    assert "a.png was read by ann, bob, cy; say how votes" in cli(*words, code=4)
    assert rows(folder / cli(*words, "--votes", "majority")) == [("HSIL", 50, 60, 70, 80), ("NILM", 150, 60, 170, 80)]
    assert len(read_votes(folder / "data")) == 6
    assert "not 'oldest'" in cli(*words, "--votes", "oldest", code=2)


def test_agreement_is_told(cli, folder):
    for reader, label in (("ann", "HSIL"), ("bob", "NILM")):
        (folder / "readers" / reader).mkdir(parents=True)
        features = [square(label, 50, 60), square("NILM", 150, 60)]
        (folder / "readers" / reader / "a.geojson").write_text(json.dumps(features))
    cli("readers", "--format", "geojson", "--votes", "gravest")
    assert "agreement of ann, bob: kappa 0.000 on 2 cells, 0 marked by some of them only" in cli.said


def test_a_slide_file_that_is_gone_is_annotated_without_its_size(folder, caplog):
    (folder / "s.csv").write_text("path,slide_id,mpp\nslides/a.png,A,0.3\nslides/gone.png,G,0.3\n")
    found = annotated_slides(folder / "s.csv", None, (1.0, 2.0))
    assert found == {
        "a.png": SlideFacts("A", SIZE, 0.3, (1.0, 2.0)),
        "gone.png": SlideFacts("G", None, 0.3, (1.0, 2.0)),
    }
    assert "1 slide files are not there" in caplog.text


def test_faults_are_refused_dropped_or_repaired(cli, folder):
    (folder / "cells.csv").write_text("image,label,x0,y0,x1,y1\na.png,HSIL,10,10,20,20\na.png,HSIL,390,10,410,20\n")
    words = ["cells.csv", "--format", "table"]
    assert "row 3 (id 3): box [390, 10, 410, 20] reaches beyond" in cli(*words, code=4)
    assert not (folder / "data").exists()
    assert len(rows(folder / cli(*words, "--faulty", "drop"))) == 1
    assert rows(folder / cli(*words, "--faulty", "repair"))[1] == ("HSIL", 390, 10, 400, 20)
    assert "refuse, drop or repair, not 'hide'" in cli(*words, "--faulty", "hide", code=2)


def test_two_slides_of_one_name_are_refused(folder):
    (folder / "more").mkdir()
    Image.new("RGB", SIZE, (1, 2, 3)).save(folder / "more" / "a.png")
    (folder / "s.csv").write_text("path,slide_id\nslides/a.png,A\nmore/a.png,B\n")
    with pytest.raises(LabelError, match=r"two slides are called a\.png"):
        annotated_slides(folder / "s.csv")
