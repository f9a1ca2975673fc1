"""Importing gmlib is as quick as importing torch: what else it needs is imported where it is used."""

import subprocess
import sys

import pytest

HEAVY = ("accelerate", "matplotlib", "pooch", "safetensors", "scipy", "sklearn", "tqdm")


@pytest.mark.parametrize("module", ["base", "check", "data", "files", "nn", "train"])
def test_import_is_light(module):
    code = f"import sys, torch; old = set(sys.modules); import gmlib.{module}; print(*set(sys.modules) - old)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = {name.partition(".")[0] for name in result.stdout.split()}
    assert "gmlib" in packages
    assert not packages & set(HEAVY)
