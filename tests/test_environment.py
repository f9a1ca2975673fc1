"""pyproject.toml, requirements.lock and environment.yml describe one environment."""

import re
import tomllib

import yaml
from building import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]
EXTRAS = PROJECT["optional-dependencies"]
WANTED = [Requirement(line) for line in PROJECT["dependencies"] + EXTRAS["book"] + EXTRAS["test"]]
PLAIN = [entry for entry in CONDA["dependencies"] if isinstance(entry, str)]


def test_the_lock_pins_every_package_once_and_exactly():
    names = [canonicalize_name(requirement.name) for requirement in LOCK]
    assert sorted(set(names)) == sorted(names)
    for requirement in LOCK:
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        assert Version(pin.version).local is None, f"{requirement} is for one kind of machine"


def test_the_lock_has_what_the_project_needs():
    locked = {canonicalize_name(lock.name): next(iter(lock.specifier)).version for lock in LOCK}
    for requirement in WANTED:
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_dependencies_have_lower_bounds_only():
    """So that an installation on Colab leaves its torch and numpy alone."""
    for line in PROJECT["dependencies"]:
        assert [bound.operator for bound in Requirement(line).specifier] == [">="], line


def test_conda_installs_the_locked_environment():
    (pip,) = [entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-r requirements.lock", "-e .[book,test]"]
    assert "pip" in PLAIN
    assert CONDA["channels"] == ["conda-forge"]


def test_conda_brings_a_python_that_fits_and_no_second_pin():
    (python,) = [entry for entry in PLAIN if entry.startswith("python=")]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python.partition("=")[2])
    names = {re.split(r"[=<> ]", entry)[0] for entry in PLAIN}
    assert not names & {lock.name for lock in LOCK}


def test_the_races_have_an_environment_of_their_own():
    """With all peers, each at one version, and what gmlib needs at the versions of the main lock."""
    lines = (ROOT / "bench/requirements.lock").read_text().splitlines()
    races = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}
    assert len(races) == len(lines)
    pins = {name: next(iter(pin.specifier)).version for name, pin in races.items()}
    for line in PROJECT["dependencies"] + EXTRAS["bench"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), line
    for requirement in LOCK:
        name = canonicalize_name(requirement.name)
        assert name not in races or races[name].specifier == requirement.specifier, name
