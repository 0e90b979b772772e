"""Bags: patches of a slide of which nothing is known but the label of their slide.

Step k of a run draws its bags from the run's seed and k alone, so a stopped run goes on as if it had not been.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wsi_detect.data.augment import Augmenter, Window, sample_seed
from wsi_detect.data.dataset import process_options
from wsi_detect.errors import LabelError
from wsi_detect.geometry import PatchFrame
from wsi_detect.tiling.patch_store import PatchStore

#: Stores a process keeps open.
_OPEN_STORES = 256
#: Decoded patches a process keeps, bytes: labelled fields fit as a whole, and are decoded once instead of at each draw.
_KEPT_BYTES = 1 << 28

_NO_BOXES = np.zeros((0, 4)), np.zeros(0, np.int64)


class BagBatch(NamedTuple):
    """Bags of one step, all of the same number of patches, one after the other.

    Attributes:
        images: (G * n, 3, H, W) uint8.
        targets: (G, K) float32, 1 where the slide of the bag has that kind of region.
    """

    images: Tensor
    targets: Tensor


class _Pixels(Protocol):
    @property
    def rgb(self) -> NDArray[np.uint8]: ...


class BagSource(Protocol):
    """What bags read of a patch store."""

    @property
    def patch_px(self) -> int:
        """Side of a patch, patch px."""
        ...

    @property
    def mpp(self) -> float:
        """µm per patch px."""
        ...

    @property
    def slide(self) -> Any:
        """Facts with `width_px` and `height_px`."""
        ...

    def __len__(self) -> int: ...

    def frame(self, i: int) -> PatchFrame:
        """Where patch `i` lies."""
        ...

    def read(self, i: int, window: Window | None = None) -> _Pixels:
        """Pixels of patch `i`, or of a window of it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSlide:
    """A slide, where its patches are, and its label.

    Attributes:
        slide_id: of the slide.
        store: folder of the patch store, or one that is open.
        targets: (K,) bool, which kinds of region the slide has; none makes it fully negative.
    """

    slide_id: str
    store: Path | BagSource
    targets: NDArray[np.bool_]

    @property
    def negative(self) -> bool:
        """Whether nothing on the slide is region."""
        return not self.targets.any()


@dataclass(frozen=True, slots=True)
class BagRule:
    """How a step's bags are drawn.

    Attributes:
        bags: a step.
        patches: a bag.
        positive_share: of the bags, taken from slides with a region.
    """

    bags: int
    patches: int
    positive_share: float


class BagDataset(Dataset[BagBatch]):
    """The bags of every step of a run; item k is the whole batch of step k."""

    def __init__(
        self, slides: Sequence[LabelledSlide], rule: BagRule, steps: int, *, augment: Augmenter, seed: int
    ) -> None:
        """Take slides.

        Args:
            slides: with and without region.
            rule: how bags are drawn.
            steps: of the run.
            augment: cuts and turns each patch; all pictures it makes must have one size.
            seed: of the run.

        Raises:
            LabelError: no slide has a region, or all have: there is nothing to learn from.
        """
        negative = np.array([slide.negative for slide in slides])
        if negative.all() or not negative.any():
            raise LabelError(
                f"of {len(slides)} slides {int(negative.sum())} are fully negative; to learn where the region is takes "
                "slides with and slides without"
            )
        self.slides = list(slides)
        self._sides = np.flatnonzero(negative), np.flatnonzero(~negative)
        self._rule, self._steps, self._augment, self._seed = rule, steps, augment, seed
        self._open: dict[int, BagSource] = {}
        self._kept: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> BagBatch:
        rng = np.random.default_rng([self._seed, step])
        images: list[NDArray[np.uint8]] = []
        targets = []
        for slide in self._drawn(rng):
            count = len(self._store(slide))
            for i in rng.choice(count, self._rule.patches, replace=count < self._rule.patches).tolist():
                images.append(self._picture(slide, i, sample_seed(self._seed, step, len(images))))
            targets.append(self.slides[slide].targets)
        return BagBatch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets)).float())

    def __getstate__(self) -> dict[str, Any]:
        """Leave open stores and pixels behind: a loader process has its own."""
        return {**self.__dict__, "_open": {}, "_kept": {}}

    def _drawn(self, rng: np.random.Generator) -> list[int]:
        """Slides of a step: the share with a region is met exactly, up to a bag that chance decides."""
        wanted = self._rule.bags * self._rule.positive_share
        positive = int(wanted) + int(rng.random() < wanted - int(wanted))
        counts = self._rule.bags - positive, positive
        return [
            int(slide)
            for side, count in zip(self._sides, counts, strict=True)
            for slide in rng.choice(side, count, replace=count > len(side))
        ]

    def _picture(self, slide: int, i: int, seed: int) -> NDArray[np.uint8]:
        store = self._store(slide)
        frame, side = store.frame(i), store.patch_px
        # Beyond the slide there is nothing to learn from.
        across = min(side, max(1, round((store.slide.width_px - frame.x_px) / frame.scale)))
        down = min(side, max(1, round((store.slide.height_px - frame.y_px) / frame.scale)))

        def read(window: Window) -> NDArray[np.uint8]:
            whole = self._kept.get((slide, i))
            if whole is None and (len(self._kept) + 1) * 3 * side**2 <= _KEPT_BYTES:
                whole = self._kept[slide, i] = store.read(i).rgb
            if whole is None:
                return store.read(i, window).rgb
            x0, y0, x1, y1 = window
            return whole[y0:y1, x0:x1].copy()

        return self._augment(read, (across, down), *_NO_BOXES, seed)[0]

    def _store(self, slide: int) -> BagSource:
        if slide not in self._open:
            if len(self._open) >= _OPEN_STORES:
                self._open.pop(next(iter(self._open)))
            store = self.slides[slide].store
            self._open[slide] = PatchStore.open(store) if isinstance(store, Path) else store
        return self._open[slide]


class BagLoader(DataLoader[BagBatch]):
    """A loader that remembers how many steps it handed out. Lightning finds the two state methods by name."""

    def __init__(self, dataset: BagDataset, *, workers: int = 0) -> None:
        self._order = _Rest(len(dataset))
        options = {**process_options(workers), "collate_fn": None}
        super().__init__(dataset, batch_size=None, sampler=self._order, **options)
        self._handed = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # torch names its private class; a loop needs less
        for batch in super().__iter__():
            self._handed += 1
            yield batch
        self._handed = 0

    def state_dict(self) -> dict[str, int]:
        """Steps handed out."""
        return {"steps": self._handed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from there."""
        self._handed = self._order.start = int(state["steps"])


class _Rest:
    """Numbers of the steps from `start` on, once; then all of them."""

    def __init__(self, count: int) -> None:
        self.count, self.start = count, 0

    def __iter__(self) -> Iterator[int]:
        start, self.start = self.start, 0
        return iter(range(start, self.count))

    def __len__(self) -> int:
        return self.count
