"""What is declared, pinned and imported agrees, on every Python that is supported."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from workbench.engine.provenance import versions
from workbench.requirements import OPTIONAL, REQUIRED, Need, check, import_error, importable, name_of

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Debian 12's own, and those that the packages' floors tell apart.
PYTHONS = ("3.11.0", "3.11.2", "3.11.7", "3.12.1", "3.13.0")


def pins(file, python):
    """Version by name of what a file of constraints pins on one Python on Linux."""
    place = {
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    found = [Requirement(line) for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    held = [one for one in found if one.marker is None or one.marker.evaluate(place)]
    assert len({one.name for one in held}) == len(held), "one version of each"
    return {one.name: str(one.specifier).removeprefix("==") for one in held}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    ("file", "extras"),
    [("constraints.txt", ("dev", "docs", "notebook", "image")), ("constraints-peers.txt", ("peers",))],
)
def test_all_that_is_declared_is_pinned_within_its_bounds(file, extras, python):
    pinned = pins(file, python)
    for declared in map(Requirement, [*PROJECT["dependencies"], *(one for extra in extras for one in EXTRAS[extra])]):
        name = declared.name.lower().replace("_", "-")
        assert declared.specifier.contains(pinned[name]), f"{declared}, pinned {pinned[name]}"


def test_debians_python_gets_no_package_that_needs_a_later_one():
    assert pins("constraints.txt", "3.11.2")["soupsieve"] == "2.10", "4.1.3 needs 3.11.5"
    assert pins("constraints.txt", "3.11.2")["pandas"] < "3" <= pins("constraints.txt", "3.13.0")["pandas"]


def test_what_is_imported_is_declared():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "workbench").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    names = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"workbench"}
    carried = importlib.metadata.packages_distributions()
    declared = {name_of(one) for one in [*REQUIRED, *(one for _, packages, _ in OPTIONAL for one in packages)]}
    # anywidget stands on traitlets and shares its classes; a module of what is not installed goes by its own name.
    found = {name: {one.lower() for one in carried.get(name, [name])} for name in names - {"traitlets"}}
    assert not {name for name, owners in found.items() if not owners & (declared | {"scvi-tools"}) and name != "scvi"}


def test_the_manifest_holds_the_version_of_every_direct_dependency():
    found = versions()
    assert found.keys() == {"workbench", *map(name_of, PROJECT["dependencies"])}
    assert found["pandas"] == importlib.metadata.version("pandas") and found["gseapy"]


def test_what_is_installed_and_cannot_be_imported_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("raise ValueError('numpy.dtype size changed\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    assert import_error("broken") == "ValueError: numpy.dtype size changed" and import_error("numpy") is None
    found = importable(Need("broken>=1", "1.0", None))
    assert found.problem == "cannot be imported (ValueError: numpy.dtype size changed)"
    absent = Need("broken>=1", None, "not installed")
    assert importable(absent) == absent
    assert all(importable(check(one)).problem is None for one in REQUIRED)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_demos_environment_holds_what_the_demo_needs_only(tmp_path):
    def commands(target):
        command = ["make", "-n", target, f"PYTHON={sys.executable}"]
        place = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
        return subprocess.run(command, cwd=ROOT, env=place, capture_output=True, text=True, check=True).stdout

    assert "Adding packages" not in commands("demo") + commands("python")
    for target, extras in (("test", "dev image notebook"), ("docs", "docs"), ("notebooks", "notebook image")):
        assert f'(once): {extras}"' in commands(target)
