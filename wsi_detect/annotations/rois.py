"""Where a slide was labelled: `rois.parquet`, beside `annotations.parquet`.

Outside a slide's regions of interest a cell without a label means nothing: training ignores what lies there, and
figures count inside alone. A slide without a region was labelled everywhere.
"""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import shapely

from wsi_detect import artifact, schema
from wsi_detect.errors import DamagedArtifactError, LabelError

ROIS_NAME = "rois.parquet"
_AREAL = ("Polygon", "MultiPolygon")


class Roi(NamedTuple):
    """One labelled area of a slide: a valid polygon, or several, in slide px."""

    slide_id: str
    roi_id: str
    geometry: shapely.Geometry


def read_rois(folder: Path) -> dict[str, shapely.Geometry]:
    """Read where the slides of a data set were labelled.

    Args:
        folder: with `annotations.parquet`; without `rois.parquet` in it, every slide was labelled everywhere.

    Returns:
        Slide id → the union of its areas, slide px. A slide that is not in it was labelled everywhere.

    Raises:
        ArtifactError: the table is damaged or of another version.
    """
    path = folder / ROIS_NAME
    if not path.exists():
        return {}
    table = artifact.read_table(path, schema.ROIS)
    try:
        shapes = shapely.from_wkb(np.array(table["geometry"].to_pylist(), dtype=object))
    except shapely.errors.GEOSException as error:
        raise DamagedArtifactError(f"{path} holds a geometry that is not WKB ({error}); import again") from error
    of_slide: dict[str, list[shapely.Geometry]] = {}
    for slide_id, shape in zip(table["slide_id"].to_pylist(), shapes, strict=True):
        of_slide.setdefault(slide_id, []).append(shape)
    return {slide_id: shapely.union_all(parts) for slide_id, parts in sorted(of_slide.items())}


def write_rois(folder: Path, rois: Iterable[Roi]) -> Path:
    """Write the areas of a data set, in the order of slides and ids; without any, no file is left.

    Raises:
        LabelError: an area is not a valid polygon with an area, or one slide has two of one id.
    """
    path = folder / ROIS_NAME
    entries = sorted(rois, key=lambda roi: (roi.slide_id, roi.roi_id))
    for roi in entries:
        if roi.geometry.geom_type not in _AREAL or not roi.geometry.is_valid or not roi.geometry.area > 0:
            raise LabelError(f"region {roi.roi_id} of slide {roi.slide_id} is not a valid polygon with an area")
    keys = [(roi.slide_id, roi.roi_id) for roi in entries]
    if len(set(keys)) < len(keys):
        twice = next(key for key, other in pairwise(keys) if key == other)
        raise LabelError(f"slide {twice[0]} has two regions called {twice[1]}")
    if not entries:
        # What an earlier import left would still be believed.
        path.unlink(missing_ok=True)
        return path
    columns = {
        "slide_id": pa.array([roi.slide_id for roi in entries], pa.string()),
        "roi_id": pa.array([roi.roi_id for roi in entries], pa.string()),
        "geometry": pa.array([shapely.to_wkb(shapely.normalize(roi.geometry)) for roi in entries], pa.binary()),
    }
    artifact.write_table(path, pa.table(columns, schema=schema.ROIS), schema.ROIS)
    return path
