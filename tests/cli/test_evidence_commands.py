"""evidence, contours, gate-cost and hard-negatives, one after the other as a user would, with a network."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from wsi_detect import artifact, schema
from wsi_detect.data.index import build_index
from wsi_detect.detectors.evidence_bundle import save_evidence
from wsi_detect.detectors.evidence_info import EvidenceInfo
from wsi_detect.detectors.heatmap import build_evidence_model
from wsi_detect.tiling.evidence_map import EvidenceMap
from wsi_detect.tiling.patch_store import PatchStore

OPTIONS = {"backbone": "resnet18", "first_stage": 1, "last_stage": 1, "channels": (8,)}


@pytest.fixture(scope="module")
def evidence_bundle(tmp_path_factory):
    torch.manual_seed(1)
    model = build_evidence_model(["region"], OPTIONS)
    with torch.no_grad():
        model.decoder.head.weight.mul_(100)
    info = EvidenceInfo(
        "evidence", ("region",), ("HSIL",), 128, 0.25, False, "smear", 40, model.stride_px, 0.6, OPTIONS, "none"
    )
    folder = tmp_path_factory.mktemp("evidence")
    save_evidence(folder, model, info, "# evidence\n")
    return folder


@pytest.fixture(scope="module")
def labels(small_painted, tmp_path_factory):
    rows = [
        {
            "slide_id": "A", "annotation_id": str(k), "label": cell.label, "source_label": cell.label,
            **dict(zip(schema.BOX_COLUMNS, cell.box, strict=True)),
        }
        for k, cell in enumerate(small_painted.cells)
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("labels") / "annotations.parquet"
    artifact.write_table(path, artifact.table_of(rows, schema.ANNOTATIONS), schema.ANNOTATIONS)
    return path


def test_from_a_tiled_slide_to_hard_negatives(cli, small_painted, evidence_bundle, labels, tmp_path):
    work = tmp_path / "work" / "A"
    manifest = tmp_path / "slides.csv"
    manifest.write_text(f"path,slide_id,slide_label\n{small_painted.path},A,NILM\n")
    tile = ("--set", "tiling.patch_px=128", "--set", "tiling.overlap_px=32", "--set", "tiling.codec=none")
    assert cli("tile", manifest, "--out", tmp_path / "work", *tile)[0] == 0
    sizes = ("--set", "evidence.reduce=2", "--set", "evidence.threads=1")
    command = ("evidence", work, "--model", evidence_bundle, "--slide", small_painted.path, "--workers", "0", *sizes)
    code, out, err = cli(*command, "--device", "cpu")
    assert (code, out.strip()) == (0, str(work / "heatmap.zarr")), err
    found = EvidenceMap.open(work / "heatmap.zarr")
    assert found.shape == (256, 320)

    changed = (*command, "--device", "cpu", "--set", "evidence.threads=2")
    code, _, err = cli(*changed)
    assert code != 0
    assert "made with another config; use --overwrite" in err.splitlines()[-1]
    assert cli(*changed, "--overwrite")[0] == 0

    code, out, _ = cli("contours", work, "--set", "contours.min_area_um2=0")
    assert code == 0
    regions = json.loads((work / "exports" / "evidence.geojson").read_text())["features"]
    assert f": {len(regions)} regions" in out
    assert len(regions) > 0

    # What a shell makes of `work/*`: tables of the run, and a slide that could not be opened.
    artifact.write_json(
        tmp_path / "work" / "B" / "status.json", {"slide_id": "B", "status": "NOT SCREENED", "reason": "B is empty"}
    )
    works = sorted((tmp_path / "work").iterdir())
    assert not all(path.is_dir() for path in works)
    figures = tmp_path / "gates.json"
    code, out, err = cli("gate-cost", *works, "--annotations", labels, "--thresholds", "0.0,0.6", "--json", figures)
    assert code == 0, err
    assert "left out: B: NOT SCREENED: B is empty" in err
    written = artifact.read_json(figures)
    assert (written["slides"], written["left_out"]) == (1, {"B": "NOT SCREENED: B is empty"})
    gates = written["gates"]
    assert [gate["threshold"] for gate in gates] == [0.0, 0.6]
    assert sum(counts["cells"] for counts in gates[0]["cells"].values()) + gates[0]["outside"] == len(
        small_painted.cells
    )
    assert f"{gates[1]['not_shown']} of {gates[1]['patches']}" in out
    outside = gates[0]["outside"]
    counted = f"{len(small_painted.cells) - outside} cells of 1 slides are counted; {outside} more lie outside"
    assert counted in out

    empty = tmp_path / "none.parquet"
    artifact.write_table(empty, artifact.empty_table(schema.ANNOTATIONS), schema.ANNOTATIONS)
    store = PatchStore.open(work / "patches.zarr")
    index = build_index({"A": store}, empty, {"A": "train"}, tmp_path / "dataset", ["HSIL"])
    listed = ("--index", index, "--slides", manifest, "--out", tmp_path / "hard", "--most", "3")
    code, out, err = cli("hard-negatives", *works, *listed)
    assert code == 0, err
    assert "left out: B: NOT SCREENED: B is empty" in err
    with (tmp_path / "hard" / "hard_negatives.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    peaks = found.columns["core_max"]
    assert float(rows[0]["evidence"]) == pytest.approx(np.nanmax(peaks))
    shutil.copytree(work, tmp_path / "again" / "A")
    code, _, err = cli("hard-negatives", work, tmp_path / "again" / "A", *listed)
    assert code == 2
    assert "are folders of one slide; give one of them" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gate-cost", "x", "--thresholds", "0.5,high"), "expected numbers"),
        (("gate-cost", "x", "--thresholds", "1.5"), r"lies in [0, 1)"),
        (("gate-cost", "x", "--area", "tile"), "patch or core"),
        (("run", "SLIDE", "--out", "OUT", "--set", "gate.threshold=0.5"), "use --evidence-model"),
    ],
)
def test_one_line_says_what_is_wrong(cli, words, message, small_painted, tmp_path):
    given = {"SLIDE": small_painted.path, "OUT": tmp_path / "out"}
    code, _, err = cli(*(given.get(word, word) for word in words))
    assert code == 2
    assert message in err.splitlines()[-1]
