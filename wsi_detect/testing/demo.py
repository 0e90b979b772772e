"""The real labelled fields shipped for the demonstration (CRIC Cervix, CC BY 4.0; see `demo_fields/README.md`)."""

from pathlib import Path

from wsi_detect.errors import MissingArtifactError

_FOLDER = Path(__file__).parent / "demo_fields"


def demo_fields() -> tuple[list[Path], Path]:
    """Return the fields (JPEG) in alphabetical order, and their labels (COCO).

    Raises:
        MissingArtifactError: the package was installed without them.
    """
    fields, labels = sorted(_FOLDER.glob("*.jpg")), _FOLDER / "fields.json"
    if not fields or not labels.exists():
        raise MissingArtifactError(f"the demonstration fields are not in {_FOLDER}; install the package again")
    return fields, labels
