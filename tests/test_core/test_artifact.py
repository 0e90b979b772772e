"""Artefacts: whole or not there, fresh or made again, and one writer at a time."""

import errno
import itertools
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wsi_detect import artifact, schema
from wsi_detect.errors import DamagedArtifactError, MissingArtifactError, OutputBusyError, SchemaVersionError

METRIC = {"metric": "ap50", "label": "HSIL", "threshold": None, "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 49}
METRIC |= {"subset": None, "unit": None, "undefined": 3, "replicates": 1000, "groups": 32}


def test_a_finished_file_has_its_name_and_nothing_lies_beside_it(tmp_path):
    artifact.write_bytes(tmp_path / "deep" / "a.bin", b"new")
    assert (tmp_path / "deep" / "a.bin").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.bin"]


def stop_half_way(path):
    with artifact.atomic(path) as partial:
        partial.write_bytes(b"half")
        assert partial.parent == path.parent
        assert partial.name.endswith(artifact.PARTIAL)
        raise KeyboardInterrupt


def test_a_failure_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.bin"
    artifact.write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt):
        stop_half_way(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("step", "survives"), [(1, b"old"), (2, b"old"), (3, b"new")])
def test_a_full_disk_at_any_step(tmp_path, monkeypatch, step, survives):
    path = tmp_path / "a.bin"
    artifact.write_bytes(path, b"old")
    monkeypatch.setattr(artifact, "_steps", itertools.count(1))
    monkeypatch.setenv("WSI_DETECT_FAULT", f"errno:{step}:{errno.ENOSPC}")
    if survives == b"old":
        with pytest.raises(OSError, match="No space left"):
            artifact.write_bytes(path, b"new")
    else:
        artifact.write_bytes(path, b"new")
    assert path.read_bytes() == survives
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("step", "survives"), [(3, "first"), (4, "first"), (5, "second")])
def test_a_kill_at_any_step_leaves_a_whole_file(tmp_path, step, survives):
    program = (
        "import sys; from pathlib import Path; from wsi_detect import artifact\n"
        "for name in ('first', 'second'):\n"
        "    artifact.write_json(Path(sys.argv[1]) / 'a.json', {'name': name})\n"
    )
    env = {**os.environ, "WSI_DETECT_FAULT": f"kill:{step}"}
    command = [sys.executable, "-c", program, str(tmp_path)]
    result = subprocess.run(command, env=env, start_new_session=True)
    assert result.returncode == (-9 if survives == "first" else 0)
    assert artifact.read_json(tmp_path / "a.json") == {"name": survives}
    artifact.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_sweep_takes_half_written_files_and_folders_only(tmp_path):
    (tmp_path / "s" / "patches.zarr.7.partial").mkdir(parents=True)
    (tmp_path / "s" / "patches.zarr.7.partial" / "c").write_text("x")
    (tmp_path / "s" / "cells.parquet.7.partial").write_text("x")
    (tmp_path / "s" / "cells.parquet").write_text("x")
    artifact.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cells.parquet", "s"]


def test_equal_json_is_equal_bytes(tmp_path):
    artifact.write_json(tmp_path / "a", {"b": 1, "a": [1.5, None]})
    artifact.write_json(tmp_path / "b", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifact.write_json(tmp_path / "a", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_damaged_json_says_what_to_do(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DamagedArtifactError, match="delete it and run again"):
        artifact.read_json(tmp_path / "a.json")


def test_missing_json(tmp_path):
    with pytest.raises(MissingArtifactError, match=r"a\.json is missing"):
        artifact.read_json(tmp_path / "a.json")


def test_a_table_comes_back_as_it_was(tmp_path):
    table = artifact.table_of([METRIC], schema.METRICS)
    artifact.write_table(tmp_path / "m.parquet", table, schema.METRICS, {"classes": json.dumps(["HSIL"])})
    back = artifact.read_table(tmp_path / "m.parquet", schema.METRICS)
    assert back.to_pylist() == [METRIC]
    assert json.loads(back.schema.metadata[b"classes"]) == ["HSIL"]


def test_equal_tables_are_equal_bytes(tmp_path):
    table = artifact.table_of([METRIC] * 3, schema.METRICS)
    artifact.write_table(tmp_path / "a", table, schema.METRICS)
    artifact.write_table(tmp_path / "b", table.select(schema.METRICS.names[::-1]), schema.METRICS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("name", schema.TABLES)
def test_an_empty_table_keeps_its_types(tmp_path, name):
    table = artifact.empty_table(schema.TABLES[name])
    artifact.write_table(tmp_path / "t", table, schema.TABLES[name])
    back = artifact.read_table(tmp_path / "t", schema.TABLES[name])
    assert back.num_rows == 0
    assert back.schema.equals(schema.TABLES[name])


def test_a_missing_column_is_not_written(tmp_path):
    table = artifact.table_of([METRIC], schema.METRICS).drop_columns(["n"])
    with pytest.raises(KeyError, match="n"):
        artifact.write_table(tmp_path / "m.parquet", table, schema.METRICS)


def test_another_version_is_refused(tmp_path):
    table = artifact.table_of([METRIC], schema.METRICS)
    old = {b"wsi_detect.schema_version": b"0"}
    pq.write_table(table.replace_schema_metadata(old), tmp_path / "m.parquet")
    with pytest.raises(SchemaVersionError, match=f"schema version 0, this program writes {schema.SCHEMA_VERSION}"):
        artifact.read_table(tmp_path / "m.parquet", schema.METRICS)


def test_other_columns_are_refused(tmp_path):
    pq.write_table(artifact.empty_table(schema.SLIDES), tmp_path / "m.parquet")
    with pytest.raises(DamagedArtifactError, match="expected"):
        artifact.read_table(tmp_path / "m.parquet", schema.METRICS)


def test_a_cut_table_is_refused(tmp_path):
    path = tmp_path / "m.parquet"
    artifact.write_table(path, artifact.table_of([METRIC], schema.METRICS), schema.METRICS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedArtifactError, match="delete it and run again"):
        artifact.read_table(path, schema.METRICS)
    with pytest.raises(MissingArtifactError):
        artifact.read_table(tmp_path / "absent.parquet", schema.METRICS)


def test_null_where_a_value_must_be_is_refused(tmp_path):
    table = pa.table({**{k: [v] for k, v in METRIC.items()}, "n": pa.array([None], pa.int64())})
    with pytest.raises((ValueError, pa.ArrowException)):
        artifact.write_table(tmp_path / "m.parquet", table, schema.METRICS)


def test_a_stage_is_fresh_until_its_key_or_a_file_changes(tmp_path):
    key = {"slide": "abc", "config": "def"}
    assert not artifact.is_fresh(tmp_path, "stitch", key)
    artifact.write_bytes(tmp_path / "cells.parquet", b"12345")
    files = artifact.sizes(tmp_path, ["cells.parquet"])
    artifact.record_stage(tmp_path, "stitch", {"key": key, "files": files})
    artifact.record_stage(tmp_path, "report", {"key": {}, "files": {}})
    assert artifact.is_fresh(tmp_path, "stitch", key)
    assert not artifact.is_fresh(tmp_path, "stitch", {**key, "config": "other"})
    assert not artifact.is_fresh(tmp_path, "detect", key)
    (tmp_path / "cells.parquet").write_bytes(b"123")
    assert not artifact.is_fresh(tmp_path, "stitch", key)
    (tmp_path / "cells.parquet").unlink()
    assert not artifact.is_fresh(tmp_path, "stitch", key)
    for _ in range(2):
        artifact.forget_stage(tmp_path, "stitch")
        assert list(artifact.read_manifest(tmp_path)) == ["report"]


def test_fingerprint_is_of_the_content_not_of_the_name(tmp_path):
    (tmp_path / "miller_jane.svs").write_bytes(b"x" * 1000)
    (tmp_path / "copy.svs").write_bytes(b"x" * 1000)
    (tmp_path / "other.svs").write_bytes(b"x" * 999 + b"y")
    first, copy, other = (artifact.slide_id(tmp_path / f"{n}.svs") for n in ("miller_jane", "copy", "other"))
    assert first == copy != other
    assert len(first) == 11
    assert first[0] == "S"
    assert int(first[1:], 16) >= 0


def test_fingerprint_samples_a_large_file_at_both_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(artifact, "_SAMPLE", 8)
    path = tmp_path / "large"
    content = bytearray(1000)
    path.write_bytes(content)
    before = artifact.fingerprint(path)
    for position in (0, 999):
        changed = bytearray(content)
        changed[position] = 1
        path.write_bytes(changed)
        assert artifact.fingerprint(path) != before
    path.write_bytes(content + b"\0")
    assert artifact.fingerprint(path) != before


def test_fingerprint_of_a_slide_whose_pixels_lie_in_a_folder(tmp_path):
    (tmp_path / "a.mrxs").write_bytes(b"head")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Data0001.dat").write_bytes(b"pixels")
    before = artifact.fingerprint(tmp_path / "a.mrxs")
    (tmp_path / "a" / "Data0001.dat").write_bytes(b"Pixels")
    assert artifact.fingerprint(tmp_path / "a.mrxs") != before


def test_one_run_at_a_time(tmp_path):
    with (
        artifact.lock(tmp_path / "out"),
        pytest.raises(OutputBusyError, match="in use by another run"),
        artifact.lock(tmp_path / "out"),
    ):
        pass
    with artifact.lock(tmp_path / "out"):
        assert (tmp_path / "out" / ".lock").exists()


def test_an_error_of_a_library_that_writes_gets_the_name_of_the_file(tmp_path):
    path = tmp_path / "table.parquet"
    with pytest.raises(OSError, match="No space left") as caught, artifact.atomic(path):
        raise OSError(errno.ENOSPC, "Error writing bytes to file")
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
