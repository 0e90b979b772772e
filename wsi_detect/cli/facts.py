"""What commands need to gather before they can call a stage."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsi_detect.annotations import SlideFacts
    from wsi_detect.inference.detect import DetectionConfig
    from wsi_detect.inference.detector import Detector
    from wsi_detect.run.slide_list import SlideRow
    from wsi_detect.slides.reader import SlideReader
    from wsi_detect.tiling.patch_store import PatchStore

_log = logging.getLogger(__name__)


def slide_facts(slide: "SlideReader") -> dict[str, Any]:
    """Return what a lab wants to know of a slide, in the order to print it."""
    from wsi_detect.slides.brightfield import is_bright_field

    info = slide.info
    size = None if info.mpp is None else f"{info.width_px * info.mpp / 1e3:.2f} x {info.height_px * info.mpp / 1e3:.2f}"
    return {
        "slide_id": info.slide_id,
        "vendor": info.vendor,
        "size_px": f"{info.width_px} x {info.height_px}",
        "size_mm": size,
        "mpp": info.mpp,
        "mpp_source": info.mpp_source,
        "objective_power": info.objective_power,
        "levels": ", ".join(f"{downsample:g}" for downsample in info.level_downsamples),
        "tile_px": None if info.native_tile_px is None else f"{info.native_tile_px[0]} x {info.native_tile_px[1]}",
        "bounds_px": None if info.bounds is None else ", ".join(f"{value:g}" for value in info.bounds),
        "focal_planes": info.focal_planes,
        "focal_step_um": info.focal_step_um,
        "icc_profile": info.icc,
        "bright_field": is_bright_field(slide),
    }


def to_json(values: Mapping[str, Any]) -> str:
    """Return values as JSON; NaN is refused."""
    return json.dumps(dict(values), indent=1, allow_nan=False)


def read_rows(source: Path) -> "list[SlideRow]":
    """Read slides from `slides.parquet`, or from whatever `run` takes."""
    from wsi_detect.run.slide_list import list_slides, read_slides

    return read_slides(source) if source.suffix == ".parquet" else list_slides([source])


def annotated_slides(
    source: Path, mpp: float | None = None, centre_um: tuple[float, float] | None = None
) -> "dict[str, SlideFacts]":
    """Return what importers need of slides, by file name, as annotation files know them.

    A slide whose file is not there can be annotated all the same; its size is then what the annotations say.

    Args:
        source: slides, as for `read_rows`.
        mpp: µm per px where the manifest does not say it; over what the files say.
        centre_um: where the centre of the picture lies on the glass, for files that do not say so.

    Raises:
        LabelError: two slides have one file name.
    """
    from wsi_detect.annotations import SlideFacts
    from wsi_detect.errors import LabelError
    from wsi_detect.slides import open_slide

    found: dict[str, SlideFacts] = {}
    absent = 0
    for row in read_rows(source):
        path, said = Path(row.path), row.mpp or mpp
        if path.name in found:
            raise LabelError(f"{source}: two slides are called {path.name}; annotation files know slides by that name")
        if not path.exists():
            absent += 1
            found[path.name] = SlideFacts(row.slide_id, None, said, centre_um)
            continue
        with open_slide(path, mpp=said, slide_id=row.slide_id) as slide:
            info = slide.info
            found[path.name] = SlideFacts(
                row.slide_id, (info.width_px, info.height_px), info.mpp, info.centre_um or centre_um
            )
    if absent:
        _log.warning("annotate: %d slide files are not there; boxes are not held against their sizes", absent)
    return found


def class_names(path: Path) -> tuple[str, ...]:
    """Read the class names of a YOLO data set: one a line, or `names` of a YAML file, a list or number → name.

    Raises:
        LabelError: the file cannot be read, or the numbers do not run from 0.
    """
    from wsi_detect import config
    from wsi_detect.annotations.text import read_text
    from wsi_detect.errors import LabelError

    if path.suffix.lower() not in (".yaml", ".yml"):
        return tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    names = config.read_yaml(path).get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LabelError(f"{path}: names must be a list of texts, or numbers from 0 with a text each")
    return tuple(names)


def open_stores(folder: Path, rows: "list[SlideRow]") -> "dict[str, PatchStore]":
    """Open the patch store of every slide."""
    from wsi_detect.tiling.patch_store import PatchStore

    return {row.slide_id: PatchStore.open(folder / row.slide_id / "patches.zarr") for row in rows}


def classes_of(annotations: Path) -> list[str]:
    """Return the classes that occur, gravest first."""
    from wsi_detect import artifact, schema
    from wsi_detect.taxonomy import CLASSES, gravest_first

    labels = set(artifact.read_table(annotations, schema.ANNOTATIONS)["label"].to_pylist())
    return gravest_first(labels & set(CLASSES))


def load_detector(bundle: Path, device: str, rule: "DetectionConfig") -> "Detector":
    """Load a bundle as the section `detection` says."""
    from wsi_detect.inference import RUNTIMES

    load = RUNTIMES[rule.runtime]
    return load(bundle, device, score_threshold=rule.score_threshold, nms=rule.nms, threads=rule.threads)


@contextmanager
def open_store(work: Path, slide: Path | None, mpp: float | None) -> "Iterator[PatchStore]":
    """Open a slide's store, together with the slide where one is given."""
    from wsi_detect.slides import open_slide
    from wsi_detect.tiling.patch_store import PatchStore

    with ExitStack() as opened:
        reader = None
        if slide is not None:
            reader = opened.enter_context(open_slide(slide, mpp=mpp, slide_id=work.resolve().name))
        yield PatchStore.open(work / "patches.zarr", reader)


def write_json(path: Path | None, values: Mapping[str, Any]) -> None:
    """Write figures, if a file is asked for."""
    from wsi_detect import artifact

    if path is not None:
        artifact.write_json(path, values)
