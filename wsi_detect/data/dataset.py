"""Patches with their targets, and the loader that a stopped training run can take up again."""

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from wsi_detect.data.augment import Augmenter, Window, limit_threads, modules_needed, sample_seed
from wsi_detect.data.index import PatchIndex, read_index, read_labels
from wsi_detect.data.samplers import Draw, EpochSampler
from wsi_detect.data.targets import PatchTargets, patch_targets
from wsi_detect.errors import ConfigError, MissingArtifactError
from wsi_detect.geometry import PatchFrame
from wsi_detect.tiling.patch_store import PatchStore

#: (image (3, H, W) uint8, {"boxes", "labels", "ignore_boxes"}).
Sample = tuple[Tensor, dict[str, Tensor]]

#: Images and targets of a batch; images may differ in size.
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]

#: Stores a process keeps open.
_OPEN_STORES = 256

_NOTHING = np.zeros((0, 4)), np.zeros(0, np.int64)


class _Pixels(Protocol):
    @property
    def rgb(self) -> NDArray[np.uint8]: ...


class PatchSource(Protocol):
    """What the data set reads of a patch store."""

    @property
    def patch_ids(self) -> NDArray[np.int64]:
        """Index of each stored patch in the slide's grid, (N,)."""

    def frame(self, i: int) -> PatchFrame:
        """Where patch `i` lies."""

    def read(self, i: int, window: Window | None = None, out: NDArray[np.uint8] | None = None) -> _Pixels:
        """Pixels of patch `i`, or of a window of it; into `out`, if that suits."""


class PatchDataset(Dataset[Sample]):
    """One split of an index: image (3, H, W) uint8 and targets in px of that image.

    Targets are `boxes` (N, 4) float32 xyxy, `labels` (N,) int64 indices into `classes`, `ignore_boxes` (M, 4) float32.
    A plain number gives the sample of that row with epoch 0's augmentation; a `Draw` says its own epoch and place.
    """

    def __init__(
        self,
        index: PatchIndex,
        split: str,
        *,
        augment: Augmenter | None = None,
        seed: int = 0,
        stores: Mapping[str, PatchSource] | None = None,
    ) -> None:
        """Take a split.

        Args:
            index: of the data set.
            split: name of the split.
            augment: made by `augment.augmenter`; None gives whole patches as they are.
            seed: of the run, for the augmentation.
            stores: open stores to read from instead of the index's folders, such as index-only ones.

        Raises:
            LabelError: the split is empty.
        """
        rows = index.rows(split)
        self.index = index
        self.augment = augment
        self.classes = index.classes
        self.counts = index.counts[rows]
        self._rows = rows
        self._seed = seed
        labels = read_labels(index.annotations, index.classes)
        self._labels = {slide: known.everything() for slide, known in labels.items()}
        self._given = dict(stores or {})
        self._open: dict[str, PatchSource] = {}
        self._pixels = np.empty(0, np.uint8)

    @classmethod
    def from_index(cls, path: Path, split: str, *, augment: Augmenter | None = None, seed: int = 0) -> "PatchDataset":
        """Take a split of an index file."""
        return cls(read_index(path), split, augment=augment, seed=seed)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: int | Draw) -> Sample:
        draw = key if isinstance(key, Draw) else Draw(int(key), 0, int(key))
        row = int(self._rows[draw.row])
        slide_id = self.index.slide_ids[row]
        store = self._store(slide_id)
        i = int(np.searchsorted(store.patch_ids, self.index.patch_ids[row]))
        frame = store.frame(i)
        (known, labels), patch_px = self._labels.get(slide_id, _NOTHING), self.index.patch_px
        if self.augment is None:
            share = self.index.min_visible
            targets = patch_targets(known, labels, frame, patch_px, min_visible=share)
            return _sample(np.ascontiguousarray(store.read(i).rgb.transpose(2, 0, 1)), targets)
        boxes = frame.to_patch(known)
        near = (boxes[:, 2:] > 0).all(axis=1) & (boxes[:, :2] < patch_px).all(axis=1)
        seed = sample_seed(self._seed, draw.epoch, draw.position)

        def read(window: Window) -> NDArray[np.uint8]:
            return store.read(i, window, self._buffer(window)).rgb

        return _sample(*self.augment(read, (patch_px, patch_px), boxes[near], labels[near], seed))

    def __getstate__(self) -> dict[str, Any]:
        """Leave open stores and the buffer behind: a loader process has its own."""
        return {**self.__dict__, "_open": {}, "_pixels": np.empty(0, np.uint8)}

    def _buffer(self, window: Window) -> NDArray[np.uint8]:
        """Memory for a window's pixels (h, w, 3), the same for every sample: fresh pages cost a tenth of a decode."""
        width, height = window[2] - window[0], window[3] - window[1]
        if self._pixels.size < height * width * 3:
            self._pixels = np.empty(height * width * 3, np.uint8)
        return self._pixels[: height * width * 3].reshape(height, width, 3)

    def _store(self, slide_id: str) -> PatchSource:
        if slide_id in self._given:
            return self._given[slide_id]
        if slide_id not in self._open:
            if len(self._open) >= _OPEN_STORES:
                self._open.pop(next(iter(self._open)))
            store = PatchStore.open(self.index.stores[slide_id])
            if store.index_only:
                raise MissingArtifactError(
                    f"the patch store of slide {slide_id} holds no pixels; tile it again with codec jpeg or zstd"
                )
            self._open[slide_id] = store
        return self._open[slide_id]


class PatchLoader(DataLoader[Sample]):
    """A loader whose place in the run can be saved: the epoch, and how many batches of it were handed out.

    Counted here and not in the sampler, which runs ahead of the loop when processes load in advance. Everything else
    follows from seed, epoch and place, so nothing else needs saving. Lightning finds the two state methods by name.
    """

    def __init__(self, dataset: PatchDataset, batch_size: int, sampler: EpochSampler, *, workers: int = 0) -> None:
        """Make a loader.

        Args:
            dataset: to read from.
            batch_size: samples a batch; an incomplete last batch is left out.
            sampler: the order.
            workers: loading processes; 0 loads in this one.

        Raises:
            ConfigError: an epoch has not one whole batch.
        """
        if len(sampler) < batch_size:
            raise ConfigError(f"an epoch of {len(sampler)} draws has no whole batch of {batch_size}")
        super().__init__(
            dataset, batch_size=batch_size, sampler=sampler, drop_last=True, **process_options(workers)
        )  # fmt: skip
        self._order = sampler
        self._size = batch_size
        self._handed = 0
        self._skip = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # torch names its private class; a loop needs less
        """Hand out the rest of the epoch: all of it, unless a state was loaded just before."""
        self._handed, self._skip = self._skip, 0
        self._order.start = self._handed * self._size
        epoch = self._order.epoch
        for batch in super().__iter__():
            self._handed += 1
            yield batch
        # For loops that set no epoch themselves.
        self._order.set_epoch(epoch + 1)
        self._handed = 0

    def state_dict(self) -> dict[str, int]:
        """Where the run is: `epoch`, and `batches` of it handed out."""
        done = self._handed >= len(self)
        return {"epoch": self._order.epoch + done, "batches": 0 if done else self._handed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from there at the next iteration."""
        self._order.set_epoch(int(state["epoch"]))
        self._handed = self._skip = int(state["batches"])


def make_loader(
    dataset: PatchDataset, batch_size: int, *, sampler: EpochSampler | None = None, workers: int = 0
) -> DataLoader[Sample]:
    """Make a loader: over a sampler's draws (a `PatchLoader`), or without one over every row in order.

    Batches are `Batch`: a list of images and a list of targets.
    """
    if sampler is not None:
        return PatchLoader(dataset, batch_size, sampler, workers=workers)
    return DataLoader(dataset, batch_size=batch_size, shuffle=False, **process_options(workers))


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples → a list of images and a list of targets; nothing is stacked, sizes may differ."""
    return [image for image, _ in samples], [target for _, target in samples]


def process_options(workers: int) -> dict[str, Any]:
    """What loaders are given about their processes."""
    return {
        "num_workers": workers,
        "collate_fn": collate,
        "pin_memory": torch.cuda.is_available(),
        # Its own generator: making an iterator draws a number, which must not come from the global stream, or a
        # resumed run would be one number behind.
        "generator": torch.Generator(),
        "worker_init_fn": _prepare_worker,
        "persistent_workers": workers > 0,
        "multiprocessing_context": _fork_server() if workers else None,
    }


def _fork_server() -> BaseContext:
    # A forked copy of a process with threads (a GPU's, OpenMP's) can hang; a copy of a server without any cannot, and
    # unlike a fresh process it need not import torch again.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *modules_needed()])
    return context


def _prepare_worker(_: int) -> None:
    info = get_worker_info()
    if info is not None and getattr(info.dataset, "augment", None) is not None:
        limit_threads()


def _sample(planes: NDArray[np.uint8], targets: PatchTargets) -> Sample:
    return torch.from_numpy(planes), {
        "boxes": torch.from_numpy(targets.boxes),
        "labels": torch.from_numpy(targets.labels),
        "ignore_boxes": torch.from_numpy(targets.ignore_boxes),
    }
