"""Files of text as importers read them: one clear error for whatever is wrong with them."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Generator, Iterator
from json.decoder import JSONDecodeError
from pathlib import Path
from typing import Any

from wsi_detect.errors import LabelError

#: What a file may unpack to. 100,000 outlines are a tenth of it.
MAX_BYTES = 2 << 30
_GZIP = b"\x1f\x8b"
_DECODER = json.JSONDecoder()
_BLANK = " \t\r\n"


def read_bytes(path: Path) -> bytes:
    """Read a file, unpacked if it is gzipped.

    Raises:
        LabelError: it is absent, not readable, damaged, or larger than `MAX_BYTES`.
    """
    try:
        with path.open("rb") as stream:
            packed = stream.read(2) == _GZIP
            stream.seek(0)
            content = (gzip.GzipFile(fileobj=stream) if packed else stream).read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LabelError(f"{path} is damaged ({error}); copy it again") from error
    except OSError as error:
        raise LabelError(f"cannot read annotations {path}: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise LabelError(f"{path} unpacks to more than {MAX_BYTES >> 30} GiB; split it")
    return content


def read_text(path: Path) -> str:
    """Read a file of UTF-8, with or without a byte-order mark.

    Raises:
        LabelError: as `read_bytes`, or it is in another encoding.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        LabelError: as `read_text`, or it is not JSON, or nested beyond reason.
    """
    with_path = _JsonErrors(path)
    with with_path:
        return json.loads(read_text(path))


def json_elements(path: Path, key: str) -> Iterator[Any]:
    """Values of a JSON list one by one, so that what was made of one can be forgotten before the next.

    Args:
        path: the file; it holds the list itself, or a mapping with the list under `key`, or one mapping without that
            key, which is then the only value.
        key: of the list.

    Raises:
        LabelError: as `read_json`.
    """
    text = read_text(path)
    with _JsonErrors(path):
        at = _skip(text, 0)
        if text[at : at + 1] == "[":
            at = yield from _list(text, at)
        elif text[at : at + 1] == "{" and (inside := _find(text, at, key)) is not None:
            at = yield from _list(text, inside)
            at = _rest_of_mapping(text, at)
        else:
            value, at = _DECODER.raw_decode(text, at)
            yield value
        if _skip(text, at) != len(text):
            raise JSONDecodeError("Extra data", text, at)


def read_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Read a CSV file with a header: commas, semicolons or tabs, any line ends.

    Returns:
        Names of the columns, and the rows with the numbers of their lines.

    Raises:
        LabelError: as `read_text`; the file is empty, or a row has another number of fields than the header.
    """
    text = read_text(path)
    first = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines = _lines(path, reader)
    header = next(lines, None)
    if header is None:
        raise LabelError(f"{path} is empty; a table has a line with the names of its columns")
    names = [name.strip() for name in header[1]]
    return names, _full_rows(path, lines, len(names))


def number(text: str, where: str) -> float:
    """Return the number a text stands for.

    Raises:
        LabelError: it is none.
    """
    try:
        return float(text)
    except (TypeError, ValueError) as error:
        hint = "; write a point for the decimal comma" if isinstance(text, str) and text.count(",") == 1 else ""
        raise LabelError(f"{where}: {text!r} is not a number{hint}") from error


class _JsonErrors:
    """Turn what the JSON parser raises into the one error."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, LabelError) or not isinstance(error, (ValueError, RecursionError)):
            return
        if isinstance(error, RecursionError):
            raise LabelError(f"{self._path} is nested too deeply to be an annotation file") from error
        raise LabelError(f"{self._path} is not valid JSON: {error}") from error


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANK:
        at += 1
    return at


def _expect(text: str, at: int, mark: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != mark:
        raise JSONDecodeError(f"Expecting {mark!r}", text, at)
    return at + 1


def _list(text: str, at: int) -> Generator[Any, None, int]:
    """Yield the values of the list that begins at a place; give the place behind it."""
    at = _skip(text, _expect(text, at, "["))
    if text[at : at + 1] == "]":
        return at + 1
    while True:
        value, at = _DECODER.raw_decode(text, _skip(text, at))
        yield value
        at = _skip(text, at)
        if text[at : at + 1] == "]":
            return at + 1
        at = _expect(text, at, ",")


def _find(text: str, at: int, key: str) -> int | None:
    """Place of the list under a key of the mapping that begins at a place; None if there is none."""
    at = _skip(text, _expect(text, at, "{"))
    while text[at : at + 1] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _skip(text, _expect(text, at, ":"))
        if name == key and text[at : at + 1] == "[":
            return at
        _, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "}":
            raise JSONDecodeError("Expecting ',' or '}'", text, at)
    return None


def _rest_of_mapping(text: str, at: int) -> int:
    while (at := _skip(text, at)) < len(text) and text[at] == ",":
        _, at = _DECODER.raw_decode(text, _skip(text, at + 1))
        _, at = _DECODER.raw_decode(text, _skip(text, _expect(text, at, ":")))
    return _expect(text, at, "}")


def _lines(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise LabelError(f"{path}: line {reader.line_num}: {error}") from error


def _full_rows(path: Path, lines: Iterator[tuple[int, list[str]]], columns: int) -> Iterator[tuple[int, list[str]]]:
    for line, cells in lines:
        if len(cells) != columns:
            raise LabelError(f"{path}: line {line}: {len(cells)} fields, the header has {columns}")
        yield line, cells
