"""The command line. Importing it costs typer and nothing else: a command imports its stage when it is called."""

from wsi_detect.cli.main import main

__all__ = ["main"]
