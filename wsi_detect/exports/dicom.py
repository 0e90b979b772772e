"""DICOM Microscopy Bulk Simple Annotations: one annotation group a class, slide px (level 0) in double precision.

Coordinates are those of the total pixel matrix, (0, 0) the top left corner of its first pixel. A class with outlines
has a group of RECTANGLE and one of POLYGON. Each group carries the scores as a measurement and the model as its
algorithm. The standard has no place for ids of single annotations: they are, in the order of the annotations, one a
line in the private element (0077,xx01) of the group, creator `wsi-detect`.

Nothing tells of a patient, and nothing of the time of writing: equal cells are equal bytes, UIDs included.
"""

import hashlib
import json
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsi_detect import __version__
from wsi_detect.artifact import atomic
from wsi_detect.errors import ConfigError, MissingExtraError, MissingSlideError, UnsupportedSlideError
from wsi_detect.exports import columns, dicom_codes
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.taxonomy import cell_class

if TYPE_CHECKING:
    from highdicom.ann import AnnotationGroup
    from highdicom.sr import CodedConcept
    from pydicom import Dataset

#: Content Date may not be empty; this one, of before there were any slide scanners, means that nobody gave one.
NO_DATE = "19000101"
#: The private element with the cell ids: its group and creator, and the last two digits of its number.
IDS_GROUP, IDS_CREATOR, IDS_ELEMENT = 0x0077, "wsi-detect", 0x01

_NAMESPACE = uuid.UUID("2d2b5a35-6a0c-4ee6-8ae8-0c8a5ed5a1c7")
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_SIZE = ("TotalPixelMatrixColumns", "TotalPixelMatrixRows")
#: What highdicom copies from the image into the annotations: the patient and the study, which stay empty.
_LEFT_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
_LONG_STRING = 64


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Cells of one class and one shape: N corners (4, 2) or outlines (K, 2), slide px; scores (N,); ids."""

    label: str
    shape: Literal["RECTANGLE", "POLYGON"]
    points: Sequence[NDArray[np.float64]]
    scores: NDArray[np.float32]
    ids: list[str]


def write(cells: CellMap, path: Path, *, source: Path | None = None, date: str = NO_DATE) -> Path:
    """Write the cells as DICOM annotations.

    An outline is its largest part without holes. A map without cells has no annotation group, which the standard asks
    for; archives that check may refuse such a file.

    Args:
        cells: the cells of a slide.
        path: the file.
        source: the DICOM file of the slide's level 0, to whose study the annotations then belong and whose image they
            refer to; only its UIDs are taken. Without it the UIDs of study and image are derived from the slide id.
        date: Content Date, `YYYYMMDD`.

    Raises:
        MissingExtraError: highdicom is not installed.
        MissingSlideError: there is no file `source`.
        UnsupportedSlideError: `source` is no DICOM file of a whole slide, or not of this slide's size.
        ConfigError: the date is none.
    """
    try:
        import highdicom.ann
    except ImportError as error:
        raise MissingExtraError("writing DICOM annotations", "dicom") from error
    image, date = _image(cells.slide, source), _checked_date(date)
    groups = list(_groups(cells))
    series = _uid("series", image.StudyInstanceUID, cells.model_id)
    instance = _uid("instance", series, image.SOPInstanceUID, cells.slide.slide_id, __version__, date, _digest(groups))
    annotations = highdicom.ann.MicroscopyBulkSimpleAnnotations(
        source_images=[image],
        annotation_coordinate_type="2D",
        pixel_origin_interpretation="VOLUME",
        annotation_groups=[_annotations(k, group, cells.model_id, instance) for k, group in enumerate(groups, 1)],
        series_instance_uid=series,
        series_number=1,
        sop_instance_uid=instance,
        instance_number=1,
        manufacturer="wsi-detect",
        manufacturer_model_name="wsi-detect",
        software_versions=__version__,
        device_serial_number="0",  # a program has none, and the attribute may not be empty
        content_label="CELLS",
        content_description=_long_string(f"Cells of slide {cells.slide.slide_id}"),
        content_date=date,
        content_time="000000",
        specific_character_set="ISO_IR 192",
    )
    _settle(annotations)
    with atomic(path) as partial:
        annotations.save_as(partial, enforce_file_format=True)
    return path


def _settle(annotations: "Dataset") -> None:
    """Take the time of writing out, which would make equal cells differ; add what highdicom has no argument for."""
    del annotations.InstanceCreationDate, annotations.InstanceCreationTime
    for equipment in annotations.ContributingEquipmentSequence:
        del equipment.ContributionDateTime
    annotations.BodyPartExamined = "CERVIX"
    annotations.CodingSchemeIdentificationSequence = [_scheme()]


def _groups(cells: CellMap) -> Iterator[_Group]:
    """Yield the cells by class, gravest first, then by shape, each in the order of the map."""
    for label in cells.counts():
        batches = list(columns.chunks(cells.filter(labels=[label])))
        parts = [_shapes(batch) for batch in batches]
        outlined = np.concatenate([part[2] for part in parts])
        scores = np.concatenate([batch["score"].to_numpy() for batch in batches])
        ids = np.array([name for batch in batches for name in batch["cell_id"].to_pylist()], dtype=object)
        corners = np.concatenate([part[0] for part in parts])
        if len(corners):
            yield _Group(label, "RECTANGLE", list(corners), scores[~outlined], ids[~outlined].tolist())
        if outlined.any():
            rings = [ring for part in parts for ring in part[1]]
            yield _Group(label, "POLYGON", rings, scores[outlined], ids[outlined].tolist())


def _shapes(batch: pa.RecordBatch) -> tuple[NDArray[np.float64], list[NDArray[np.float64]], NDArray[np.bool_]]:
    """Return corners (M, 4, 2) of the boxes, the outlines (K, 2) of other cells, and which those are (N,)."""
    points, offsets, outlined = columns.rings(batch)
    # A ring that comes back to its start before its end is no polygon to DICOM; its box stands for it.
    outlined &= (points[offsets[:-1]] != points[offsets[1:] - 1]).any(axis=1)
    corners = columns.boxes(batch)[~outlined][:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    rings = [points[offsets[k] : offsets[k + 1]] for k in np.flatnonzero(outlined)]
    return corners, rings, outlined


def _annotations(number: int, group: _Group, model_id: str, instance: str) -> "AnnotationGroup":
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.ann import AnnotationGroup, Measurements
    from highdicom.color import CIELabColor

    made = AnnotationGroup(
        number=number,
        uid=_uid("group", instance, str(number)),
        label=group.label,
        description=cell_class(group.label).title,
        annotated_property_category=_coded(dicom_codes.category(group.label)),
        annotated_property_type=_coded(dicom_codes.kind(group.label)),
        graphic_type=group.shape,
        graphic_data=group.points,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=_long_string(model_id) or "unknown",
            family=_coded(dicom_codes.ARTIFICIAL_INTELLIGENCE),
            version=__version__,
            source="wsi-detect",
        ),
        measurements=[Measurements(_coded(dicom_codes.SCORE), group.scores, _coded(dicom_codes.NO_UNIT))],
        display_color=CIELabColor.from_rgb(*cell_class(group.label).colour),
    )
    block = made.private_block(IDS_GROUP, IDS_CREATOR, create=True)
    block.add_new(IDS_ELEMENT, "UT", "\n".join(group.ids))
    return made


def _image(slide: SlideInfo, source: Path | None) -> "Dataset":
    """Return the image the annotations refer to: its UIDs, and an empty patient."""
    from pydicom import Dataset

    image = Dataset()
    for name in _LEFT_EMPTY:
        setattr(image, name, "")
    uids = {name: _uid(name, slide.slide_id) for name in _UIDS} if source is None else _read_uids(source, slide)
    for name, value in uids.items():
        setattr(image, name, value)
    image.SOPClassUID, image.Modality = _WHOLE_SLIDE, "SM"
    image.FrameOfReferenceUID = _uid("frame of reference", slide.slide_id)  # asked for, not written
    return image


def _read_uids(source: Path, slide: SlideInfo) -> dict[str, str]:
    from pydicom import dcmread
    from pydicom.uid import UID

    wanted = [*_UIDS, "SOPClassUID", *_SIZE]
    try:
        # pydicom's warnings quote values of the file.
        with warnings.catch_warnings(), source.open("rb") as stream:
            warnings.simplefilter("ignore")
            tags = dcmread(stream, stop_before_pixels=True, specific_tags=list(wanted))
            kind, *found = (str(tags[name].value) for name in ("SOPClassUID", *_UIDS))
            size = tuple(int(tags[name].value) for name in _SIZE)
            if not all(UID(uid).is_valid for uid in found):
                raise ValueError("not a UID")
    except FileNotFoundError:
        raise MissingSlideError(f"{source} does not exist; give the DICOM file of the slide's level 0") from None
    # A broken header fails in any of a dozen ways, and the text of the error may quote it: it is not told.
    except Exception as error:
        raise UnsupportedSlideError(
            f"{source}: not a DICOM file of a whole slide ({type(error).__name__}); give the file of its level 0"
        ) from None
    if kind != _WHOLE_SLIDE or size != (slide.width_px, slide.height_px):
        raise UnsupportedSlideError(
            f"{source}: not level 0 of slide {slide.slide_id}, which has {slide.width_px} x {slide.height_px} px; "
            "give the DICOM file of that level"
        )
    return dict(zip(_UIDS, found, strict=True))


def _checked_date(date: str) -> str:
    try:
        valid = datetime.strptime(date, "%Y%m%d").strftime("%Y%m%d") == date
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"{date!r} is no date; give eight digits, such as 20250131")
    return date


def _digest(groups: Sequence[_Group]) -> str:
    digest = hashlib.sha256()
    for group in groups:
        sizes = [len(points) for points in group.points]
        digest.update(json.dumps([group.label, group.shape, sizes, group.ids]).encode())
        digest.update(np.concatenate(group.points).tobytes())
        digest.update(group.scores.tobytes())
    return digest.hexdigest()


def _uid(*parts: str) -> str:
    """Make a UID of what it names: a UUID as DICOM PS3.5 B.2 writes it, the same each time."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(parts)).int}"


def _coded(term: dicom_codes.Term) -> "CodedConcept":
    from highdicom.sr import CodedConcept

    return CodedConcept(term.value, term.scheme, term.meaning)


def _scheme() -> "Dataset":
    from pydicom import Dataset

    item = Dataset()
    item.CodingSchemeDesignator, item.CodingSchemeName = dicom_codes.SCHEME, dicom_codes.SCHEME_NAME
    return item


def _long_string(text: str) -> str:
    """Fit text into DICOM's LO: no control character or backslash, and 64 characters, which pydicom takes for bytes."""
    clean = "".join(c for c in text.replace("\\", "/") if c.isprintable())
    return clean.encode()[:_LONG_STRING].decode(errors="ignore")
