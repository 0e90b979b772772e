"""One slide through every stage, skipping what is there and fresh: tile → detect → stitch → export → report.

Where an evidence model is given its map comes between tile and detect, and may gate what the detector is shown.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_detect import __version__, artifact, schema
from wsi_detect.config import digest
from wsi_detect.errors import (
    ConfigError,
    EnvironmentFaultError,
    FluorescenceError,
    MissingSlideError,
    ResolutionMismatchError,
    StaleArtifactError,
    WsiDetectError,
)
from wsi_detect.exports.evidence_contours import CONTOURS, write_contours
from wsi_detect.exports.exporter import export_cells
from wsi_detect.inference.detect import detect_patches
from wsi_detect.inference.evidence import PARTS, map_evidence
from wsi_detect.inference.gate import Gate, lay_gate
from wsi_detect.report.slide_report import write_report
from wsi_detect.run import status as states
from wsi_detect.run.config import RunConfig, RunOptions, resolve
from wsi_detect.run.gate_report import gate_figures
from wsi_detect.run.slide_list import SlideRow
from wsi_detect.slides import open_slide
from wsi_detect.slides.brightfield import is_bright_field
from wsi_detect.slides.reader import SlideReader
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.stitching.stitcher import stitch_detections
from wsi_detect.tiling.evidence_map import HEATMAP, EvidenceMap
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.tiling.tiler import tile_slide

if TYPE_CHECKING:
    from wsi_detect.detectors.evidence_info import EvidenceInfo, EvidenceMapper
    from wsi_detect.detectors.info import DetectorInfo
    from wsi_detect.inference.detector import Detector

STORE = "patches.zarr"
CELLS = "cells.parquet"
#: Stage → what it leaves in the slide's folder.
OUTPUTS = {
    "tile": (STORE, "patches.journal"),
    "detect": ("detections", "patches.parquet"),
    "stitch": (CELLS,),
    "export": ("exports",),
    "report": (states.STATUS, "report.html"),
}
#: The same of stages that only some runs have, in the order of all.
_EVIDENCE = {"evidence": (HEATMAP, PARTS)}
_ALL = {"tile": OUTPUTS["tile"], **_EVIDENCE, **OUTPUTS}
_PLAN = "plan"

Keys = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Job:
    """One slide, what is to be made of it, and where.

    Attributes:
        row: the slide.
        folder: where its results go.
        config: resolved for this slide.
        options: what is decided from run to run.
        info: the model's facts.
        keys: what each stage's results are made from.
    """

    row: SlideRow
    folder: Path
    config: RunConfig
    options: RunOptions
    info: "DetectorInfo"
    keys: Keys

    @property
    def preparation(self) -> str | None:
        """Of the slide, as the manifest or the command line has it."""
        return self.row.preparation or self.options.preparation


def plan(
    row: SlideRow,
    out: Path,
    info: "DetectorInfo",
    config: RunConfig,
    options: RunOptions,
    evidence: "EvidenceInfo | None" = None,
) -> Job:
    """Work out what a slide's results are to be made from.

    Raises:
        MissingSlideError: there is no file, or nothing in it.
        ConfigError: a gate without an evidence model.
    """
    _check_gate(config, evidence)
    path = Path(row.path)
    if not path.is_file() or not path.stat().st_size:
        raise MissingSlideError(f"{path} {'is empty' if path.is_file() else 'does not exist'}")
    config = resolve(config, info, row.preparation or options.preparation)
    keys = _keys(row, info, config, options)
    if evidence is not None:
        keys = _with_evidence(keys, evidence, config)
    return Job(row, out / row.slide_id, config, options, info, keys)


def is_finished(job: Job) -> bool:
    """Whether all results are there, made from exactly this slide, model and configuration."""
    return all(artifact.is_fresh(job.folder, stage, key) for stage, key in job.keys.items())


def run_slide(
    row: SlideRow,
    out: Path,
    detector: "Detector",
    config: RunConfig,
    options: RunOptions,
    mapper: "EvidenceMapper | None" = None,
) -> states.Status:
    """Screen one slide.

    Args:
        row: the slide.
        out: folder of the run; results go to `out/<slide_id>/`.
        detector: a loaded bundle.
        config: of all stages.
        options: what is decided from run to run.
        mapper: a loaded evidence model; None maps no evidence.

    Returns:
        The content of `status.json`. A slide that cannot be screened is NOT SCREENED with the reason.

    Raises:
        StaleArtifactError: results of another slide, model or configuration are there and `overwrite` is not set.
        ConfigError: a gate without an evidence model.
        EnvironmentFaultError: the machine, not the slide, stands in the way.
    """
    known = None if mapper is None else mapper.info
    _check_gate(config, known)
    try:
        return _screen(plan(row, out, detector.info, config, options, known), detector, mapper)
    except (StaleArtifactError, EnvironmentFaultError):
        raise
    except WsiDetectError as error:
        return give_up(row, out, str(error))


def give_up(row: SlideRow, out: Path, reason: str) -> states.Status:
    """Record that a slide could not be screened, and say so in its report."""
    folder = out / row.slide_id
    status = states.not_screened(row.slide_id, Path(row.path), reason)
    artifact.write_json(folder / states.STATUS, status)
    if (folder / CELLS).exists():
        # Cells of an earlier run must not appear in a report of this one.
        (folder / "report.html").unlink(missing_ok=True)
    else:
        write_report(folder)
    return status


def _check_gate(config: RunConfig, evidence: "EvidenceInfo | None") -> None:
    if config.gate.threshold is not None and evidence is None:
        raise ConfigError("gate.threshold is set, and there is no evidence to gate by; use --evidence-model")


def _keys(row: SlideRow, info: "DetectorInfo", config: RunConfig, options: RunOptions) -> Keys:
    """Chain the stages: each key holds a hash of the one before."""
    shared = {"schema": schema.SCHEMA_VERSION}
    mpp = row.mpp or options.mpp
    tile = {**shared, "slide": artifact.fingerprint(Path(row.path)), "mpp": mpp, "config": digest(config.tiling)}
    detect = {"from": _hash(tile), "model": info.model_id, "config": digest(config.detection)}
    stitch = {"from": _hash(detect), "config": digest(config.stitching)}
    export = {"from": _hash(stitch), "formats": list(config.exports), "config": digest(config.export)}
    report = {
        "from": _hash(export),
        "limits": digest(config.limits),
        "quality": digest(config.quality),
        "preparation": row.preparation or options.preparation,
        "model": _hash(info.to_json()),
    }
    return {"tile": tile, "detect": detect, "stitch": stitch, "export": export, "report": report}


def _with_evidence(keys: Keys, info: "EvidenceInfo", config: RunConfig) -> Keys:
    """Put the evidence stage into the chain: exports outline it, the report shows it, a gate ties detections to it."""
    evidence = {"from": _hash(keys["tile"]), "model": _hash(info.to_json()), "config": digest(config.evidence)}
    mapped = {"evidence": _hash(evidence)}
    gated = {**mapped, "gate": digest(config.gate)} if config.gate.threshold is not None else {}
    detect = {**keys["detect"], **gated}
    stitch = {**keys["stitch"], "from": _hash(detect)}
    export = {**keys["export"], "from": _hash(stitch), **mapped, "contours": digest(config.contours)}
    report = {**keys["report"], "from": _hash(export)}
    return {
        "tile": keys["tile"],
        "evidence": evidence,
        "detect": detect,
        "stitch": stitch,
        "export": export,
        "report": report,
    }


def _hash(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _screen(job: Job, detector: "Detector", mapper: "EvidenceMapper | None") -> states.Status:
    mpp, source = (job.row.mpp, "manifest") if job.row.mpp else (job.options.mpp, "--mpp")
    path = Path(job.row.path)
    most = job.options.max_pixels
    with open_slide(path, mpp=mpp, mpp_source=source, slide_id=job.row.slide_id, max_pixels=most) as slide:
        _check_slide(slide, job)
        _claim(job)
        _stage(job, "tile", lambda: tile_slide(slide, job.folder, job.config.tiling))
        store = PatchStore.open(job.folder / STORE, slide)
        gate = None
        if mapper is not None:
            # A map that `evidence` made is in no plan, so nobody has cleared it away.
            again = job.options.overwrite
            _stage(
                job,
                "evidence",
                lambda: map_evidence(store, mapper, job.folder, job.config.evidence, overwrite=again),
            )
            gate = lay_gate(EvidenceMap.open(job.folder / HEATMAP), store, job.config.gate)
        _stage(job, "detect", lambda: detect_patches(store, detector, job.folder, job.config.detection, gate))
        _stage(job, "stitch", lambda: _stitch(job, store, slide))
        _stage(job, "export", lambda: _export(job))
        _stage(job, "report", lambda: _report(job, slide, store, gate))
    return artifact.read_json(job.folder / states.STATUS)


def _check_slide(slide: SlideReader, job: Job) -> None:
    """Refuse what the model cannot be expected to read."""
    mpp, target, limits = slide.info.resolution(), job.config.tiling.mpp or job.info.mpp, job.config.limits
    if mpp / target > limits.max_upsampling and not job.options.accept_resolution:
        raise ResolutionMismatchError(
            f"the slide has {mpp:.4g} µm/px, the model works at {target:.4g}: it would be enlarged {mpp / target:.2f} "
            f"times, more than {limits.max_upsampling:g}; use --accept-resolution to screen it all the same"
        )
    if not job.options.allow_fluorescence and not is_bright_field(slide):
        raise FluorescenceError(
            "the slide is fluorescence or dark-ground, the model knows bright field only; "
            "use --allow-fluorescence to screen it all the same"
        )


def stale_stages(job: Job) -> list[str]:
    """Stages whose results, whole or begun, are there but were planned from something else."""
    known = artifact.read_manifest(job.folder).get(_PLAN)
    return [] if known is None else [stage for stage in _ALL if known["key"].get(stage) != job.keys.get(stage)]


def _claim(job: Job) -> None:
    """Enter the plan before the first result; refuse, or clear away, results of another plan."""
    artifact.sweep(job.folder)
    manifest = artifact.read_manifest(job.folder)
    stale = stale_stages(job)
    if stale and not job.options.overwrite:
        raise StaleArtifactError(
            f"{job.row.slide_id}: {', '.join(stale)} were made from another slide file, model or configuration; "
            "use --overwrite or give another --out"
        )
    for stage in stale:
        manifest.pop(stage, None)
        for name in _ALL[stage]:
            _remove(job.folder / name)
    if stale or _PLAN not in manifest:
        manifest[_PLAN] = {"key": job.keys, "files": {}}
        artifact.write_json(job.folder / artifact.MANIFEST, manifest)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _stage(job: Job, name: str, work: Callable[[], object]) -> None:
    if artifact.is_fresh(job.folder, name, job.keys[name]):
        return
    started = time.monotonic()
    work()
    entry = {
        "key": job.keys[name],
        "files": artifact.sizes(job.folder, _files(job.folder, _ALL[name])),
        "seconds": round(time.monotonic() - started, 3),
        "version": __version__,
    }
    artifact.record_stage(job.folder, name, entry)


def _files(folder: Path, outputs: tuple[str, ...]) -> list[str]:
    """Names, relative to the folder, of the files of a stage."""
    roots = [folder / name for name in outputs]
    found = [path for root in roots for path in ([root] if root.is_file() else root.rglob("*")) if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _stitch(job: Job, store: PatchStore, slide: SlideReader) -> None:
    stitch_detections(
        job.folder / "detections",
        store.grid,
        slide.info,
        job.folder,
        job.config.stitching,
        model_id=job.info.model_id,
        scale=store.grid.patch / store.patch_px,
    )


def _export(job: Job) -> None:
    cells = CellMap.read(job.folder / CELLS)
    for name in job.config.exports:
        export_cells(cells, job.folder / "exports", name, job.config.export)
    if "evidence" in job.keys:
        found = EvidenceMap.open(job.folder / HEATMAP)
        write_contours(found, job.folder / "exports" / CONTOURS, job.config.contours)


def _report(job: Job, slide: SlideReader, store: PatchStore, gate: Gate | None) -> None:
    patches = artifact.read_table(job.folder / "patches.parquet", schema.PATCHES)
    cells = CellMap.read(job.folder / CELLS)
    status = states.screened(
        slide.info,
        job.info,
        job.config,
        job.options,
        preparation=job.preparation,
        patches=patches,
        counts=cells.counts(),
    )
    status = states.behind_gate(status, None if gate is None else gate_figures(gate, store, cells))
    artifact.write_json(job.folder / states.STATUS, status)
    write_report(job.folder, slide)
