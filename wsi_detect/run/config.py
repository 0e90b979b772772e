"""The configuration of a run: one section a stage, what is open filled from the model."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field, model_validator

from wsi_detect.config import Config, parse, read_yaml, with_overrides
from wsi_detect.errors import ConfigError, UnknownKeyError
from wsi_detect.exports import EXPORTERS
from wsi_detect.exports.evidence_contours import ContourConfig
from wsi_detect.exports.exporter import ExportConfig
from wsi_detect.inference.detect import DetectionConfig
from wsi_detect.inference.evidence import EvidenceConfig
from wsi_detect.inference.gate import GateConfig
from wsi_detect.slides import MAX_PIXELS
from wsi_detect.stitching.stitcher import StitchingConfig
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.quality import QualityConfig

if TYPE_CHECKING:
    from wsi_detect.detectors.info import DetectorInfo

C = TypeVar("C", bound=Config)

#: Every section a file of this project may hold.
SECTIONS = (
    "fields",
    "dataset",
    "tiling",
    "training",
    "evidence",
    "contours",
    "gate",
    "detection",
    "stitching",
    "limits",
    "quality",
    "exports",
    "export",
    "evaluation",
    "comparison",
    "cross_validation",
    "report",
    "evidence_training",
    "map_comparison",
    "lab",
)
#: Overlap of neighbouring patches, largest cells: every cell lies its own width inside some patch.
_OVERLAP_CELLS = 2.0
#: Words for a preparation, in lower case, that mean cells in a round deposit; any other known word is a smear.
_LIQUID_BASED = ("liquid", "thinprep", "surepath", "lbc", "tct", "monolayer", "cytospin")


class LimitsConfig(Config):
    """When a slide is refused, and when it counts as screened.

    Attributes:
        max_upsampling: a slide coarser than the model by more than this factor needs `accept_resolution`.
        max_unexamined: fraction of the cell area that may be unreadable or failed in a slide called SCREENED.
        min_examined: a slide of which a smaller fraction of the cell area was examined is NOT SCREENED.
    """

    max_upsampling: float = Field(1.3, ge=1)
    max_unexamined: float = Field(0.0, ge=0, le=1)
    min_examined: float = Field(0.5, ge=0, le=1)


class RunConfig(Config):
    """Everything `run` needs to know, one section a stage.

    A run reads its patches from the slide (`tiling.codec: none`) unless asked to keep them; the model's patch size,
    resolution and largest cell fill whatever the sections leave open. `evidence`, `contours` and `gate` matter where an
    evidence model is given as well.
    """

    tiling: TilingConfig = TilingConfig(codec="none")
    evidence: EvidenceConfig = EvidenceConfig()
    contours: ContourConfig = ContourConfig()
    gate: GateConfig = GateConfig()
    detection: DetectionConfig = DetectionConfig()
    stitching: StitchingConfig = StitchingConfig()
    limits: LimitsConfig = LimitsConfig()
    quality: QualityConfig = QualityConfig()
    exports: tuple[str, ...] = ("geojson", "csv")
    export: ExportConfig = ExportConfig()

    @model_validator(mode="before")
    @classmethod
    def _index_only(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(values.get("tiling"), Mapping):
            return {**values, "tiling": {"codec": "none", **values["tiling"]}}
        return values

    @model_validator(mode="after")
    def _known_formats(self) -> "RunConfig":
        unknown = sorted(set(self.exports) - set(EXPORTERS))
        if unknown:
            raise ValueError(f"unknown export format {unknown[0]!r}; known: {', '.join(sorted(EXPORTERS))}")
        return self


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What is decided from run to run.

    Attributes:
        mpp: µm per px of slides for which the manifest gives none; overrides what their files say.
        preparation: of slides for which the manifest gives none.
        accept_resolution: examine slides too coarse for the model, with a banner in the report.
        allow_fluorescence: examine slides that are not bright field.
        overwrite: redo what was made otherwise, instead of refusing.
        max_pixels: a slide that declares more is refused.
    """

    mpp: float | None = None
    preparation: str | None = None
    accept_resolution: bool = False
    allow_fluorescence: bool = False
    overwrite: bool = False
    max_pixels: int = MAX_PIXELS


def load_section(path: Path | None, name: str, kind: type[C], overrides: Sequence[str] = ()) -> C:
    """Read one section of a file; as `load_job` for a job that knows this section alone."""
    values = _sections(path, overrides, (name,)).get(name) or {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: section {name!r} must be a mapping")
    return parse(values, kind, where=f"{path or 'command line'}: section {name!r}")


def load_job(path: Path | None, kind: type[C], overrides: Sequence[str] = ()) -> C:
    """Read those sections of a file that a job knows; sections of other jobs are left alone, so that jobs share files.

    Raises:
        UnknownKeyError: a section that no job knows, with the nearest name; or a key in a section.
        ConfigError: the file is unreadable, or a value is wrong.
    """
    values = _sections(path, overrides, tuple(kind.model_fields))
    return parse(values, kind, where=str(path or "command line"))


def _sections(path: Path | None, overrides: Sequence[str], wanted: Sequence[str]) -> dict[str, Any]:
    values = with_overrides(read_yaml(path) if path else {}, overrides)
    for name in values:
        if name not in (*SECTIONS, *wanted):
            near = difflib.get_close_matches(name, SECTIONS, n=1, cutoff=0.0)
            where = str(path or "command line")
            raise UnknownKeyError(f"{where}: unknown section {name!r}; did you mean {near[0]!r}?")
    return {name: value for name, value in values.items() if name in wanted}


def resolve(config: RunConfig, info: "DetectorInfo", preparation: str | None) -> RunConfig:
    """Fill what the configuration leaves open from the model and the slide's preparation."""
    tiling = config.tiling
    given = tiling.model_fields_set
    update: dict[str, Any] = {}
    if tiling.mpp is None:
        update["mpp"] = info.mpp
    if "patch_px" not in given:
        update["patch_px"] = info.patch_px
    if not {"overlap_um", "overlap_px"} & given:
        # A cell that some patch shows whole may still touch its edge, where the network sees half its surroundings.
        update["overlap_um"] = _OVERLAP_CELLS * info.largest_cell_um
    if tiling.mask.preparation == "auto":
        update["mask"] = tiling.mask.model_copy(update={"preparation": mask_kind(preparation)})
    stitching = config.stitching
    if "largest_cell_um" not in stitching.model_fields_set:
        stitching = stitching.model_copy(update={"largest_cell_um": info.largest_cell_um})
    return config.model_copy(update={"tiling": tiling.model_copy(update=update), "stitching": stitching})


def mask_kind(preparation: str | None) -> Literal["auto", "lbc", "smear"]:
    """Which cell mask a preparation asks for; unknown words leave the choice to the mask."""
    words = (preparation or "").lower()
    if any(word in words for word in _LIQUID_BASED):
        return "lbc"
    return "smear" if "smear" in words or "conventional" in words else "auto"
