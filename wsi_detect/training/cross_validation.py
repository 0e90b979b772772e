"""Runs of a comparison: fields into folds, a detector trained without one of them, its detections there matched."""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_detect import __version__, artifact
from wsi_detect.annotations.class_map import ClassMap
from wsi_detect.annotations.importer import import_annotations
from wsi_detect.annotations.rules import ImportRules
from wsi_detect.data.card import CARD_NAME
from wsi_detect.data.cards import class_map_of, load_card, take_card
from wsi_detect.data.index import build_index
from wsi_detect.data.leaks import Item, find_leaks, hash_file
from wsi_detect.data.split import check_leak, grouped_folds
from wsi_detect.data.use import check_use
from wsi_detect.detectors import build_detector
from wsi_detect.errors import ConfigError, LabelError, MissingArtifactError, OutputBusyError
from wsi_detect.evaluation.average_precision import ap50
from wsi_detect.evaluation.bootstrap import group_numbers
from wsi_detect.evaluation.evaluate import predict_fields
from wsi_detect.evaluation.fields import FieldDetector, FieldTruth, read_fields
from wsi_detect.evaluation.groups import Unit, groups_of
from wsi_detect.evaluation.out_of_fold import MACRO, endpoint_figures, out_of_fold
from wsi_detect.losses import LOSSES, ClassCounts, with_class_counts
from wsi_detect.slides import open_slide
from wsi_detect.taxonomy import CLASSES
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide
from wsi_detect.training.grid import ComparisonJob, FieldsConfig, Run, digest_of, resolve, shared, trials
from wsi_detect.training.records import Results
from wsi_detect.training.trainer import train_detector

#: Detectors that divide their losses by the positives of a batch; each of the others has a rule of its own.
_BY_POSITIVES = ("atss", "fcos")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFields:
    """Fields of a comparison.

    Attributes:
        images: folder of the files.
        truths: one a field; `image_id` is the file's name.
        ids: (F,) ids by content, which are what is written down: a file name may be a patient's.
        folds: (F,) fold of each.
        groups: (F,) number of the patient, slide or field (the largest unit known of all) each belongs to.
        unit: which of the three.
        annotations: the table that training reads.
        config: facts about them.
        work: folder for patch stores and runs.
    """

    images: Path
    truths: tuple[FieldTruth, ...]
    ids: tuple[str, ...]
    folds: NDArray[np.int64]
    groups: NDArray[np.int64]
    unit: str
    annotations: Path
    config: FieldsConfig
    work: Path

    def facts(self, job: ComparisonJob) -> dict[str, Any]:
        """Everything that all runs share: fields with truth, fold and group, and the endpoints."""
        return {**self.own_facts(), **shared(job)}

    def own_facts(self) -> dict[str, Any]:
        """The fields with fold and group, and their truth as a digest."""
        labels = [[[*map(float, box), name] for box, name in zip(t.boxes, t.labels, strict=True)] for t in self.truths]
        rows = zip(self.ids, self.folds.tolist(), self.groups.tolist(), strict=True)
        return {
            "fields": {name: {"fold": fold, "group": group} for name, fold, group in rows},
            "unit": self.unit,
            "truth": digest_of({"labels": labels}),
        }


@dataclass(frozen=True, slots=True)
class Bench:
    """What every run of a comparison needs.

    Attributes:
        job: the declaration.
        fields: the labelled fields.
        results: where records go.
        detector_of: opens a bundle as something that finds cells in whole fields.
    """

    job: ComparisonJob
    fields: LabelledFields
    results: Results
    detector_of: Callable[[Path], FieldDetector]


def prepare(images: Path, coco: Path, card: Path, job: ComparisonJob, work: Path) -> LabelledFields:
    """Read the labelled fields of a comparison and put them into folds; see `in_folds`."""
    return in_folds(images, coco, card, job.fields, work, folds=job.cross_validation.folds, unit=job.comparison.unit)


def in_folds(
    images: Path, coco: Path, card: Path, facts: FieldsConfig, work: Path, *, folds: int, unit: Unit | None
) -> LabelledFields:
    """Read labelled fields and put them into folds.

    Fields are stratified by which classes they hold, rarest class first, so that the few fields of a rare class are
    spread over the folds. Of annotations that say the same cell twice one is kept.

    Args:
        images: folder of the files.
        coco: labels, categories in the words of the taxonomy; of what is not cells of the cervix, in the card's.
        card: data card that maps them.
        facts: about them.
        work: folder for everything made on the way.
        folds: how many.
        unit: what may not be divided; None for the largest known of all fields.

    Raises:
        LabelError: no field, two fields with the same pixels or that look alike in different folds, labels that cannot
            be read, or of a class that the declaration does not name.
        ConfigError: the card is broken.
        LicenceError: its licence does not allow that methods are compared on the fields.
    """
    class_map = class_map_of(card)
    if (card / CARD_NAME).is_file():
        check_use(load_card(card, draft=True), "comparison")
    truths = read_fields(coco, _names_of(class_map))
    paths = [images / truth.image_id for truth in truths]
    lost = next((path for path in paths if not path.is_file()), None)
    if not truths or lost:
        raise LabelError(f"{coco} names no image" if not truths else f"{lost} is named in {coco} and does not exist")
    ids = [artifact.slide_id(path) for path in paths]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise LabelError(f"{coco}: two fields have the same pixels ({twice}); one could be in training, one left out")
    strangers = sorted({name for truth in truths for name in truth.labels} - set(facts.classes))
    if strangers:
        raise LabelError(f"{coco} has cells of class {strangers[0]}, which fields.classes does not name; add it there")
    unit, members = groups_of(truths, unit)
    present = np.array([[name in truth.labels for name in facts.classes] for truth in truths], np.int64)
    parts = grouped_folds(members, present, folds, facts.fold_seed)
    check_leak(members, [str(part) for part in parts])
    _check_look_alikes(paths, parts)
    names = {truth.image_id: name for truth, name in zip(truths, ids, strict=True)}
    rules = ImportRules(faulty="repair")
    annotations = import_annotations(coco, "coco", class_map, work / "dataset", names, rules)
    take_card(card, annotations)
    groups = group_numbers(members)
    return LabelledFields(images, tuple(truths), tuple(ids), parts, groups, unit, annotations, facts, work)


def _names_of(class_map: ClassMap) -> tuple[str, ...]:
    """Names that labels may have: any of the taxonomy, or if the card's are none of those, the card's alone."""
    return tuple(CLASSES) if set(class_map.classes) <= set(CLASSES) else class_map.classes


def _check_look_alikes(paths: Sequence[Path], folds: NDArray[np.int64]) -> None:
    """Refuse two photographs of one field in two folds: one would be trained on, the other looked at."""
    rows = zip(paths, folds.tolist(), strict=True)
    found = find_leaks([Item(path.name, f"fold {fold}", looks=hash_file(path)) for path, fold in rows])
    if found:
        raise LabelError(
            f"{len(found)} pairs of fields across the folds: {'; '.join(map(str, found))}; take one of each out, or "
            "give both one field_id in the COCO file"
        )


def check_runs(job: ComparisonJob, runs: Sequence[Run]) -> None:
    """Make sure that every run can begin: each detector is built once, with made-up counts and random weights.

    A wrong option of the last method shall not be found after two days.

    Raises:
        ConfigError: one cannot.
    """
    classes = len(job.fields.classes)
    counts = ClassCounts((3.0,) * classes, (2.0,) * classes, 10.0)
    built: list[tuple[str, dict[str, Any]]] = []
    for run in runs:
        training = resolve(job, run)[1]
        wanted = training.detector, with_class_counts({**training.options, "weights": None}, counts)
        if wanted in built:
            continue
        try:
            build_detector(wanted[0], classes, wanted[1])
        except ConfigError as error:
            raise ConfigError(f"cross_validation, run {run.name}: {error}") from error
        built.append(wanted)


def settle(bench: Bench, run: Run) -> bool:
    """Do a run, its trials first, unless it is recorded with these very settings.

    Returns:
        Whether it is recorded now; False if another process is at it.
    """
    tried = trials(bench.job.cross_validation, run)
    if not all(_settle_one(bench, trial, None) for trial in tried):
        return False
    figures = [(bench.results.read(trial) or {}).get(MACRO) or 0.0 for trial in tried]
    rate = bench.job.cross_validation.tuning.learning_rates[int(np.argmax(figures))] if tried else None
    return _settle_one(bench, run, rate)


def _settle_one(bench: Bench, run: Run, rate: float | None) -> bool:
    digest = bench.results.digest(bench.job, run, rate)
    if bench.results.read(run, digest):
        return True
    try:
        with artifact.lock(bench.fields.work / "locks" / run.name):
            # Another process may have finished it while this one came to the lock.
            if not bench.results.read(run, digest):
                record = _run(bench, run, rate, digest)
                path = bench.results.write(run, record)
                shutil.rmtree(_folder(bench, digest))
                _log.info("%s: macro AP50 %s, %d s", path.name, record[MACRO], record["seconds"])
    except OutputBusyError:
        return False
    return True


def how_made(bench: Bench, run: Run, rate: float | None) -> dict[str, Any]:
    """How a run is made, in plain values: what is written beside its figures."""
    tiling, training = resolve(bench.job, run, rate)
    options = training.options
    loss = str(options.get("loss", "focal"))
    given = "positives of the batch" if training.detector in _BY_POSITIVES else f"that of {training.detector}"
    own = bool(getattr(LOSSES.get(loss), "own_normaliser", False))
    return {
        "detector": training.detector,
        "loss": loss,
        "loss_options": dict(options.get("loss_options") or {}),
        "prior": options.get("prior", "the detector's default"),
        "normaliser": "the loss's own" if own else given,
        "initialisation": options.get("weights") or "random",
        "sampler": training.loader.sampler,
        "learning_rate": training.optimiser.learning_rate,
        "chosen_rate": rate,
        "trials": max(len(bench.job.cross_validation.tuning.learning_rates), 1),
        "steps": training.steps,
        "batch_size": training.loader.batch_size,
        "crop_px": training.loader.crop_px,
        "mpp": tiling.mpp or bench.fields.config.mpp,
        "fields_trained": int((~_left_out(bench, run)).sum()),
    }


def _run(bench: Bench, run: Run, rate: float | None, digest: str) -> dict[str, Any]:
    begun = time.monotonic()
    tiling, training = resolve(bench.job, run, rate)
    made = how_made(bench, run, rate)
    _log.info("%s: %s", run.name, ", ".join(f"{name} {value}" for name, value in made.items()))
    fields, endpoints = bench.fields, bench.job.cross_validation.endpoints
    classes = fields.config.classes
    folder = _folder(bench, digest)
    stores = tiled(fields, tiling)
    trained = [fields.ids[k] for k in np.flatnonzero(~_left_out(bench, run))]
    index = build_index(
        {name: stores[name] for name in trained}, fields.annotations, dict.fromkeys(trained, "train"), folder, classes
    )
    bundle = train_detector(index, folder / "run", training)
    watched = np.flatnonzero(fields.folds == _watched(bench, run))
    rescale = 1.0 if tiling.mpp is None else fields.config.mpp / tiling.mpp
    truths = [fields.truths[k] for k in watched]
    found, truths = predict_fields(bench.detector_of(bundle), truths, fields.images, rescale)
    ids = [fields.ids[k] for k in watched]
    found = [replace(one, image_id=name) for one, name in zip(found, ids, strict=True)]
    truths = [replace(one, image_id=name) for one, name in zip(truths, ids, strict=True)]
    kept = out_of_fold(found, truths, classes, endpoints)
    return {
        "run": run.to_plain(),
        "digest": digest,
        "made": made,
        MACRO: endpoint_figures(kept.pools(), classes, endpoints)[MACRO],
        "any_cell_ap50": ap50(found, truths, classes)["agnostic"],
        "found": kept.to_json(),
        "seconds": round(time.monotonic() - begun),
        "version": __version__,
    }


def tiled(fields: LabelledFields, config: TilingConfig) -> dict[str, PatchStore]:
    """Patch store of every field, made once for each tiling."""
    folder = fields.work / "tiles" / digest_of(config.model_dump(mode="json"))
    stores = {}
    for truth, name in zip(fields.truths, fields.ids, strict=True):
        try:
            # The picture is not opened for a store that is there: that would cost more than the store.
            stores[name] = PatchStore.open(folder / name / "patches.zarr")
        except MissingArtifactError:
            path, mpp = fields.images / truth.image_id, fields.config.mpp
            with open_slide(path, mpp=mpp, mpp_source="manifest", slide_id=name) as slide:
                stores[name] = tile_slide(slide, folder / name, config)
    return stores


def _watched(bench: Bench, run: Run) -> int:
    """Fold whose fields are looked at: the one left out, or for a trial the next."""
    return run.fold if run.trial is None else (run.fold + 1) % bench.job.cross_validation.folds


def _left_out(bench: Bench, run: Run) -> NDArray[np.bool_]:
    """Fields (F,) that are not trained on."""
    return np.isin(bench.fields.folds, [run.fold, _watched(bench, run)])


def _folder(bench: Bench, digest: str) -> Path:
    return bench.fields.work / "runs" / digest
