"""A contract that nothing can break is none: every check refuses what it is there to refuse."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from wsi_detect.annotations import coco
from wsi_detect.data.samplers import class_aware, uniform
from wsi_detect.geometry import Box
from wsi_detect.slides import open_slide
from wsi_detect.slides.image import ImageReader
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.stitching.stitcher import StitchingConfig, stitch
from wsi_detect.testing.annotation_files import DIALECTS
from wsi_detect.testing.contracts import (
    ContractBrokenError,
    ReadCell,
    check_detector,
    check_exporter,
    check_importer,
    check_reader,
    check_sampler,
)
from wsi_detect.testing.painter import PaintedCell, paint_region
from wsi_detect.testing.perfect import perfect_table
from wsi_detect.tiling.grid import TileGrid


def broken(words):
    return pytest.raises(ContractBrokenError, match=words)


# --- readers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    from PIL import Image

    pixels = paint_region([PaintedCell("NILM", Box(20, 30, 90, 100))], width=200, height=160)
    path = tmp_path_factory.mktemp("picture") / "p.png"
    Image.fromarray(pixels).save(path)
    return path, pixels


class Shifted(ImageReader):
    """Off by one pixel, but only where a region does not start at the corner."""

    def read_region(self, x_px, y_px, level, width, height, *, plane=0):
        return super().read_region(x_px + (x_px > 0), y_px, level, width, height, plane=plane)


class Swapped(ImageReader):
    """Blue for red."""

    def read_region(self, x_px, y_px, level, width, height, *, plane=0):
        rgb, valid = super().read_region(x_px, y_px, level, width, height, plane=plane)
        return rgb[..., ::-1], valid


class BlackOutside(ImageReader):
    """Black beyond the edges."""

    def read_region(self, x_px, y_px, level, width, height, *, plane=0):
        rgb, valid = super().read_region(x_px, y_px, level, width, height, plane=plane)
        return (rgb if valid is None else np.where(valid[..., None], rgb, np.uint8(0))), valid


class AnyPlane(ImageReader):
    """Serves focal planes it does not have."""

    def read_region(self, x_px, y_px, level, width, height, *, plane=0):
        return super().read_region(x_px, y_px, level, width, height)


class ClosesOnce(ImageReader):
    """Stumbles over a second close."""

    closed = False

    def close(self):
        if self.closed:
            raise ContractBrokenError("closed twice")
        self.closed = True


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Shifted, "not that part of the whole"),
        (Swapped, "level 0 differs"),
        (BlackOutside, "must be white"),
        (AnyPlane, "focal plane"),
        (ClosesOnce, "closed twice"),
    ],
)
def test_reader(kind, words, picture):
    path, pixels = picture
    with broken(words):
        check_reader(lambda: kind(path, "S0"), pixels, tolerance=0)


# --- importers -----------------------------------------------------------------------------------------------------

TRUTH = [PaintedCell("NILM", Box(30, 30, 70, 90)), PaintedCell("HSIL", Box(100, 60, 140.5, 95))]


class Other:
    """COCO, read otherwise than it should be."""

    SUFFIXES = coco.SUFFIXES

    def __init__(self, read):
        self.read = read


def changed(path, facts, **fields):
    for entry in coco.read(path, facts):
        yield replace(entry, **fields)


def forgiving(path, facts):
    try:
        yield from coco.read(path, facts)
    except ValueError:
        return


def careless(path, facts):
    if path.read_bytes().count(b"[") > 1000:
        raise RecursionError
    yield from coco.read(path, facts)


def trusting(path, facts):
    for entry in coco.read(path, facts):
        box = entry.box if entry.box.x0 == entry.box.x0 else Box(1, 1, 2, 2)
        yield replace(entry, box=box)


def tidy(path, facts):
    for entry in coco.read(path, facts):
        yield replace(entry, source_label=entry.source_label.replace("<", "("))


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda path, facts: list(coco.read(path, facts))[:1], "1 annotations, 2 are in the file"),
        (partial(changed, annotation_id="7"), "not unique"),
        (partial(changed, image="g.png"), "another image"),
        (partial(changed, box=Box(30, 30, 70, 90)), "was read as"),
        (partial(changed, source_label="NILM"), "label HSIL was read as NILM"),
        (partial(changed, problem="odd"), "said to be broken"),
        (partial(changed, geometry=None), "vertices is read without complaint|outline is lost"),
        (forgiving, "truncated file is read without complaint"),
        (careless, "nested deep raises RecursionError"),
        (trusting, "no number is read without complaint"),
        (tidy, "HTML in it is changed"),
    ],
)
def test_importer(read, words):
    with broken(words):
        check_importer(Other(read), DIALECTS["coco"], TRUTH, (200, 160), vertices=200_000)


# --- exporters -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cell_map(small_painted):
    grid = TileGrid(small_painted.width, small_painted.height, 256, 96)
    table = stitch(perfect_table(small_painted.cells, grid), grid, StitchingConfig(), model_id="perfect")
    with open_slide(small_painted.path) as slide:
        return CellMap(slide.info, table)


def write_lines(cells, path, *, edit=lambda row: row, extra=""):
    lines = []
    for row in map(edit, cells.rows()):
        lines.append([row["cell_id"], row["label"], row["x0_px"], row["y0_px"], row["x1_px"], row["y1_px"]])
    path.write_text(json.dumps([extra, *lines]))
    return path


def read_lines(path):
    return [ReadCell(cell_id, label, Box(*box)) for cell_id, label, *box in json.loads(path.read_text())[1:]]


def write_and_litter(cells, path):
    path.with_suffix(".partial").write_text("left behind")
    return write_lines(cells, path)


def write_by_chance(cells, path, counter=iter(range(99))):  # noqa: B008  (state is the point)
    return write_lines(cells, path, extra=str(next(counter)))


def write_name(cells, path):
    return write_lines(cells, path, extra=cells.slide.path.name)


def write_some(cells, path):
    return write_lines(CellMap(cells.slide, cells.table.slice(1)), path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda cells, path: write_lines(cells, path) and None, "returns the path"),
        (write_and_litter, "other files"),
        (write_by_chance, "another file"),
        (write_name, "file name of the slide"),
        (write_some, "cell ids"),
        (partial(write_lines, edit=lambda row: {**row, "x0_px": round(row["x0_px"])}), "moved by"),
        (partial(write_lines, edit=lambda row: {**row, "label": "NILM"}), "read back as NILM"),
    ],
)
def test_exporter(write, words, cell_map, tmp_path):
    assert pa.types.is_float64(cell_map.table.schema.field("x0_px").type)
    with broken(words):
        check_exporter(write, read_lines, cell_map, tmp_path)


def test_an_honest_exporter_passes(cell_map, tmp_path):
    check_exporter(write_lines, read_lines, cell_map, tmp_path)


# --- samplers ------------------------------------------------------------------------------------------------------


def unscaled(counts, share=None):
    return uniform(counts, share) * len(counts)


def ordered(counts, share=None):
    weights = uniform(counts, share) * np.linspace(1, 1.01, len(counts))
    return weights / weights.sum()


def head_only(counts, share=None):
    weights = uniform(counts, share) * np.where(counts[:, 1] > 0, 0.1, 1)
    return weights / weights.sum()


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (unscaled, "sum to"),
        (ordered, "order of patches"),
        (head_only, "drawn less often"),
        (uniform, "does not rise"),
        (lambda counts, share=None: class_aware(counts), "background gets"),
    ],
)
def test_sampler(sampler, words):
    with broken(words):
        check_sampler(sampler, rebalances=True)


# --- detectors -----------------------------------------------------------------------------------------------------


class Toy(nn.Module):
    """Looks right to a type checker: a head without a body, boxes all over."""

    def __init__(self, classes):
        super().__init__()
        self.layer = nn.Linear(3, classes)

    def forward(self, images, targets=None):
        colours = torch.stack([image.float().mean(dim=(1, 2)) for image in images])
        values = self.layer(colours)
        if self.training:
            return self.losses(values, targets)
        return [self.answer(value) for value in values]

    def losses(self, values, targets):
        if targets is None:
            raise ValueError("no targets")
        if any((t["boxes"][:, 2:] <= t["boxes"][:, :2]).any() for t in targets):
            raise ValueError("box without area")
        return {"classification": values.square().mean()}

    def answer(self, value):
        scores = value.sigmoid().sort(descending=True).values
        boxes = torch.tensor([[0.0, 0.0, 128.0, 128.0]]).repeat(len(scores), 1)
        labels = torch.zeros(len(scores), dtype=torch.int64)
        return {"boxes": boxes, "scores": scores, "labels": labels, "class_scores": scores.repeat(len(scores), 1)}


class Scaled(Toy):
    """Takes bytes and fractions alike."""

    def forward(self, images, targets=None):
        return super().forward([i.float() / 255 if i.dtype == torch.uint8 else i for i in images], targets)


class Idle(Scaled):
    """Has a layer nothing passes through."""

    def __init__(self, classes):
        super().__init__(classes)
        self.idle = nn.Linear(2, 2)


class NotANumber(Scaled):
    """Divides by the number of boxes."""

    def losses(self, values, targets):
        found = super().losses(values, targets)
        return {name: value / sum(len(t["boxes"]) for t in targets) for name, value in found.items()}


class Trusting(Scaled):
    """Takes boxes without area."""

    def losses(self, values, targets):
        return {"classification": values.square().mean()}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Toy, "uint8 and float pixels differ"),
        (Idle, "take no part"),
        (NotANumber, "no cells is not a finite scalar"),
        (Trusting, "box without area"),
        (Scaled, "cells are missed"),
    ],
)
def test_detector(kind, words):
    with broken(words):
        check_detector(kind, learning_rate=0.1)
