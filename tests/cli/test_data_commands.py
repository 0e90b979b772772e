"""`annotate` and `index`, from labels in COCO to the table training draws from; `evaluate` on the slides as fields."""

import json
import sys
from pathlib import Path

import pytest

from wsi_detect import artifact, schema
from wsi_detect.cli.main import main
from wsi_detect.data.index import read_index
from wsi_detect.inference import RUNTIMES
from wsi_detect.testing import blobs
from wsi_detect.testing.painter import paint_region, paint_slide


@pytest.fixture
def cli(monkeypatch, capfd):
    monkeypatch.setitem(RUNTIMES, "torch", blobs.load)

    def go(*words) -> str:
        monkeypatch.setattr(sys, "argv", ["wsi-detect", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capfd.readouterr()
        assert not caught.value.code, err
        return out

    return go


def labels(cells, name: str, size: int) -> dict:
    numbers = {label: k for k, label in enumerate(sorted({cell.label for cell in cells}), start=1)}
    boxes = [(numbers[cell.label], [cell.box.x0, cell.box.y0, cell.box.width, cell.box.height]) for cell in cells]
    return {
        "images": [{"id": 1, "file_name": name, "width": size, "height": size}],
        "categories": [{"id": number, "name": label} for label, number in numbers.items()],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": number, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for k, (number, box) in enumerate(boxes, start=1)
        ],
    }


def test_labels_become_an_index(cli, tmp_path):
    slide = paint_slide(tmp_path / "a.svs", width=512, height=512, n_cells=10, seed=3)
    (tmp_path / "labels.json").write_text(json.dumps(labels(slide.cells, "a.svs", 512)))
    (tmp_path / "slides.csv").write_text("slide_id,path,split\nA,a.svs,train\n")
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "classes.yaml").write_text("".join(f"{c}: {c}\n" for c in ("NILM", "LSIL", "HSIL", "SCC")))
    data, slides = tmp_path / "data", tmp_path / "slides.csv"
    given = ["--slides", slides, "--card", tmp_path / "card", "--out", data]
    annotations = Path(cli("annotate", tmp_path / "labels.json", *given).strip())
    assert artifact.read_table(annotations, schema.ANNOTATIONS).num_rows == 10
    cli(
        "tile",
        slide.path,
        "--slide-id",
        "A",
        "--out",
        data,
        "--set",
        "tiling.patch_px=256",
        "--set",
        "tiling.overlap_um=20",
    )
    index = cli("index", slides, "--stores", data, "--annotations", annotations, "--out", data / "dataset").strip()
    found = read_index(Path(index))
    assert set(found.slide_ids) == {"A"}
    assert found.counts.sum() >= 10


def test_figures_of_a_labelled_field(cli, tmp_path):
    from PIL import Image

    slide = paint_slide(tmp_path / "a.svs", width=512, height=512, n_cells=10, seed=3)
    Image.fromarray(paint_region(slide.cells, width=512, height=512, seed=3)).save(tmp_path / "a.png")
    (tmp_path / "truth.json").write_text(json.dumps(labels(slide.cells, "a.png", 512)))
    bundle = blobs.write_bundle(tmp_path / "bundle")
    words = ["--model", bundle, "--coco", tmp_path / "truth.json", "--images", tmp_path, "--json", tmp_path / "f.json"]
    out = cli("evaluate", *words, "--set", "evaluation.replicates=10")
    figures = json.loads((tmp_path / "f.json").read_text())
    assert {"ap50/mean", "ap50/agnostic", "recall@1fppi/any_abnormal", "recall@4fppi/any_abnormal"} <= set(figures)
    assert figures["n/NILM"] == sum(cell.label == "NILM" for cell in slide.cells)
    assert "AP at IoU 0.5" in out
