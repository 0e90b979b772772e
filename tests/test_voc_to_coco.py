"""The script that makes one COCO file of Pascal VOC labels: names of the card, and nothing that is broken."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from wsi_detect.evaluation.fields import read_fields

SCRIPT = Path(__file__).parents[1] / "scripts" / "voc_to_coco.py"
#: Label and corners, px: one cell has no area, one label is left out by the card.
CELLS = {
    "a": [("red", (1, 2, 11, 22)), ("red", (5, 5, 5, 5)), ("dust", (0, 0, 9, 9))],
    "b": [],
    "c": [("red", (0, 0, 4, 4))],
}


def voc(cells):
    boxes = (dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)) for _, box in cells)
    inner = ["".join(f"<{name}>{value}</{name}>" for name, value in box.items()) for box in boxes]
    named = zip(cells, inner, strict=True)
    objects = "".join(f"<object><name>{name}</name><bndbox>{box}</bndbox></object>" for (name, _), box in named)
    return f"<annotation><filename>x.jpg</filename>{objects}</annotation>"


def run(folder, names):
    (folder / "train.txt").write_text("\n".join(names) + "\n")
    options = [("labels", folder), ("images", folder), ("names", folder / "train.txt"), ("card", folder / "card")]
    words = [str(word) for name, value in (*options, ("out", folder / "out.json")) for word in (f"--{name}", value)]
    return subprocess.run([sys.executable, SCRIPT, *words, "--suffix", ".png"], capture_output=True, text=True)


def test_what_it_writes_is_read_as_fields(tmp_path):
    for name, cells in CELLS.items():
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.xml").write_text(voc(cells))
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "README.md").write_text("---\nname: blood\nspecimen: other\n---\n")
    (tmp_path / "card" / "classes.yaml").write_text("red: RBC\ndust: null\n")
    done = run(tmp_path, ["a", "b"])
    assert (done.returncode, done.stdout) == (0, f"2 pictures, 1 boxes: {tmp_path / 'out.json'}\n")
    assert "row 2 (id 2): box [5, 5, 5, 5] has no area" in done.stderr
    first, second = read_fields(tmp_path / "out.json", ["RBC"])
    assert (first.image_id, first.width, first.height) == ("a.png", 40, 30)
    assert (first.boxes.tolist(), first.labels) == ([[1, 2, 11, 22]], ["RBC"])
    assert (second.image_id, second.labels) == ("b.png", [])
    assert json.loads((tmp_path / "out.json").read_text())["categories"] == [{"id": 1, "name": "RBC"}]
    lost = run(tmp_path, ["a", "z"])
    assert lost.returncode == 4
    assert "z.png cannot be read as a picture" in lost.stderr
