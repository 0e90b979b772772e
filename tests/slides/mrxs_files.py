"""MRXS slides as 3DHISTECH's scanners lay them out: an ini file, an index, tiles only where something was scanned."""

import io
import struct

import numpy as np
from PIL import Image

SLIDE_ID = "0123456789ABCDEF0123456789ABCDEF"
_VERSION = "01.02"


def write(path, cells, *, across, down, tile_px, levels=2):
    """Write a slide of `across` x `down` camera pictures; `cells` holds (column, row) → (tile_px, tile_px, 3)."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True)
    path.write_bytes(b"\xff\xd8\xff")
    (folder / "Slidedat.ini").write_text(_settings(across, down, tile_px, levels))
    head = (_VERSION + SLIDE_ID).encode()
    data, index = bytearray(head), bytearray(head)
    pages = []
    for level in range(levels):
        step, entries = 2**level, []
        for row in range(0, down, step):
            for column in range(0, across, step):
                picture = _picture(cells, column, row, step, tile_px)
                if picture:
                    entries.append(struct.pack("<4i", row * across + column, len(data), len(picture), 0))
                    data += picture
        pages.append(entries)
    table = len(index) + 8
    index += struct.pack("<2i", table, table) + bytes(4 * levels)
    for level, entries in enumerate(pages):
        struct.pack_into("<i", index, table + 4 * level, len(index))
        index += struct.pack("<4i", 0, len(index) + 8, len(entries), 0) + b"".join(entries)
    (folder / "Index.dat").write_bytes(index)
    (folder / "Data0000.dat").write_bytes(data)
    return path


def _picture(cells, column, row, step, tile_px):
    """A PNG of the block of `step` x `step` pictures, or nothing where none of them was taken."""
    block = np.full((step, step, tile_px, tile_px, 3), 255, np.uint8)
    taken = [(i, j) for j in range(step) for i in range(step) if (column + i, row + j) in cells]
    for i, j in taken:
        block[j, i] = cells[column + i, row + j]
    whole = block.transpose(0, 2, 1, 3, 4).reshape(tile_px, step, tile_px, step, 3).mean((1, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(whole).save(stream, "PNG")
    return stream.getvalue() if taken else b""


def _settings(across, down, tile_px, levels):
    zoom = {f"HIER_0_VAL_{k}": f"ZoomLevel_{k}" for k in range(levels)}
    zoom |= {f"HIER_0_VAL_{k}_SECTION": f"LAYER_0_LEVEL_{k}_SECTION" for k in range(levels)}
    sections = {
        "GENERAL": {
            "SLIDE_VERSION": _VERSION,
            "SLIDE_ID": SLIDE_ID,
            "IMAGENUMBER_X": across,
            "IMAGENUMBER_Y": down,
            "OBJECTIVE_MAGNIFICATION": 20,
            "CameraImageDivisionsPerSide": 1,
        },
        "HIERARCHICAL": {
            "HIER_COUNT": 1,
            "NONHIER_COUNT": 0,
            "INDEXFILE": "Index.dat",
            "HIER_0_NAME": "Slide zoom level",
            "HIER_0_COUNT": levels,
            **zoom,
        },
        **{
            f"LAYER_0_LEVEL_{k}_SECTION": {
                "OVERLAP_X": 0,
                "OVERLAP_Y": 0,
                "MICROMETER_PER_PIXEL_X": 0.25 * 2**k,
                "MICROMETER_PER_PIXEL_Y": 0.25 * 2**k,
                "IMAGE_FORMAT": "PNG",
                "IMAGE_FILL_COLOR_BGR": 0xFFFFFF,
                "DIGITIZER_WIDTH": tile_px,
                "DIGITIZER_HEIGHT": tile_px,
                "IMAGE_CONCAT_FACTOR": min(k, 1),
            }
            for k in range(levels)
        },
        "DATAFILE": {"FILE_COUNT": 1, "FILE_0": "Data0000.dat"},
    }
    lines = [[f"[{name}]", *(f"{key}={value}" for key, value in keys.items())] for name, keys in sections.items()]
    return "\n".join(line for section in lines for line in section) + "\n"
