"""Every error ends a command with the exit code its kind promises, and is caught by the built-in one expects."""

import inspect

import pytest

from wsi_detect import errors

CODES = [
    (errors.MissingSlideError, 4, FileNotFoundError),
    (errors.UnsupportedSlideError, 4, ValueError),
    (errors.MissingResolutionError, 4, ValueError),
    (errors.ImplausibleResolutionError, 4, ValueError),
    (errors.DamagedSlideError, 4, OSError),
    (errors.FluorescenceError, 4, ValueError),
    (errors.MissingArtifactError, 4, FileNotFoundError),
    (errors.DamagedArtifactError, 4, ValueError),
    (errors.SchemaVersionError, 4, Exception),
    (errors.StaleArtifactError, 4, Exception),
    (errors.ConfigError, 2, ValueError),
    (errors.UnknownKeyError, 2, ValueError),
    (errors.ManifestError, 4, ValueError),
    (errors.LabelError, 4, ValueError),
    (errors.UnmappedLabelError, 4, ValueError),
    (errors.LicenceError, 4, ValueError),
    (errors.ResolutionMismatchError, 4, ValueError),
    (errors.NonFiniteError, 4, ValueError),
    (errors.MissingExtraError, 5, ImportError),
    (errors.OutputBusyError, 75, Exception),
]


@pytest.mark.parametrize(("kind", "code", "builtin"), CODES)
def test_exit_code_and_builtin(kind, code, builtin):
    assert kind.exit_code == code
    assert issubclass(kind, builtin)


def test_the_tree_at_the_top_of_the_file_names_every_error():
    kinds = [n for n, k in inspect.getmembers(errors, inspect.isclass) if issubclass(k, errors.WsiDetectError)]
    assert [name for name in kinds if name not in errors.__doc__] == []


def test_exit_codes_are_those_schedulers_know():
    codes = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert codes == {
        "EXIT_OK": 0,
        "EXIT_BUG": 1,
        "EXIT_USAGE": 2,
        "EXIT_INCOMPLETE": 3,
        "EXIT_INVALID_INPUT": 4,
        "EXIT_ENVIRONMENT": 5,
        "EXIT_BUSY": 75,
        "EXIT_INTERRUPTED": 130,
        "EXIT_TERMINATED": 143,
    }


def test_missing_extra_says_the_install_line():
    error = errors.MissingExtraError("training", "train")
    assert str(error) == 'training needs the extra "train": pip install "wsi-detect[train]"'
    assert error.extra == "train"
