"""The patch index of a data set: one row a patch with its class counts. No pixel is read to make it."""

import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from wsi_detect import artifact, schema, taxonomy
from wsi_detect.annotations.rois import is_inside, read_rois
from wsi_detect.data.cards import own_names
from wsi_detect.data.outside import outside_boxes
from wsi_detect.data.targets import IGNORED_LABEL, MIN_VISIBLE, patch_targets
from wsi_detect.errors import ConfigError, DamagedArtifactError, LabelError, UnmappedLabelError
from wsi_detect.geometry import Boxes, PatchFrame
from wsi_detect.tiling.quality import Rule, select

INDEX_NAME = "index.parquet"

#: Patches of one data set may differ in µm per px by this share: a network cannot tell.
_MPP_TOLERANCE = 0.02

_log = logging.getLogger(__name__)


class IndexedStore(Protocol):
    """What the index wants to know of a patch store."""

    @property
    def path(self) -> Path:
        """Folder of the store."""

    @property
    def patch_px(self) -> int:
        """Side of a patch, patch px."""

    @property
    def mpp(self) -> float:
        """µm per patch px."""

    @property
    def patch_ids(self) -> NDArray[np.int64]:
        """Index of each stored patch in the slide's grid, (N,)."""

    @property
    def coverage(self) -> NDArray[np.float32]:
        """Fraction of each patch inside the cell mask, (N,)."""

    @property
    def columns(self) -> Mapping[str, NDArray[np.float32]]:
        """Numbers of each patch, (N,) each; `focus` is one, NaN where it was not measured."""

    def frame(self, i: int) -> PatchFrame:
        """Where patch `i` lies."""


@dataclass(frozen=True, slots=True)
class SlideLabels:
    """The annotations of one slide.

    Attributes:
        boxes: (A, 4) float64 xyxy in slide px, of cells.
        labels: (A,) int64 indices into classes; `IGNORED_LABEL` where the class is not used, or the cell lies outside
            the slide's labelled areas.
        outside: (M, 4) float64 xyxy in slide px, covering what lies outside the labelled areas; none where the slide
            was labelled everywhere.
    """

    boxes: Boxes
    labels: NDArray[np.int64]
    outside: Boxes = field(default_factory=lambda: np.zeros((0, 4)))

    def everything(self) -> tuple[Boxes, NDArray[np.int64]]:
        """Boxes (A + M, 4) and labels (A + M,) of cells, and of what lies outside the labelled areas as ignored."""
        ignored = np.full(len(self.outside), IGNORED_LABEL, np.int64)
        return np.concatenate([self.boxes, self.outside]), np.concatenate([self.labels, ignored])


@dataclass(frozen=True, slots=True)
class PatchIndex:
    """An index read back.

    Attributes:
        slide_ids: (P,) slide of each patch.
        patch_ids: (P,) int64 index of each patch in its slide's grid.
        splits: (P,) name of the split of each patch.
        counts: (P, K) int32 whole cells of each class.
        classes: (K,) names; the labels of targets are indices into it.
        stores: folder of each slide's patch store.
        annotations: the table the counts were made from.
        patch_px: side of every patch, patch px.
        mpp: µm per patch px.
        min_visible: share of a box that made it count.
    """

    slide_ids: tuple[str, ...]
    patch_ids: NDArray[np.int64]
    splits: tuple[str, ...]
    counts: NDArray[np.int32]
    classes: tuple[str, ...]
    stores: Mapping[str, Path]
    annotations: Path
    patch_px: int
    mpp: float
    min_visible: float

    def __len__(self) -> int:
        return len(self.slide_ids)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Rows of a split.

        Raises:
            LabelError: no patch is in it.
        """
        found = np.flatnonzero(np.array(self.splits, dtype=object) == split)
        if not len(found):
            raise LabelError(f"no patch is in split {split!r}; there are: {', '.join(sorted(set(self.splits)))}")
        return found


def build_index(
    stores: Mapping[str, IndexedStore],
    annotations: Path,
    split: Mapping[str, str],
    out: Path,
    classes: Sequence[str],
    *,
    min_visible: float = MIN_VISIBLE,
    keep: Mapping[str, Rule] | None = None,
) -> Path:
    """Write the index of a data set (STAGE index).

    Folders of stores and the annotation table are recorded relative to the index, so that a data set can be moved.
    A slide without annotations counts as background; a label outside `classes` becomes a region to ignore. Where
    `rois.parquet` beside the annotations says that a slide was labelled in some areas only, what lies outside is to be
    ignored, cells included, and a patch wholly outside is not in the index: it is no background.

    Args:
        stores: patch store of each slide.
        annotations: `annotations.parquet`.
        split: name of the split of each slide, such as train or val.
        out: folder; the index is `index.parquet` in it.
        classes: taxonomy names, in the order the model will have them; of what is not cells of the cervix, names of
            the card beside the annotations.
        min_visible: share of a box that must be in a patch for the cell to count.
        keep: by split, what the store's columns must hold for a patch to be in it; nothing is left out otherwise. What
            was left out is logged and recorded. A model should be judged on all patches: give no rule for its split.

    Raises:
        LabelError: a slide has no split, a class is unknown, or annotations are of no use.
        ConfigError: the stores differ in patch size or resolution, or a rule names an unknown column or split.
    """
    keep = keep or {}
    slides = sorted(stores)
    _check(stores, split, classes)
    _check_names(classes, annotations)
    _check_rules(keep, split)
    labels = read_labels(annotations, classes)
    strangers = sorted(set(labels) - set(slides))
    if strangers:
        _log.info("index: %d slides are annotated but not in this data set", len(strangers))
    bare = [slide for slide in slides if slide not in labels]
    if bare:
        _log.warning("index: %d slides without annotations count as background: %s", len(bare), ", ".join(bare[:10]))
    tables = [_slide_rows(s, stores[s], labels.get(s), split[s], (len(classes), min_visible)) for s in slides]
    areas = read_rois(annotations.parent)
    labelled = [_labelled(stores[slide], areas.get(slide)) for slide in slides]
    tables = [table.filter(pa.array(rows)) for table, rows in zip(tables, labelled, strict=True)]
    kept = [
        select(stores[slide].columns, keep.get(split[slide], {}))[rows]
        for slide, rows in zip(slides, labelled, strict=True)
    ]
    left_out = {slide: int((~rows).sum()) for slide, rows in zip(slides, kept, strict=True) if not rows.all()}
    tables = [table.filter(pa.array(rows)) for table, rows in zip(tables, kept, strict=True)]
    table = pa.concat_tables([artifact.empty_table(schema.INDEX), *tables])
    target = out / INDEX_NAME
    first = stores[slides[0]]
    metadata = {
        "classes": list(classes),
        "stores": {slide: _relative(stores[slide].path, out) for slide in slides},
        "annotations": _relative(annotations, out),
        "patch_px": int(first.patch_px),
        "mpp": float(first.mpp),
        "min_visible": min_visible,
        "keep": {name: dict(rule) for name, rule in keep.items()},
        "left_out": left_out,
        "not_labelled": {s: int((~rows).sum()) for s, rows in zip(slides, labelled, strict=True) if not rows.all()},
    }
    encoded = {key: json.dumps(value, sort_keys=True, allow_nan=False) for key, value in metadata.items()}
    artifact.write_table(target, table, schema.INDEX, encoded)
    _log.info("index: %d patches of %d slides", table.num_rows, len(slides))
    if areas:
        unlabelled = sum(int((~rows).sum()) for rows in labelled)
        _log.info("index: %d patches lie outside the labelled areas of their slides", unlabelled)
    if keep:
        _log.info("index: %d patches left out by the rules for %s", sum(left_out.values()), ", ".join(sorted(keep)))
    return target


def read_index(path: Path) -> PatchIndex:
    """Read an index back.

    Raises:
        ArtifactError: it is missing, damaged or of another version.
    """
    table = artifact.read_table(path, schema.INDEX)
    try:
        facts: dict[str, Any] = {
            key: json.loads(table.schema.metadata[key.encode()])
            for key in ("classes", "stores", "annotations", "patch_px", "mpp", "min_visible")
        }
    except (KeyError, ValueError) as error:
        raise DamagedArtifactError(f"{path} lacks its data set's facts ({error}); make the index again") from error
    columns = len(facts["classes"])
    flat = table["counts"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    folder = path.parent
    return PatchIndex(
        slide_ids=tuple(table["slide_id"].to_pylist()),
        patch_ids=table["patch_id"].to_numpy(),
        splits=tuple(table["split"].to_pylist()),
        counts=flat.astype(np.int32).reshape(table.num_rows, columns),
        classes=tuple(facts["classes"]),
        stores={slide: _resolved(folder, name) for slide, name in facts["stores"].items()},
        annotations=_resolved(folder, facts["annotations"]),
        patch_px=facts["patch_px"],
        mpp=facts["mpp"],
        min_visible=facts["min_visible"],
    )


def read_labels(annotations: Path, classes: Sequence[str]) -> dict[str, SlideLabels]:
    """Read annotations slide by slide, and `rois.parquet` beside them, if it is there.

    Labels outside `classes`, and of cells outside the labelled areas of their slide, become `IGNORED_LABEL`.
    """
    table = artifact.read_table(annotations, schema.ANNOTATIONS)
    number = {name: k for k, name in enumerate(classes)}
    slides = np.array(table["slide_id"].to_pylist(), dtype=object)
    labels = np.array([number.get(name, IGNORED_LABEL) for name in table["label"].to_pylist()], dtype=np.int64)
    boxes = np.column_stack([table[name].to_numpy() for name in schema.BOX_COLUMNS])
    areas = read_rois(annotations.parent)
    found = {}
    for slide in sorted({*slides.tolist(), *areas}):
        rows, area = slides == slide, areas.get(slide)
        own = np.where(is_inside(area, boxes[rows]), labels[rows], IGNORED_LABEL)
        outside = np.zeros((0, 4)) if area is None else outside_boxes(area)
        found[slide] = SlideLabels(boxes[rows], own, outside)
    return found


def _slide_rows(
    slide_id: str, store: IndexedStore, labels: SlideLabels | None, split: str, rule: tuple[int, float]
) -> pa.Table:
    columns, min_visible = rule
    # What is ignored counts nothing, wherever it lies.
    known = labels or SlideLabels(np.zeros((0, 4)), np.zeros(0, np.int64))
    counts = []
    for i in range(len(store.patch_ids)):
        found = patch_targets(known.boxes, known.labels, store.frame(i), store.patch_px, min_visible=min_visible)
        counts.append(np.bincount(found.labels, minlength=columns).tolist())
    rows = len(counts)
    return pa.table(
        {
            "slide_id": pa.array([slide_id] * rows, pa.string()),
            "patch_id": pa.array(np.asarray(store.patch_ids, dtype=np.int64)),
            "split": pa.array([split] * rows, pa.string()),
            "coverage": pa.array(np.asarray(store.coverage, dtype=np.float32)),
            "focus": pa.array(np.asarray(store.columns["focus"], dtype=np.float32), from_pandas=True),
            "counts": pa.array(counts, pa.list_(pa.int32())),
        },
        schema=schema.INDEX,
    )


def _labelled(store: IndexedStore, area: shapely.Geometry | None) -> NDArray[np.bool_]:
    """Whether a labelled area reaches into each patch, (N,)."""
    if area is None:
        return np.ones(len(store.patch_ids), np.bool_)
    square = np.array([[0.0, 0.0, store.patch_px, store.patch_px]])
    corners = [store.frame(i).to_slide(square)[0] for i in range(len(store.patch_ids))]
    patches = shapely.box(*np.array(corners, dtype=np.float64).reshape(-1, 4).T)
    # More than a shared edge. Most patches of a slide do not even touch the area.
    near = np.asarray(shapely.intersects(area, patches))
    found = np.zeros(len(patches), np.bool_)
    found[near] = shapely.area(shapely.intersection(area, patches[near])) > 0
    return found


def _check(stores: Mapping[str, IndexedStore], split: Mapping[str, str], classes: Sequence[str]) -> None:
    if not stores or not classes or len(set(classes)) < len(classes):
        raise LabelError("an index needs at least one slide and at least one class, none of them twice")
    lost = sorted(set(stores) - set(split))
    if lost:
        raise LabelError(f"slides without a split: {', '.join(lost)}; every slide needs one")
    first, *others = (stores[slide] for slide in sorted(stores))
    for slide, store in zip(sorted(stores)[1:], others, strict=True):
        if store.patch_px != first.patch_px or abs(store.mpp / first.mpp - 1) > _MPP_TOLERANCE:
            raise ConfigError(
                f"slide {slide} has patches of {store.patch_px} px at {store.mpp:g} µm/px, the first slide "
                f"{first.patch_px} px at {first.mpp:g}; tile all slides of a data set alike"
            )


def _check_names(classes: Sequence[str], annotations: Path) -> None:
    known: Collection[str] = taxonomy.CLASSES
    if not set(classes) <= set(known):
        known = own_names(annotations) or known
    lost = [name for name in classes if name not in known]
    if lost:
        where = "in the taxonomy" if known is taxonomy.CLASSES else "a name of the data card"
        raise UnmappedLabelError(f"class {lost[0]!r} is not {where}; known: {', '.join(known)}")


def _check_rules(keep: Mapping[str, Rule], split: Mapping[str, str]) -> None:
    unknown = sorted(set(keep) - set(split.values()))
    if unknown:
        raise ConfigError(
            f"rules for patches of split {unknown[0]!r}, which no slide is in; "
            f"splits: {', '.join(sorted(set(split.values())))}"
        )


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _resolved(folder: Path, name: str) -> Path:
    return Path(os.path.normpath(folder / name))
