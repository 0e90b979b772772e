"""Draw a labelled field, its evidence map, and both together, for docs/evidence-maps.md.

    python scripts/draw_evidence.py --work WORK --images FIELDS --coco fields.json --out docs/img/evidence-field.jpg

WORK is the folder of `pipelines/weak_heatmap.py`. Of the fields that have a map, the one with most abnormal cells is
drawn.
"""

import argparse
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from wsi_detect import artifact
from wsi_detect.evaluation.fields import FieldTruth, read_fields
from wsi_detect.report.evidence_overlay import paint, pooled
from wsi_detect.slides import open_slide
from wsi_detect.slides.resample import thumbnail
from wsi_detect.taxonomy import is_abnormal
from wsi_detect.tiling.evidence_map import HEATMAP, EvidenceMap

BAR_UM = 50
ABNORMAL, NORMAL = "#0b3d91", "#7a8794"


def main(work: Path, images: Path, coco: Path, out: Path) -> None:
    """Draw three panels side by side."""
    mapped = {}
    for truth in read_fields(coco):
        folder = work / artifact.slide_id(images / truth.image_id) / HEATMAP
        if folder.exists():
            mapped[folder] = truth
    path, truth = max(mapped.items(), key=lambda entry: sum(map(is_abnormal, entry[1].labels)))
    found = EvidenceMap.open(path)
    mpp = found.slide.resolution()
    with open_slide(images / truth.image_id, mpp=mpp, mpp_source="manifest", slide_id=found.slide.slide_id) as slide:
        rgb, downsample = thumbnail(slide, max(truth.width, truth.height))
    drawn = paint(rgb, pooled(found, rgb.shape[0], rgb.shape[1], downsample), found.threshold)
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    for axes, picture, title in (
        (left, rgb, "the field, with its labelled cells"),
        (middle, drawn, "evidence, learned from field labels alone"),
        (right, drawn, "both"),
    ):
        axes.imshow(picture)
        axes.set_title(title, fontsize=11)
        axes.set_axis_off()
    for axes in (left, right):
        mark(axes, truth)
    length = BAR_UM / mpp
    left.add_patch(Rectangle((20, truth.height - 34), length, 8, color="black"))
    left.text(20, truth.height - 44, f"{BAR_UM} µm", fontsize=9)
    figure.colorbar(
        ScalarMappable(cmap=matplotlib.colormaps["YlOrBr"]), ax=middle, shrink=0.8, label="evidence", location="bottom"
    )
    figure.savefig(out, dpi=110, pil_kwargs={"quality": 85})
    print(f"{truth.image_id}: {sum(map(is_abnormal, truth.labels))} abnormal of {len(truth.labels)} cells; {out}")


def mark(axes: Axes, truth: FieldTruth) -> None:
    """Draw boxes: strong for abnormal cells, thin for the rest."""
    for (x0, y0, x1, y1), name in zip(truth.boxes, truth.labels, strict=True):
        colour, width = (ABNORMAL, 1.8) if is_abnormal(name) else (NORMAL, 0.8)
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--work", "--images", "--coco", "--out"):
        parser.add_argument(option, type=Path, required=True)
    chosen = parser.parse_args()
    main(chosen.work, chosen.images, chosen.coco, chosen.out)
