import shutil
from pathlib import Path

import pytest

from wsi_detect.artifact import slide_id
from wsi_detect.errors import ManifestError
from wsi_detect.run.slide_list import SlideRow, list_slides, part_of, read_manifest, read_slides, write_slides


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {"b.svs": b"bee", "a.tif": b"ay", "notes.txt": b"no", "c.SVS": b"sea"}.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def names(rows):
    return sorted(Path(row.path).name for row in rows)


def manifest(folder: Path, text: str | bytes, name: str = "slides.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        (["b.svs"], ["b.svs"]),
        (["."], ["a.tif", "b.svs", "c.SVS"]),
        (["*.svs"], ["b.svs"]),
        (["*", "b.svs"], ["a.tif", "b.svs", "c.SVS", "notes.txt"]),
        (["notes.txt"], ["notes.txt"]),
        (["missing.svs"], ["missing.svs"]),
    ],
)
def test_what_can_be_given(folder, monkeypatch, sources, found):
    monkeypatch.chdir(folder)
    assert names(list_slides(sources)) == found


def test_order_does_not_matter(folder):
    files = [folder / "b.svs", folder / "a.tif", folder / "c.SVS"]
    assert list_slides(files) == list_slides(files[::-1])
    assert [row.slide_id for row in list_slides(files)] == sorted(slide_id(file) for file in files)


def test_ids_come_from_the_content_and_paths_are_absolute(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert list_slides(["b.svs"]) == [SlideRow(slide_id(folder / "b.svs"), str(folder / "b.svs"))]


def test_a_file_without_content_has_an_id_of_its_path(folder):
    (folder / "empty1.svs").touch()
    (folder / "empty2.svs").touch()
    rows = list_slides([folder / "empty1.svs", folder / "empty2.svs", folder / "missing.svs"])
    assert len({row.slide_id for row in rows}) == 3
    assert all(row.slide_id.startswith("M") for row in rows)


def test_two_files_of_one_content_are_one_slide(folder, caplog):
    shutil.copy(folder / "b.svs", folder / "z.svs")
    assert names(list_slides([folder / "z.svs", folder / "b.svs"])) == ["b.svs"]
    assert "same content" in caplog.text


def test_two_slides_of_one_id_in_two_manifests_are_refused(folder, tmp_path):
    for name, path in (("one", "a.svs"), ("two", "b.svs"), ("again", "a.svs")):
        (tmp_path / f"{name}.csv").write_text(f"slide_id,path\n{'x1' if name == 'again' else 'X1'},{folder / path}\n")
    with pytest.raises(ManifestError, match=r"slide_id 'X1' is given to two slides, .*a\.svs and .*b\.svs"):
        list_slides([tmp_path / "one.csv", tmp_path / "two.csv"])
    assert names(list_slides([tmp_path / "one.csv", tmp_path / "again.csv"])) == ["a.svs"]


@pytest.mark.parametrize(
    "name", ["with space.svs", "größe.svs", "-dash.svs", "a[1].svs", "na'me\".svs", "\N{PILL}.svs"]
)
def test_awkward_names(folder, name):
    (folder / name).write_bytes(name.encode())
    rows = list_slides([str(folder / name)])
    assert names(rows) == [name]
    assert read_slides(write_slides(folder / "slides.parquet", rows)) == rows


@pytest.mark.parametrize(("source", "text"), [("nothing-*.svs", "no file matches"), ("hollow", "holds no slide")])
def test_nothing_found_is_an_error(folder, monkeypatch, source, text):
    (folder / "hollow").mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(ManifestError, match=text):
        list_slides([source])


@pytest.mark.parametrize(
    "text",
    [
        "slide_id,path,mpp\nA1,b.svs,0.25\nA2,a.tif,\n",
        "\ufeffslide_id,path,mpp\nA1,b.svs,0.25\nA2,a.tif,\n",
        "slide_id;path;mpp\r\nA1;b.svs;0.25\r\nA2;a.tif;\r\n",
        'slide_id\tpath\tmpp\r"A1"\t"b.svs"\t0.25\rA2\ta.tif\t',
        "Path , Slide_ID, mpp ,colour\n b.svs ,A1, 0.25,red\n\n,,,\na.tif,A2,,blue\n",
    ],
    ids=["plain", "byte-order mark", "semicolons", "tabs and old line ends", "spaces, blank rows, other columns"],
)
def test_manifests_that_are_read(folder, text):
    assert read_manifest(manifest(folder, text)) == [
        SlideRow("A1", str(folder / "b.svs"), mpp=0.25),
        SlideRow("A2", str(folder / "a.tif")),
    ]


def test_manifest_columns_go_into_the_table(folder):
    path = manifest(folder, "path,patient_id,preparation,stain\nb.svs,P7,ThinPrep,Papanicolaou\n")
    (row,) = list_slides([path])
    assert (row.slide_id, row.patient_id, row.preparation, row.stain) == (
        slide_id(folder / "b.svs"),
        "P7",
        "ThinPrep",
        "Papanicolaou",
    )


def test_every_fault_is_named_at_once(folder):
    (folder / "link.svs").symlink_to(folder / "b.svs")
    rows = ["slide_id,path,mpp", "A,b.svs,0.25", "a,c.SVS,0.25", "x/y,a.tif,", "B,,", "C,c1.svs,0.25,9"]
    rows += ['D,d.svs,"0,25"', "E,e.svs,NaN", "F,f.svs,-1", "G,link.svs,", "CON,g.svs,", "H,h.svs,small"]
    with pytest.raises(ManifestError) as caught:
        read_manifest(manifest(folder, "\n".join(rows)))
    faults = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert faults == [
        "row 4: slide_id 'x/y': letters, digits, '.', '_' and '-' only, 1 to 64, the first a letter or digit",
        "row 5: the path is empty",
        "row 6: 4 fields, the header has 3",
        "row 7: mpp '0,25' has a decimal comma; write 0.25",
        "row 8: mpp 'NaN' is not a size",
        "row 9: mpp '-1' is not a size",
        "row 11: slide_id 'CON' cannot be the name of a folder",
        "row 12: mpp 'small' is not a number",
        "row 3: slide_id 'a' is also that of row 2",
        "row 10: the same file as row 2",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        ("slide_id,mpp\nA,0.25\n", "no column 'path'"),
        ("path,mmp\nb.svs,0.25\n", "unknown column 'mmp'; did you mean 'mpp'?"),
        ("path,path\nb.svs,b.svs\n", "column 'path' appears twice"),
        ("path\n", "it lists no slide"),
        (b"path\nb\xe9.svs\n", "is not UTF-8"),
    ],
)
def test_manifests_that_are_refused_as_a_whole(folder, text, fault):
    with pytest.raises(ManifestError, match=fault.replace("?", r"\?")):
        read_manifest(manifest(folder, text))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_are_disjoint_and_complete(count):
    rows = [SlideRow(f"S{k}", f"{k}.svs") for k in range(5)]
    parts = [part_of(rows, f"{number}/{count}") for number in range(1, count + 1)]
    assert sorted((row for part in parts for row in part), key=lambda row: row.slide_id) == rows


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_part_that_is_none(part):
    with pytest.raises(ManifestError, match="expected i/n"):
        part_of([], part)
