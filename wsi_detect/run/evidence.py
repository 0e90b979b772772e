"""The evidence of one slide, mapped by several processes: each takes a shard of the store and writes its own part."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_detect import artifact
from wsi_detect.detectors.evidence_info import read_evidence_info
from wsi_detect.errors import ArtifactError
from wsi_detect.inference import EVIDENCE_RUNTIMES, EvidenceRuntime
from wsi_detect.inference.evidence import EvidenceConfig, finish, is_mapped, map_part
from wsi_detect.run.tiled_slide import open_tiled
from wsi_detect.tiling.evidence_map import HEATMAP
from wsi_detect.tiling.journal import STORE
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.workers import map_items

if TYPE_CHECKING:
    from wsi_detect.detectors.evidence_info import EvidenceMapper


@dataclass(frozen=True, slots=True)
class EvidenceJob:
    """What is mapped, and how; crosses to worker processes.

    Attributes:
        folder: of the slide, with its `patches.zarr`; gets `heatmap.zarr`.
        bundle: the evidence model.
        slide: the slide file; None where stored patches overlap enough.
        config: of the stage.
        device: for the model.
        runtime: how the bundle is loaded; None is PyTorch.
    """

    folder: Path
    bundle: Path
    slide: Path | None = None
    config: EvidenceConfig = field(default_factory=EvidenceConfig)
    device: str = "auto"
    runtime: EvidenceRuntime | None = None

    def __call__(self) -> "tuple[EvidenceJob, EvidenceMapper]":
        """Set up a worker: load the model once."""
        load = self.runtime or EVIDENCE_RUNTIMES["torch"]
        return self, load(self.bundle, self.device, threads=self.config.threads)

    @contextmanager
    def store(self) -> Iterator[PatchStore]:
        """Open the patches, together with the slide if it is given; raises what `open_tiled` does."""
        with ExitStack() as opened:
            reader = None if self.slide is None else opened.enter_context(open_tiled(self.folder, self.slide))
            yield opened.enter_context(PatchStore.open(self.folder / STORE, reader))


def map_slide(job: EvidenceJob, workers: int = 1, *, overwrite: bool = False) -> Path:
    """Map the evidence of a tiled slide; the same call again continues where the last one stopped.

    Args:
        job: what is mapped.
        workers: processes, each with its own model; 0 works in this process. The map does not depend on it.
        overwrite: replace a map, whole or begun, of another making, instead of refusing.

    Returns:
        The folder `heatmap.zarr`.

    Raises:
        OutputBusyError: another run holds the folder.
        StaleArtifactError: the slide is not the one that was tiled; or see `inference.evidence.map_evidence`.
        ConfigError, ResolutionMismatchError: see `inference.evidence.map_evidence`.
        ArtifactError: a part could not be made; the first reason.
        EnvironmentFaultError: the machine stands in the way.
    """
    info = read_evidence_info(job.bundle)
    with artifact.lock(job.folder), job.store() as store:
        if is_mapped(store, info, job.folder, job.config, overwrite=overwrite):
            return job.folder / HEATMAP
        # What a run has recorded of its own map is not true of this one.
        artifact.forget_stage(job.folder, "evidence")
        artifact.sweep(job.folder)
        numbers = range(len(store.shards))
        outcomes = list(map_items(_map, numbers, job, workers=workers))
        failed = sorted((outcome.item, outcome.error) for outcome in outcomes if outcome.error)
        if failed:
            raise ArtifactError(
                f"evidence of {job.folder}: {len(failed)} of {len(numbers)} parts failed: {failed[0][1]}"
            )
        return finish(store, info, job.folder, job.config)


def _map(state: "tuple[EvidenceJob, EvidenceMapper]", number: int) -> str:
    job, model = state
    with job.store() as store:
        return map_part(store, model, job.folder, job.config, number).name
