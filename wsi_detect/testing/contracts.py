"""Contracts: what every reader, importer, exporter, sampler, loss and detector must keep, as checks anyone can call.

A check takes the thing itself and what it needs to be tried on, and raises `ContractBrokenError` with one sentence at
the first clause that does not hold. Losses and detectors need torch, which is imported only when they are checked.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import WsiDetectError
from wsi_detect.geometry import Box
from wsi_detect.slides.reader import SlideReader
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.testing.importer_contract import check_importer
from wsi_detect.testing.learned_contracts import check_detector
from wsi_detect.testing.loss_contracts import check_loss
from wsi_detect.testing.promise import ContractBrokenError, promise

__all__ = [
    "ContractBrokenError",
    "ReadCell",
    "check_detector",
    "check_exporter",
    "check_importer",
    "check_loss",
    "check_reader",
    "check_sampler",
]

_SOURCES = ("file", "--mpp", "manifest", "missing")
#: Rounding of half a unit in the last of two decimals.
_CENT = 0.005 + 1e-9


class ReadCell(NamedTuple):
    """What another program finds in an exported file."""

    cell_id: str
    label: str
    box: Box


def check_reader(open_reader: Callable[[], SlideReader], expected: NDArray[np.uint8], *, tolerance: float) -> None:
    """Check a slide reader against the pixels the file was made from.

    Facts, pixels, any region equal to the same part of the whole, levels, what lies beyond the edges (white and not
    valid), focal planes, closing.

    Args:
        open_reader: opens the file anew each time.
        expected: (H, W, 3) uint8, what is on level 0; at least 128 px each way.
        tolerance: largest mean absolute difference on level 0, grey values; 0 for a lossless format.

    Raises:
        ContractBrokenError: a clause does not hold.
    """
    height, width = expected.shape[:2]
    with open_reader() as reader:
        _check_info(reader, width, height)
        whole, valid = reader.read_region(0, 0, 0, width, height)
        _check_region(whole, valid, width, height)
        difference = np.abs(whole.astype(np.int16) - expected).mean()
        promise(difference <= tolerance, f"level 0 differs from what was written by {difference:.2f} on average")
        promise(valid is None or bool(valid.all()), "parts of a complete slide are said to be without data")
        _check_parts(reader, whole)
        _check_edges(reader, whole)
        for level, downsample in enumerate(reader.info.level_downsamples):
            _check_level(reader, level, downsample, expected)
        _check_planes(reader)
    reader.close()
    with open_reader() as again:
        second, _ = again.read_region(0, 0, 0, width, height)
    promise(np.array_equal(second, whole), "a second opening gives other pixels")


def check_exporter(
    write: Callable[[CellMap, Path], Path],
    read_back: Callable[[Path], list[ReadCell]] | None,
    cells: CellMap,
    folder: Path,
    *,
    tolerance_px: float = _CENT,
) -> None:
    """Check an exporter: complete, repeatable, readable, coordinates and ids intact, an empty map included.

    Args:
        write: the exporter.
        read_back: reads its format the way another program does; None for a picture, which holds no single cells.
        cells: at least one cell; the file name of its slide must not be in the output.
        folder: an empty folder to write to.
        tolerance_px: what the format may round.

    Raises:
        ContractBrokenError: a clause does not hold.
    """
    promise(len(cells) > 0, "the check needs cells")
    path = folder / "cells.out"
    before = cells.table
    promise(write(cells, path) == path, "an exporter returns the path it was given")
    promise(path.is_file() and path.stat().st_size > 0, "no file, or an empty one, was written")
    promise([p.name for p in folder.iterdir()] == [path.name], "other files are left in the folder")
    promise(cells.table.equals(before), "the exporter changed the cell map")
    first = path.read_bytes()
    promise(write(cells, path).read_bytes() == first, "the same cells give another file")
    name = cells.slide.path.name
    promise(not name or name.encode() not in first, "the file name of the slide is in the output")
    empty = CellMap(cells.slide, cells.table.slice(0, 0), cells.classes, cells.model_id)
    nothing = write(empty, folder / "empty.out")
    promise(nothing.is_file(), "a map without cells does not give a file")
    if read_back is None:
        return
    promise(read_back(nothing) == [], "a map without cells does not give a file without cells")
    found = {cell.cell_id: cell for cell in read_back(path)}
    rows = list(cells.rows())
    promise(found.keys() == {row["cell_id"] for row in rows}, "the cell ids read back are not those of the map")
    for row in rows:
        cell = found[str(row["cell_id"])]
        box = np.array([row[name] for name in ("x0_px", "y0_px", "x1_px", "y1_px")], dtype=np.float64)
        promise(cell.label == row["label"], f"cell {cell.cell_id} is {row['label']}, read back as {cell.label}")
        moved = float(np.abs(box - np.array(cell.box)).max())
        promise(moved <= tolerance_px, f"cell {cell.cell_id} moved by {moved:.4f} px")


def check_sampler(sampler: Callable[..., NDArray[np.float64]], *, rebalances: bool) -> None:
    """Check a sampler, a function (counts (P, K), background_share) → weights (P,).

    Args:
        sampler: the function.
        rebalances: whether it is meant to draw rare classes more often than they occur.

    Raises:
        ContractBrokenError: weights that are no distribution, that depend on the order of patches, that miss the quota
            of the background, or that do not raise the tail.
    """
    # 80 patches of the head, 4 of the tail, 1 with both, 15 without cells.
    counts = np.zeros((100, 3), dtype=np.int64)
    counts[:80, 0] = 3
    counts[80:85, 1] = 1
    counts[84, 0] = 2
    kept = counts.copy()
    natural = _weights(sampler(counts), len(counts))
    promise(np.array_equal(counts, kept), "the counts are changed")
    promise(np.array_equal(sampler(counts), natural), "the same counts give other weights")
    order = np.random.default_rng(0).permutation(len(counts))
    promise(np.allclose(sampler(counts[order]), natural[order], atol=1e-12), "weights depend on the order of patches")
    tail, alone = float(natural[80:85].sum()), 5 / 100
    promise(tail >= alone - 1e-9, f"the tail class is drawn less often ({tail:.3f}) than it occurs ({alone:.3f})")
    promise(not rebalances or tail > 1.5 * alone, f"the tail class does not rise: {tail:.3f} of {alone:.3f}")
    for share in (0.0, 0.25, 1.0):
        drawn = float(_weights(sampler(counts, share), len(counts))[85:].sum())
        promise(abs(drawn - share) < 1e-9, f"background gets {drawn:.3f} of the draws, {share} were asked for")
    _weights(sampler(np.zeros((7, 3), dtype=np.int64)), 7)
    _weights(sampler(counts[:1]), 1)


def _check_info(reader: SlideReader, width: int, height: int) -> None:
    info = reader.info
    promise((info.width_px, info.height_px) == (width, height), f"the size is {width} x {height}, not {info}")
    promise(bool(info.slide_id), "a slide needs an id")
    promise(info.mpp_source in _SOURCES, f"mpp_source is {info.mpp_source!r}, not one of {', '.join(_SOURCES)}")
    promise((info.mpp is None) == (info.mpp_source == "missing"), "mpp and its source contradict each other")
    promise(info.level_downsamples[0] == 1.0, "level 0 is the full resolution")
    steps = np.diff(info.level_downsamples)
    promise(bool((steps > 0).all()), "levels must become coarser one by one")
    promise(info.focal_planes >= 1, "a slide has at least one focal plane")


def _check_region(rgb: NDArray[np.uint8], valid: NDArray[np.bool_] | None, width: int, height: int) -> None:
    promise(rgb.shape == (height, width, 3), f"asked for {width} x {height} px, got an array {rgb.shape}")
    promise(rgb.dtype == np.uint8, f"pixels are uint8, not {rgb.dtype}")
    if valid is None:
        return
    promise(valid.shape == (height, width), f"the validity mask is {valid.shape}, not {(height, width)}")
    promise(valid.dtype == np.bool_, f"the validity mask is bool, not {valid.dtype}")
    promise(bool((rgb[~valid] == 255).all()), "what is without data must be white")


def _check_parts(reader: SlideReader, whole: NDArray[np.uint8]) -> None:
    height, width = whole.shape[:2]
    for x, y, w, h in ((0, 0, 1, 1), (7, 11, 50, 33), (width // 2 - 9, height // 2 - 5, 61, 47), (width - 1, 0, 1, 40)):
        rgb, valid = reader.read_region(x, y, 0, w, h)
        _check_region(rgb, valid, w, h)
        promise(
            np.array_equal(rgb, whole[y : y + h, x : x + w]), f"region {x},{y} {w}x{h} is not that part of the whole"
        )


def _check_edges(reader: SlideReader, whole: NDArray[np.uint8]) -> None:
    height, width = whole.shape[:2]
    reach = 20
    for x, y in ((-reach, -reach), (width - reach, height - reach), (width + 5, 0), (0, -3 * reach)):
        rgb, valid = reader.read_region(x, y, 0, 2 * reach, 2 * reach)
        _check_region(rgb, valid, 2 * reach, 2 * reach)
        columns, rows = np.arange(x, x + 2 * reach), np.arange(y, y + 2 * reach)
        on = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
        promise(valid is not None and not valid[~on].any(), f"what lies beyond the slide is valid, at {x},{y}")
        promise(bool((rgb[~on] == 255).all()), f"what lies beyond the slide is not white, at {x},{y}")
        inside = whole[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)]
        promise(np.array_equal(rgb[on], inside[on]), f"pixels at the edge are wrong, at {x},{y}")


def _check_level(reader: SlideReader, level: int, downsample: float, expected: NDArray[np.uint8]) -> None:
    height, width = (int(side / downsample) for side in expected.shape[:2])
    rgb, valid = reader.read_region(0, 0, level, width, height)
    _check_region(rgb, valid, width, height)
    # The mean colour of a quarter tells a level that is shifted, mirrored or another picture.
    for rows in (slice(0, height // 2), slice(height // 2, height)):
        for columns in (slice(0, width // 2), slice(width // 2, width)):
            source = expected[_scaled(rows, downsample), _scaled(columns, downsample)]
            apart = np.abs(rgb[rows, columns].mean(axis=(0, 1)) - source.mean(axis=(0, 1))).max()
            promise(apart < 4, f"level {level} shows another picture than level 0 (mean colour differs by {apart:.1f})")
    x, y = width // 4, height // 4
    part, _ = reader.read_region(round(x * downsample), round(y * downsample), level, width // 2, height // 2)
    apart = np.abs(part.astype(np.int16) - rgb[y : y + height // 2, x : x + width // 2]).mean()
    promise(apart < 2, f"x_px and y_px on level {level} are not in px of level 0 (differs by {apart:.1f})")


def _scaled(part: slice, downsample: float) -> slice:
    return slice(round(part.start * downsample), round(part.stop * downsample))


def _check_planes(reader: SlideReader) -> None:
    for plane in range(1, reader.info.focal_planes):
        rgb, valid = reader.read_region(0, 0, 0, 16, 16, plane=plane)
        _check_region(rgb, valid, 16, 16)
    try:
        reader.read_region(0, 0, 0, 16, 16, plane=reader.info.focal_planes)
    except (IndexError, ValueError, WsiDetectError):
        return
    promise(False, "a focal plane that is not there is read without complaint")


def _weights(weights: NDArray[np.float64], patches: int) -> NDArray[np.float64]:
    promise(weights.shape == (patches,), f"weights have shape {weights.shape}, not {(patches,)}")
    promise(bool(np.isfinite(weights).all() and (weights >= 0).all()), "weights must be finite and not negative")
    promise(abs(float(weights.sum()) - 1) < 1e-9, f"weights sum to {weights.sum():.6f}, not 1")
    return weights
