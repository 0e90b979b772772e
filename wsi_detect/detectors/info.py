"""What a model bundle says about itself, readable without torch."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wsi_detect import artifact
from wsi_detect.errors import DamagedArtifactError, ForeignModelError, MissingArtifactError, ModelError
from wsi_detect.taxonomy import CLASSES, gravest_first, is_abnormal

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
#: Key of `config.json` in bundles of other models than detectors, and what it says in those of evidence models.
KIND, EVIDENCE = "kind", "evidence"


@dataclass(frozen=True, slots=True)
class DetectorInfo:
    """Facts that travel with the weights in `config.json`.

    Attributes:
        model_id: name and hash of the weights; part of every cell's id.
        classes: taxonomy names; the model's label k is `classes[k]`. A model made to compare methods on other material
            has names of its own, and is refused wherever that is not said to be meant.
        patch_px: side of the patches it was trained for, patch px.
        mpp: µm per patch px it was trained at.
        mpp_assumed: the training data do not state their resolution; `mpp` is a plausible value.
        preparation: of the training slides, in the words of the slide manifest.
        largest_cell_um: side of the largest box it was trained on; the tile overlap must hold it.
        score_threshold: detections below are not kept.
        detector: `name` and `options` of the builder.
        data_card: which data it was trained on.
        training: how it was made (command, seed, commit, steps), for the record.
    """

    model_id: str
    classes: tuple[str, ...]
    patch_px: int
    mpp: float
    mpp_assumed: bool
    preparation: str
    largest_cell_um: float
    score_threshold: float
    detector: dict[str, Any]
    data_card: str
    training: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `config.json`."""
        return asdict(self)

    def unseen_classes(self) -> list[str]:
        """Abnormal classes of the taxonomy the model cannot see, gravest first."""
        return gravest_first(name for name in CLASSES if is_abnormal(name) and name not in self.classes)


def read_info(folder: Path, *, any_specimen: bool = False) -> DetectorInfo:
    """Read a bundle's `config.json`.

    Args:
        folder: of the bundle.
        any_specimen: take a model of what is not cells of the cervix too; for comparing methods, never for a slide.

    Raises:
        MissingArtifactError: no such file.
        ModelError: it is the bundle of an evidence model.
        DamagedArtifactError: a key is missing or unknown.
        ForeignModelError: a class is not in the taxonomy.
    """
    if not (folder / CONFIG).is_file():
        raise MissingArtifactError(f"{folder} is not a model bundle: {CONFIG} is missing")
    values = artifact.read_json(folder / CONFIG)
    if values.get(KIND) == EVIDENCE:
        raise ModelError(
            f"{folder} is the bundle of an evidence model, which finds no cells; a detector is wanted here"
        )
    try:
        info = DetectorInfo(**{**values, "classes": tuple(values["classes"])})
    except (TypeError, KeyError) as error:
        raise DamagedArtifactError(f"{folder / CONFIG}: {error}; the bundle was written by another version") from error
    foreign = [name for name in info.classes if name not in CLASSES]
    if foreign and not any_specimen:
        raise ForeignModelError(
            f"{folder} finds {', '.join(foreign)}, which the Bethesda System does not have: it was made to compare "
            f"methods (data card {info.data_card}) and is of no use on a slide; give a model of cells of the cervix"
        )
    return info


def bundled_models() -> dict[str, Path]:
    """Bundles that come with the package: name → folder."""
    root = Path(__file__).parent.parent / "models"
    return (
        {folder.name: folder for folder in sorted(root.iterdir()) if (folder / CONFIG).is_file()}
        if root.is_dir()
        else {}
    )


def default_bundle() -> Path:
    """Folder of the detector the package comes with.

    Raises:
        MissingArtifactError: the installation has none.
    """
    models = bundled_models()
    if not models:
        raise MissingArtifactError("this installation has no bundled model; give one with --model FOLDER")
    return next(iter(models.values()))
