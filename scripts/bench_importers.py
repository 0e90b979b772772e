"""Reading 100,000 outlines of a slide: our importers, and what one writes by hand for GeoJSON.

    python scripts/bench_importers.py [--quick] [--json FILE]

One painted-like slide with 100,000 polygons of 20 corners, written as GeoJSON (plain and packed), ASAP, ImageScope and
COCO, and the same cells as a table. Each case runs in a process of its own and says CPU seconds, seconds and the most
memory it held:

* `ours/<dialect>`: `import_annotations`, from the file to `annotations.parquet`: outlines checked and kept, every
  fault looked for, classes mapped.
* `plain`: `json.load`, then `shapely.geometry.shape` for each feature and its bounds; no check, nothing written.
* `geopandas`: `geopandas.read_file`, if it is installed: reads the GeoJSON into a frame; no check, nothing written.
"""

import argparse
import gzip
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bench_common
import numpy as np

from wsi_detect.annotations import IMPORTERS, ClassMap, ImportRules, SlideFacts, SourceFacts, import_annotations

CELLS, CORNERS = 100_000, 20
SIDE = 60_000
CLASSES = ("NILM", "LSIL", "HSIL", "SCC")
DIALECTS = ("geojson", "geojson.gz", "asap", "imagescope", "coco", "table")
FILES = {
    "geojson": "slide.geojson",
    "geojson.gz": "slide.geojson.gz",
    "asap": "asap.xml",
    "imagescope": "imagescope.xml",
    "coco": "coco.json",
    "table": "cells.csv",
}
#: A figure of the issue each: seconds and MB for 100,000 outlines in GeoJSON.
SECONDS, MEGABYTES = 10.0, 1000.0


def outlines(count: int) -> np.ndarray:
    """Outlines (N, 20, 2) of cells of 30 to 90 px, slide px to a thousandth, and no two alike."""
    rng = np.random.default_rng(0)
    centre = rng.uniform(100, SIDE - 100, (count, 1, 2))
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)[None]
    radius = rng.uniform(15, 45, (count, 1)) * (1 + 0.1 * rng.uniform(-1, 1, (count, CORNERS)))
    return np.round(centre + radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1), 3)


def write(folder: Path, count: int) -> None:
    """Write the cells in every dialect."""
    shapes = outlines(count)
    labels = [CLASSES[k % len(CLASSES)] for k in range(count)]
    features = [
        {"type": "Feature", "id": "PathDetectionObject",
         "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
         "properties": {"objectType": "detection", "classification": {"name": label, "color": [200, 0, 0]}}}
        for ring, label in zip(shapes.tolist(), labels, strict=True)
    ]  # fmt: skip
    text = json.dumps({"type": "FeatureCollection", "features": features})
    (folder / FILES["geojson"]).write_text(text)
    with gzip.open(folder / FILES["geojson.gz"], "wt", compresslevel=6) as stream:
        stream.write(text)
    low, high = shapes.min(axis=1), shapes.max(axis=1)
    _write_xml(folder, shapes, labels)
    coco = {
        "images": [{"id": 1, "file_name": "slide.svs", "width": SIDE, "height": SIDE}],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES)],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": k % len(CLASSES), "segmentation": [ring.ravel().tolist()],
             "bbox": [*low[k].tolist(), *(high[k] - low[k]).tolist()]}
            for k, ring in enumerate(shapes)
        ],
    }  # fmt: skip
    (folder / FILES["coco"]).write_text(json.dumps(coco))
    lines = [
        f"slide.svs,{label},{','.join(map(repr, [*a, *b]))}\n"
        for label, a, b in zip(labels, low.tolist(), high.tolist(), strict=True)
    ]
    (folder / FILES["table"]).write_text("".join(["image,label,x0,y0,x1,y1\n", *lines]))


def _write_xml(folder: Path, shapes: np.ndarray, labels: list[str]) -> None:
    with (folder / FILES["asap"]).open("w") as asap, (folder / FILES["imagescope"]).open("w") as scope:
        asap.write('<?xml version="1.0"?>\n<ASAP_Annotations><Annotations>\n')
        scope.write('<Annotations MicronsPerPixel="0.25"><Annotation Id="1" Name="cells"><Regions>\n')
        for k, (ring, label) in enumerate(zip(shapes.tolist(), labels, strict=True)):
            corners = "".join(f'<Coordinate Order="{n}" X="{x}" Y="{y}"/>' for n, (x, y) in enumerate(ring))
            asap.write(
                f'<Annotation Name="Annotation {k}" Type="Polygon" PartOfGroup="{label}">'
                f"<Coordinates>{corners}</Coordinates></Annotation>\n"
            )
            vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ring)
            scope.write(f'<Region Id="{k}" Type="0" Text="{label}"><Vertices>{vertices}</Vertices></Region>\n')
        asap.write("</Annotations></ASAP_Annotations>\n")
        scope.write("</Regions></Annotation></Annotations>\n")


def ours(folder: Path, dialect: str) -> int:
    """Import a dialect; return the number of cells."""
    import pyarrow.parquet as pq

    card = folder / f"card-{dialect}"
    card.mkdir(exist_ok=True)
    (card / "classes.yaml").write_text("".join(f"{name}: {name}\n" for name in CLASSES))
    facts = SourceFacts({"slide.svs": SlideFacts("S1", (SIDE, SIDE), 0.25)}, slide="slide.svs")
    out = folder / f"out-{dialect}"
    name = dialect.removesuffix(".gz")
    path = import_annotations(
        folder / FILES[dialect], name, ClassMap.from_card(card), out, facts, ImportRules(faulty="repair")
    )
    rows = int(pq.read_metadata(path).num_rows)
    shutil.rmtree(out)
    return rows


def plain(folder: Path) -> int:
    """Read GeoJSON the way one does by hand."""
    from shapely.geometry import shape

    content = json.loads((folder / FILES["geojson"]).read_bytes())
    found = []
    for feature in content["features"]:
        outline = shape(feature["geometry"])
        found.append((feature["properties"]["classification"]["name"], outline.bounds, outline.wkb))
    return len(found)


def geopandas(folder: Path) -> int:
    """Read GeoJSON with GeoPandas."""
    package: Any = bench_common.peer("geopandas")
    return len(package.read_file(folder / FILES["geojson"]))


def child(folder: Path, case: str, count: int) -> None:
    """Run one case; the last line printed is what it took."""
    work = {"plain": plain, "geopandas": geopandas}.get(case) or (lambda at: ours(at, case.removeprefix("ours/")))
    cpu, wall = time.process_time(), time.perf_counter()
    rows = work(folder)
    took = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "mb": bench_common.peak_mb()}
    if rows != count:
        raise SystemExit(f"{case} found {rows} cells, {count} are there")
    print(json.dumps(took))


def measure(folder: Path, cases: list[str], rounds: int, count: int) -> dict[str, float]:
    """Run the cases in turn, round by round; medians by `<case>/<what>`."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for case in cases:
            took = bench_common.in_child(
                Path(__file__).name, "--child", case, "--folder", str(folder), "--cells", str(count)
            )
            # Told as they come: with all dialects it takes minutes.
            print(f"{case}: {took['cpu_s']:.2f} s CPU, {took['wall_s']:.2f} s, {took['mb']:.0f} MB", flush=True)
            for name in ("cpu_s", "wall_s", "mb"):
                found.setdefault(f"{case}/{name}", []).append(took[name])
    return {name: statistics.median(figures) for name, figures in found.items()}


def main() -> None:
    """Measure, print, judge."""
    parser = bench_common.parser(__doc__)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cells", type=int, default=None, help=f"outlines; {CELLS:,}, a hundredth with --quick")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case runs; the median counts")
    options = parser.parse_args()
    count = options.cells or (CELLS // 100 if options.quick else CELLS)
    if options.child:
        child(options.folder, options.child, count)
        return
    if not set(DIALECTS) <= {*IMPORTERS, "geojson.gz"}:
        sys.exit("a dialect of this benchmark is gone")
    cases = ["plain", *(["geopandas"] if bench_common.peer("geopandas") else [])]
    cases += [f"ours/{dialect}" for dialect in DIALECTS]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), count)
        found = measure(Path(folder), cases, 1 if options.quick else options.rounds, count)
    print(f"\n{count:,} outlines of {CORNERS} corners; {bench_common.machine()}\n")
    rows = [
        {"case": case, **{name: found.get(f"{case}/{name}") for name in ("cpu_s", "wall_s", "mb")}} for case in cases
    ]
    print(bench_common.table([row for row in rows if row["cpu_s"] is not None]))
    ratio = found["plain/cpu_s"] / found["ours/geojson/cpu_s"]
    found["ratio/geojson/plain"] = ratio
    print(f"\nours over plain, CPU: {ratio:.2f} of its speed, with checks, repair and the table written")
    if count == CELLS:
        print(bench_common.judge("GeoJSON, seconds under 10", SECONDS / found["ours/geojson/cpu_s"], 1, 1))
        print(bench_common.judge("GeoJSON, memory under 1 GB", MEGABYTES / found["ours/geojson/mb"], 1, 1))
    bench_common.emit(found, options.json)


if __name__ == "__main__":
    main()
