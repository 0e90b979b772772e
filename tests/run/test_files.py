"""Real and odd slide files through a whole run: what becomes of each, with and without a resolution given."""

from dataclasses import replace
from pathlib import Path

import pytest

from wsi_detect.run import RunOptions, list_slides, run_batch

FILES = Path(__file__).parent.parent / "fixtures"
SCREENED, NOT = "SCREENED", "NOT SCREENED"
#: file, --mpp, accept_resolution, status, words of the reason.
OUTCOMES = [
    ("CMU-1-Small-Region.svs", None, True, SCREENED, ""),
    ("CMU-1-Small-Region.svs", None, False, NOT, "--accept-resolution"),
    ("odd/highdicom_sm_image.dcm", None, True, SCREENED, ""),
    ("odd/large_image_test_orient6.tif", None, False, NOT, "352.858 µm per px"),
    ("odd/large_image_test_orient6.tif", 0.25, False, SCREENED, ""),
    ("odd/large_image_small_la.tiff", None, False, NOT, "1000 µm per px"),
    ("odd/large_image_small_la.tiff", 0.25, False, SCREENED, ""),
    ("odd/histolab_broken.svs", None, False, NOT, "not a slide this version reads"),
    ("odd/large_image_grey10kx5k.tif", None, False, NOT, "352.778 µm per px"),
    ("odd/large_image_zero_gi.tif", None, False, NOT, "no picture in it"),
]


@pytest.mark.parametrize(("name", "mpp", "accept", "status", "words"), OUTCOMES)
def test_a_file_has_its_outcome(batch, name, mpp, accept, status, words):
    options = RunOptions(mpp=mpp, accept_resolution=accept)
    (found,) = run_batch(list_slides([FILES / name]), replace(batch, options=options), workers=0)
    assert found["status"] == status
    assert words in (found["reason"] or "")
    assert Path(name).stem not in str(found)
    assert (batch.out / found["slide_id"] / "report.html").is_file()


def test_a_file_without_resolution_runs_once_it_is_given(batch, small_painted, tmp_path):
    silent = tmp_path / "silent.svs"
    raw = small_painted.path.read_bytes()
    assert b"MPP" in raw
    silent.write_bytes(raw.replace(b"MPP", b"XPP"))
    (refused,) = run_batch(list_slides([silent]), batch, workers=0)
    assert refused["status"] == NOT
    assert "--mpp" in refused["reason"]
    (screened,) = run_batch(list_slides([silent]), replace(batch, options=RunOptions(mpp=0.25)), workers=0)
    assert screened["status"] == SCREENED
