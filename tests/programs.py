"""Import pipelines and scripts by their files: their folders are no packages."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def load_program(path: str | Path) -> ModuleType:
    """Import the program at `path`, taken from the root of the project, under a name of its own."""
    path = ROOT / path
    spec = spec_from_file_location(f"program_{path.parent.name}_{path.stem}", path)
    module = module_from_spec(spec)
    # Dataclasses look their module up by its name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
