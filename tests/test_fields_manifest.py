"""Labelled fields as a manifest of slides."""

import csv
from pathlib import Path

from programs import load_program

from wsi_detect.artifact import slide_id
from wsi_detect.run import list_slides
from wsi_detect.testing.demo import demo_fields


def test_a_field_says_what_a_report_would_say(tmp_path):
    script = load_program("scripts/fields_manifest.py")
    paths, coco = demo_fields()
    out = tmp_path / "fields.csv"
    assert script.main(coco, coco.parent, 0.27, "test", out) == len(paths) == 12
    rows = {Path(row["path"]).name: row for row in csv.DictReader(out.read_text().splitlines())}
    first = rows["02c7fb946ad5c5e5f9c1e1178c21fc92.jpg"]
    assert first["slide_label"] == "SCC;HSIL;ASC-H;NILM"
    assert first["slide_id"] == slide_id(coco.parent / "02c7fb946ad5c5e5f9c1e1178c21fc92.jpg")
    assert {(row.split, row.mpp) for row in list_slides([out])} == {("test", 0.27)}
