"""Folders of slides among what a shell makes of `work/*`: the tables of the run lie beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from wsi_detect import artifact
from wsi_detect.errors import MissingArtifactError
from wsi_detect.run.stages import CELLS, STORE
from wsi_detect.run.status import NOT_SCREENED, STATUS
from wsi_detect.tiling.evidence_map import HEATMAP
from wsi_detect.tiling.patch_store import ROOT

Need = Literal["patches", "evidence", "cells"]

#: What a command needs → the file that is there if it is, and what to say if not.
_NEEDS: dict[Need, tuple[str, str]] = {
    "patches": (f"{STORE}/{ROOT}", "it has no patches"),
    "evidence": (f"{HEATMAP}/{ROOT}", "it has no map of evidence; `wsi-detect evidence` makes one"),
    "cells": (CELLS, "it has no cells; `wsi-detect run` finds them"),
}


def slide_folders(paths: Sequence[Path], needs: Sequence[Need]) -> tuple[list[Path], dict[str, str]]:
    """Choose the folders of slides that have what is needed.

    Args:
        paths: folders of slides; files among them, such as the tables of a run, are passed over.
        needs: what each must have. Cells are those of a slide that was screened.

    Returns:
        The folders in the order given, and for each that is left out its name and the reason.

    Raises:
        MissingArtifactError: a path does not exist, or no folder has what is needed.
    """
    found: list[Path] = []
    left_out: dict[str, str] = {}
    for path in paths:
        if not path.exists():
            raise MissingArtifactError(f"{path} does not exist; give folders of slides, as `wsi-detect run` makes them")
        if not path.is_dir():
            continue
        reason = _lacking(path, needs)
        if reason is None:
            found.append(path)
        else:
            left_out[path.resolve().name] = reason
    if not found:
        first = "".join(f"; {name}: {reason}" for name, reason in list(left_out.items())[:5])
        raise MissingArtifactError(
            f"none of the {len(paths)} paths is the folder of a slide with what is needed ({', '.join(needs)}){first}"
        )
    return found, left_out


def _lacking(folder: Path, needs: Sequence[Need]) -> str | None:
    """Why a folder is of no use; None if it is."""
    status = artifact.read_json(folder / STATUS) if (folder / STATUS).exists() else {}
    missing = [words for name, words in map(_NEEDS.__getitem__, needs) if not (folder / name).exists()]
    if status.get("status") == NOT_SCREENED and (missing or "cells" in needs):
        return f"{NOT_SCREENED}: {status['reason']}"
    return missing[0] if missing else None
