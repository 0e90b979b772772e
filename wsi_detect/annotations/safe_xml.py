"""XML as importers read it: record by record, and nothing a file can do but state elements.

No document type, so no entity but the five of XML itself: nothing expands, nothing is fetched. Of a large file only
one record is in memory at a time.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from wsi_detect.annotations.text import read_bytes
from wsi_detect.errors import LabelError

_DEPTH = 64
_CHUNK = 1 << 18


class Record(NamedTuple):
    """An element with all that is in it, and the attributes of the elements around it, the outermost first."""

    element: Element
    around: tuple[tuple[str, dict[str, str]], ...]


def records(path: Path, root: str, name: str) -> Iterator[Record]:
    """Elements of one name, one after the other.

    Args:
        path: the file; its declared encoding counts.
        root: what the outermost element must be called.
        name: of the elements; one inside another belongs to the outer one. The root itself may be meant.

    Raises:
        LabelError: the file is absent or not well formed, has a document type or an entity of its own, is nested
            deeper than 64 elements, or has another root.
    """
    content = read_bytes(path)
    reader = _Reader(path, root, name)
    for start in range(0, len(content), _CHUNK):
        reader.feed(content[start : start + _CHUNK])
        yield from reader.taken()
    reader.close()
    yield from reader.taken()


class _Reader:
    def __init__(self, path: Path, root: str, name: str) -> None:
        self._path, self._root, self._name = path, root, name
        self._around: list[tuple[str, dict[str, str]]] = []
        self._builder: TreeBuilder | None = None
        self._inside = 0
        self._done: list[Record] = []
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.ExternalEntityRefHandler = self._refuse
        self._parser = parser

    def feed(self, content: bytes) -> None:
        self._parse(content, last=False)

    def close(self) -> None:
        self._parse(b"", last=True)

    def taken(self) -> list[Record]:
        done, self._done = self._done, []
        return done

    def _parse(self, content: bytes, *, last: bool) -> None:
        try:
            self._parser.Parse(content, last)
        except (expat.ExpatError, LookupError, ValueError) as error:
            if isinstance(error, LabelError):
                raise
            raise LabelError(f"{self._path} is not well-formed XML: {error}") from error

    def _refuse(self, *_: Any) -> NoReturn:
        raise LabelError(
            f"{self._path} has a document type or entities of its own (DOCTYPE, ENTITY), which no annotation needs; "
            "remove them"
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._around and not self._inside and tag != self._root:
            raise LabelError(f"{self._path}: its root is <{tag[:80]}>, expected <{self._root}>; is it another format?")
        if self._builder is None and tag == self._name:
            self._builder = TreeBuilder()
        if self._builder is None:
            self._around.append((tag, attributes))
        else:
            self._builder.start(tag, attributes)
            self._inside += 1
        if len(self._around) + self._inside > _DEPTH:
            raise LabelError(f"{self._path} is nested deeper than {_DEPTH} elements; no annotation file is")

    def _end(self, tag: str) -> None:
        if self._builder is None:
            self._around.pop()
            return
        self._builder.end(tag)
        self._inside -= 1
        if not self._inside:
            self._done.append(Record(self._builder.close(), tuple(self._around)))
            self._builder = None

    def _data(self, text: str) -> None:
        if self._builder is not None:
            self._builder.data(text)


def text_of(element: Element, path: str) -> str:
    """Return the text of an element inside, without blanks around it; empty if there is none."""
    return (element.findtext(path) or "").strip()


def attribute(element: Element, name: str, where: str) -> str:
    """Return an attribute.

    Raises:
        LabelError: it is missing.
    """
    value = element.get(name)
    if value is None:
        raise LabelError(f"{where}: <{element.tag}> has no {name}")
    return value
