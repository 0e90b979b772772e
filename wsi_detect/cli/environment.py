"""What `env` prints: enough for a bug report, without secrets and without the machine's folders."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath

from wsi_detect import __version__

_PACKAGES = (
    "openslide-python openslide-bin tifffile imagecodecs zarr numpy pandas pyarrow shapely pillow pydantic torch "
    "torchvision safetensors lightning albumentations faster-coco-eval ray"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIAL", re.IGNORECASE)


def describe() -> dict[str, str]:
    """Return versions, processors and settings by name."""
    facts = {
        "wsi-detect": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": str(os.cpu_count()),
    }
    facts.update({name: _version(name) for name in _PACKAGES.split()})
    facts.update({name: _value(name) for name in sorted(os.environ) if name.startswith("WSI_DETECT_")})
    return facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _value(name: str) -> str:
    if _SECRET.search(name):
        return "(set, not shown)"
    value = os.environ[name]
    return f"…/{PurePath(value).name}" if PurePath(value).is_absolute() else value
