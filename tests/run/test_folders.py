"""What of `work/*` is of use to a command."""

import pytest

from wsi_detect import artifact
from wsi_detect.errors import MissingArtifactError
from wsi_detect.run.folders import slide_folders

STORE, MAP, CELLS, STATUS = "patches.zarr/zarr.json", "heatmap.zarr/zarr.json", "cells.parquet", "status.json"


@pytest.fixture
def work(tmp_path):
    """Folder of a run: one slide whole, others lacking something, tables beside them."""
    made = {
        "whole": (STORE, MAP, CELLS),
        "tiled": (STORE,),
        "mapped": (STORE, MAP),
        "begun": ("patches.zarr/c/0", MAP),
        "closed": (),
        "dim": (STORE, MAP, CELLS),
        "notes": (),
    }
    for name, files in made.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).touch()
    for name, reason in (("closed", "closed is empty"), ("dim", "only 10.0% of the cell area was examined")):
        artifact.write_json(tmp_path / name / STATUS, {"status": "NOT SCREENED", "reason": reason})
    artifact.write_json(tmp_path / "whole" / STATUS, {"status": "SCREENED", "reason": None})
    for name in ("summary.csv", "run.json"):
        (tmp_path / name).touch()
    return tmp_path


NO_PATCHES, NO_MAP = "it has no patches", "it has no map of evidence; `wsi-detect evidence` makes one"
NO_CELLS, CLOSED = "it has no cells; `wsi-detect run` finds them", "NOT SCREENED: closed is empty"


@pytest.mark.parametrize(
    ("needs", "found", "left_out"),
    [
        (
            ["evidence"],
            ["begun", "dim", "mapped", "whole"],
            {"closed": CLOSED, "notes": NO_MAP, "tiled": NO_MAP},
        ),
        (
            ["patches", "evidence"],
            ["dim", "mapped", "whole"],
            {"begun": NO_PATCHES, "closed": CLOSED, "notes": NO_PATCHES, "tiled": NO_MAP},
        ),
        (
            ["patches", "evidence", "cells"],
            ["whole"],
            {
                "begun": NO_PATCHES,
                "closed": CLOSED,
                "dim": "NOT SCREENED: only 10.0% of the cell area was examined",
                "mapped": NO_CELLS,
                "notes": NO_PATCHES,
                "tiled": NO_MAP,
            },
        ),
    ],
)
def test_folders_of_slides_that_have_what_is_needed(work, needs, found, left_out):
    chosen, others = slide_folders(sorted(work.iterdir()), needs)
    assert [path.name for path in chosen] == found
    assert others == left_out


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["whole", "absent"], "absent does not exist; give folders of slides"),
        (["summary.csv"], r"none of the 1 paths is the folder of a slide with what is needed \(evidence\)$"),
        (["run.json", "closed"], "none of the 2 paths .*; closed: NOT SCREENED: closed is empty"),
    ],
)
def test_nothing_to_work_on_is_an_error(work, names, words):
    with pytest.raises(MissingArtifactError, match=words):
        slide_folders([work / name for name in names], ["evidence"])
