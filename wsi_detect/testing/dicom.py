"""DICOM whole slides as scanners write them: a file a level, focal planes, a label, and a patient nobody should see."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi_detect.testing.ome import shrink

_Pixels = NDArray[np.uint8]

#: In every tag that is about the patient, and in the label file.
CANARY = "CANARY^Jane"

_SYNTAX = "1.2.840.10008.1.2"
#: Name → transfer syntax, photometric interpretation, how a tile is encoded (None: native).
SYNTAXES: dict[str, tuple[str, str, Any]] = {
    "implicit": (_SYNTAX, "RGB", None),
    "explicit": (f"{_SYNTAX}.1", "RGB", None),
    "jpeg": (f"{_SYNTAX}.4.50", "YBR_FULL_422", lambda tile: imagecodecs.jpeg8_encode(tile, level=90)),
    "jpegls": (f"{_SYNTAX}.4.80", "RGB", lambda tile: imagecodecs.jpegls_encode(tile, level=0, out=tile.nbytes * 2)),
    "jpeg2000": (
        f"{_SYNTAX}.4.90",
        "YBR_RCT",
        lambda tile: imagecodecs.jpeg2k_encode(tile, level=0, reversible=True, codecformat="j2k"),
    ),
    # pydicom does not write the number of JPEG XL's syntax, so one as long is put in its place.
    "jpegxl": (f"{_SYNTAX}.4.201", "RGB", lambda tile: imagecodecs.jpegxl_encode(tile, lossless=True)),
}


def write_dicom(
    folder: Path,
    planes: Sequence[_Pixels],
    *,
    levels: int = 2,
    tile_px: int = 64,
    syntax: str = "explicit",
    sparse: Sequence[tuple[int, int, int]] | None = None,
) -> Path:
    """Write a series: levels a factor of 2 apart, 0.25 µm per px, 1.5 µm between planes, and a label.

    Args:
        folder: to write to; made if it is not there.
        planes: of equal shape (H, W, 3), one a focal plane.
        levels: of the pyramid.
        tile_px: side of the tiles, px.
        syntax: one of `SYNTAXES`.
        sparse: (plane, row, column) of the tiles to write at level 0, each with its position; None writes all, without.

    Returns:
        The file of level 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for level in range(levels):
        stack = [plane if level == 0 else shrink(plane, 2**level) for plane in planes]
        path = folder / f"level{level}.dcm"
        _write(path, stack, (tile_px, 0.25 * 2**level, syntax), sparse if level == 0 else None)
    _write(folder / "label.dcm", [np.zeros((16, 16, 3), np.uint8)], (16, 1.0, "explicit"), None, kind="LABEL")
    return folder / "level0.dcm"


def _write(
    path: Path,
    planes: Sequence[_Pixels],
    how: tuple[int, float, str],
    sparse: Sequence[tuple[int, int, int]] | None,
    *,
    kind: str = "VOLUME",
) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    tile_px, mpp, syntax = how
    uid, photometric, encode = SYNTAXES[syntax]
    height, width = planes[0].shape[:2]
    rows, columns = -(-height // tile_px), -(-width // tile_px)
    places = sparse or [(p, r, c) for p in range(len(planes)) for r in range(rows) for c in range(columns)]
    padded = [np.pad(plane, ((0, -height % tile_px), (0, -width % tile_px), (0, 0)), mode="edge") for plane in planes]
    tiles = [
        np.ascontiguousarray(padded[p][r * tile_px : (r + 1) * tile_px, c * tile_px : (c + 1) * tile_px])
        for p, r, c in places
    ]
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = UID(uid)
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.77.1.6")
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = UID(f"2.25.{width}")
    file.SeriesInstanceUID = file.StudyInstanceUID = "2.25.1"
    file.Modality, file.ImageType = "SM", ["ORIGINAL", "PRIMARY", kind, "NONE"]
    file.PatientName = file.PatientID = file.AccessionNumber = file.ContainerIdentifier = CANARY
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PlanarConfiguration = 3, photometric, 0
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    file.Rows = file.Columns = tile_px
    file.TotalPixelMatrixColumns, file.TotalPixelMatrixRows = width, height
    file.TotalPixelMatrixFocalPlanes, file.NumberOfOpticalPaths = len(planes), 1
    file.NumberOfFrames = len(tiles)
    file.DimensionOrganizationType = "TILED_FULL" if sparse is None else "TILED_SPARSE"
    file.OpticalPathSequence = [_dataset(ObjectiveLensPower=40)]
    measures = _dataset(PixelSpacing=[mpp / 1e3, mpp / 1e3], SpacingBetweenSlices=0.0015, SliceThickness=0.001)
    file.SharedFunctionalGroupsSequence = [_dataset(PixelMeasuresSequence=[measures])]
    if sparse is not None:
        file.PerFrameFunctionalGroupsSequence = [_dataset(PlanePositionSlideSequence=[_position(*place, tile_px)])
                                                 for place in places]  # fmt: skip
    file.PixelData = b"".join(tile.tobytes() for tile in tiles) if encode is None else encapsulate(
        [encode(tile) for tile in tiles]
    )  # fmt: skip
    if encode is not None:
        file["PixelData"].is_undefined_length = True
    file.save_as(path, enforce_file_format=True, implicit_vr=syntax == "implicit", little_endian=True)
    if syntax == "jpegxl":
        path.write_bytes(path.read_bytes().replace(b"1.2.4.201", b"1.2.4.110", 1))


def _position(plane: int, row: int, column: int, tile_px: int) -> Any:
    return _dataset(
        ColumnPositionInTotalImagePixelMatrix=column * tile_px + 1,
        RowPositionInTotalImagePixelMatrix=row * tile_px + 1,
        XOffsetInSlideCoordinateSystem=0,
        YOffsetInSlideCoordinateSystem=0,
        ZOffsetInSlideCoordinateSystem=1.5 * plane,
    )


def _dataset(**values: object) -> Any:
    from pydicom.dataset import Dataset

    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made
