"""YOLO text: one file a picture; a line an object, its class a number, coordinates as shares of the picture's sides."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.facts import SourceFacts
from wsi_detect.annotations.outline import outline
from wsi_detect.annotations.text import number, read_text
from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box

SUFFIXES: tuple[str, ...] = (".txt",)


def read(path: Path, facts: SourceFacts) -> Iterator[Annotation]:
    """Read a YOLO file: `class x_centre y_centre width height`, or `class x1 y1 x2 y2 x3 y3 …` for an outline.

    An empty file is a picture without cells. What the numbers of classes mean is in `facts.names`, how large the
    picture is in `facts.slides`: the file says neither.

    Raises:
        LabelError: the file is absent, a line is of neither form, or its class has no name; the picture or its size is
            not known.
    """
    image = facts.slide_of(path)
    size = facts.size_of(image)
    lines = [(row, line.split()) for row, line in enumerate(read_text(path).splitlines(), start=1) if line.strip()]
    if lines and size is None:
        raise LabelError(f"{path}: the size of {image} is not known, and YOLO files are in shares of it")
    for row, words in lines:
        where = f"{path}: line {row}"
        if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
            raise LabelError(f"{where}: {len(words)} fields; expected 5 for a box, or 7, 9, 11 … for an outline")
        label = _name(words[0], facts.names, where)
        values = np.array([number(word, where) for word in words[1:]]) * np.tile(size or (1, 1), len(words) // 2)
        if len(values) == 4:
            x, y, width, height = values.tolist()
            box = Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            yield Annotation(str(row), label, box, image, size, row=row)
        else:
            shape = outline(values.reshape(-1, 2))
            yield Annotation(str(row), label, shape.box, image, size, shape.geometry, row=row, problem=shape.problem)


def _name(word: str, names: tuple[str, ...], where: str) -> str:
    if not word.isascii() or not word.isdigit():
        raise LabelError(f"{where}: class {word!r} is not a number")
    if int(word) >= len(names):
        raise LabelError(f"{where}: class {word} has no name; {len(names)} names were given, counted from 0")
    return names[int(word)]
