"""What tests of the comparison of losses share: painted fields, a small declaration, the pipeline, a document."""

import json
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from PIL import Image

from wsi_detect.config import read_yaml
from wsi_detect.testing.painter import lay_cells, paint_region
from wsi_detect.training.grid import ComparisonJob

ROOT = Path(__file__).parents[1]
TINY = ROOT / "configs" / "tiny.yaml"
CLASSES = ("NILM", "LSIL", "HSIL")
#: Fields that hold the rare class, and those that hold the second.
RARE, SECOND = (1, 4), (0, 2, 4, 5)
MARKS = ("label", "primary", "secondary", "rare", "alphas", "made")


def load_pipeline():
    """Import the pipeline by its file: the folder is not a package."""
    spec = spec_from_file_location("pipeline_compare_losses", ROOT / "pipelines" / "compare_losses.py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


compare = load_pipeline()


def paint_fields(folder):
    """Write six painted fields with labels as COCO and a card that maps the classes."""
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": k, "name": name} for k, name in enumerate(CLASSES, start=1)]
    for k in range(6):
        cells = lay_cells(192, 192, 6, seed=k, bordering=0, clumped=0)
        labels = ["NILM"] * len(cells)
        labels[0] = "LSIL" if k in SECOND else labels[0]
        labels[-1] = "HSIL" if k in RARE else labels[-1]
        cells = [replace(cell, label=label) for cell, label in zip(cells, labels, strict=True)]
        Image.fromarray(paint_region(cells, width=192, height=192, seed=k)).save(folder / f"Doe_{k}.png")
        content["images"].append({"id": k, "file_name": f"Doe_{k}.png", "width": 192, "height": 192})
        for cell in cells:
            bbox = [cell.box.x0, cell.box.y0, cell.box.width, cell.box.height]
            number = len(content["annotations"]) + 1
            entry = {"id": number, "image_id": k, "category_id": CLASSES.index(cell.label) + 1, "bbox": bbox}
            content["annotations"].append({**entry, "area": bbox[2] * bbox[3], "iscrowd": 0})
    (folder / "labels.json").write_text(json.dumps(content))
    (folder / "card").mkdir()
    (folder / "card" / "classes.yaml").write_text("".join(f"{name}: {name}\n" for name in CLASSES))
    return folder


def declared(**changes):
    training = dict(read_yaml(TINY)["training"])
    options = training.pop("options")
    methods = {
        "ce": {"title": "cross-entropy", "training": {"options": {"loss": "bce"}}},
        "libra": {"title": "Libra", "training": {"options": {"loss": "grad_libra"}}},
        "libra_1": {"training": {"options": {"loss": "grad_libra", "loss_options": {"alpha_neg": 1.0}}}},
    }
    grid = {"detectors": ["fcos"], "methods": ["ce", "libra"], "samplers": ["uniform"], "seeds": [0]}
    axes = {
        "folds": 2,
        "baseline": "ce",
        "detectors": {"fcos": {"training": {"options": options}}},
        "methods": methods,
        "samplers": {"uniform": {"training": {"loader": {"sampler": "uniform"}}}},
        "grids": {"tiny": grid},
        "endpoints": {"groups": {"both": ["LSIL", "HSIL"]}, "rare_fields": 2},
        **changes,
    }
    return ComparisonJob.model_validate(
        {
            "fields": {"mpp": 0.25, "classes": CLASSES},
            "tiling": {
                "patch_px": 128,
                "mpp": 0.5,
                "overlap_px": 16,
                "quality": False,
                "mask": {"preparation": "none"},
            },
            "training": {**training, "steps": 3, "loader": {**training["loader"], "crop_px": 64}},
            "comparison": {"replicates": 40},
            "cross_validation": axes,
        }
    )


def begin(fields, job, folder):
    return compare.begin(fields, fields / "labels.json", fields / "card", job, folder / "work", folder / "results")


def document(folder):
    path = folder / "page.md"
    path.write_text(
        "# Page\n" + "".join(f"\n<!-- losses-{name} -->\nold\n<!-- end -->\n" for name in MARKS) + "\nlast\n"
    )
    return path
