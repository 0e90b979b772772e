"""The report as a reader gets it: what it must say, what it must never hold, and that it works with nothing to show."""

import base64
import io
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_detect import artifact
from wsi_detect.config import Config, digest
from wsi_detect.errors import MissingArtifactError, StaleArtifactError
from wsi_detect.report import facts
from wsi_detect.report.gallery import ABNORMAL_CELLS, OTHER_CELLS, make_gallery
from wsi_detect.report.overview import draw_overview, unexamined
from wsi_detect.report.picture import scale_bar
from wsi_detect.report.slide_report import write_report
from wsi_detect.schema import CELLS, PATCHES, SCHEMA_VERSION
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.cell_map import CellMap

INFO = SlideInfo("S1", Path("Doe_Jane.svs"), 2000, 1000, 0.25, "file", (1.0, 4.0), vendor="aperio", objective_power=40)
CLASSES = ("NILM", "LSIL", "HSIL")


class PaleSlide:
    """A slide of one colour with a dark square at every cell of the tests."""

    def __init__(self, info: SlideInfo = INFO) -> None:
        self.info = info

    def read_region(self, x_px, y_px, level, width, height, *, plane=0):
        step = self.info.level_downsamples[level]
        x, y = x_px + np.arange(width) * step, y_px + np.arange(height) * step
        inside = ((y >= 0) & (y < self.info.height_px))[:, None] & ((x >= 0) & (x < self.info.width_px))
        pixels = np.full((height, width, 3), 225, np.uint8)
        pixels[((y % 100) < 40)[:, None] & ((x % 100) < 40)] = 70
        pixels[~inside] = 255
        return pixels, inside

    def close(self) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def cell(label: str, score: float, x: float = 100, y: float = 100, side: float = 40) -> dict[str, object]:
    box = {"x0_px": x, "y0_px": y, "x1_px": x + side, "y1_px": y + side}
    rest = (1 - score) / 2
    scores = [score if name == label else rest for name in CLASSES]
    more = {"class_scores": scores, "support": 1, "geometry": None}
    return {"cell_id": f"{label}{x:g}-{y:g}-{score:g}", "slide_id": "S1", **box, "label": label, "score": score, **more}


def cell_map(rows: list[dict[str, object]], info: SlideInfo = INFO) -> CellMap:
    return CellMap(info, artifact.table_of(rows, CELLS), CLASSES, "model@1")


STATUS = {
    "slide_id": "S1",
    "status": "SCREENED",
    "reason": None,
    "examined_fraction": 1.0,
    "unreadable_fraction": 0.0,
    "no_data_fraction": 0.0,
    "failed_fraction": 0.0,
    "patches": 8,
    "failed_patches": 0,
    "cells": 3,
    "counts": {},
    "slide": {
        "width_px": 2000,
        "height_px": 1000,
        "mpp": 0.25,
        "mpp_source": "file",
        "vendor": "aperio",
        "objective_power": 40.0,
        "preparation": "conventional smear",
    },
    "model": {
        "model_id": "model@1",
        "classes": list(CLASSES),
        "patch_px": 512,
        "mpp": 0.27,
        "mpp_assumed": True,
        "preparation": "conventional smear",
        "largest_cell_um": 22.0,
        "score_threshold": 0.05,
        "detector": {},
        "data_card": "cric-cervix",
        "training": {},
    },
    "resampled": {"from": 0.25, "to": 0.27},
    "upsampling": 0.926,
    "accepted_resolution": False,
    "outside_domain": False,
    "config": {"tiling": {"patch_px": 512}},
    "version": "0.1.0",
}
ROWS = [
    cell("NILM", 0.95, 500, 300),
    cell("HSIL", 0.62, 900, 600),
    cell("HSIL", 0.81, 0, 0),
    cell("LSIL", 0.4, 1970, 980),
]


def write_folder(
    folder: Path, status: dict[str, object] | None = None, rows=ROWS, failed: tuple[int, ...] = ()
) -> Path:
    artifact.write_json(folder / "status.json", {**STATUS, **(status or {})})
    cell_map(rows).write(folder / "cells.parquet")
    patch = {"slide_id": "S1", "reason": None, "coverage": 1.0, "no_data": 0.0, "unreadable": 0.0}
    patches = [{**patch, "patch_id": k, "status": "failed" if k in failed else "done"} for k in range(8)]
    artifact.write_table(folder / "patches.parquet", artifact.table_of(patches, PATCHES), PATCHES)
    grid = {"width": 2000, "height": 1000, "patch": 512, "overlap": 0}
    store = {"attributes": {"kind": "wsi_detect.patches", "schema_version": SCHEMA_VERSION, "grid": grid}}
    artifact.write_json(folder / "patches.zarr" / "zarr.json", store)
    return folder


def text_of(page: Path) -> str:
    """What a reader reads: without style, tags and pictures."""
    body = re.sub(r"<style>.*?</style>", "", page.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", body)))


def test_report_says_what_it_must(tmp_path):
    text = text_of(write_report(write_folder(tmp_path), PaleSlide()))
    for phrase in (
        "Research use only. Not a diagnosis.",
        "SCREENED",
        "This is not a statement about the patient",
        "100 % examined",
        "Same preparation as the training slides",
        "Resampled. From 0.25 to 0.27 µm/px",
        "The model's resolution is assumed",
        "Cannot see, whatever the slide shows",
        "Squamous cell carcinoma; Atypical squamous cells, cannot exclude HSIL",
        "Adenocarcinoma, endocervical",
        "HSIL High-grade squamous intraepithelial lesion · 2 of 2 shown",
        "model@1",
        "cric-cervix",
        "wsi-detect 0.1.0",
        "0.25 µm/px (file)",
        f"Configuration {facts.config_digest(STATUS['config'])}",
    ):
        assert phrase in text, phrase
    assert "stated by hand" not in text
    # Gravest first, everywhere.
    assert text.index("HSIL High-grade") < text.index("LSIL Low-grade") < text.index("NILM Negative")


def test_report_is_self_contained_and_names_no_file(tmp_path):
    page = write_report(write_folder(tmp_path), PaleSlide()).read_text()
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert "<script" not in page
    assert not re.findall(r"https?://|url\((?!#)|@import", page)
    assert {link[:5] for link in re.findall(r'(?:href|src)="([^"]*)"', page)} <= {"data:", "#cell"}
    assert "Doe" not in page
    assert str(tmp_path) not in page


def test_equal_inputs_give_equal_bytes(tmp_path):
    first = write_report(write_folder(tmp_path / "a"), PaleSlide()).read_bytes()
    assert first == write_report(write_folder(tmp_path / "b"), PaleSlide()).read_bytes()


def test_what_comes_from_files_is_escaped(tmp_path):
    evil = "<script>alert('x')</script> \"&"
    folder = write_folder(tmp_path, {"reason": evil, "slide": {**STATUS["slide"], "vendor": evil, "preparation": evil}})
    page = write_report(folder, PaleSlide())
    assert "<script" not in page.read_text()
    assert unescape(page.read_text()).count("alert('x')") == 4  # reason, vendor, preparation twice


@pytest.mark.parametrize(
    ("status", "present", "absent"),
    [
        ({"outside_domain": True}, ["Outside the validated domain"], ["Same preparation"]),
        (
            {"outside_domain": True, "slide": {**STATUS["slide"], "preparation": None}},
            ["This slide: not stated."],
            ["Same preparation"],
        ),
        (
            {
                "accepted_resolution": True,
                "upsampling": 1.85,
                "slide": {**STATUS["slide"], "mpp": 0.5, "mpp_source": "--mpp"},
            },
            ["Resolution too low for this model", "enlarged 1.85 times", "0.5 µm/px comes from --mpp"],
            ["Resampled"],
        ),
        ({"resampled": None, "model": {**STATUS["model"], "mpp_assumed": False}}, [], ["Resampled", "assumed"]),
        (
            {
                "status": "PARTLY SCREENED",
                "examined_fraction": 0.9996,
                "unreadable_fraction": 0.0003,
                "failed_fraction": 0.0001,
                "reason": "0.03% of the cell area cannot be decoded",
            },
            ["PARTLY SCREENED", "> 99.9 % examined", "< 0.1 % unreadable", "< 0.1 % failed", "cannot be decoded"],
            ["100 % examined", "without data: not scanned"],
        ),
    ],
)
def test_banners_and_shares(tmp_path, status, present, absent):
    text = text_of(write_report(write_folder(tmp_path, status), PaleSlide()))
    assert [phrase for phrase in present if phrase not in text] == []
    assert [phrase for phrase in absent if phrase in text] == []


def test_no_cells(tmp_path):
    text = text_of(write_report(write_folder(tmp_path, {"cells": 0}, rows=[]), PaleSlide()))
    assert "No cell was found." in text
    assert "A count of 0 does not exclude the class." in text
    assert "All 0 0" in text


def test_slide_that_never_opened(tmp_path):
    status = {"slide_id": "S1", "status": "NOT SCREENED", "reason": "the file is empty", "examined_fraction": 0.0}
    artifact.write_json(tmp_path / "status.json", {**status, "cells": None, "counts": {}, "version": "0.1.0"})
    text = text_of(write_report(tmp_path))
    assert "NOT SCREENED" in text
    assert "the file is empty" in text
    assert "0 % examined" in text
    assert "negative" not in text.lower()
    assert "Cells by class" not in text


def test_without_the_slide_file_there_are_numbers_but_no_pictures(tmp_path):
    page = write_report(write_folder(tmp_path))
    assert "data:image" not in page.read_text()
    assert "there are no pictures" in text_of(page)
    assert "x 20 · y 20" in text_of(page)


def test_unexamined_areas_are_drawn(tmp_path):
    page = write_report(write_folder(tmp_path, failed=(1,)), PaleSlide()).read_text()
    # Patch 1 of 4 x 2 owns 512 to 1024 px, above the middle: 488 to 512 px lie in two patches.
    assert '<rect x="460.8" y="0.0" width="460.8" height="450.0" fill="url(#hatch)"/>' in page
    assert "not examined</li>" in page
    assert unexamined(tmp_path / "gone.zarr", [{"patch_id": 1, "status": "failed"}]).shape == (0, 4)


def test_refusals(tmp_path):
    with pytest.raises(MissingArtifactError, match=r"status\.json"):
        write_report(tmp_path)
    write_folder(tmp_path)
    with pytest.raises(StaleArtifactError, match="2000 x 1000 px, this one has 900 x 1000"):
        write_report(tmp_path, PaleSlide(replace(INFO, width_px=900)))
    (tmp_path / "cells.parquet").unlink()
    with pytest.raises(MissingArtifactError, match="cells"):
        write_report(tmp_path, PaleSlide())


def test_gallery_order_quotas_and_boxes():
    rows = [cell("NILM", 0.9 + k / 1000, 100 * k, 0) for k in range(OTHER_CELLS + 3)]
    rows += [cell("HSIL", k / 100 + 0.1, 100 * k, 200) for k in range(ABNORMAL_CELLS + 5)]
    rows += [cell("LSIL", 0.99, 300, 300)]
    shelves = make_gallery(cell_map(rows), PaleSlide(), 22.0)
    assert [(s.label, s.cells, len(s.crops)) for s in shelves] == [
        ("HSIL", ABNORMAL_CELLS + 5, ABNORMAL_CELLS),
        ("LSIL", 1, 1),
        ("NILM", OTHER_CELLS + 3, OTHER_CELLS),
    ]
    crops = [crop for shelf in shelves for crop in shelf.crops]
    assert [crop.number for crop in crops] == list(range(1, len(crops) + 1))
    scores = [crop.score for crop in shelves[0].crops]
    assert scores == sorted(scores, reverse=True)
    # 2 x 22 µm at 0.25 µm/px; the cell of 40 px in its middle.
    assert (crops[0].side, crops[0].box) == (176, (68.0, 68.0, 40.0, 40.0))
    assert (crops[0].x_px, crops[0].y_px) == (1620, 220)
    assert crops[0].second == ("NILM", pytest.approx((1 - 0.26) / 2))


@pytest.mark.parametrize(("side", "expected"), [(40.0, 176), (300.0, 375), (900.0, 512)])
def test_crops_grow_with_the_cell(side, expected):
    crop = make_gallery(cell_map([cell("HSIL", 0.5, 600, 40, side)]), PaleSlide(), 22.0)[0].crops[0]
    assert crop.side == expected


def test_crop_is_the_slide_at_level_0():
    crop = make_gallery(cell_map([cell("HSIL", 0.5, 500, 300)]), PaleSlide(), 22.0)[0].crops[0]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(crop.uri.split(",")[1]))))
    assert pixels.shape == (176, 176, 3)
    x, y, w, h = (round(value) for value in crop.box)
    assert abs(int(pixels[y : y + h, x : x + w].mean()) - 70) < 12


def test_grave_cells_are_drawn_over_mild_ones():
    rows = [cell("HSIL", 1.0, 400, 400), cell("NILM", 1.0, 400, 400)]
    picture = draw_overview(PaleSlide(), cell_map(rows), np.zeros((0, 4)), [])
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.uri.split(",")[1]))))
    red, green, blue = pixels[round(420 / picture.downsample), round(400 / picture.downsample)].astype(int)
    assert red > green + 60
    assert red > blue + 60
    assert picture.bar.text == "100 µm"
    assert (picture.width, picture.height) == (1800, 900)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0 %"), (1, "100 %"), (0.0004, "< 0.1 %"), (0.9996, "> 99.9 %"), (0.5, "50.0 %"), (0.999, "99.9 %")],
)
def test_percent_never_rounds_to_all_or_nothing(value, expected):
    assert facts.percent(value) == expected


@pytest.mark.parametrize(
    ("width", "mpp", "length", "text"),
    [(1000, 0.25, 200, "50 µm"), (1000, 10, 200, "2 mm"), (100, 0.25, 20, "5 µm"), (10, 1.0, 2, "2 µm")],
)
def test_scale_bar_is_round(width, mpp, length, text):
    bar = scale_bar(width, mpp)
    assert (bar.length, bar.text) == (length, text)


def test_configuration_digest_is_the_one_of_the_stages():
    class Small(Config):
        patch_px: int = 512
        names: tuple[str, ...] = ("a", "b")

    assert facts.config_digest(Small().model_dump(mode="json")) == digest(Small())


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, None),
        ({"out_of_focus_fraction": None, "focus_unmeasured_fraction": 1.0}, "was not measured"),
        (
            {"out_of_focus_fraction": 0.0, "focus_unmeasured_fraction": 0.0},
            "Nowhere do the cells look out of focus to the program; it judges by how steep their edges are. ",
        ),
        (
            {"out_of_focus_fraction": 0.234, "focus_unmeasured_fraction": 0.0},
            "23.4 % of the cell area looks out of focus. It was examined all the same",
        ),
        (
            {"out_of_focus_fraction": 0.0, "focus_unmeasured_fraction": 0.8},
            "Nowhere that focus was measured do the cells look out of focus",
        ),
        (
            {"out_of_focus_fraction": 0.234, "focus_unmeasured_fraction": 0.8},
            "23.4 % of the cell area where focus was measured looks out of focus",
        ),
        (
            {"out_of_focus_fraction": 0.234, "focus_unmeasured_fraction": 0.8},
            "On 80.0 % of the cell area focus was not measured",
        ),
    ],
)
def test_the_reader_is_told_about_focus(tmp_path, known, words):
    text = text_of(write_report(write_folder(tmp_path, known)))
    assert words in text if words else "focus" not in text
