"""Training curves from a CSV file of metrics."""

import pytest
from PIL import Image

from wsi_detect.errors import DamagedArtifactError, MissingArtifactError
from wsi_detect.report.training_plot import plot_training, read_curves, smooth

HEAD = "epoch,step,loss/total,loss/box,ap50/NILM,ap50/mean,ap50/agnostic\n"


def rows(steps: int) -> str:
    losses = "".join(f"0,{step},{2 / (step + 1) + 0.3:.3f},{1 / (step + 1):.3f},,,\n" for step in range(steps))
    return HEAD + losses + "".join(f"0,{step},,,0.{step % 9},0.2,0.5\n" for step in range(9, steps, 10))


def test_curves_are_read_by_step_and_a_resume_overwrites(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(HEAD + "0,5,1.0,0.5,,,\n0,9,,,0.1,0.2,\n0,0,2.0,1.0,,,\n1,5,1.5,0.7,,,\n")
    curves = read_curves(path)
    assert set(curves) == {"loss/total", "loss/box", "ap50/NILM", "ap50/mean"}
    steps, values = curves["loss/total"]
    assert (steps.tolist(), values.tolist()) == ([0, 5], [2.0, 1.5])


@pytest.mark.parametrize("content", [rows(40), rows(5), HEAD + "0,9,,,0.1,0.2,0.3\n", HEAD + "0,1,nan,nan,,,\n"])
def test_plot(tmp_path, content):
    (tmp_path / "metrics.csv").write_text(content)
    out = plot_training(tmp_path / "metrics.csv", tmp_path / "curves.png", "a training")
    with Image.open(out) as picture:
        assert picture.size == (2000, 840)
        assert len(set(picture.convert("L").resize((100, 42)).tobytes())) > 10


@pytest.mark.parametrize("content", ["", HEAD, "a,b\n1,2\n", HEAD + "0,1,x,,,,\n", "epoch,step,lr\n0,1,0.1\n"])
def test_nothing_to_draw_is_said(tmp_path, content):
    (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(DamagedArtifactError):
        plot_training(tmp_path / "metrics.csv", tmp_path / "curves.png")
    with pytest.raises(MissingArtifactError):
        plot_training(tmp_path / "none.csv", tmp_path / "curves.png")


def test_smoothing_is_shorter_at_the_ends():
    assert smooth([1.0, 2.0, 6.0, 2.0, 1.0], 3).tolist() == pytest.approx([1.5, 3.0, 10 / 3, 3.0, 1.5])


def test_the_starts_of_a_stopped_run_make_one_curve(tmp_path):
    first, second = "step,loss/total\n0,4.0\n1,3.0\n2,2.5\n", "step,loss/total,ap50/mean\n2,2.0,\n3,1.0,0.5\n"
    for version, lines in enumerate((first, second)):
        folder = tmp_path / f"version_{version}"
        folder.mkdir()
        (folder / "metrics.csv").write_text(lines)
    curves = read_curves(tmp_path)
    assert [values.tolist() for values in curves["loss/total"]] == [[0, 1, 2, 3], [4.0, 3.0, 2.0, 1.0]]
    assert [values.tolist() for values in curves["ap50/mean"]] == [[3], [0.5]]
