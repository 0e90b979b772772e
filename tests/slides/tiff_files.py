"""TIFF slides of JPEG tiles as different scanners write them, put together stream by stream."""

import io
import struct

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

TILE = 64
#: Markers that stand alone, and those that carry tables.
_TABLES = (0xC4, 0xDB)
APERIO = "Aperio Image Library (made here)\r\n{w}x{h} [0,0 {w}x{h}] ({t}x{t}) JPEG Q=80|AppMag = 40|MPP = 0.25"


def texture(height, width, seed=0):
    """Pixels with edges, colours and noise, so that any mistake in colour or place shows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin((a * x + b * y) / 17) for a, b in ((1, 2), (3, -1), (-1, 1))]
    return np.clip(np.stack(waves, -1) + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def encode(rgb, *, space="ycbcr", subsampling="420", quality=80):
    """One JPEG stream; `space` is what its samples are, with the markers libjpeg writes for that."""
    sampling = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}["444" if space == "rgb" else subsampling]
    if space == "grey":
        return imagecodecs.jpeg8_encode(np.ascontiguousarray(rgb[..., 1]), level=quality)
    return imagecodecs.jpeg8_encode(
        np.ascontiguousarray(rgb), level=quality, outcolorspace=space.upper(), subsampling=sampling
    )


def segments(stream):
    """(marker, bytes) of each header segment, and the rest from the end of SOS."""
    place, found = 2, []
    while True:
        marker, length = stream[place + 1], struct.unpack(">H", stream[place + 2 : place + 4])[0]
        found.append((marker, stream[place : place + 2 + length]))
        place += 2 + length
        if marker == 0xDA:
            return found, stream[place:]


def bare(stream, ids=None):
    """Without JFIF and Adobe markers; with other component ids."""
    heads, data = segments(stream)
    parts = []
    for marker, part in heads:
        if 0xE0 <= marker <= 0xEF:
            continue
        if ids is not None and marker in (0xC0, 0xDA):
            part = bytearray(part)
            first, step = (10, 3) if marker == 0xC0 else (5, 2)
            for k, new in enumerate(ids):
                part[first + k * step] = new
        parts.append(bytes(part))
    return b"\xff\xd8" + b"".join(parts) + data


def abbreviated(stream):
    """The tables as the tag has them, and the stream without them."""
    heads, data = segments(bare(stream))
    tables = b"".join(part for marker, part in heads if marker in _TABLES)
    body = b"".join(part for marker, part in heads if marker not in _TABLES)
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + body + data


def cut(rgb, tile=TILE):
    """Tiles row by row; what lies beyond the picture repeats its edge."""
    height, width = rgb.shape[:2]
    padded = np.pad(rgb, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
    return [
        padded[y : y + tile, x : x + tile]
        for y in range(0, padded.shape[0], tile)
        for x in range(0, padded.shape[1], tile)
    ]


def write(path, levels, *, tile=TILE, photometric=6, tables=None, maker="aperio", **options):
    """A slide of levels (height, width, streams); an empty stream is a tile the file does not have."""
    grey = photometric == 1
    with tifffile.TiffWriter(path, **options) as tiff:
        for number, (height, width, streams) in enumerate(levels):
            text = APERIO.format(w=width, h=height, t=tile) if maker == "aperio" else None
            tiff.write(
                data=iter([stream or b"\0" for stream in streams]),
                shape=(height, width) if grey else (height, width, 3),
                dtype=np.uint8,
                tile=(tile, tile),
                compression="jpeg",
                photometric="minisblack" if grey else "ycbcr",
                subsampling=None if grey else (2, 2),
                jpegtables=tables,
                subfiletype=1 if number else 0,
                description=text if number == 0 or maker == "aperio" else None,
                resolution=(40_000, 40_000),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page, (_, _, streams) in zip(tiff.pages, levels, strict=True):
            page.tags["PhotometricInterpretation"].overwrite(photometric)
            if not all(streams):
                counts = [
                    0 if not stream else count for stream, count in zip(streams, page.databytecounts, strict=True)
                ]
                page.tags["TileByteCounts"].overwrite(counts)
    return path


def slide(path, rgb, *, tile=TILE, **options):
    """A slide of one level in plain 4:2:0."""
    return write(path, [(*rgb.shape[:2], [encode(part) for part in cut(rgb, tile)])], tile=tile, **options)


def restarted(rgb, blocks):
    """One JPEG of 4:4:4 with a restart marker each `blocks` of 8 px, and where the data of each part begin."""
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=85, subsampling=0, restart_marker_blocks=blocks)
    content = stream.getvalue()
    start = len(content) - len(segments(content)[1])
    marks = [k for k in range(start, len(content) - 1) if content[k] == 0xFF and 0xD0 <= content[k + 1] <= 0xD7]
    return content, [start, *(mark + 2 for mark in marks)]


def ndpi(path, levels, blocks, focus=(0,), centre_nm=(0, 0)):
    """A slide as Hamamatsu's scanners write it: each level one JPEG, its restart markers listed in a tag."""
    content, links = bytearray(b"II*\0" + bytes(8)), [4]
    for rgb in levels:
        for plane in focus:
            jpeg, starts = restarted(rgb, blocks)
            data = len(content)
            content += jpeg + bytes(-len(jpeg) % 2)
            place = len(content)
            content += struct.pack(f"<{len(starts)}I", *starts) + struct.pack("<II", 43_826, 1) + b"Hamamatsu\0"
            height, width = rgb.shape[:2]
            tags = [
                (256, 4, 1, width),
                (257, 4, 1, height),
                (258, 3, 1, 8),
                (259, 3, 1, 7),
                (262, 3, 1, 6),
                (271, 2, 10, place + 4 * len(starts) + 8),
                (273, 4, 1, data),
                (277, 3, 1, 3),
                (278, 4, 1, height),
                (279, 4, 1, len(jpeg)),
                (282, 5, 1, place + 4 * len(starts)),
                (283, 5, 1, place + 4 * len(starts)),
                (296, 3, 1, 3),
                (65420, 4, 1, 1),
                (65421, 11, 1, struct.unpack("<I", struct.pack("<f", 40 * width / levels[0].shape[1]))[0]),
                *((65422 + k, 9, 1, offset & 0xFFFFFFFF) for k, offset in enumerate(centre_nm)),
                (65424, 9, 1, plane & 0xFFFFFFFF),
                (65426, 4, len(starts), place),
            ]
            here = len(content)
            content[links[-1] : links[-1] + 8] = struct.pack("<Q", here)
            content += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
            links.append(len(content))
            content += bytes(8) + bytes(4 * len(tags))
    path.write_bytes(content)
    return path


_PHILIPS = """<?xml version="1.0" encoding="UTF-8" ?>
<DataObject ObjectType="DPUfsImport">
<Attribute Name="DICOM_MANUFACTURER" Group="0x0008" Element="0x0070" PMSVR="IString">Hamamatsu</Attribute>
<Attribute Name="PIM_DP_SCANNED_IMAGES" Group="0x301D" Element="0x1003" PMSVR="IDataObjectArray"><Array>
<DataObject ObjectType="DPScannedImage">
<Attribute Name="PIM_DP_IMAGE_TYPE" Group="0x301D" Element="0x1004" PMSVR="IString">WSI</Attribute>
<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" PMSVR="IDoubleArray"
>&quot;{mm:.9f}&quot; &quot;{mm:.9f}&quot;</Attribute>
<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" Group="0x1001" Element="0x8B01" PMSVR="IDataObjectArray">
<Array>{levels}</Array></Attribute>
</DataObject></Array></Attribute>
</DataObject>"""
_PHILIPS_LEVEL = """<DataObject ObjectType="PixelDataRepresentation">
<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" PMSVR="IDoubleArray"
>&quot;{mm:.9f}&quot; &quot;{mm:.9f}&quot;</Attribute>
<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_NUMBER" Group="0x1001" Element="0x8B02" PMSVR="IUInt16">{k}</Attribute>
</DataObject>"""


def philips(path, levels, *, mm=0.00025, tile=TILE):
    """A slide as Philips converts it: every level padded to whole tiles, its true scale told in XML."""
    entries = "".join(_PHILIPS_LEVEL.format(mm=mm * 2**k, k=k) for k in range(len(levels)))
    with tifffile.TiffWriter(path, byteorder="<") as tiff:
        for number, rgb in enumerate(levels):
            streams = [encode(part) for part in cut(rgb, tile)]
            height, width = (-(-side // tile) * tile for side in rgb.shape[:2])
            tiff.write(
                data=iter(streams),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(tile, tile),
                compression="jpeg",
                photometric="ycbcr",
                subsampling=(2, 2),
                subfiletype=1 if number else 0,
                description=_PHILIPS.format(levels=entries, mm=mm)
                if number == 0
                else f"level={number} mag=20 quality=80",
                software="Philips DP v1.0" if number == 0 else False,
                metadata=None,
            )
    return path


def progressive(rgb):
    """A stream no reader of baseline JPEG takes."""
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=80, progressive=True)
    return stream.getvalue()


def retold(path, pixels, **options):
    """A tiled slide as tifffile writes it by itself."""
    tifffile.imwrite(path, pixels, tile=(TILE, TILE), **{"photometric": "rgb", "metadata": None, **options})
    return path
