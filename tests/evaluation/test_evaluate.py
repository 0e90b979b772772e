"""From a COCO file and a folder to the flat keys; from cell tables to the table of metrics; the baseline."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_detect import artifact
from wsi_detect.errors import LabelError, NonFiniteError
from wsi_detect.evaluation.baseline import DarkBlobs, components
from wsi_detect.evaluation.evaluate import WholeImage, evaluate_fields
from wsi_detect.evaluation.fields import FieldPrediction, read_fields
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.evaluation.slides import evaluate_cells
from wsi_detect.schema import ANNOTATIONS, CELLS, METRICS
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.cell_map import CellMap

NAMES = {1: "NILM", 2: "LSIL", 3: "HSIL", 4: "AGC"}
#: file → (width, height), cells as (category, x, y, side)
FIELDS = {
    "a.png": ((200, 120), [(1, 10, 10, 40), (2, 100, 20, 50)]),
    "b.png": ((160, 160), [(3, 30, 40, 60)]),
    "c.png": ((64, 48), []),
}


def write_fields(folder: Path) -> Path:
    """Fields whose px hold the class: 255 minus 40 times the category inside a cell, white elsewhere."""
    images, annotations = [], []
    for number, (name, (size, cells)) in enumerate(FIELDS.items(), start=1):
        pixels = np.full((size[1], size[0], 3), 255, np.uint8)
        for category, x, y, side in cells:
            pixels[y : y + side, x : x + side] = 255 - 40 * category
            box = {"bbox": [x, y, side, side], "area": side**2, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": category, **box})
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
    categories = [{"id": key, "name": name} for key, name in NAMES.items()]
    coco = folder / "truth.json"
    coco.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return coco


class Seer:
    """Reads the class from the px: a perfect detector of the fields above, at any scale."""

    classes = ("NILM", "LSIL", "HSIL", "SCC")

    def __call__(self, image: np.ndarray) -> FieldPrediction:
        boxes, labels = [], []
        for category, name in NAMES.items():
            here = np.abs(image[..., 0].astype(int) - (255 - 40 * category)) < 12
            # The blurred rim of a darker cell has this cell's grey, but is thin.
            rows, columns = np.nonzero(here[4:-4, 4:-4] & here[8:, 8:] & here[:-8, :-8])
            if len(rows):
                boxes.append([columns.min(), rows.min(), columns.max() + 9, rows.max() + 9])
                labels.append(name)
        return FieldPrediction("", np.array(boxes, float).reshape(-1, 4), np.full(len(labels), 0.9), labels)


def test_perfect_detector(tmp_path):
    result = evaluate_fields(Seer(), write_fields(tmp_path), tmp_path, EvaluationConfig(replicates=50))
    expected = {
        "ap50/NILM": 1.0,
        "ap50/LSIL": 1.0,
        "ap50/HSIL": 1.0,
        "ap50/SCC": None,
        "ap50/mean": 1.0,
        "ap50/agnostic": 1.0,
        "recall@1fppi/any_abnormal": 1.0,
        "recall@4fppi/any_abnormal": 1.0,
        "n/NILM": 1,
        "n/LSIL": 1,
        "n/HSIL": 1,
        "n/SCC": 0,
        "n/agnostic": 3,
        "n/any_abnormal": 2,
        "images": 3,
    }
    assert {key: value for key, value in result.items() if not key.startswith("ci_")} == expected
    assert (result["ci_low/ap50/mean"], result["ci_high/ap50/mean"]) == (1.0, 1.0)
    assert result["ci_low/ap50/SCC"] is None
    assert result["ci_undefined/ap50/SCC"] == 50
    assert 0 < result["ci_undefined/ap50/HSIL"] < 50
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("rescale", [0.8, 1.25])
def test_rescaled_fields_keep_boxes_on_cells(tmp_path, rescale):
    config = EvaluationConfig(replicates=0, rescale=rescale)
    result = evaluate_fields(Seer(), write_fields(tmp_path), tmp_path, config)
    assert result["ap50/mean"] == 1.0
    assert not any(key.startswith("ci_") for key in result)


def test_class_the_detector_does_not_know_has_zero(tmp_path):
    class OnlyNilm(Seer):
        classes = ("NILM",)

        def __call__(self, image):
            found = super().__call__(image)
            return FieldPrediction("", found.boxes, found.scores, ["NILM"] * len(found.labels))

    result = evaluate_fields(OnlyNilm(), write_fields(tmp_path), tmp_path, EvaluationConfig(replicates=0))
    assert (result["ap50/HSIL"], result["ap50/agnostic"], result["recall@4fppi/any_abnormal"]) == (0.0, 1.0, 0.0)
    # NILM's two wrong names score the same as the right one and may come before it.
    assert result["ap50/mean"] == pytest.approx(result["ap50/NILM"] / 3)


def test_non_finite_model_is_refused(tmp_path):
    class Patches:
        class info:  # noqa: N801
            classes = ("NILM",)

        def __call__(self, patches):
            assert patches.shape[0] == 1

            class Found:
                boxes, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
                labels, class_scores = np.zeros(0, np.int64), np.zeros((0, 1), np.float32)

                def is_finite(self):
                    return False

            return [Found()]

    with pytest.raises(NonFiniteError):
        evaluate_fields(WholeImage(Patches()), write_fields(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["categories"][1].update(name="wart"), "wart"),
        (lambda c: c["images"][0].update(file_name="z.png"), "does not exist"),
        (lambda c: c["images"][0].update(width=201), "200 x 120 px, the truth says 201 x 120"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 0, 4]), "without area"),
        (lambda c: c.pop("annotations"), "not a COCO file"),
        (lambda c: c.update(images=[], annotations=[]), "names no image"),
    ],
)
def test_faulty_truth_is_named(tmp_path, change, message):
    coco = write_fields(tmp_path)
    content = json.loads(coco.read_text())
    change(content)
    coco.write_text(json.dumps(content))
    with pytest.raises(LabelError, match=message):
        evaluate_fields(Seer(), coco, tmp_path, EvaluationConfig(replicates=0))


def test_crowds_are_ignored_and_unused_categories_may_have_any_name(tmp_path):
    coco = write_fields(tmp_path)
    content = json.loads(coco.read_text())
    content["annotations"][0]["iscrowd"] = 1
    content["categories"].append({"id": 9, "name": "scratch"})
    coco.write_text(json.dumps(content))
    field = read_fields(coco)[0]
    assert field.labels == ["LSIL"]
    assert field.ignore.tolist() == [[10, 10, 50, 50]]


def write_slides(folder: Path) -> tuple[list[Path], Path]:
    box = {"x0_px": 0.0, "y0_px": 0.0, "x1_px": 50.0, "y1_px": 50.0}
    far = {"x0_px": 900.0, "y0_px": 0.0, "x1_px": 950.0, "y1_px": 50.0}
    empty = {"class_scores": None, "geometry": None, "support": 1}
    paths = []
    for slide, rows in {"S1": [(box, "HSIL", 0.9), (far, "NILM", 0.8)], "S2": [(far, "HSIL", 0.95)]}.items():
        cells = [
            {"cell_id": f"{slide}-{k}", "slide_id": slide, **place, "label": label, "score": score, **empty}
            for k, (place, label, score) in enumerate(rows)
        ]
        paths.append(folder / slide / "cells.parquet")
        info = SlideInfo(slide, Path(), 1000, 800, 0.25, "file", (1.0,))
        CellMap(info, artifact.table_of(cells, CELLS), ("NILM", "HSIL"), "m").write(paths[-1])
    fact = {"geometry": None, "annotator": None, "source_label": "x"}
    truth = [{"slide_id": "S1", "annotation_id": "1", "label": "HSIL", **box, **fact}]
    annotations = folder / "annotations.parquet"
    artifact.write_table(annotations, artifact.table_of(truth, ANNOTATIONS), ANNOTATIONS)
    return paths, annotations


@pytest.mark.parametrize(("slides", "expected"), [(None, 1.0), (["S1", "S2"], 0.5)])
def test_cells_of_slides(tmp_path, slides, expected):
    cells, annotations = write_slides(tmp_path)
    path = evaluate_cells(cells, annotations, tmp_path, EvaluationConfig(replicates=20), slides=slides)
    rows = {
        (row["metric"], row["label"], row["threshold"]): row
        for row in artifact.read_table(path, METRICS).to_pylist()
        if row["unit"] in (None, "slide") and row["subset"] is None
    }
    # With S2 among the annotated slides its HSIL is a false positive that comes first.
    assert rows["ap50", "HSIL", 0.5]["value"] == pytest.approx(expected)
    assert rows["ap50", "NILM", 0.5]["value"] is None
    assert rows["recall", "any_abnormal", 1.0]["value"] == 1.0
    assert rows["recall", "any_abnormal", 10.0]["n"] == 1


def test_components_by_hand():
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 1], [1, 0, 1, 1], [1, 1, 1, 0]], bool)
    labels, count = components(mask)
    assert labels.tolist() == [[1, 1, 0, 2], [0, 0, 0, 2], [2, 0, 2, 2], [2, 2, 2, 0]]
    assert count == 2
    assert components(np.zeros((3, 3), bool))[1] == 0


def test_dark_blobs_are_found_and_called_nilm():
    image = np.full((300, 400, 3), 220, np.uint8)
    y, x = np.indices((300, 400))
    for centre in ((80, 100), (250, 200)):
        image[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 15**2] = 60
    image[10:13, 10:13] = 0  # too small
    found = DarkBlobs(box_px=80)(image)
    assert found.labels == ["NILM", "NILM"]
    assert np.abs(found.boxes - [[40, 60, 120, 140], [210, 160, 290, 240]]).max() < 1
    assert ((found.scores > 0.5) & (found.scores < 1)).all()
    assert len(DarkBlobs()(np.full((50, 50, 3), 200, np.uint8)).scores) == 0
