import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from wsi_detect import artifact
from wsi_detect.detectors.info import DetectorInfo
from wsi_detect.errors import ConfigError, MissingArtifactError, StaleArtifactError
from wsi_detect.geometry import Box
from wsi_detect.inference.detector import Detections
from wsi_detect.run import RunConfig, RunOptions, SlideRow, run_slide
from wsi_detect.run.audit import audit_slide, recorded, shifted_grid
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.testing import dark_evidence
from wsi_detect.testing.blobs import BlobDetector, load
from wsi_detect.testing.painter import PaintedCell, paint_slide
from wsi_detect.tiling.grid import TileGrid

#: On the slide below: patches of the run begin at x = 0, 192, 384, those of the audit at 0, 128, 320, 384.
CONFIG = RunConfig.model_validate({"tiling": {"patch_px": 256, "overlap_um": 16}, "exports": []})
#: Middles of cells of 40 px. The run sees the second and third in its second patch alone, at 108 and 171 px from the
#: left; the audit the second in its second patch alone, at 172 px, the third in its third as well, at 43 px.
MIDDLES = (60, 300, 363, 480)


@dataclass(frozen=True)
class Moody:
    """A blob detector for which every blob is HSIL, its answer to each patch changed."""

    info: DetectorInfo
    inner: BlobDetector
    change: Callable[[Detections], Detections]

    def __call__(self, patches):
        return [self.change(replace(found, labels=np.full(len(found), 2))) for found in self.inner(patches)]


def right(found):
    """Which detections lie in the right half of their patch."""
    return (found.boxes[:, 0] + found.boxes[:, 2]) / 2 >= 128


def blind(found):
    keep = ~right(found)
    return Detections(found.boxes[keep], found.scores[keep], found.labels[keep], found.class_scores[keep])


def doubtful(found):
    return replace(found, labels=np.where(right(found), 0, found.labels))


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    cells = [PaintedCell("HSIL", Box(x - 20, 100, x + 20, 140)) for x in MIDDLES]
    return paint_slide(tmp_path_factory.mktemp("audit") / "slide.svs", width=640, height=256, cells=cells)


@pytest.fixture
def screen(slide, blobs, tmp_path):
    """Screen the slide with a detector of that mood; gives its folder and the detector."""

    def go(change=lambda found: found):
        inner = load(blobs)
        detector = Moody(inner.info, inner, change)
        status = run_slide(SlideRow("A", str(slide.path)), tmp_path, detector, CONFIG, RunOptions())
        assert status["status"] == "SCREENED"
        return tmp_path / "A", detector

    return go


def figures(first, second, same, *others):
    names = ("renamed", "first_only", "second_only", "changed")
    return {"first": first, "second": second, "same": same, **dict(zip(names, others, strict=True))}


@pytest.mark.parametrize(
    ("change", "cells"),
    [
        (lambda found: found, figures(4, 4, 4, 0, 0, 0, 0.0)),
        # Run: the third is not seen; audit: the second is not.
        (blind, figures(3, 3, 2, 0, 1, 1, 0.5)),
        # Run: the third is NILM; audit: the second is.
        (doubtful, figures(4, 4, 2, 2, 0, 0, 0.5)),
    ],
    ids=["steady", "blind", "doubtful"],
)
def test_cells_that_hang_on_patch_edges_are_counted(screen, slide, change, cells):
    folder, detector = screen(change)
    found = audit_slide(folder, slide.path, detector)
    assert found["cells"] == cells
    assert found == artifact.read_json(folder / "audit.json")
    assert found["out_of_view"] == found["behind_gate"] == {"first": 0, "second": 0}
    assert found["compared_fraction"] == 1.0
    assert found["grid"]["shift"] == 128
    assert len(CellMap.read(folder / "audit" / "cells.parquet")) == cells["second"]


def test_changes_are_told_by_class(screen, slide):
    folder, detector = screen(doubtful)
    found = audit_slide(folder, slide.path, detector)["classes"]
    keys = ("first", "second", "same", "renamed_from", "renamed_to", "first_only", "second_only", "changed")
    assert {name: tuple(counts[key] for key in keys) for name, counts in found.items()} == {
        "HSIL": (3, 3, 2, 1, 1, 0, 0, 0.5),
        "NILM": (1, 1, 0, 1, 1, 0, 0, 1.0),
    }


def test_the_run_is_left_as_it_was_and_an_audit_is_continued(screen, slide, results):
    folder, detector = screen()
    before = results(folder)
    found = audit_slide(folder, slide.path, detector)
    after = results(folder)
    assert {name: content for name, content in after.items() if not name.startswith("audit")} == before
    part = folder / "audit" / "detections" / "part-00000.parquet"
    written = part.stat().st_mtime_ns
    (folder / "audit.json").unlink()
    assert audit_slide(folder, slide.path, detector) == found
    assert part.stat().st_mtime_ns == written
    assert audit_slide(folder, slide.path, detector, ["detection.batch_size=1"])["overrides"]
    assert part.stat().st_mtime_ns > written


def test_cells_only_one_grid_looks_at_are_no_change(screen, slide):
    folder, detector = screen()
    cells = CellMap.read(folder / "cells.parquet")
    audit_slide(folder, slide.path, detector)
    store = folder / "audit" / "patches.zarr"
    assert store.exists()
    # As if the run had found one cell more, off the slide, where no patch of the audit lies.
    table = cells.table.to_pandas()
    extra = table.iloc[:1].assign(x0_px=5000.0, x1_px=5040.0, cell_id="other")
    more = cells.table.from_pandas(type(table)(np.vstack([table, extra]), columns=table.columns), cells.table.schema)
    CellMap(cells.slide, more, cells.classes, cells.model_id).write(folder / "cells.parquet")
    found = audit_slide(folder, slide.path, detector)
    assert found["out_of_view"] == {"first": 1, "second": 0}
    assert found["cells"] == figures(4, 4, 4, 0, 0, 0, 0.0)


#: One dark nucleus, and pale ones the gate does not ask for: the first is wholly in view of the patch of the dark one,
#: whose core ends at 224 px, and belongs to the next patch.
PALE = (226, 300, 363, 480)


def nudged(found):
    """A detector whose boxes lie 4 px too far left in the right half of a patch."""
    return replace(found, boxes=found.boxes - np.where(right(found), 4.0, 0.0)[:, None] * [1, 0, 1, 0])


@pytest.mark.parametrize(
    ("change", "cells", "behind"),
    [
        (lambda found: found, figures(1, 1, 1, 0, 0, 0, 0.0), {"first": 1, "second": 4}),
        # Run: the first pale one is at 222 px, on this side of the edge; audit: on the other.
        (nudged, figures(2, 2, 2, 0, 0, 0, 0.0), {"first": 0, "second": 3}),
    ],
    ids=["steady", "nudged"],
)
def test_what_a_gate_hid_is_no_change(tmp_path, blobs, change, cells, behind):
    painted = [PaintedCell("HSIL", Box(40, 100, 80, 140))]
    painted += [PaintedCell("NILM", Box(x - 20, 100, x + 20, 140)) for x in PALE]
    path = paint_slide(tmp_path / "slide.svs", width=640, height=256, cells=painted).path
    inner, mapper = load(blobs), dark_evidence.load(dark_evidence.write_bundle(tmp_path / "dark"))
    detector = Moody(inner.info, inner, change)
    gate = {"gate": {"threshold": 0.9, "audit_share": 0.0}, "evidence": {"reduce": 2}}
    config = RunConfig.model_validate({**CONFIG.model_dump(exclude_unset=True), **gate})
    status = run_slide(SlideRow("A", str(path)), tmp_path, detector, config, RunOptions(), mapper)
    assert (status["gate"]["not_shown"], status["gate"]["patches"]) == (2, 3)
    found = audit_slide(tmp_path / "A", path, detector)
    assert found["cells"] == cells
    assert found["behind_gate"] == behind
    assert found["compared_fraction"] == pytest.approx(1 - status["gated_fraction"])


def test_what_cannot_be_repeated_is_refused(screen, slide, tmp_path):
    folder, detector = screen()
    other = replace(detector, info=replace(detector.info, model_id="other"))
    with pytest.raises(StaleArtifactError, match="made by dark-blobs, not by other; give its --model"):
        audit_slide(folder, slide.path, other)
    changed = shutil.copy(slide.path, tmp_path / "changed.svs")
    with changed.open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(StaleArtifactError, match="not the slide"):
        audit_slide(folder, changed, detector)
    with pytest.raises(ConfigError, match="only detection"):
        recorded(folder, ["stitching.iou=0.5"])
    with pytest.raises(MissingArtifactError, match=r"status\.json"):
        recorded(tmp_path)
    artifact.write_json(folder / "status.json", {"slide_id": "A", "status": "NOT SCREENED"})
    with pytest.raises(StaleArtifactError, match="A was not screened"):
        recorded(folder)


@pytest.mark.parametrize(
    ("patch", "overlap", "align", "shift"),
    [
        (1024, 256, 1, 512),
        (1024, 0, 1, 512),
        (1022, 254, 4, 508),
        (300, 100, 1, 150),
        (300, 102, 1, 99),
        (1024, 512, 1, 256),
        (1024, 1000, 1, 12),
        (2, 1, 1, 0),
    ],
)
def test_the_shift_is_half_a_patch_or_half_a_stride(patch, overlap, align, shift):
    assert shifted_grid(TileGrid(5000, 4000, patch, overlap), align).shift == shift
