"""Maps of whole slides: against one pass over the whole picture, at seams, for any workers and batches, after kills."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import zarr
from PIL import Image
from tiny_evidence import HEIGHT, INFO, WIDTH, TinyNet, files, mapped

from wsi_detect import artifact, schema
from wsi_detect.errors import (
    ArtifactError,
    ConfigError,
    MissingArtifactError,
    ResolutionMismatchError,
    StaleArtifactError,
)
from wsi_detect.inference.evidence import PARTS, EvidenceConfig, finish, is_mapped, map_evidence, map_part
from wsi_detect.inference.windows import Demand, look
from wsi_detect.slides import open_slide
from wsi_detect.testing.dark_evidence import load, write_bundle
from wsi_detect.tiling.evidence_map import NOT_LOOKED
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide


def whole(picture, reduce):
    """The network over the whole picture at once; means of squares, fewer px at the far edges."""
    maps = TinyNet()(np.array(Image.open(picture))[None])[0].astype(np.float64)
    rows = range(0, HEIGHT, reduce)
    return np.array([[maps[y : y + reduce, x : x + reduce].mean() for x in range(0, WIDTH, reduce)] for y in rows])


@pytest.mark.parametrize("reduce", [1, 4, 5])
@pytest.mark.parametrize(
    ("codec", "overlap", "source"), [("zstd", 36, "patches"), ("zstd", 8, "slide"), ("none", 0, "slide")]
)
def test_the_map_of_patches_is_that_of_one_pass(stores, slide, picture, tmp_path, reduce, codec, overlap, source):
    store = PatchStore.open(stores(codec, overlap), slide)
    found, values = mapped(store, tmp_path, reduce=reduce)
    assert found.attributes["source"] == source
    expected = whole(picture, reduce)
    assert values.shape == expected.shape == (-(-HEIGHT // reduce), -(-WIDTH // reduce))
    assert np.ptp(expected) > 0.4
    np.testing.assert_allclose(values, expected, atol=1e-4)


def test_no_step_across_core_borders_is_larger_than_inside_them(stores, slide, tmp_path):
    """Not even where no two patches have the same phase; a margin of nothing shows that the test would notice."""
    store = PatchStore.open(stores("none", 8, 0.31), slide)
    steps = {}
    for margin in (None, 0):
        model = TinyNet(replace(INFO, mpp=0.31))
        _, values = mapped(store, tmp_path / str(margin), model, reduce=1, margin_px=margin)
        sight = look(store, Demand(0.31, 0.02, INFO.margin_px, 4, 1))
        seams = np.unique(sight.blocks[:, 0])[1:]
        across = np.abs(np.diff(values, axis=1))
        inside = np.delete(across, seams - 1, axis=1)
        assert len(seams) > 3
        steps[margin] = across[:, seams - 1].mean() / inside.mean()
        assert (across[:, seams - 1].max() <= inside.max()) or margin == 0
    # The network steps at multiples of 4 px; borders of cores lie there as often as anywhere.
    assert steps[None] < 1.6 < steps[0]


def test_stock_zarr_reads_the_same(stores, slide, tmp_path):
    found, values = mapped(PatchStore.open(stores(), slide), tmp_path)
    group = zarr.open_group(found.path, mode="r")
    plane = group["evidence"]
    codes = plane[:]
    assert (plane.shape, codes.dtype, plane.fill_value) == (values.shape, np.uint16, NOT_LOOKED)
    np.testing.assert_allclose(codes * plane.attrs["scale_factor"], values, atol=1e-6)
    assert group["patch_id"][:].tolist() == list(range(len(group["state"][:])))
    assert group.attrs["model_id"] == "tiny@1"
    assert group.attrs["states"] == {"done": len(group["state"][:]), "unreadable": 0, "failed": 0}
    assert (group.attrs["px"], group.attrs["mpp"], group.attrs["threshold"]) == (4.0, 1.0, 0.5)


def test_parts_mapped_in_any_order_give_the_same_bytes(stores, slide, tmp_path):
    store = PatchStore.open(stores(), slide)
    map_evidence(store, TinyNet(), tmp_path / "one")
    out, model = tmp_path / "two", TinyNet()
    assert not is_mapped(store, INFO, out, EvidenceConfig())
    for number in reversed(range(len(store.shards))):
        map_part(store, model, out, EvidenceConfig(), number)
    finish(store, INFO, out, EvidenceConfig())
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_parts_are_laid_together_without_all_of_them_in_memory(stores, slide, tmp_path, monkeypatch):
    """The codes of a slide are a gigabyte: one part is at hand, and the next being read."""
    store = PatchStore.open(stores(), slide)
    is_mapped(store, INFO, tmp_path, EvidenceConfig())
    for number in range(len(store.shards)):
        map_part(store, TinyNet(), tmp_path, EvidenceConfig(), number)
    plain, read, alive = artifact.read_table, [], []

    def watched(path, columns):
        table = plain(path, columns)
        read.append(weakref.ref(table))
        alive.append(sum(each() is not None for each in read))
        return table

    monkeypatch.setattr(artifact, "read_table", watched)
    finish(store, INFO, tmp_path, EvidenceConfig())
    assert len(store.shards) > 5
    assert len(read) >= 2 * len(store.shards)
    assert max(alive) <= 2


def test_the_batch_size_does_not_matter(stores, slide, tmp_path):
    store = PatchStore.open(stores(), slide)
    _, first = mapped(store, tmp_path / "1", batch_size=1)
    for size in range(2, 8):
        model = TinyNet()
        _, values = mapped(store, tmp_path / str(size), model, batch_size=size)
        assert max(shape[0] for shape in model.shown) == min(size, 5)
        np.testing.assert_allclose(values, first, atol=1e-4)


def test_what_is_finished_is_kept(stores, slide, tmp_path):
    store, config = PatchStore.open(stores(), slide), EvidenceConfig()
    map_evidence(store, TinyNet(), tmp_path / "golden")
    model = TinyNet()
    is_mapped(store, INFO, tmp_path / "out", config)
    part = map_part(store, model, tmp_path / "out", config, 1)
    before = part.stat().st_mtime_ns
    map_part(store, model, tmp_path / "out", config, 1)
    assert part.stat().st_mtime_ns == before
    with pytest.raises(MissingArtifactError, match="part-00000"):
        finish(store, INFO, tmp_path / "out", config)
    again = TinyNet()
    map_evidence(store, again, tmp_path / "out", config)
    assert sum(shape[0] for shape in again.shown) == len(store) - len(store.shards[1])
    assert files(tmp_path / "out") == files(tmp_path / "golden")
    silent = TinyNet()
    map_evidence(store, silent, tmp_path / "out", config)
    assert silent.shown == []
    assert not (tmp_path / "out" / PARTS).exists()


def test_background_outside_the_mask_is_not_looked_at(small_painted, tmp_path):
    """And says so; where a patch is, every px of its core has a value."""
    rule = {"patch_px": 64, "overlap_px": 16, "codec": "none", "mask": {"margin_um": 2}}
    with open_slide(small_painted.path) as slide:
        tile_slide(slide, tmp_path, TilingConfig.model_validate(rule))
        store = PatchStore.open(tmp_path / "patches.zarr", slide)
        model = load(write_bundle(tmp_path / "bundle"))
        found, values = mapped(store, tmp_path, model, reduce=2)
        sight = look(store, Demand(0.25, 0.02, model.info.margin_px, 1, 2))
    assert 0 < len(store) < len(store.grid)
    expected = np.zeros(values.shape, bool)
    for x0, y0, x1, y1 in sight.blocks:
        assert not expected[y0:y1, x0:x1].any()
        expected[y0:y1, x0:x1] = True
    assert (np.isnan(values) == ~expected).all()
    boxes = small_painted.boxes()
    dark = [k for k, cell in enumerate(small_painted.cells) if cell.label in ("HSIL", "SCC")]
    assert (found.peaks(boxes[dark]) > 0.5).all()
    assert np.isnan(found.peaks(np.array([[-20.0, -20, -10, -10]]))).all()


def test_patches_that_overlap_too_little_are_refused_without_the_slide(stores, tmp_path):
    with pytest.raises(ConfigError, match=r"overlap by 8 px at 0.25 µm/px.* needs 34 px.*overlap_um=8"):
        map_evidence(PatchStore.open(stores("zstd", 8)), TinyNet(), tmp_path)


def test_finer_patches_are_reduced_by_area(stores, picture, tmp_path):
    """Patches of 0.25 µm and a model of 0.5: as if the picture had been halved."""
    store = PatchStore.open(stores("zstd", 80, None, 128))
    model = TinyNet(replace(INFO, mpp=0.5))
    found, values = mapped(store, tmp_path, model, reduce=1)
    rgb = np.array(Image.open(picture))[: HEIGHT // 2 * 2, : WIDTH // 2 * 2].astype(np.float64)
    half = np.rint(rgb.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(1, 3))).astype(np.uint8)
    expected = TinyNet()(half[None])[0]
    inner = slice(0, HEIGHT // 2 - 20), slice(0, WIDTH // 2 - 20)
    assert (found.px, found.mpp) == (2.0, 0.5)
    # Patches that begin at an odd px of the slide have a phase of their own, half a px of the model off.
    differences = np.abs(values[inner] - expected[inner])
    assert np.median(differences) < 1e-4
    assert differences.max() < 0.25


def test_a_slide_finer_than_its_patches_serves_a_finer_model(stores, slide, picture, tmp_path):
    store = PatchStore.open(stores("zstd", 36, 0.5), slide)
    found, values = mapped(store, tmp_path, TinyNet(), reduce=1)
    assert (found.attributes["source"], found.px) == ("slide", 1.0)
    np.testing.assert_allclose(values, whole(picture, 1), atol=1e-4)
    with pytest.raises(ResolutionMismatchError, match=r"at 0\.5 µm/px, the evidence model was trained at 0\.25"):
        map_evidence(PatchStore.open(stores("zstd", 36, 0.5)), TinyNet(), tmp_path / "b")


@pytest.mark.parametrize(
    ("model", "config", "named"),
    [
        (TinyNet(replace(INFO, model_id="other")), EvidenceConfig(), "model"),
        (TinyNet(), EvidenceConfig(reduce=2), "config"),
    ],
)
def test_maps_of_another_making_are_refused(stores, slide, tmp_path, model, config, named):
    store = PatchStore.open(stores(), slide)
    is_mapped(store, INFO, tmp_path / "begun", EvidenceConfig())
    map_evidence(store, TinyNet(), tmp_path / "whole")
    for folder in ("begun", "whole"):
        with pytest.raises(StaleArtifactError, match=f"another {named}.*--overwrite"):
            map_evidence(store, model, tmp_path / folder, config)


def test_a_map_over_a_shifted_grid_is_another(stores, slide, tmp_path):
    store = PatchStore.open(stores(), slide)
    map_evidence(store, TinyNet(), tmp_path)
    with pytest.raises(StaleArtifactError, match="another grid;"):
        map_evidence(replace(store, grid=replace(store.grid, align=4)), TinyNet(), tmp_path)


def test_what_is_of_another_making_is_replaced_when_told(stores, slide, tmp_path):
    """Whole or begun, or no longer to be read: the bytes are those of a map made into an empty folder."""
    store, config = PatchStore.open(stores(), slide), EvidenceConfig(reduce=2)
    map_evidence(store, TinyNet(), tmp_path / "golden", config)
    map_evidence(store, TinyNet(), tmp_path / "whole")
    is_mapped(store, INFO, tmp_path / "begun", EvidenceConfig())
    map_part(store, TinyNet(), tmp_path / "begun", EvidenceConfig(), 1)
    map_evidence(store, TinyNet(), tmp_path / "spoilt")
    (tmp_path / "spoilt" / "heatmap.zarr" / "zarr.json").write_text("{}")
    # Left of a map that was being removed.
    (tmp_path / "begun" / "heatmap.zarr" / "evidence" / "c" / "7").mkdir(parents=True)
    (tmp_path / "begun" / "heatmap.zarr" / "evidence" / "c" / "7" / "0").write_bytes(b"old")
    for folder in ("whole", "begun", "spoilt"):
        with pytest.raises(ArtifactError):
            map_evidence(store, TinyNet(), tmp_path / folder, config)
        map_evidence(store, TinyNet(), tmp_path / folder, config, overwrite=True)
        assert files(tmp_path / folder) == files(tmp_path / "golden")
    model = TinyNet()
    map_evidence(store, model, tmp_path / "whole", config, overwrite=True)
    assert model.shown == []


def test_parts_without_their_key_are_not_trusted(stores, slide, tmp_path):
    """Left of another model's where their removal was interrupted."""
    store, config = PatchStore.open(stores(), slide), EvidenceConfig()
    map_evidence(store, TinyNet(), tmp_path / "golden")

    class Other(TinyNet):
        def __call__(self, patches):
            return 1 - super().__call__(patches)

    is_mapped(store, INFO, tmp_path / "out", config)
    part = map_part(store, Other(), tmp_path / "out", config, 2)
    (part.parent / "key.json").unlink()
    map_evidence(store, TinyNet(), tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "golden")


def test_a_store_without_patches_gives_a_map_of_nothing(stores, slide, tmp_path):
    store = PatchStore.open(stores(), slide)
    empty = replace(store, shards=[], patch_ids=np.zeros(0, np.int64), _origins=np.zeros((0, 2), np.int64))
    found, values = mapped(empty, tmp_path)
    assert np.isnan(values).all()
    assert found.attributes["states"] == {"done": 0, "unreadable": 0, "failed": 0}


def test_the_parts_have_their_schema(stores, slide, tmp_path):
    store = PatchStore.open(stores(), slide)
    is_mapped(store, INFO, tmp_path, EvidenceConfig())
    table = artifact.read_table(map_part(store, TinyNet(), tmp_path, EvidenceConfig(), 0), schema.EVIDENCE_PARTS)
    assert table["patch_id"].to_pylist() == [0, 1, 2, 3, 4]
    assert set(table["status"].to_pylist()) == {"done"}


def test_what_is_lost_is_made_again_and_equal(stores, slide, tmp_path):
    store = PatchStore.open(stores(), slide)
    path = map_evidence(store, TinyNet(), tmp_path)
    before = files(tmp_path)
    (path / "evidence" / "c" / "0" / "0").unlink()
    map_evidence(store, TinyNet(), tmp_path)
    assert files(tmp_path) == before
