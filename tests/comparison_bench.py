"""What tests of the comparison of losses share: painted fields, a small declaration, the pipeline, a document."""

import json
from dataclasses import replace

from PIL import Image
from programs import ROOT, load_program

from wsi_detect.config import read_yaml
from wsi_detect.testing.painter import lay_cells, paint_region
from wsi_detect.training.grid import ComparisonJob

TINY = ROOT / "configs" / "tiny.yaml"
CLASSES = ("NILM", "LSIL", "HSIL")
#: Fields that hold the rare class, and those that hold the second.
RARE, SECOND = (1, 4), (0, 2, 4, 5)
MARKS = ("label", "primary", "secondary", "rare", "alphas", "made")


compare = load_program("pipelines/compare_losses.py")


def paint_fields(folder, classes=CLASSES, labels=None, *, size=(192, 192), cells=6):
    """Write six painted fields with labels as COCO and a card that maps the classes.

    Args:
        folder: where to.
        classes: names, commonest first.
        labels: number of a field → labels of its first cell and its last; the rest are of the first class.
        size: width and height of a field.
        cells: cells of a field.
    """
    labels = labels or (lambda k: ("LSIL" if k in SECOND else "NILM", "HSIL" if k in RARE else "NILM"))
    content = {"images": [], "annotations": []}
    content["categories"] = [{"id": k, "name": name} for k, name in enumerate(classes, start=1)]
    for k in range(6):
        painted = lay_cells(*size, cells, seed=k, bordering=0, clumped=0)
        first, last = labels(k)
        named = [first, *[classes[0]] * (len(painted) - 2), last]
        painted = [replace(cell, label=label) for cell, label in zip(painted, named, strict=True)]
        Image.fromarray(paint_region(painted, width=size[0], height=size[1], seed=k)).save(folder / f"Doe_{k}.png")
        content["images"].append({"id": k, "file_name": f"Doe_{k}.png", "width": size[0], "height": size[1]})
        for cell in painted:
            bbox = [cell.box.x0, cell.box.y0, cell.box.width, cell.box.height]
            number = len(content["annotations"]) + 1
            entry = {"id": number, "image_id": k, "category_id": classes.index(cell.label) + 1, "bbox": bbox}
            content["annotations"].append({**entry, "area": bbox[2] * bbox[3], "iscrowd": 0})
    (folder / "labels.json").write_text(json.dumps(content))
    (folder / "card").mkdir()
    (folder / "card" / "classes.yaml").write_text("".join(f"{name}: {name}\n" for name in classes))
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
