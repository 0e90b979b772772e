"""Samples do not depend on the processes that load them; a stopped run goes on where it was."""

import pickle

import numpy as np
import pytest
import torch

from wsi_detect.data.augment import augmenter
from wsi_detect.data.dataset import PatchDataset, PatchLoader, make_loader
from wsi_detect.data.index import build_index, read_index
from wsi_detect.data.samplers import Draw, EpochSampler, class_aware
from wsi_detect.errors import ConfigError, LabelError, MissingArtifactError
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

CLASSES = ("NILM", "HSIL")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, memory_store, write_annotations):
    folder = tmp_path_factory.mktemp("data")
    stores = {name: memory_store(folder / name, seed=k) for k, name in enumerate("AB")}
    rows = [("A", "NILM", 0, 0, 30, 20), ("A", "HSIL", 85, 0, 115, 20), ("A", "SCC", 50, 50, 80, 80)]
    annotations = write_annotations(folder / "annotations.parquet", rows)
    index = build_index(stores, annotations, dict.fromkeys("AB", "train"), folder / "dataset", CLASSES)
    return PatchDataset(read_index(index), "train", augment=augmenter("cytology", 64), seed=5, stores=stores)


def loader(dataset, workers=0, epoch=0):
    sampler = EpochSampler(np.ones(len(dataset)), len(dataset), seed=5)
    made = make_loader(dataset, 4, sampler=sampler, workers=workers)
    sampler.set_epoch(epoch)
    return made


def contents(batches):
    return [
        (image.numpy().tobytes(), target["boxes"].tolist())
        for images, targets in batches
        for image, target in zip(images, targets, strict=True)
    ]


def test_a_sample_without_augmentation(dataset):
    plain = PatchDataset(dataset.index, "train", stores=dataset._given)
    image, target = plain[0]
    assert (image.shape, image.dtype) == ((3, 100, 100), torch.uint8)
    assert image[:, 5, 5].tolist() == [0, 0, 0]
    assert target["boxes"].tolist() == [[0, 0, 30, 20]]
    assert target["labels"].tolist() == [0]
    # Half a cell at the edge, and a class that is not used.
    assert target["ignore_boxes"].tolist() == [[85, 0, 100, 20], [50, 50, 80, 80]]
    assert plain.counts[0].tolist() == [1, 0]
    empty = plain[20][1]
    assert (empty["boxes"].shape, empty["labels"].dtype, empty["boxes"].dtype) == ((0, 4), torch.int64, torch.float32)


def test_a_split_without_patches_is_refused(dataset):
    with pytest.raises(LabelError, match="split 'val'"):
        PatchDataset(dataset.index, "val")


def test_an_epoch_is_the_same_for_0_1_and_2_processes_and_differs_from_the_next(dataset):
    alone = contents(loader(dataset))
    assert len(set(map(str, alone))) == len(alone) == 32
    for workers in (1, 2):
        shared = loader(dataset, workers)
        assert contents(shared) == alone
        second = contents(shared)
        assert second == contents(loader(dataset, epoch=1))
        assert not set(map(str, second)) & set(map(str, alone))


def test_the_same_row_drawn_twice_is_augmented_twice(dataset):
    first, second = dataset[Draw(0, 0, 0)], dataset[Draw(0, 0, 1)]
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[0], dataset[Draw(0, 0, 0)][0])


@pytest.mark.parametrize(("workers", "stop"), [(0, 3), (0, 8), (0, 11), (2, 3), (2, 8)])
def test_a_resumed_run_sees_what_an_undisturbed_one_sees(dataset, workers, stop):
    undisturbed = loader(dataset, workers)
    whole = [contents([batch]) for _ in range(2) for batch in undisturbed]
    assert len(whole) == 16
    first, seen = loader(dataset, workers), []
    while len(seen) < stop:
        for batch in first:
            seen.append(contents([batch]))
            if len(seen) == stop:
                state = first.state_dict()
                break
    assert state == {"epoch": stop // 8, "batches": stop % 8}
    # Torch's safe loading takes nothing but plain values.
    assert all(type(value) is int for value in state.values())
    again = loader(dataset, workers)
    again.load_state_dict(state)
    assert again.state_dict() == state
    rest = [contents([batch]) for _ in range(2 - stop // 8) for batch in again]
    assert seen + rest == whole


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_processes_that_train_together_go_on_where_they_were(dataset, stop):
    """Each has half of every joined batch, before the stop as after it."""

    def part(rank):
        sampler = EpochSampler(np.ones(len(dataset)), len(dataset), seed=5, rank=rank, world=2)
        return make_loader(dataset, 2, sampler=sampler)

    alone = loader(dataset)
    whole = [contents([batch]) for _ in range(2) for batch in alone]
    resumed = []
    for rank in range(2):
        first, seen = part(rank), []
        for batch in first:
            seen.append(contents([batch]))
            if len(seen) == stop:
                state = first.state_dict()
                break
        again = part(rank)
        again.load_state_dict(state)
        resumed.append(seen + [contents([batch]) for _ in range(2) for batch in again])
    joined = [sorted(map(str, one + other)) for one, other in zip(*resumed, strict=True)]
    assert joined == [sorted(map(str, batch)) for batch in whole]


def test_a_trainer_that_sets_the_same_epoch_does_not_lose_the_place(dataset):
    again = loader(dataset)
    again.load_state_dict({"epoch": 1, "batches": 5})
    again.sampler.set_epoch(1)
    assert len(list(again)) == 3
    assert len(list(again)) == len(again) == 8


def test_loading_takes_nothing_from_the_global_stream(dataset):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(iter(loader(dataset)))
    assert torch.equal(torch.get_rng_state(), before)


def test_only_the_window_of_a_sample_is_read(dataset):
    store = dataset._given["A"]
    store.windows.clear()
    for position in range(50):
        dataset[Draw(0, 0, position)]
    sides = {(x1 - x0, y1 - y0) for _, (x0, y0, x1, y1) in store.windows}
    assert len(store.windows) == 50
    # 64 px at a zoom of 0.8 to 1.25.
    assert all(width == height and 51 <= width <= 80 for width, height in sides)
    assert len({window for _, window in store.windows}) > 25


def test_samples_do_not_share_memory_with_the_buffer_they_were_read_into(dataset):
    first, _ = dataset[Draw(0, 0, 0)]
    kept = first.clone()
    dataset[Draw(1, 0, 1)]
    assert torch.equal(first, kept)


def test_validation_goes_in_order_and_keeps_the_last_batch(dataset):
    plain = PatchDataset(dataset.index, "train", stores=dataset._given)
    batches = list(make_loader(plain, 5))
    assert [len(images) for images, _ in batches] == [5] * 6 + [2]
    assert torch.equal(batches[1][0][0], plain[5][0])


def test_an_epoch_shorter_than_a_batch_is_refused(dataset):
    with pytest.raises(ConfigError, match="no whole batch"):
        PatchLoader(dataset, 64, EpochSampler(np.ones(32), 32, 0))


def test_open_stores_and_the_buffer_do_not_travel(dataset):
    first = dataset[Draw(0, 0, 0)][0]
    assert dataset._pixels.size > 0
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - made here
    assert (copy._open, copy._pixels.size) == ({}, 0)
    assert torch.equal(copy[Draw(0, 0, 0)][0], first)


def test_a_batch_is_bytes_in_planes(dataset):
    images, _ = next(iter(loader(dataset)))
    assert {(image.dtype, image.is_contiguous(), tuple(image.shape)) for image in images} == {
        (torch.uint8, True, (3, 64, 64))
    }


@pytest.mark.parametrize(
    ("workers", "codec", "patch_px"), [(0, "zstd", 128), (0, "jpeg_tiles", 256), (2, "jpeg_tiles", 256)]
)
def test_pixels_and_boxes_of_a_real_store_agree(tmp_path, small_painted, write_annotations, workers, codec, patch_px):
    config = TilingConfig(patch_px=patch_px, overlap_px=32, codec=codec)
    store = tile_slide(small_painted.path, tmp_path / "S", config)
    rows = [("S", cell.label, *cell.box) for cell in small_painted.cells]
    annotations = write_annotations(tmp_path / "annotations.parquet", rows)
    classes = sorted({cell.label for cell in small_painted.cells})
    path = build_index({"S": store}, annotations, {"S": "train"}, tmp_path / "dataset", classes)
    cells = PatchDataset.from_index(path, "train", augment=augmenter("flip", 96, aim=1.0))
    sampler = EpochSampler(class_aware(cells.counts, 0.0), 40, seed=1)
    seen = set()
    for images, targets in make_loader(cells, 4, sampler=sampler, workers=workers):
        for image, target in zip(images, targets, strict=True):
            seen |= {classes[label] for label in target["labels"].tolist()}
            for x0, y0, x1, y1 in target["boxes"].round().int().tolist():
                inside = image[:, y0:y1, x0:x1].float().mean()
                assert inside < image.float().mean() or (x1 - x0) * (y1 - y0) > 0.5 * 96 * 96
    assert seen == set(classes)


def test_a_store_without_pixels_is_refused(tmp_path, small_painted, write_annotations):
    store = tile_slide(small_painted.path, tmp_path / "S", TilingConfig(patch_px=128, overlap_px=32, codec="none"))
    annotations = write_annotations(tmp_path / "annotations.parquet", [])
    path = build_index({"S": store}, annotations, {"S": "train"}, tmp_path / "dataset", CLASSES)
    with pytest.raises(MissingArtifactError, match="slide S holds no pixels; tile it again"):
        PatchDataset.from_index(path, "train")[0]
