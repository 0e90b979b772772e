"""What the documents tell a reader to type works: tours are run, code is run against its contract, commands exist."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer.main

from wsi_detect.cli.main import make_app
from wsi_detect.slides import SlideInfo, open_slide
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.stitching.stitcher import StitchingConfig, stitch
from wsi_detect.testing.annotation_files import Dialect
from wsi_detect.testing.contracts import ReadCell, check_exporter, check_importer, check_loss, check_reader
from wsi_detect.testing.painter import lay_cells, paint_region
from wsi_detect.testing.perfect import classes_of, perfect_table
from wsi_detect.tiling.grid import TileGrid

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^(?:<!-- (?P<mark>\w+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path, kind: str | None = None, mark: str | None = None) -> list[tuple[str, str]]:
    """Kind and text of the code blocks of a document."""
    found = [(m["kind"], m["text"], m["mark"]) for m in _BLOCK.finditer(path.read_text())]
    return [(k, text) for k, text, m in found if kind in (None, k) and mark in (None, m)]


def walk(document: Path, folder: Path) -> int:
    """Run every step of a document's tour, in its order, in a folder; gives how many there are."""
    steps = blocks(document, mark="tour")
    for kind, text in steps:
        if kind == "python":
            commands = [[sys.executable, "-c", text]]
        else:
            commands = [
                [sys.executable, "-m", *shlex.split(line.replace("wsi-detect", "wsi_detect", 1))]
                for line in text.splitlines()
            ]
        for command in commands:
            result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            assert result.returncode == 0, f"{text}\n{result.stdout}\n{result.stderr}"
    return len(steps)


def test_the_tour_of_the_readme(tmp_path):
    assert walk(ROOT / "README.md", tmp_path) == 4
    assert (tmp_path / "cells.geojson").stat().st_size > 0
    assert len(list(tmp_path.glob("work/*/report.html"))) == 1


def test_the_tour_of_tiling(painted, small_painted, tmp_path):
    (tmp_path / "slides").mkdir()
    for slide in (painted, small_painted):
        shutil.copy(slide.path, tmp_path / "slides")
    assert walk(ROOT / "docs" / "tiling.md", tmp_path) == 2
    assert len(list(tmp_path.glob("work/*/patches.zarr/zarr.json"))) == 2


def test_the_tour_of_stitching(tmp_path):
    assert walk(ROOT / "docs" / "stitching.md", tmp_path) == 1


def test_the_tour_of_evidence_maps(tmp_path):
    assert walk(ROOT / "docs" / "evidence-maps.md", tmp_path) == 2
    assert (tmp_path / "work" / "S1" / "exports" / "evidence.geojson").stat().st_size > 0


def test_the_settings_of_stitching_are_all_in_its_table():
    table = (ROOT / "docs" / "stitching.md").read_text()
    assert [name for name in StitchingConfig.model_fields if f"`{name}`" not in table] == []


def test_the_tour_of_annotations(tmp_path):
    (tmp_path / "slides").mkdir()
    assert walk(ROOT / "docs" / "annotations.md", tmp_path) == 5
    tables = {
        folder: sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in ("data", "points", "again")
    }
    with_areas = ["annotations.parquet", "card", "rois.parquet"]
    assert tables == {"data": with_areas, "points": with_areas[:2], "again": with_areas[::2]}


@pytest.fixture(scope="module")
def contributed(tmp_path_factory):
    """What the examples of CONTRIBUTING.md define, as a module that the processes of a distributed check can import."""
    folder = tmp_path_factory.mktemp("contributed")
    texts = [text for _, text in blocks(ROOT / "CONTRIBUTING.md", "python", "run")]
    (folder / "contributed_examples.py").write_text("\n".join(texts))
    sys.path.insert(0, str(folder))
    yield vars(importlib.import_module("contributed_examples"))
    sys.path.remove(str(folder))


def test_the_example_reader_keeps_the_contract(contributed, tmp_path):
    cells = lay_cells(300, 260, 4, seed=1)
    pixels = paint_region(cells, width=300, height=260, seed=1)
    np.save(tmp_path / "a.npy", pixels)
    check_reader(lambda: contributed["ArrayReader"](tmp_path / "a.npy", "S0"), pixels, tolerance=0)
    with open_slide(tmp_path / "a.npy", reader=contributed["ArrayReader"], mpp=0.25) as slide:
        assert slide.info.resolution() == 0.25


def test_the_example_loss_keeps_the_contract(contributed):
    check_loss(contributed["HalfNegativesLoss"])


def test_the_example_importer_keeps_the_contract(contributed):
    def write(path, cells, facts):
        lines = ["|".join([cell.label, *map(repr, cell.box)]) for cell in cells]
        path.write_text("".join(f"{line}\n" for line in lines))

    cells = lay_cells(700, 530, 12, seed=5)
    check_importer(contributed["LineImporter"](), Dialect("field.lines", "lines", write), cells, (700, 530))


def test_the_example_exporter_keeps_the_contract(contributed, tmp_path):
    truth, grid = lay_cells(700, 530, 12, seed=5), TileGrid(700, 530, 256, 96)
    table = stitch(perfect_table(truth, grid, slide_id="S1"), grid, StitchingConfig(), model_id="painted")
    slide = SlideInfo("S1", Path("name.svs"), 700, 530, 0.25, "file", (1.0,))
    cells = CellMap(slide, table, tuple(classes_of(truth)), "painted")

    def read_back(path):
        rows = [line.split("\t") for line in path.read_text().splitlines()]
        return [ReadCell(row[6], row[4], tuple(map(float, row[:4]))) for row in rows]

    check_exporter(contributed["write"], read_back, cells, tmp_path)


def test_the_example_of_comparing(capsys):
    for _, text in blocks(ROOT / "docs" / "comparing.md", "python", "run"):
        exec(text, {})  # noqa: S102 - our own document
    ap, cost, drawn = capsys.readouterr().out.splitlines()
    # 51 of 101 recall points; an HSIL missed in every field costs twice its gravity of 8.
    assert ap.split()[:2] == ["ap50/HSIL", str(51 / 101)]
    assert ap.endswith(" B")
    assert cost == "cost/all/image 16.0 0.0 -16.0 (-16.0, -16.0) B"
    assert drawn == "10 slide"


def shell_lines() -> list[tuple[str, str]]:
    """Lines of all documents that call the command line, continued lines joined."""
    found = []
    for path in DOCUMENTS:
        for _, text in blocks(path, "sh"):
            lines = text.replace("\\\n", " ").splitlines()
            found += [(path.name, line) for line in lines if line.startswith("wsi-detect ")]
    return found


@pytest.mark.parametrize(("document", "line"), shell_lines())
def test_a_command_that_is_quoted_exists_with_its_options(document, line):
    command = typer.main.get_command(make_app())
    words = shlex.split(line, comments=True)[1:]
    while hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, f"{document}: {line}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    used = {word.split("=")[0] for word in words if word.startswith("--")}
    assert used <= known, f"{document}: {line}: no option {used - known}"


def test_every_command_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    table = text[text.index("## Commands") : text.index("## Training")]
    assert [name for name in typer.main.get_command(make_app()).commands if f"`{name}" not in table] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_points_to_is_there(path):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []
    code = re.findall(r"`((?:wsi_detect|pipelines|configs|tests|docs|data_cards)/[\w/.-]+)`", path.read_text())
    assert [name for name in code if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "docs/faults.md"])
def test_exit_codes_in_the_documents_are_those_of_the_program(name):
    from wsi_detect import errors

    text = (ROOT / name).read_text()
    codes = {value for key, value in vars(errors).items() if key.startswith("EXIT_")}
    listed = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", text, re.MULTILINE) for code in row.split(",")}
    assert codes <= listed
