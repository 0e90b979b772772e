"""Which slides a run is about: files, folders, patterns or a CSV manifest → rows of `slides.parquet`.

The order of what is given does not matter: rows are sorted by slide id. Every fault of a manifest is named at once.
"""

import csv
import difflib
import glob
import hashlib
import io
import logging
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from wsi_detect import artifact, schema
from wsi_detect.errors import ManifestError

#: What a folder is searched for; a file named outright is taken whatever its suffix.
SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".czi", ".dcm"}
    | {".png", ".jpg", ".jpeg"}
)
_DECIMAL_COMMA = re.compile(r"^\s*\d+,\d+\s*$")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Names a folder cannot have on some file systems, or that a run uses itself.
_TAKEN = frozenset(
    ["con", "prn", "aux", "nul", "logs", *(f"com{k}" for k in range(10)), *(f"lpt{k}" for k in range(10))]
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SlideRow:
    """One slide of a run; the fields are the columns of `schema.SLIDES`.

    Attributes:
        slide_id: from the manifest, else from the content; names the slide in every output.
        path: absolute.
        patient_id: whose slide it is; kept in `slides.parquet` alone.
        site: where it was made.
        scanner: what it was scanned with.
        preparation: "conventional smear", "ThinPrep", "SurePath" …
        stain: "Papanicolaou" …
        slide_label: what the slide is known to be.
        split: train, val or test.
        mpp: µm per px where the file does not say so, or says it wrong.
    """

    slide_id: str
    path: str
    patient_id: str | None = None
    site: str | None = None
    scanner: str | None = None
    preparation: str | None = None
    stain: str | None = None
    slide_label: str | None = None
    split: str | None = None
    mpp: float | None = None


_COLUMNS = tuple(field.name for field in fields(SlideRow))


def list_slides(sources: Sequence[str | Path]) -> list[SlideRow]:
    """Resolve what was given on the command line.

    Args:
        sources: slide files, folders (searched one level deep), patterns, `.csv` manifests; any mixture.

    Returns:
        One row a slide, sorted by id. A file given twice, or a second file of the same content, is one slide.

    Raises:
        ManifestError: a folder or pattern holds no slide, or a manifest is faulty (all its faults, with row numbers).
    """
    manifests = [Path(source) for source in sources if str(source).lower().endswith(".csv")]
    rows = [row for manifest in manifests for row in read_manifest(manifest)]
    loose = [source for source in sources if not str(source).lower().endswith(".csv")]
    known = {row.path for row in rows}
    files = sorted({path for source in loose for path in _expand(str(source))} - {Path(path) for path in known})
    rows += [SlideRow(_default_id(path), str(path)) for path in files]
    return _without_duplicates(rows)


def part_of(rows: Sequence[SlideRow], part: str) -> list[SlideRow]:
    """Take part `i/n` of the rows (i from 1): the parts are disjoint and together the whole.

    Raises:
        ManifestError: not of that form, or i not in 1 … n.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise ManifestError(f"--part {part!r}: expected i/n with i from 1 to n, such as 2/8")
    return list(rows[number - 1 :: count])


def write_slides(path: Path, rows: Iterable[SlideRow]) -> Path:
    """Write `slides.parquet`: the one place where file names are kept."""
    # Parquet holds UTF-8 only; a name that is not is kept in escaped form.
    plain = [{**asdict(row), "path": os.fsencode(row.path).decode(errors="backslashreplace")} for row in rows]
    table = artifact.table_of(plain, schema.SLIDES)
    artifact.write_table(path, table, schema.SLIDES)
    return path


def read_slides(path: Path) -> list[SlideRow]:
    """Read `slides.parquet`.

    Raises:
        ArtifactError: missing, damaged, or of another schema version.
    """
    return [SlideRow(**row) for row in artifact.read_table(path, schema.SLIDES).to_pylist()]


def read_manifest(path: Path) -> list[SlideRow]:
    """Read a CSV manifest: `path`, and any other column of `SlideRow`.

    Comma, semicolon or tab; with or without a byte-order mark; any line ends. Relative paths start at the manifest's
    folder. Columns with other names are left alone, unless they look like a misspelt one.

    Raises:
        ManifestError: naming every fault with its row.
    """
    header, lines = _read_csv(path)
    faults = _header_faults(header)
    if faults:
        raise ManifestError(f"{path}: {'; '.join(faults)}")
    rows: list[tuple[int, SlideRow]] = []
    for number, cells in lines:
        values = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        problems = _row_faults(values, len(cells), len(header))
        faults += [f"row {number}: {problem}" for problem in problems]
        if not problems:
            rows.append((number, _row(values, path.parent)))
    faults += _repeated(rows)
    if not lines:
        faults.append("it lists no slide")
    if faults:
        raise ManifestError(f"{path}: {len(faults)} fault(s)\n" + "\n".join(f"  {fault}" for fault in faults))
    return [row for _, row in rows]


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not UTF-8 (byte {error.start}); save it as CSV UTF-8") from error
    first = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise ManifestError(f"{path}: line {reader.line_num}: {error}") from error
    if not lines:
        raise ManifestError(f"{path} is empty")
    return [name.strip().lower() for name in lines[0][1]], lines[1:]


def _header_faults(header: list[str]) -> list[str]:
    faults = [f"column {name!r} appears twice" for name in sorted({n for n in header if header.count(n) > 1})]
    if "path" not in header:
        faults.append("no column 'path'")
    for name in header:
        near = [] if name in _COLUMNS else difflib.get_close_matches(name, _COLUMNS, n=1, cutoff=0.66)
        if near and near[0] not in header:
            faults.append(f"unknown column {name!r}; did you mean {near[0]!r}?")
    return faults


def _row_faults(values: dict[str, str], cells: int, columns: int) -> list[str]:
    if cells != columns:
        return [f"{cells} fields, the header has {columns}"]
    faults = [] if values["path"] else ["the path is empty"]
    if "\0" in values["path"]:
        faults.append("the path holds a NUL character")
    if "slide_id" in values:
        faults += id_faults(values["slide_id"])
    if values.get("mpp"):
        faults += _mpp_faults(values["mpp"])
    return faults


def id_faults(text: str) -> list[str]:
    """Return why a text cannot be a slide's id, which is also the name of its folder; nothing if it can."""
    if not _ID.fullmatch(text):
        return [f"slide_id {text!r}: letters, digits, '.', '_' and '-' only, 1 to 64, the first a letter or digit"]
    if text.lower().partition(".")[0] in _TAKEN or text.endswith("."):
        return [f"slide_id {text!r} cannot be the name of a folder"]
    return []


def _mpp_faults(text: str) -> list[str]:
    if _DECIMAL_COMMA.match(text):
        return [f"mpp {text!r} has a decimal comma; write {text.replace(',', '.').strip()}"]
    try:
        value = float(text)
    except ValueError:
        return [f"mpp {text!r} is not a number"]
    return [] if math.isfinite(value) and value > 0 else [f"mpp {text!r} is not a size"]


def _row(values: dict[str, str], base: Path) -> SlideRow:
    path = _absolute(base / Path(values["path"]).expanduser())
    others = [name for name in _COLUMNS if name not in ("path", "mpp", "slide_id")]
    known: dict[str, Any] = {name: values[name] for name in others if values.get(name)}
    mpp = float(values["mpp"]) if values.get("mpp") else None
    return replace(SlideRow(values.get("slide_id") or _default_id(path), str(path), mpp=mpp), **known)


def _repeated(rows: list[tuple[int, SlideRow]]) -> list[str]:
    """Name ids that differ at most in case, and files that are the same file under any name."""
    ids: dict[str, int] = {}
    paths: dict[str, int] = {}
    faults = []
    for number, row in rows:
        seen = ids.setdefault(row.slide_id.lower(), number)
        real = paths.setdefault(str(Path(row.path).resolve()), number)
        if real != number:
            faults.append(f"row {number}: the same file as row {real}")
        elif seen != number:
            faults.append(f"row {number}: slide_id {row.slide_id!r} is also that of row {seen}")
    return faults


def _expand(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        found = [entry for entry in path.iterdir() if entry.suffix.lower() in SLIDE_SUFFIXES and entry.is_file()]
        if not found:
            raise ManifestError(f"{path} holds no slide (looked for {' '.join(sorted(SLIDE_SUFFIXES))})")
        return [_absolute(entry) for entry in found if not entry.name.startswith(".")]
    if not path.exists() and glob.has_magic(source):
        matches = [Path(match) for match in glob.glob(str(path))]
        if not matches:
            raise ManifestError(f"no file matches {source}")
        return [_absolute(match) for match in matches if match.is_file()]
    return [_absolute(path)]


def _absolute(path: Path) -> Path:
    # Not resolve(): a link's own name and folder may be all the user knows; MRXS needs its companion beside it.
    return Path(path.expanduser().absolute())


def _default_id(path: Path) -> str:
    """Id of the content; of the path where there is no content to have one."""
    try:
        if path.stat().st_size:
            return artifact.slide_id(path)
    except OSError as error:
        _log.debug("no content to make an id of: %s", error.strerror)
    return f"M{hashlib.sha256(str(path).encode(errors='surrogateescape')).hexdigest()[:10]}"


def _without_duplicates(rows: list[SlideRow]) -> list[SlideRow]:
    """One row a slide.

    Raises:
        ManifestError: two slides have one id, as manifests written apart from each other can.
    """
    unique: dict[str, SlideRow] = {}
    for row in rows:
        first = unique.setdefault(row.slide_id.lower(), row)
        if first is row:
            continue
        if not _same_slide(first.path, row.path):
            raise ManifestError(
                f"slide_id {row.slide_id!r} is given to two slides, {first.path} and {row.path}; give one another id"
            )
        _log.warning("%s has the same content as another file given; it is screened once", row.path)
    return sorted(unique.values(), key=lambda row: row.slide_id)


def _same_slide(first: str, second: str) -> bool:
    if Path(first).resolve() == Path(second).resolve():
        return True
    try:
        return artifact.fingerprint(Path(first)) == artifact.fingerprint(Path(second))
    except OSError:
        return False
