"""What commands share: options, logging, configuration."""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from wsi_detect.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from wsi_detect.config import Config

C = TypeVar("C", bound="Config")

EXIT_PIPE = 141

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file, one section a stage.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, over the file.")]
Mpp = Annotated[float | None, typer.Option(help="µm per px, where the file does not say or says it wrong.")]
MaxPixels = Annotated[float | None, typer.Option(help="Refuse slides that declare more; 4e10.")]
Model = Annotated[Path | None, typer.Option("--model", help="Model bundle; the one that comes along if not given.")]
EvidenceModel = Annotated[Path | None, typer.Option("--evidence-model", help="Bundle of an evidence model.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]


class Commands(TyperGroup):
    """The command group; an interrupt ends the program with a word, a reader that closes the pipe without one."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Nobody reads on; what is still buffered must not fail once more at exit.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(EXIT_PIPE) from None
        except KeyboardInterrupt:
            # Here: further out it would be taken for an exit like others, and nobody told how to go on.
            typer.echo("wsi-detect: stopped; run the same command to continue", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None


def _show_version(asked: bool) -> None:
    if asked:
        from wsi_detect import __version__

        typer.echo(__version__)
        raise typer.Exit


def start(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings and errors only.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Set up logging on standard error; results go to standard output."""
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr, force=True)
    logging.getLogger("wsi_detect").setLevel(level)
    # What it finds wrong with a directory ends as an error of ours, or does not matter.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def section(path: Path | None, name: str, kind: type[C], overrides: list[str] | None) -> C:
    """Read one section of a configuration, the overrides of that section applied."""
    from wsi_detect.run.config import load_section

    return load_section(path, name, kind, overrides or [])


def bundle_of(model: Path | None) -> Path:
    """Return the bundle asked for, or the one that comes with the package."""
    from wsi_detect.detectors.info import default_bundle

    return model or default_bundle()


def show(rows: dict[str, Any]) -> None:
    """Print facts in two columns."""
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        typer.echo(f"{name:<{width}}  {value}")
