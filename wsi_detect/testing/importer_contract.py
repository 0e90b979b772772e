"""The contract of importers: truth comes back, and whatever is wrong with a file is one clear error."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsi_detect import artifact, schema
from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.class_map import CLASSES_NAME, ClassMap
from wsi_detect.annotations.facts import SlideFacts, SourceFacts
from wsi_detect.annotations.importer import ANNOTATIONS_NAME, write_annotations
from wsi_detect.annotations.rules import ImportRules
from wsi_detect.annotations.sources import Importer, boxed_point
from wsi_detect.errors import LabelError, UnmappedLabelError
from wsi_detect.geometry import Box
from wsi_detect.testing.annotation_files import Dialect
from wsi_detect.testing.painter import PaintedCell
from wsi_detect.testing.promise import promise

IMAGE = "field.png"
_SIDE_PX = 40.0
_HOSTILE = '<b onclick="x">HSIL</b> &'
_DEEP = 100_000
_VERTICES = 1_000_000
_BOMB = b'<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>\n'


def check_importer(
    importer: Importer, dialect: Dialect, cells: Sequence[PaintedCell], size_px: tuple[int, int], *, vertices: int = 0
) -> None:
    """Check an importer on painted truth in its dialect, and on all that can be wrong with a file of it.

    Round trip, ids, repeatability; no cells; a byte-order mark; absent, empty, truncated, in another encoding, nested
    100,000 deep, an outline of a million vertices, coordinates that are no numbers, HTML in a label, entities of XML.
    Of a broken file nothing may be written, and the error names it.

    Args:
        importer: the file that reads the dialect.
        dialect: how it is written.
        cells: the truth, at least two cells of at least two classes, away from the edges of the slide.
        size_px: of the slide they lie on.
        vertices: of the outline that is too long; a million if 0.

    Raises:
        ContractBrokenError: a clause does not hold.
    """
    names = (*sorted({cell.label for cell in cells}), _HOSTILE)
    facts = SourceFacts({IMAGE: SlideFacts("S1", size_px, 0.25, (1500.0, -700.0))}, names=names)
    with tempfile.TemporaryDirectory() as folder:
        trial = _Trial(importer, dialect, facts, Path(folder))
        _check_truth(trial, cells)
        _check_empty(trial)
        _check_broken(trial, cells)
        _check_values(trial, cells, vertices or _VERTICES)


class _Trial:
    def __init__(self, importer: Importer, dialect: Dialect, facts: SourceFacts, folder: Path) -> None:
        self.importer, self.dialect, self.facts, self.folder = importer, dialect, facts, folder
        self.path = folder / dialect.file
        card = folder / "card"
        card.mkdir()
        lines = "".join(f"{name}: {name}\n" for name in facts.names if name != _HOSTILE)
        (card / CLASSES_NAME).write_text(lines)
        self.class_map = ClassMap.from_card(card)

    def read(self) -> list[Annotation]:
        return list(self.importer.read(self.path, self.facts))

    def write(self, cells: Sequence[PaintedCell]) -> bytes:
        self.dialect.write(self.path, cells, self.facts)
        return self.path.read_bytes()

    def imported(self) -> Path:
        out = self.folder / "out"
        rules = ImportRules(point_px=_SIDE_PX)
        return write_annotations(self.importer, self.path, self.class_map, out, self.facts, rules)

    def refused(self, what: str, words: str = "", kind: type[LabelError] = LabelError) -> None:
        """Hold the importer to one error that names the file, and nothing written."""
        try:
            self.imported()
        except kind as error:
            told = str(error)
        except Exception as error:
            promise(False, f"{what} raises {type(error).__name__}, not {kind.__name__}: {error}")
            raise
        else:
            promise(False, f"{what} is read without complaint")
        promise(kind is not LabelError or self.path.name in told, f"the message about {what} does not name it: {told}")
        promise(words in told, f"the message about {what} does not say {words!r}: {told}")
        promise(not (self.folder / "out").exists(), f"{what} leaves something written")


def _check_truth(trial: _Trial, cells: Sequence[PaintedCell]) -> None:
    content = trial.write(cells)
    read = trial.read()
    promise(all(isinstance(entry, Annotation) for entry in read), "an importer yields `Annotation`")
    promise(all(entry.image == IMAGE for entry in read), "another image is named than the file is about")
    found = [boxed_point(e, _SIDE_PX) if e.kind == "point" else e for e in read if e.kind != "roi"]
    promise(len(found) == len(cells), f"{len(found)} annotations, {len(cells)} are in the file")
    promise(len({entry.annotation_id for entry in read}) == len(read), "annotation ids are not unique")
    promise(all(entry.problem is None for entry in read), "sound annotations are said to be broken")
    expected = [(c.label, _around_centre(c.box) if trial.dialect.points else c.box) for c in cells]
    _check_same_boxes([(e.source_label, e.box) for e in found], expected, trial.dialect.tolerance_px)
    promise(trial.read() == read, "reading twice gives different annotations")
    trial.path.write_bytes(b"\xef\xbb\xbf" + content)
    promise(trial.read() == read, "a byte-order mark changes what is read")


def _check_empty(trial: _Trial) -> None:
    trial.write([])
    promise(trial.read() == [], "a file without cells does not give none")
    table = artifact.read_table(trial.imported(), schema.ANNOTATIONS)
    promise(table.num_rows == 0, "a file without cells does not give a table without rows")
    (trial.folder / "out" / ANNOTATIONS_NAME).unlink()
    (trial.folder / "out").rmdir()


def _check_broken(trial: _Trial, cells: Sequence[PaintedCell]) -> None:
    content = trial.write(cells)
    for what, broken in _breakages(trial.dialect, content).items():
        trial.path.write_bytes(broken)
        trial.refused(what)
    if trial.dialect.kind == "xml":
        trial.path.write_bytes(_BOMB + content.partition(b"?>\n")[2] if b"?>\n" in content else _BOMB + content)
        trial.refused("a file with entities of its own", "ENTITY")
    trial.path.unlink()
    trial.refused("an absent file", "cannot read")


def _breakages(dialect: Dialect, content: bytes) -> dict[str, bytes]:
    half = content[: len(content) // 2]
    if dialect.kind == "lines":
        # A cut between two lines shows nothing; one inside a line must.
        start = half.rindex(b"\n") + 1
        half = half[: start + 1]
    found = {
        "a truncated file": half,
        "a file in Latin-1": content[: len(content) // 2] + b"\xb5\xff" + content[len(content) // 2 :],
    }
    if dialect.kind != "xml":
        # XML says its encoding, and this one it may have.
        found["a file in UTF-16"] = content.decode().encode("utf-16")
    match dialect.kind:
        case "json":
            found |= {
                "an empty file": b"",
                "lists nested deep": b"[" * _DEEP + b"]" * _DEEP,
                "mappings nested deep": b'{"features":[' + b'{"a":' * _DEEP,
                "another file of that kind": b'{"name": "somebody"}',
            }
        case "xml":
            found |= {
                "an empty file": b"",
                "elements nested deep": b"<annotations>" * _DEEP,
                "another file of that kind": b"<svg><g/></svg>",
            }
        case "lines":
            found |= {"a line of brackets": content + b"[" * _DEEP + b"\n", "a NUL in a line": content + b"\0\0\n"}
    return found


def _check_values(trial: _Trial, cells: Sequence[PaintedCell], vertices: int) -> None:
    nan = float("nan")
    trial.write([*cells, PaintedCell(cells[0].label, Box(nan, nan, nan, nan))])
    trial.refused("a box that is no number", "is not finite")
    trial.write([*cells, cells[0]])
    trial.refused("a cell that is there twice", "lies exactly where")
    trial.write([PaintedCell(_HOSTILE, cells[0].box), *cells])
    promise(trial.read()[0].source_label in (_HOSTILE, "roi"), "a label with HTML in it is changed")
    trial.refused("a label with HTML in it", "labels not in", UnmappedLabelError)
    if trial.dialect.write_outline is not None:
        angle = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
        width, height = trial.facts.slides[IMAGE].size_px or (0, 0)
        points = np.column_stack([width / 2 + 90 * np.cos(angle), height / 2 + 90 * np.sin(angle)])
        trial.dialect.write_outline(trial.path, points, trial.facts)
        trial.refused(f"an outline of {vertices} vertices", "vertices")
        few = points[:: vertices // 50]
        trial.dialect.write_outline(trial.path, few, trial.facts)
        (entry,) = trial.read()
        promise(entry.geometry is not None, "an outline is lost")
        moved = np.abs(np.array(entry.box) - [*few.min(axis=0), *few.max(axis=0)]).max()
        promise(bool(moved < 1e-6), f"the box of an outline is off by {moved:g} px")


def _around_centre(box: Box) -> Box:
    x, y, half = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, _SIDE_PX / 2
    return Box(x - half, y - half, x + half, y + half)


def _check_same_boxes(found: list[tuple[str, Box]], truth: list[tuple[str, Box]], tolerance: float) -> None:
    for (label, box), (true_label, true_box) in zip(_sorted(found), _sorted(truth), strict=True):
        moved = float(np.abs(np.array(box) - np.array(true_box)).max())
        promise(moved <= tolerance, f"box {tuple(true_box)} was read as {tuple(box)}")
        promise(label == true_label, f"label {true_label} was read as {label}")


def _sorted(boxes: list[tuple[str, Box]]) -> list[tuple[str, Box]]:
    return sorted(boxes, key=lambda entry: (np.rint(np.array(entry[1])).tolist(), entry[0]))
