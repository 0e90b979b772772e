"""ASAP XML, as the ASAP viewer opens it: one annotation a cell in the group of its class, slide px (level 0).

The name of an annotation is the cell's id. A cell that is a box is a Rectangle, one with an outline a Polygon; corners
run clockwise on the screen from the top left, and the first is not repeated. Scores have no place in the format.
"""

import html
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wsi_detect.artifact import atomic
from wsi_detect.exports import columns
from wsi_detect.exports.text import grouped, joined, named, numbers, raw
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.taxonomy import colour_hex

_HEAD = b'<?xml version="1.0" encoding="utf-8"?>\n<ASAP_Annotations>\n<Annotations>\n'
_MIDDLE = b"</Annotations>\n<AnnotationGroups>\n"
_FOOT = b"</AnnotationGroups>\n</ASAP_Annotations>\n"


def write(cells: CellMap, path: Path) -> Path:
    """Write the cells for ASAP, coordinates to a thousandth of a pixel; of an outline its largest part, no holes."""
    groups = {name: f'PartOfGroup="{html.escape(name)}" Color="{colour_hex(name)}"' for name in cells.counts()}
    with atomic(path) as partial, partial.open("wb") as stream:
        stream.write(_HEAD)
        for batch in columns.chunks(cells):
            stream.write(raw(_annotations(batch, groups), ""))
        stream.write(_MIDDLE)
        for name in groups:
            # A group lies in no group.
            line = (
                f'<Group Name="{html.escape(name)}" PartOfGroup="None" Color="{colour_hex(name)}"><Attributes/></Group>'
            )
            stream.write(f"{line}\n".encode())
        stream.write(_FOOT)
    return path


def _annotations(batch: pa.RecordBatch, groups: dict[str, str]) -> pa.Array:
    points, offsets, of_outline = columns.rings(batch)
    order = np.arange(len(points)) - np.repeat(offsets[:-1], np.diff(offsets))
    x, y = (numbers(column, 3) for column in points.T)
    corners = joined('<Coordinate Order="', pa.array(order).cast(pa.string()), '" X="', x, '" Y="', y, '"/>\n')
    return joined(
        '<Annotation Name="',
        batch["cell_id"],
        '" Type="',
        pc.if_else(pa.array(of_outline), "Polygon", "Rectangle"),
        '" ',
        named(batch["label"], groups),
        ">\n<Coordinates>\n",
        grouped(corners, offsets, ""),
        "</Coordinates>\n</Annotation>\n",
    )
