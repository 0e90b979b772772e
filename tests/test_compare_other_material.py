"""Methods compared on what is not cells of the cervix: names of its own, and nothing of it for a slide."""

import json
import shutil

import pytest
from comparison_bench import MARKS, begin, compare, declared, document, paint_fields
from PIL import Image, ImageEnhance

from wsi_detect.detectors.info import read_info
from wsi_detect.errors import ForeignModelError, LabelError, LicenceError
from wsi_detect.training.grid import ComparisonJob, ReportConfig

BLOOD = ("RBC", "WBC", "Platelets")
PLACES = [name for name in MARKS if name != "alphas"]


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    return paint_fields(tmp_path_factory.mktemp("fields"))


@pytest.fixture(scope="module")
def blood(fields, tmp_path_factory):
    """The same fields with names of their own, and a card that says that they are not cells of the cervix."""
    folder = tmp_path_factory.mktemp("blood")
    shutil.copytree(fields, folder, dirs_exist_ok=True)
    content = json.loads((fields / "labels.json").read_text())
    for entry, name in zip(content["categories"], BLOOD, strict=True):
        entry["name"] = name
    (folder / "labels.json").write_text(json.dumps(content))
    (folder / "card" / "classes.yaml").write_text("".join(f"{name}: {name}\n" for name in BLOOD))
    licence = "{name: MIT, research: allowed, commercial: allowed, redistribution: allowed, derivatives: allowed, "
    licence += "sure: assumed}"
    facts = f"name: blood\ntitle: painted\nspecimen: other\nreferences: {{}}\nlicence: {licence}\n"
    (folder / "card" / "README.md").write_text(f"---\n{facts}---\n")
    return folder


def of_blood(use="comparison", names=BLOOD):
    """The declaration for them: marks of its own, boxes read a second time more closely."""
    job = declared(endpoints={"close_iou": 0.75, "rare_fields": 0}).model_dump(mode="json")
    job["fields"]["classes"] = names
    # One pair of alphas: there is no table of them, and it needs no place.
    del job["cross_validation"]["methods"]["libra_1"]
    return ComparisonJob.model_validate(
        {**job, "training": {**job["training"], "use": use}, "report": {"prefix": "bccd"}}
    )


def test_other_material_is_compared_under_its_own_names(blood, tmp_path):
    """Tables go between marks of their own; those of another declaration stay as they are."""
    bench = begin(blood, of_blood(), tmp_path)
    assert compare.main(bench, ["fcos-ce-uniform-s0-f0"]) == 0
    record = json.loads(next(bench.results.folder.glob("fcos-ce-*")).read_text())
    assert record["found"]["asked"] == {name: [name, f"{name}@0.75"] for name in BLOOD}
    page = document(tmp_path)
    page.write_text(page.read_text() + "".join(f"<!-- bccd-{name} -->\nolder\n<!-- end -->\n" for name in PLACES))
    compare.report(bench.job, bench.results, page, folds=[0])
    text = page.read_text()
    assert text.count("\nold\n") == len(MARKS)
    assert "older" not in text
    assert "| method | macro AP75 | AP50 RBC | AP50 WBC | AP50 Platelets |" in text
    assert "No class is in 0 fields or fewer." in text
    before = text[text.index("<!-- bccd-label") :]
    compare.report(bench.job.model_copy(update={"report": ReportConfig()}), bench.results, page, folds=[0])
    text = page.read_text()
    assert text.count("\nold\n") == 1  # that of the alphas
    assert text[text.index("<!-- bccd-label") :] == before


def test_a_detector_of_other_material_says_so(blood, tmp_path, monkeypatch):
    """The bundle that a run leaves behind, if it is stopped, is refused wherever slides are."""
    bundles = []
    monkeypatch.setattr(compare, "load_detector", lambda bundle, **_: bundles.append(bundle) or 1 / 0)
    bench = begin(blood, of_blood(), tmp_path)
    with pytest.raises(ZeroDivisionError):
        compare.main(bench, ["fcos-ce-uniform-s0-f0"])
    assert read_info(bundles[0], any_specimen=True).classes == BLOOD
    with pytest.raises(ForeignModelError, match="RBC, WBC, Platelets"):
        read_info(bundles[0])


@pytest.mark.parametrize(
    ("job", "card", "error", "says"),
    [
        (
            of_blood(names=BLOOD[:2]),
            "blood",
            LabelError,
            "cells of class Platelets, which fields.classes does not name",
        ),
        (of_blood(), "fields", LabelError, "categories not in the taxonomy: Platelets, RBC, WBC"),
        (declared(), "blood", LabelError, "cells of class Platelets, which fields.classes does not name"),
    ],
)
def test_names_that_do_not_fit(blood, fields, tmp_path, job, card, error, says):
    folder = {"blood": blood, "fields": fields}[card]
    with pytest.raises(error, match=says):
        compare.begin(blood, blood / "labels.json", folder / "card", job, tmp_path / "work", tmp_path / "results")


def test_other_material_is_for_comparison_alone(blood, tmp_path):
    bench = begin(blood, of_blood(use="research"), tmp_path)
    with pytest.raises(LicenceError, match=r"training\.use: comparison"):
        compare.main(bench)


def test_two_photographs_of_a_field_are_not_in_two_folds(fields, tmp_path):
    content = json.loads((fields / "labels.json").read_text())
    for path in fields.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with Image.open(fields / "Doe_0.png") as image:
        ImageEnhance.Brightness(image).enhance(0.8).save(tmp_path / "Doe_2.png")
    (tmp_path / "labels.json").write_text(json.dumps(content))
    given = fields / "card", declared(folds=6), tmp_path / "work", tmp_path / "results"
    with pytest.raises(
        LabelError, match=r"1 pairs of fields across the folds: Doe_0.png .* and Doe_2.png .* look alike"
    ):
        compare.begin(tmp_path, tmp_path / "labels.json", *given)
    for k in (0, 2):
        content["images"][k]["field_id"] = "one"
    (tmp_path / "labels.json").write_text(json.dumps(content))
    bench = compare.begin(tmp_path, tmp_path / "labels.json", fields / "card", declared(), *given[2:])
    assert bench.fields.folds[0] == bench.fields.folds[2]
