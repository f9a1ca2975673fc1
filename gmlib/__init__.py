"""The package behind a book on generative models in which every equation runs.

Import what you use: `from gmlib import check, data, plot, train`, `from gmlib.vae import VAE`.
"""

import os
from pathlib import Path

# Each environment variable that gmlib reads: what it needs to be, and the test of it.
_VARIABLES = {
    "GMLIB_DATA": ("an existing folder", lambda value: Path(value).is_dir()),
    "GMLIB_SMOKE": ("0 or 1", lambda value: value in ("0", "1")),
}


def _validate_environment() -> None:
    for name, value in os.environ.items():
        if not name.startswith("GMLIB_"):
            continue
        if name not in _VARIABLES:
            raise ValueError(f"gmlib needs environment variables among {sorted(_VARIABLES)}, got {name}.")
        need, valid = _VARIABLES[name]
        if not valid(value):
            raise ValueError(f"{name} needs to be {need}, got {value!r}.")


def smoke() -> bool:
    """Whether this is a quick run (`GMLIB_SMOKE=1`): training is shortened, its outcomes are not judged."""
    return os.environ.get("GMLIB_SMOKE", "0") == "1"


_validate_environment()
