"""Every file in `configs/` is valid, and every pipeline runs with `tiny.yaml`."""

import json
import shutil
from collections import Counter
from functools import cache

import pytest
import yaml
from programs import ROOT, load_program

from wsi_detect import artifact, schema
from wsi_detect.config import read_yaml
from wsi_detect.data.card import read_card
from wsi_detect.data.index import read_index
from wsi_detect.data.split import read_splits
from wsi_detect.errors import DamagedSlideError, LabelError, LicenceError
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.run import RunConfig
from wsi_detect.run.config import SECTIONS, load_job
from wsi_detect.run.slide_list import read_slides
from wsi_detect.testing import blobs
from wsi_detect.testing.painter import paint_slide

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
TINY = ROOT / "configs" / "tiny.yaml"


def pipeline(name: str):
    """Import a pipeline by its file: the folder is not a package."""
    return load_program(f"pipelines/{name}.py")


@pytest.fixture
def one_body_of_a_kind(monkeypatch):
    """Detectors share feature extractors: nearly all the time it takes to build one goes into their random weights."""
    from wsi_detect.detectors import config

    monkeypatch.setattr(config, "stages", cache(config.stages))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_is_valid(path, one_body_of_a_kind):
    values = read_yaml(path)
    assert set(values) <= set(SECTIONS)
    load_job(path, RunConfig)
    if "training" in values:
        from wsi_detect.training.config import TrainingConfig

        TrainingConfig.model_validate(values["training"])
    if "fields" in values:
        load_job(path, pipeline("train_on_fields").JobConfig)
    if "evidence_training" in values:
        load_job(path, pipeline("weak_heatmap").JobConfig)
    if "map_comparison" in values:
        load_job(path, pipeline("compare_heatmaps").MapComparisonJob)
    if "dataset" in values:
        load_job(path, pipeline("build_dataset").JobConfig)
    if "cross_validation" in values:
        from wsi_detect.detectors import build_detector
        from wsi_detect.losses import ClassCounts, with_class_counts
        from wsi_detect.training.grid import ComparisonJob, planned, resolve

        comparison = load_job(path, ComparisonJob)
        for run in {run.row: run for run in planned(comparison.cross_validation)}.values():
            _, training = resolve(comparison, run)
            counts = ClassCounts((1.0,) * 6, (1.0,) * 6, 6.0)
            build_detector(training.detector, 6, with_class_counts(training.options, counts))
    if "lab" in values:
        load_job(path, pipeline("lab_inference").JobConfig)
    EvaluationConfig.model_validate(values.get("evaluation", {}))


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.py")), ids=lambda path: path.name)
def test_every_pipeline_says_how_it_is_called(path):
    text = pipeline(path.stem).__doc__
    assert f"python pipelines/{path.name}" in text
    for option in ("--config",):
        assert option in text


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Four painted slides, their labels as COCO, a data card that maps the classes, a manifest."""
    folder = tmp_path_factory.mktemp("labelled")
    content = {"images": [], "annotations": [], "categories": []}
    numbers = {name: k for k, name in enumerate(["NILM", "LSIL", "HSIL", "SCC"], start=1)}
    content["categories"] = [{"id": number, "name": name} for name, number in numbers.items()]
    for k in range(4):
        slide = paint_slide(folder / f"slide{k}.svs", width=512, height=512, n_cells=10, seed=k)
        content["images"].append({"id": k, "file_name": slide.path.name, "width": 512, "height": 512})
        for cell in slide.cells:
            box = [cell.box.x0, cell.box.y0, cell.box.width, cell.box.height]
            entry = {"id": len(content["annotations"]) + 1, "image_id": k, "category_id": numbers[cell.label]}
            content["annotations"].append({**entry, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    (folder / "labels.json").write_text(json.dumps(content))
    (folder / "slides.csv").write_text("path\n" + "".join(f"slide{k}.svs\n" for k in range(4)))
    (folder / "card").mkdir()
    (folder / "card" / "classes.yaml").write_text("".join(f"{name}: {name}\n" for name in numbers))
    closed = ("commercial", "redistribution", "derivatives")
    licence = {"name": "none needed", "research": "allowed", "sure": "assumed", **dict.fromkeys(closed, "unknown")}
    facts = {"name": "painted", "specimen": "cervix", "licence": licence}
    (folder / "card" / "README.md").write_text(f"---\n{yaml.safe_dump(facts)}---\n\n# Painted\n")
    return folder


def test_build_train_and_evaluate(labelled, tmp_path):
    build = pipeline("build_dataset")
    config = load_job(TINY, build.JobConfig)
    data = tmp_path / "data"
    index = build.main([str(labelled / "slides.csv")], labelled / "labels.json", labelled / "card", config, data)
    assert index == data / "dataset" / "index.parquet"
    assert (data / "card" / "README.md").exists()
    train = pipeline("train_and_evaluate")
    metrics = train.main(data, load_job(TINY, train.JobConfig), tmp_path / "run", workers=0)
    table = artifact.read_table(metrics, schema.METRICS)
    assert "ap50" in set(table["metric"].to_pylist())
    assert (tmp_path / "run" / "bundle" / "model.safetensors").exists()
    info = artifact.read_json(tmp_path / "run" / "bundle" / "config.json")
    assert (info["data_card"], info["training"]["config"]["use"]) == ("painted", "research")


def test_a_data_set_whose_licence_nobody_wrote_down_is_not_trained_on(labelled, tmp_path):
    build, train = pipeline("build_dataset"), pipeline("train_and_evaluate")
    card, data = tmp_path / "nameless", tmp_path / "data"
    card.mkdir()
    shutil.copy(labelled / "card" / "classes.yaml", card)
    given = [str(labelled / "slides.csv")], labelled / "labels.json", card, load_job(TINY, build.JobConfig), data
    build.main(*given)
    with pytest.raises(LicenceError, match="data card nameless: its licence, unknown, does not allow"):
        train.main(data, load_job(TINY, train.JobConfig), tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()


def test_a_slide_under_two_names_on_two_sides_is_refused(labelled, tmp_path):
    """The same pixels in another file: another slide id, the same looks."""
    build, config = pipeline("build_dataset"), load_job(TINY, pipeline("build_dataset").JobConfig)
    copy = tmp_path / "copy.svs"
    copy.write_bytes((labelled / "slide0.svs").read_bytes() + bytes(16))
    lines = [f"{labelled}/slide0.svs,train", f"{labelled}/slide1.svs,train", f"{copy},val"]
    (tmp_path / "slides.csv").write_text("path,split\n" + "\n".join(lines))
    content = json.loads((labelled / "labels.json").read_text())
    content["images"] = content["images"][:2]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] < 2]
    (tmp_path / "labels.json").write_text(json.dumps(content))
    given = [str(tmp_path / "slides.csv")], tmp_path / "labels.json", labelled / "card"
    with pytest.raises(LabelError, match=r"1 pairs of slides across the splits.*look alike"):
        build.main(*given, config, tmp_path / "data")
    assert not list((tmp_path / "data").glob("*/patches.zarr"))
    dataset = config.dataset.model_copy(update={"look_alikes": "report"})
    build.main(*given, config.model_copy(update={"dataset": dataset}), tmp_path / "data")
    facts, _ = read_card(tmp_path / "data" / "card" / "README.md")
    assert len(facts["built"]["look_alikes"]) == 1


def test_a_data_set_of_patients_has_its_card(labelled, tmp_path):
    """Two slides of one patient stay together; the card counts them, names nobody, and is kept when built again."""
    build = pipeline("build_dataset")
    config, data = load_job(TINY, build.JobConfig), tmp_path / "data"
    patients = ["Doe, Jane", "Roe", "Doe, Jane", "Poe"]
    lines = [f'slide{k}.svs,"{patient}",ThinPrep' for k, patient in enumerate(patients)]
    manifest = labelled / "patients.csv"
    manifest.write_text("path,patient_id,preparation\n" + "\n".join(lines))
    given = [str(manifest)], labelled / "labels.json", labelled / "card", config, data
    index = read_index(build.main(*given))
    facts, prose = read_card(data / "card" / "README.md")
    rows = read_slides(data / "slides.parquet")
    split = dict(zip(index.slide_ids, index.splits, strict=True))
    of_doe = {split[row.slide_id] for row in rows if row.patient_id == "Doe, Jane"}
    assert len(of_doe) == 1
    value = {key: fact["value"] for key, fact in facts.items() if isinstance(fact, dict) and "value" in fact}
    assert (value["patients"], value["split_by"], value["preparation"]) == (3, "patient", "ThinPrep")
    assert (value["images"], value["mpp"], facts["mpp"]["sure"]) == (4, 0.25, "counted")
    assert value["splits"] == Counter(split.values())
    assert value["annotations"] == sum(value["classes"].values()) == 40
    assert sum(facts["built"]["patches"].values()) == len(index.patch_ids)
    assert read_splits(data / "card" / "splits.csv") == split
    assert facts["built"]["codec"] == ["jpeg_tiles"]
    texts = [path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != "slides.parquet"]
    assert not any(name in text for text in texts for name in (b"Doe", b"Roe", b"Poe", b"slide0"))
    build.main(*given)
    assert read_card(data / "card" / "README.md") == (facts, prose)


def test_a_patient_on_two_sides_is_refused_before_anything_is_tiled(labelled, tmp_path):
    build = pipeline("build_dataset")
    manifest = labelled / "leak.csv"
    splits = ["train", "val", "val", "val"]
    manifest.write_text("path,patient_id,split\n" + "\n".join(f"slide{k}.svs,P{k // 2},{splits[k]}" for k in range(4)))
    given = labelled / "labels.json", labelled / "card", load_job(TINY, build.JobConfig), tmp_path
    with pytest.raises(LabelError, match="P0"):
        build.main([str(manifest)], *given)
    assert not list(tmp_path.glob("*/patches.zarr"))


def test_a_data_set_does_not_lack_a_slide_in_silence(labelled, tmp_path):
    build = pipeline("build_dataset")
    (tmp_path / "bad.svs").write_text("not a slide")
    lines = [str(labelled / f"slide{k}.svs") for k in range(4)] + ["bad.svs"]
    (tmp_path / "slides.csv").write_text("path\n" + "\n".join(lines))
    given = labelled / "labels.json", labelled / "card", load_job(TINY, build.JobConfig), tmp_path / "data"
    with pytest.raises(DamagedSlideError, match="1 slides cannot be tiled"):
        build.main([str(tmp_path / "slides.csv")], *given)


@pytest.fixture
def without_torch(monkeypatch):
    """The detector without weights in the place of the torch runtime."""
    from wsi_detect.inference import RUNTIMES

    monkeypatch.setitem(RUNTIMES, "torch", blobs.load)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return blobs.write_bundle(tmp_path_factory.mktemp("bundle"))


def test_screen_batch(labelled, bundle, without_torch, tmp_path, capsys):
    screen = pipeline("screen_batch")
    code = screen.main([str(labelled / "slide0.svs")], load_job(TINY, RunConfig), tmp_path, bundle, workers=0)
    assert code == 0
    assert "SCREENED" in capsys.readouterr().out


def test_lab_inference(labelled, bundle, without_torch, tmp_path):
    lab = pipeline("lab_inference")
    config = load_job(TINY, lab.JobConfig)
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    inbox.mkdir()
    shutil.copy(labelled / "slide0.svs", inbox / "Doe_Jane.svs")
    (inbox / "Doe_John.svs").write_text("not a slide")
    (inbox / "notes.txt").write_text("left alone")
    assert lab.main(inbox, out, config, bundle) == 2
    assert [path.name for path in (inbox / "done").iterdir()] == ["Doe_Jane.svs"]
    assert [path.name for path in (inbox / "failed").iterdir()] == ["Doe_John.svs"]
    trail = (out / "audit.jsonl").read_text()
    assert "Doe" not in trail
    lines = [json.loads(line) for line in trail.splitlines()]
    assert sorted(line["status"] for line in lines) == ["NOT SCREENED", "SCREENED"]
    assert all(line["model"] == "dark-blobs" and line["time"].endswith("+00:00") for line in lines)
    assert lab.main(inbox, out, config, bundle) == 0


def test_lab_inference_keeps_two_files_of_one_name(labelled, bundle, without_torch, tmp_path):
    lab = pipeline("lab_inference")
    config = load_job(TINY, lab.JobConfig)
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    inbox.mkdir()
    for k in (0, 1):
        shutil.copy(labelled / f"slide{k}.svs", inbox / "scan.svs")
        assert lab.main(inbox, out, config, bundle, names=True) == 1
    assert len(list((inbox / "done").iterdir())) == 2
    assert "scan.svs" in (out / "audit.jsonl").read_text()


def test_a_file_that_is_still_being_copied_waits(labelled, bundle, without_torch, tmp_path):
    lab = pipeline("lab_inference")
    config = load_job(TINY, lab.JobConfig, ["lab.settle_s=3600"])
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    shutil.copyfile(labelled / "slide0.svs", inbox / "scan.svs")
    assert lab.main(inbox, tmp_path / "out", config, bundle) == 0
    assert (inbox / "scan.svs").exists()


def test_train_on_fields(labelled, tmp_path):
    """Painted slides as fields; by fold, and with classes dealt out anew."""
    job = pipeline("train_on_fields")
    values = read_yaml(TINY)
    fields = {"mpp": 0.25, "classes": values["dataset"]["classes"]}
    tiling = {**values["tiling"], "mask": {"preparation": "none"}}
    config = job.JobConfig.model_validate({"fields": fields, "tiling": tiling, "training": values["training"]})
    shuffled = job.shuffled(labelled / "labels.json", tmp_path, seed=1)
    truth, dealt = (json.loads(path.read_text())["annotations"] for path in (labelled / "labels.json", shuffled))
    classes = [[entry["category_id"] for entry in entries] for entries in (truth, dealt)]
    assert classes[0] != classes[1]
    assert sorted(classes[0]) == sorted(classes[1])
    bundle = job.main(labelled, shuffled, labelled / "card", config, tmp_path / "out", "1/2", "floor")
    assert bundle == tmp_path / "out" / "runs" / "floor-fold1of2" / "bundle"
    assert (tmp_path / "out" / "dataset" / "card" / "README.md").exists()
    splits = artifact.read_table(tmp_path / "out" / "dataset" / "floor-fold1of2" / "index.parquet", schema.INDEX)[
        "split"
    ]
    assert set(splits.to_pylist()) == {"train", "val"}
