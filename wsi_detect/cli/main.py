"""The entry point: the commands put together."""

import sys
from typing import NoReturn

import typer

from wsi_detect.cli import annotate, audit, batch, cards, compare, evaluate, evidence, model, results, slides, store
from wsi_detect.cli.common import Commands, start
from wsi_detect.cli.ending import documented_exit


def make_app() -> typer.Typer:
    """Put the commands together."""
    app = typer.Typer(
        cls=Commands,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Cervical-cytology slides: from the slide file to a reviewed cell map. Research use, not a diagnosis.",
    )
    app.callback()(start)
    for module in (slides, annotate, model, evaluate, compare, results, audit, evidence, batch, cards):
        app.registered_commands += module.app.registered_commands
    app.add_typer(store.app)
    return app


def main() -> NoReturn:
    """Run the command line and end the process with the exit code of `errors.py`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A file name that the terminal's encoding cannot show must not end a run.
            stream.reconfigure(errors="backslashreplace")
    with documented_exit():
        make_app()(prog_name="wsi-detect")
    sys.exit(0)
