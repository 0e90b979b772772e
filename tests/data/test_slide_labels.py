"""What labels of slides mean to the training of an evidence model."""

import pytest

from wsi_detect.data.slide_labels import LabelRule, label_targets, read_slide_labels
from wsi_detect.errors import LabelError


@pytest.mark.parametrize(
    ("text", "per_class", "expected"),
    [
        ("slide_id,positive\na,1\nb,0\n", False, {"a": [True], "b": [False]}),
        ("slide_id,label\na,HSIL\nb,NILM\nc,NILM;SCC\n", False, {"a": [True], "b": [False], "c": [True]}),
        (
            "slide_id,label\na,HSIL\nb,NILM\nc,SCC; HSIL\n",
            True,
            {"a": [True, False], "b": [False] * 2, "c": [True] * 2},
        ),
        ("\ufeffslide_id,site,label\na,x,SCC\n", False, {"a": [True]}),
        ("Slide_ID ;label\r\n\r\na; negative\r\nb;CANDIDA\r\n", False, {"a": [False], "b": [False]}),
        ("slide_id\tpositive\tlabel\na\t1\tHSIL\nb\t0\tNILM\n", False, {"a": [True], "b": [False]}),
    ],
)
def test_slide_labels(tmp_path, text, per_class, expected):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    found = read_slide_labels(path, LabelRule(("HSIL", "SCC"), per_class))
    assert {name: targets.tolist() for name, targets in found.items()} == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide_id,label\na,HSIL\na,NILM\n", r"labels\.csv: line 3: slide a is there twice"),
        ("slide_id,label\na,\n", "line 2: no label; leave out"),
        ("slide_id,label\n,HSIL\n", "line 2: no slide_id"),
        ("slide_id,positive\na,yes\n", "line 2: positive is 0 or 1, not 'yes'"),
        ("slide,label\na,HSIL\n", "columns slide_id and label"),
        ("", "is empty"),
        ("slide_id,label\n", "it has no row"),
        ("slide_id,label\na,NILM\n\n\nb,hsil\n", "line 5: label 'hsil' is not known; did you mean 'HSIL'"),
        ("slide_id,label\na,NILM;unsatisfactory\n", "line 2: label 'unsatisfactory' is not known"),
        ("slide_id,label\na,NaN\n", "line 2: label 'NaN' is not known"),
        ("slide_id,label\na,;\n", "line 2: no label"),
        ("slide_id,label,positive\na,NILM,1\n", "line 2: label 'NILM' and positive 1 contradict each other"),
        ("slide_id,positive\na,0,1\n", "3 fields"),
        ("slide_id,positive\n" + "a" * 200_000 + ",0\n", "line 2: field larger"),
    ],
)
def test_faults_of_label_files_are_named(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(LabelError, match=message):
        read_slide_labels(tmp_path / "labels.csv", LabelRule(("HSIL",)))


def test_kinds_of_region_need_labels(tmp_path):
    (tmp_path / "labels.csv").write_text("slide_id,positive\na,1\n")
    with pytest.raises(LabelError, match="needs the column label"):
        read_slide_labels(tmp_path / "labels.csv", LabelRule(("HSIL",), per_class=True))
    assert LabelRule(("HSIL", "SCC"), per_class=True).columns == ("HSIL", "SCC")
    assert LabelRule(("HSIL", "SCC")).columns == ("region",)


def test_an_abnormal_label_outside_the_region_is_told_of(caplog):
    assert not label_targets("LSIL", LabelRule(("HSIL", "SCC")), "slide a").any()
    assert "slide a: LSIL is abnormal and not in the region" in caplog.text
