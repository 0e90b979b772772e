"""The contract of importers is broken by importers that break it."""

from dataclasses import replace
from functools import partial

import pytest

from wsi_detect.annotations import coco
from wsi_detect.geometry import Box
from wsi_detect.testing.annotation_files import DIALECTS
from wsi_detect.testing.contracts import ContractBrokenError, check_importer
from wsi_detect.testing.painter import PaintedCell

TRUTH = [PaintedCell("NILM", Box(30, 30, 70, 90)), PaintedCell("HSIL", Box(100, 60, 140.5, 95))]


class Other:
    """COCO, read otherwise than it should be."""

    SUFFIXES = coco.SUFFIXES

    def __init__(self, read):
        self.read = read


def changed(path, facts, **fields):
    for entry in coco.read(path, facts):
        yield replace(entry, **fields)


def forgiving(path, facts):
    try:
        yield from coco.read(path, facts)
    except ValueError:
        return


def careless(path, facts):
    if path.read_bytes().count(b"[") > 1000:
        raise RecursionError
    yield from coco.read(path, facts)


def trusting(path, facts):
    for entry in coco.read(path, facts):
        box = entry.box if entry.box.x0 == entry.box.x0 else Box(1, 1, 2, 2)
        yield replace(entry, box=box)


def tidy(path, facts):
    for entry in coco.read(path, facts):
        yield replace(entry, source_label=entry.source_label.replace("<", "("))


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda path, facts: list(coco.read(path, facts))[:1], "1 annotations, 2 are in the file"),
        (partial(changed, annotation_id="7"), "not unique"),
        (partial(changed, image="g.png"), "another image"),
        (partial(changed, box=Box(30, 30, 70, 90)), "was read as"),
        (partial(changed, source_label="NILM"), "label HSIL was read as NILM"),
        (partial(changed, problem="odd"), "said to be broken"),
        (partial(changed, geometry=None), "vertices is read without complaint|outline is lost"),
        (forgiving, "truncated file is read without complaint"),
        (careless, "nested deep raises RecursionError"),
        (trusting, "no number is read without complaint"),
        (tidy, "HTML in it is changed"),
    ],
)
def test_a_wrong_importer_is_told_what_it_does(read, words):
    with pytest.raises(ContractBrokenError, match=words):
        check_importer(Other(read), DIALECTS["coco"], TRUTH, (200, 160), vertices=200_000)
