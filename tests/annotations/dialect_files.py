"""What the tests of dialects share: slides, a reader of text, and what is looked at of what was read."""

from wsi_detect.annotations import IMPORTERS, SlideFacts, SourceFacts

FACTS = SourceFacts({"a.svs": SlideFacts("A", (2000, 1000), 0.5, (100.0, -50.0)), "b.svs": SlideFacts("B")})
SQUARE = [[0, 0], [10, 0], [10, 20], [0, 20]]


def read(folder, dialect, name, content, facts=FACTS):
    """Write a file and read it."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(IMPORTERS[dialect].read(path, facts))


def seen(annotations):
    return [(entry.annotation_id, entry.source_label, entry.kind, tuple(entry.box)) for entry in annotations]


def feature(kind, coordinates, **more):
    """A feature of GeoJSON, HSIL unless its properties say otherwise."""
    properties = more.pop("properties", {"classification": {"name": "HSIL"}})
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties, **more}


def closed(ring):
    return [*ring, ring[0]]


def asap(name, kind, group, points, order=None):
    """An ASAP file of one annotation."""
    corners = "".join(
        f'<Coordinate Order="{n}" X="{x}" Y="{y}"/>'
        for n, (x, y) in zip(order or range(len(points)), points, strict=True)
    )
    inside = f"<Coordinates>{corners}</Coordinates>"
    text = f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}">{inside}</Annotation>'
    return f"<ASAP_Annotations><Annotations>{text}</Annotations></ASAP_Annotations>"
