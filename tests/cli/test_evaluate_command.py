"""The command evaluate: fields with a model, finished slides, into a folder; and what it refuses."""

import json
from pathlib import Path

import pytest

from wsi_detect import artifact, schema
from wsi_detect.annotations.rois import Roi, write_rois
from wsi_detect.errors import EXIT_INVALID_INPUT, EXIT_OK, EXIT_USAGE
from wsi_detect.evaluation.results import EvaluationRun
from wsi_detect.geometry import Box
from wsi_detect.inference import RUNTIMES
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.testing import blobs
from wsi_detect.testing.painter import paint_region, paint_slide

FEW = ("--set", "evaluation.replicates=10")


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setitem(RUNTIMES, "torch", blobs.load)


def write_fields(folder: Path) -> tuple:
    """Two painted fields, each of a slide of its own."""
    from PIL import Image

    images, annotations, names = [], [], {"NILM": 1}
    for number in (1, 2):
        slide = paint_slide(folder / f"{number}.svs", width=384, height=384, n_cells=6, seed=number)
        pixels = paint_region(slide.cells, width=384, height=384, seed=number)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        facts = {"slide_id": f"S{number}", "mpp": 0.25}
        images.append({"id": number, "file_name": f"{number}.png", "width": 384, "height": 384, **facts})
        for cell in slide.cells:
            box = [cell.box.x0, cell.box.y0, cell.box.width, cell.box.height]
            category = names.setdefault(cell.label, len(names) + 1)
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": box}
            annotations.append(entry)
    categories = [{"id": key, "name": name} for name, key in names.items()]
    coco = folder / "truth.json"
    coco.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return "--model", blobs.write_bundle(folder / "bundle"), "--coco", coco, "--images", folder


def test_fields_into_a_folder(cli, tmp_path):
    out = tmp_path / "out"
    words = (*write_fields(tmp_path), "--out", out, "--json", tmp_path / "flat.json", "--name", "painted", *FEW)
    code, printed, error = cli("evaluate", *words)
    assert code == EXIT_OK, error
    run = EvaluationRun.read(out)
    assert (len(run.truths), run.about["data"], run.about["resampled"]) == (2, "painted", "slide")
    assert (run.about["detection"]["score_threshold"], run.about["detection"]["nms"]) == (0.01, "class")
    assert {row["unit"] for row in run.metrics if row["metric"] == "recall"} == {"field", "slide", "mm2"}
    assert "10 replicates of 2 slides" in printed
    assert "n/a" in printed
    assert "-1.000" not in printed
    assert printed.strip().endswith("evaluation.html")
    page = (out / "evaluation.html").read_text()
    assert "painted" in page
    flat = json.loads((tmp_path / "flat.json").read_text())
    table = {row["label"]: row["value"] for row in run.metrics if row["metric"] == "ap50" and row["subset"] is None}
    assert flat["ap50/agnostic"] == table["agnostic"]


def write_slide(folder: Path) -> tuple:
    """A slide of two cells, one of them outside the region that was annotated, and a false alarm outside too."""
    boxes = {"in": Box(10, 10, 50, 50), "out": Box(500, 10, 540, 50), "wrong": Box(700, 10, 740, 50)}

    def rows(names, **more):
        fields = [
            {"slide_id": "S1", "x0_px": b.x0, "y0_px": b.y0, "x1_px": b.x1, "y1_px": b.y1}
            for b in map(boxes.get, names)
        ]
        return [{**row, "label": "HSIL", "geometry": None, **more} for row in fields]

    cells = [
        {**row, "cell_id": f"c{k}", "score": 0.9 - k / 10, "class_scores": None, "support": 1}
        for k, row in enumerate(rows(["wrong", "in"]))
    ]
    info = SlideInfo("S1", Path(), 1000, 800, 0.25, "file", (1.0,))
    CellMap(info, artifact.table_of(cells, schema.CELLS), ("HSIL",), "m").write(folder / "cells.parquet")
    truth = [
        {**row, "annotation_id": f"a{k}", "annotator": None, "source_label": "x"}
        for k, row in enumerate(rows(["in", "out"]))
    ]
    path = folder / "annotations.parquet"
    artifact.write_table(path, artifact.table_of(truth, schema.ANNOTATIONS), schema.ANNOTATIONS)
    return "--cells", folder / "cells.parquet", "--annotations", path


@pytest.mark.parametrize(("with_roi", "expected"), [(False, 0.5 * 51 / 101), (True, 1.0)])
def test_slides_count_inside_their_regions(cli, tmp_path, with_roi, expected):
    import shapely

    words = write_slide(tmp_path)
    if with_roi:
        write_rois(tmp_path, [Roi("S1", "1", shapely.box(0, 0, 200, 200))])
    code, _, error = cli("evaluate", *words, "--out", tmp_path / "out", *FEW)
    assert code == EXIT_OK, error
    run = EvaluationRun.read(tmp_path / "out")
    assert (run.truths[0].slide_id, run.about["kind"], run.about["model_id"]) == ("S1", "slides", "m")
    values = {row["label"]: row["value"] for row in run.metrics if row["metric"] == "ap50" and row["subset"] is None}
    assert values["HSIL"] == pytest.approx(expected)
    assert (tmp_path / "out" / "evaluation.html").is_file()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), EXIT_USAGE, "--coco and --images"),
        (("--coco", "a.json"), EXIT_USAGE, "--coco and --images"),
        (("--coco", "a", "--images", "b", "--cells", "c"), EXIT_USAGE, "--coco and --images"),
        (("--coco", "a", "--images", "b", "--out", "f.json"), EXIT_USAGE, "--json"),
        (("--cells", "absent", "--annotations", "absent"), EXIT_INVALID_INPUT, "absent"),
        (("--coco", "a", "--images", "b", "--chosen-on", "nowhere"), EXIT_INVALID_INPUT, "nowhere"),
    ],
)
def test_what_is_refused(cli, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    found, _, error = cli("evaluate", *words)
    assert (found, message in error) == (code, True), error
    assert list(tmp_path.iterdir()) == []
