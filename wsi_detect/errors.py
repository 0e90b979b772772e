"""Every error the package raises on purpose, and the exit code each one ends a command with.

WsiDetectError
├── SlideError (4)            UnsupportedSlideError(ValueError) · MissingResolutionError(ValueError)
│                             ImplausibleResolutionError(ValueError) · DamagedSlideError(OSError)
│                             FluorescenceError(ValueError) · MissingSlideError(FileNotFoundError)
├── ArtifactError (4)         MissingArtifactError(FileNotFoundError) · SchemaVersionError · StaleArtifactError
│                             DamagedArtifactError(ValueError)
├── ConfigError(ValueError) (2)   UnknownKeyError
├── ManifestError(ValueError) (4)
├── LabelError(ValueError) (4)    UnmappedLabelError · LicenceError
├── ModelError (4)            ResolutionMismatchError(ValueError) · NonFiniteError(ValueError)
│                             ForeignModelError(ValueError)
└── EnvironmentFaultError (5) MissingExtraError(ImportError) · OutputBusyError (75)

A message says what happened, to which file or row, and what to do about it.
"""

EXIT_OK = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_INCOMPLETE = 3
EXIT_INVALID_INPUT = 4
EXIT_ENVIRONMENT = 5
EXIT_BUSY = 75
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class WsiDetectError(Exception):
    """Base of every deliberate error; `exit_code` is what a command ends with."""

    exit_code = EXIT_BUG


class SlideError(WsiDetectError):
    """A slide cannot be used as it is."""

    exit_code = EXIT_INVALID_INPUT


class MissingSlideError(SlideError, FileNotFoundError):
    """The slide file does not exist or is empty."""


class UnsupportedSlideError(SlideError, ValueError):
    """No reader recognises the file, or the reader that does cannot decode it."""


class MissingResolutionError(SlideError, ValueError):
    """The file does not say how large a pixel is, and nobody else did."""


class ImplausibleResolutionError(SlideError, ValueError):
    """The stated pixel size cannot be that of a cytology scan, or pixels are not square."""


class DamagedSlideError(SlideError, OSError):
    """Part of the slide cannot be decoded."""


class FluorescenceError(SlideError, ValueError):
    """The slide is dark-ground or fluorescence; the detectors know bright field only."""


class ArtifactError(WsiDetectError):
    """Something this package wrote, or should have written, is not usable."""

    exit_code = EXIT_INVALID_INPUT


class MissingArtifactError(ArtifactError, FileNotFoundError):
    """A file, a shard or a chunk that must exist does not."""


class DamagedArtifactError(ArtifactError, ValueError):
    """A file exists but its content fails its checksum or its schema."""


class SchemaVersionError(ArtifactError):
    """The artefact was written under another schema version."""


class StaleArtifactError(ArtifactError):
    """The artefact was made from other inputs or under another configuration."""


class ConfigError(WsiDetectError, ValueError):
    """A configuration file or an override is wrong."""

    exit_code = EXIT_USAGE


class UnknownKeyError(ConfigError):
    """A key is not known in its section."""


class ManifestError(WsiDetectError, ValueError):
    """The list of slides is wrong; every faulty row is named at once."""

    exit_code = EXIT_INVALID_INPUT


class LabelError(WsiDetectError, ValueError):
    """Annotations are wrong."""

    exit_code = EXIT_INVALID_INPUT


class UnmappedLabelError(LabelError):
    """A source label has no entry in the class map."""


class LicenceError(LabelError):
    """The licence of a data set does not allow the declared use."""


class ModelError(WsiDetectError):
    """A model bundle is unusable for what was asked."""

    exit_code = EXIT_INVALID_INPUT


class ResolutionMismatchError(ModelError, ValueError):
    """The patches are at another resolution than the detector was trained at."""


class ForeignModelError(ModelError, ValueError):
    """The model finds something else than cells of the cervix."""


class NonFiniteError(ModelError, ValueError):
    """A score, a box or a loss is NaN or infinite."""


class EnvironmentFaultError(WsiDetectError):
    """The machine, not the input, stands in the way."""

    exit_code = EXIT_ENVIRONMENT


class MissingExtraError(EnvironmentFaultError, ImportError):
    """An optional dependency is not installed; the message holds the install line."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs the extra "{extra}": pip install "wsi-detect[{extra}]"')
        self.extra = extra


class OutputBusyError(EnvironmentFaultError):
    """Another run holds the output folder."""

    exit_code = EXIT_BUSY
