from dataclasses import asdict, replace

import numpy as np
import pytest

from wsi_detect import artifact, schema
from wsi_detect.errors import StaleArtifactError
from wsi_detect.geometry import Box
from wsi_detect.inference.detect import detect_patches
from wsi_detect.inference.evidence import EvidenceConfig, map_evidence
from wsi_detect.inference.gate import GateConfig, lay_gate, patch_peaks
from wsi_detect.slides import open_slide
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.stitching.stitcher import StitchingConfig, stitch_detections
from wsi_detect.testing import blobs, dark_evidence
from wsi_detect.testing.hand_map import write_map
from wsi_detect.testing.painter import PaintedCell, paint_slide
from wsi_detect.tiling.evidence_map import EvidenceMap
from wsi_detect.tiling.patch_store import PatchStore, runs_of
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

RULE = {"patch_px": 128, "overlap_px": 64, "codec": "zstd", "shard_patches": 8, "mask": {"preparation": "none"}}


CELLS = [
    *(("HSIL", x, y) for x, y in ((60, 60), (118, 70), (70, 190), (300, 64))),
    *(("NILM", x, y) for x, y in ((80, 130), (560, 450), (500, 330), (330, 460))),
]


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    """Dark nuclei at the upper left, some on borders of cores, and pale cells all over."""
    cells = [PaintedCell(label, Box(x - 20.0, y - 20.0, x + 20.0, y + 20.0)) for label, x, y in CELLS]
    return paint_slide(tmp_path_factory.mktemp("slide") / "gate.svs", width=640, height=512, cells=cells).path


@pytest.fixture(scope="module")
def work(slide_path, tmp_path_factory):
    """A tiled slide with its map."""
    out = tmp_path_factory.mktemp("gated")
    with open_slide(slide_path, slide_id="A") as slide:
        tile_slide(slide, out, TilingConfig.model_validate(RULE))
    model = dark_evidence.load(dark_evidence.write_bundle(out / "bundle"))
    map_evidence(PatchStore.open(out / "patches.zarr"), model, out, EvidenceConfig(reduce=2))
    return out


@pytest.fixture
def store(work):
    return PatchStore.open(work / "patches.zarr")


@pytest.fixture
def found(work):
    return EvidenceMap.open(work / "heatmap.zarr")


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return blobs.load(blobs.write_bundle(tmp_path_factory.mktemp("blobs"), patch_px=128))


def test_no_threshold_no_gate(found, store):
    assert lay_gate(found, store, GateConfig()) is None


def test_peaks_are_of_all_a_patch_shows(found, store):
    values = found.evidence((0, found.shape[0]), (0, found.shape[1]))
    peaks, cores = patch_peaks(found, store), patch_peaks(found, store, "core")
    for row in range(len(store)):
        x, y = store.origin_px[row] // 2
        # A block may own a px that sticks out of its patch by half; patches here begin at whole px of the map.
        assert peaks[row] == pytest.approx(values[y : y + 64, x : x + 64].max(), abs=1e-6)
    assert (peaks >= cores).all()
    assert (peaks > cores).any()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_counts_of_a_gate(found, store, share):
    gate = lay_gate(found, store, GateConfig(threshold=0.5, audit_share=share))
    counts = gate.counts()
    below = int((patch_peaks(found, store) <= 0.5).sum())
    assert 0 < below < len(store)
    assert counts["patches"] == len(store) == counts["passed"] + counts["audited"] + counts["not_shown"]
    assert counts["passed"] == len(store) - below
    assert counts["audited"] == int(np.ceil(share * below))
    assert not (gate.passed & gate.audited).any()
    again = lay_gate(found, store, GateConfig(threshold=0.5, audit_share=share))
    assert (again.shown == gate.shown).all()


def test_where_there_is_no_answer_the_gate_is_open(found, store):
    states = found.columns["state"].copy()
    below = np.flatnonzero(patch_peaks(found, store) <= 0.5)
    states[below[:2]] = 2
    gate = lay_gate(
        replace(found, columns={**found.columns, "state": states}), store, GateConfig(threshold=0.5, audit_share=0)
    )
    assert gate.shown[below].tolist() == [True, True] + [False] * (len(below) - 2)


@pytest.fixture(scope="module")
def rim(tmp_path_factory):
    """An open slide, its store without patch 1, and the map of that; a small dark nucleus lies in the core of patch 1.

    Patch 0 shows all of it, its middle 9 px beyond its own core.
    """
    out = tmp_path_factory.mktemp("rim")
    cells = [PaintedCell("HSIL", Box(x - r, y - r, x + r, y + r)) for x, y, r in ((105, 48, 9.0), (400, 300, 20.0))]
    path = paint_slide(out / "rim.svs", width=640, height=512, cells=cells).path
    model = dark_evidence.load(dark_evidence.write_bundle(out / "bundle"))
    with open_slide(path, slide_id="A") as slide:
        whole = tile_slide(slide, out, TilingConfig.model_validate({**RULE, "codec": "none"}))
        rows = np.flatnonzero(whole.patch_ids != 1)
        store = replace(
            whole,
            patch_ids=whole.patch_ids[rows],
            _origins=whole.origin_px[rows],
            columns={name: values[rows] for name, values in whole.columns.items()},
            shards=runs_of(len(rows), 8),
        )
        yield slide, store, EvidenceMap.open(map_evidence(store, model, out, EvidenceConfig(reduce=2)))


def test_a_patch_that_shows_what_nobody_looked_at_passes(rim):
    """With `core` its own core alone counts, which was looked at."""
    _, store, found = rim
    x0, y0, x1, y1 = store.grid.cores()[1]
    views = store.grid.boxes()[store.patch_ids]
    beside = (views[:, 0] < x1) & (views[:, 2] > x0) & (views[:, 1] < y1) & (views[:, 3] > y0)
    assert store.patch_ids[beside].tolist() == [0, 2, 9, 10, 11]
    assert (np.isnan(patch_peaks(found, store)) == beside).all()
    assert np.isfinite(patch_peaks(found, store, "core")).all()


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_no_cell_is_lost_at_the_edge_of_what_was_mapped(rim, detector, tmp_path, threshold):
    slide, store, found = rim
    gate = lay_gate(found, store, GateConfig(threshold=threshold, audit_share=0.0))
    assert gate.counts()["not_shown"] > 0
    boxes = []
    for name, used in (("all", None), ("gated", gate)):
        out = tmp_path / name
        detect_patches(store, detector, out, gate=used)
        stitch_detections(out / "detections", store.grid, slide.info, out, StitchingConfig(), model_id="m")
        boxes.append(CellMap.read(out / "cells.parquet").boxes())
    assert len(boxes[0]) == 2
    assert (boxes[0] == boxes[1]).all()


def test_a_px_nobody_looked_at_opens_the_gate_of_its_core(tmp_path):
    values = np.full((32, 32), 0.5)
    values[3, 20] = np.nan
    found = write_map(tmp_path, values)
    left, right = np.array([[0.0, 0, 64, 64]]), np.array([[64.0, 0, 128, 64]])
    assert [found.peaks(box, whole=True)[0] for box in (left, right)] == pytest.approx([0.5, np.nan], nan_ok=True)
    assert found.peaks(right)[0] == pytest.approx(0.5)
    # What lies beyond the slide has no px, and an edge a hair beyond a px touches no other.
    assert found.peaks(np.array([[-50.0, -50, 64 + 1e-9, 64]]), whole=True)[0] == pytest.approx(0.5)


def test_a_map_of_other_patches_is_refused(found, store):
    """Also of as many patches with the same numbers, in another grid or of another file."""
    ids = found.columns["patch_id"][:-1]
    others = [
        (replace(found, columns={**found.columns, "patch_id": ids}), "other patches"),
        (
            replace(found, attributes={**found.attributes, "grid": asdict(replace(store.grid, shift=16))}),
            "other patches",
        ),
        (replace(found, attributes={**found.attributes, "key": {"slide": "0" * 64}}), "another slide file"),
    ]
    for other, what in others:
        with pytest.raises(StaleArtifactError, match=f"made from {what} than"):
            patch_peaks(other, store)


def cells_of(store, detector, out, slide_path, gate):
    detect_patches(store, detector, out, gate=gate)
    scale = store.grid.patch / store.patch_px
    with open_slide(slide_path, slide_id="A") as slide:
        stitch_detections(out / "detections", store.grid, slide.info, out, StitchingConfig(), model_id="m", scale=scale)
    return CellMap.read(out / "cells.parquet")


def test_cells_with_evidence_come_out_as_without_the_gate(found, store, detector, slide_path, tmp_path):
    """Every patch that has any of them in view is shown, so stitching has all their views."""
    gate = lay_gate(found, store, GateConfig(threshold=0.9, audit_share=0.0))
    assert gate.counts()["not_shown"] > len(store) / 4
    everything = cells_of(store, detector, tmp_path / "all", slide_path, None)
    gated = cells_of(store, detector, tmp_path / "gated", slide_path, gate)
    strong = found.peaks(everything.boxes()) > 0.9
    ids = everything.table["cell_id"].to_pylist()
    kept = {name for name, chosen in zip(ids, strong, strict=True) if chosen}
    assert len(kept) == 4
    assert kept <= set(gated.table["cell_id"].to_pylist()) < set(ids)


def test_every_patch_left_out_is_on_record(found, store, detector, tmp_path):
    gate = lay_gate(found, store, GateConfig(threshold=0.5, audit_share=0.2))
    detect_patches(store, detector, tmp_path, gate=gate)
    rows = artifact.read_table(tmp_path / "patches.parquet", schema.PATCHES).to_pylist()
    assert [row["patch_id"] for row in rows] == store.patch_ids.tolist()
    assert [row["status"] == "gated" for row in rows] == (~gate.shown).tolist()
    left_out = next(row for row in rows if row["status"] == "gated")
    assert left_out["reason"].endswith("gate 0.5")
    for other in (None, lay_gate(found, store, GateConfig(threshold=0.7, audit_share=0.2))):
        with pytest.raises(StaleArtifactError, match="gate"):
            detect_patches(store, detector, tmp_path, gate=other)
