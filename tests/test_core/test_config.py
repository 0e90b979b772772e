"""Configuration files: what is refused, and how the message helps."""

from pathlib import Path
from typing import Literal

import pytest

from wsi_detect import config
from wsi_detect.config import Config
from wsi_detect.errors import ConfigError, UnknownKeyError


class MaskConfig(Config):
    preparation: Literal["auto", "lbc", "smear"] = "auto"
    threshold: float = 0.1


class TilingConfig(Config):
    patch_px: int = 1024
    overlap_um: float | None = None
    mask: MaskConfig = MaskConfig()


class JobConfig(Config):
    tiling: TilingConfig = TilingConfig()
    second: TilingConfig | None = None


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def test_a_file_holds_only_what_differs(tmp_path):
    job = config.load(write(tmp_path, "tiling: {patch_px: 512}"), JobConfig)
    assert job == JobConfig(tiling=TilingConfig(patch_px=512))


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "{}"])
def test_an_empty_file_means_all_defaults(tmp_path, text):
    assert config.load(write(tmp_path, text), JobConfig) == JobConfig()


def test_no_file_means_all_defaults():
    assert config.load(None, JobConfig) == JobConfig()


UNKNOWN = [
    # YAML, the message ends with
    ("tilling: {}", "unknown key 'tilling'; did you mean 'tiling'?"),
    ("tiling: {patch_pix: 512}", "unknown key 'patch_pix' in 'tiling'; did you mean 'patch_px'?"),
    ("tiling: {mask: {treshold: 1}}", "unknown key 'treshold' in 'tiling.mask'; did you mean 'threshold'?"),
    ("second: {overlap: 1}", "unknown key 'overlap' in 'second'; did you mean 'overlap_um'?"),
]


@pytest.mark.parametrize(("text", "ending"), UNKNOWN)
def test_unknown_key_names_file_section_and_nearest(tmp_path, text, ending):
    path = write(tmp_path, text)
    with pytest.raises(UnknownKeyError) as caught:
        config.load(path, JobConfig)
    assert str(caught.value) == f"{path}: {ending}"


WRONG = [
    ("tiling: {patch_px: wide}", "tiling.patch_px: Input should be a valid integer"),
    ("tiling: {overlap_um: .nan}", "tiling.overlap_um: Input should be a finite number"),
    ("tiling: {mask: {preparation: film}}", "tiling.mask.preparation: Input should be 'auto', 'lbc' or 'smear'"),
    ("tiling: 3", "tiling: Input should be a valid dictionary"),
    ("- tiling", "a configuration is a mapping of sections, this is a list"),
    ("tiling: {patch_px: 1", "not valid YAML"),
    ("tiling: 2026-13-45", "not valid YAML"),
    ("tiling: " + "[" * 5000, "not valid YAML"),
    ("tiling: !!python/object/apply:os.getcwd []", "not valid YAML"),
]


@pytest.mark.parametrize(("text", "part"), WRONG)
def test_wrong_value_is_named(tmp_path, text, part):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        config.load(path, JobConfig)
    assert str(caught.value).startswith(str(path))
    assert part in str(caught.value)


def test_a_file_that_is_not_there():
    with pytest.raises(ConfigError, match=r"cannot read configuration absent\.yaml: No such file"):
        config.load(Path("absent.yaml"), JobConfig)


def test_a_data_file_is_not_a_configuration(tmp_path):
    with pytest.raises(ConfigError, match="a configuration may have"):
        config.load(write(tmp_path, "#" * (config.MAX_BYTES + 1)), JobConfig)


def test_an_alias_bomb_is_refused_at_once(tmp_path):
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    text = "a0: &a0 [x]\n" + "\n".join(levels)
    with pytest.raises(UnknownKeyError):
        config.load(write(tmp_path, text), JobConfig)


def test_one_section_of_a_job(tmp_path):
    path = write(tmp_path, "tiling: {patch_px: 256}\nelsewhere: {of: no interest}")
    assert config.read(path, "tiling", TilingConfig).patch_px == 256
    assert config.read(path, "stitching", TilingConfig) == TilingConfig()
    with pytest.raises(ConfigError, match="section 'tiling' must be a mapping"):
        config.read(write(tmp_path, "tiling: 5"), "tiling", TilingConfig)


OVERRIDES = [
    (["tiling.patch_px=512"], {"tiling": {"patch_px": 512}}),
    (["tiling.overlap_um=null"], {"tiling": {"overlap_um": None}}),
    (
        ["tiling.mask.preparation=smear", "tiling.patch_px=256"],
        {"tiling": {"mask": {"preparation": "smear"}, "patch_px": 256}},
    ),
    (["tiling.patch_px=1", "tiling.patch_px=2"], {"tiling": {"patch_px": 2}}),
]


@pytest.mark.parametrize(("overrides", "expected"), OVERRIDES)
def test_overrides(overrides, expected):
    assert config.with_overrides({}, overrides) == expected


def test_overrides_leave_the_original_alone():
    values = {"tiling": {"patch_px": 1}}
    assert config.with_overrides(values, ["tiling.patch_px=2"]) == {"tiling": {"patch_px": 2}}
    assert values == {"tiling": {"patch_px": 1}}


@pytest.mark.parametrize("override", ["tiling.patch_px", "=3", "tiling.patch_px.deep=3", "tiling.mask=[1,"])
def test_a_wrong_override_is_repeated(override):
    with pytest.raises(ConfigError) as caught:
        config.with_overrides({"tiling": {"patch_px": 1}}, [override])
    assert override in str(caught.value)


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        TilingConfig().patch_px = 3


def test_equal_configs_have_equal_digests():
    assert config.digest(TilingConfig(patch_px=1024)) == config.digest(TilingConfig())
    assert config.digest(TilingConfig(patch_px=512)) != config.digest(TilingConfig())
    assert len(config.digest(TilingConfig())) == 16
