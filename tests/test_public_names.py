"""The package's own names, and that importing it is quick."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import workbench


@pytest.mark.parametrize("name", workbench.__all__)
def test_every_public_name_resolves(name):
    value = getattr(workbench, name)
    if name == "__version__":
        assert isinstance(value, str)
    else:
        assert value.__name__ == name and value.__doc__


def test_public_names_are_listed_and_unknown_ones_refused():
    assert set(workbench.__all__) <= set(dir(workbench))
    with pytest.raises(AttributeError, match="module 'workbench' has no attribute 'lod'; it has load_model"):
        _ = workbench.lod
    assert not hasattr(workbench, "__path_of_nothing__")


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, workbench, workbench.cli, workbench.errors\n"
        "print(*(m for m in ('torch', 'numpy', 'scanpy', 'anndata', 'pandas', 'sklearn', 'numba') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_version_stands_in_one_place_and_what_cites_it_agrees():
    root = Path(__file__).resolve().parents[1]
    whole = tomllib.loads((root / "pyproject.toml").read_text())
    assert whole["project"]["dynamic"] == ["version"] and "version" not in whole["project"]
    assert whole["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "workbench.__version__"}
    assert yaml.safe_load((root / "CITATION.cff").read_text())["version"] == workbench.__version__
    assert f"\n## {workbench.__version__}" in (root / "CHANGELOG.md").read_text()
