"""Slides and a file of labels to evidence maps and a table, through the pipeline."""

import csv

import numpy as np
import pytest
from programs import load_program

from wsi_detect.errors import LabelError, StaleArtifactError
from wsi_detect.testing.painter import lay_cells, paint_slide
from wsi_detect.tiling.evidence_map import FULL, EvidenceMap
from wsi_detect.tiling.evidence_summary import summarise

weak = load_program("pipelines/weak_heatmap.py")


def job(**changes):
    training = {
        "region": ["HSIL", "1"],
        "model": {"backbone": "timm/test_resnet", "last_stage": 1, "channels": [4]},
        "bag": {"bags": 2, "patches": 2, "top": 1, "augmentation": "flip"},
        "classifier": {"steps": 2},
        "decoder": {"steps": 2},
        "precision": "32-true",
        "accelerator": "cpu",
        "threads": 1,
        "description": {"name": "tiny"},
    }
    tiling = {"patch_px": 128, "mpp": 0.5, "overlap_px": 64, "codec": "jpeg", "mask": {"preparation": "none"}}
    return weak.JobConfig.model_validate(
        {"tiling": tiling, "evidence_training": training | changes, "evidence": {"reduce": 2, "threads": 1}}
    )


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    lines = ["path,slide_id,slide_label,split"]
    for k, (label, split) in enumerate([("HSIL", "train"), ("NILM", "train"), ("NILM", "test"), ("", "")]):
        cells = lay_cells(512, 384, 8, seed=k, bordering=0, clumped=0)
        paint_slide(folder / f"s{k}.svs", width=512, height=384, mpp=0.25, cells=cells, seed=k)
        lines.append(f"s{k}.svs,S{k},{label},{split}")
    (folder / "slides.csv").write_text("\n".join(lines) + "\n")
    return folder


def read(table):
    with table.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(slides, tmp_path_factory):
    out = tmp_path_factory.mktemp("weak")
    return weak.main([str(slides / "slides.csv")], None, job(), out), out


def test_every_slide_is_mapped_and_only_labelled_ones_are_trained_on(made):
    table, out = made
    rows = read(table)
    assert [(row["slide_id"], row["positive"], row["trained"]) for row in rows] == [
        ("S0", "1", "1"),
        ("S1", "0", "1"),
        ("S2", "0", "0"),
        ("S3", "", "0"),
    ]
    for row in rows:
        # 512 x 384 px of 0.25 µm.
        assert float(row["looked_mm2"]) == pytest.approx(512 * 384 * 0.25**2 / 1e6, rel=1e-5)
        assert 0 <= float(row["mean"]) <= float(row["highest"]) <= 1
        assert (out / row["slide_id"] / "evidence.geojson").is_file()
    found = EvidenceMap.open(out / "S0" / "heatmap.zarr")
    values = found.evidence((0, found.shape[0]), (0, found.shape[1]))
    assert float(rows[0]["mean"]) == pytest.approx(np.nanmean(values), rel=1e-4)
    assert float(rows[0]["highest"]) == pytest.approx(np.nanmax(values), rel=1e-4)
    level = float(np.nanmedian(values)) + 0.5 / FULL
    assert summarise(found, level).region_share == pytest.approx(np.nanmean(values > level), abs=1e-3)


def test_the_same_command_goes_on_and_another_is_refused(made, slides):
    table, out = made
    before = table.read_bytes()
    assert weak.main([str(slides / "slides.csv")], None, job(), out).read_bytes() == before
    with pytest.raises(StaleArtifactError, match="another configuration"):
        weak.main([str(slides / "slides.csv")], None, job(seed=1), out)


def test_labels_of_a_file_come_before_those_of_the_manifest(slides, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("slide_id,positive\nS0,0\nS3,1\n")
    rows = weak.list_slides([str(slides / "slides.csv")])
    found = weak.known(rows, labels, job().evidence_training)
    assert {name: targets.tolist() for name, targets in found.items()} == {"S0": [False], "S3": [True]}
    labels.write_text("slide_id,positive\nS9,1\n")
    with pytest.raises(LabelError, match="names slide S9, which is not among the slides"):
        weak.known(rows, labels, job().evidence_training)
