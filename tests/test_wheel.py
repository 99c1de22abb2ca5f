"""A wheel holds all that the core features need: it is built, put into a folder of its own, and used from elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

import workbench

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "panel.size=30",
    "anchors.parts=4",
    "adaptor.k=3",
    "adaptor.steps=20",
    "evaluation.folds=2",
    "evaluation.holdouts=2",
)
SMALL += ("evaluation.permutations=3", "evaluation.refits=2", "evaluation.head_refits=1", "evaluation.control_draws=2")

pytestmark = pytest.mark.slow


def python(*arguments, **more):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=True, **more)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that neither old builds are taken for sources nor new ones left among them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "workbench", source / "workbench", ignore=shutil.ignore_patterns("__pycache__"))
    python("-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    python("-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--quiet", "--target", target, wheel)
    return target


@pytest.fixture
def command(installed, tmp_path):
    """The installed command, in a working folder that is no checkout."""

    def go(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        return python("-m", "workbench", *arguments, cwd=tmp_path, env=environment)

    return go


def test_every_file_of_the_package_is_in_the_wheel_and_nothing_else(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for path in (ROOT / "workbench").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert held == {path.relative_to(ROOT).as_posix() for path in files}


def test_its_metadata(installed):
    found = Distribution.at(next(installed.glob("*.dist-info")))
    assert found.version == workbench.__version__ and found.metadata["Name"] == "scgpt-workbench"
    needs = [one for one in found.requires or [] if "extra ==" not in one]
    assert needs and not any(one.startswith(("pytest", "ruff", "mypy", "sphinx", "jupytext")) for one in needs)
    assert [(one.name, one.value) for one in found.entry_points] == [("workbench", "workbench.cli:main")]


def test_it_says_what_it_is(command, installed):
    assert command("--version").stdout == f"workbench {workbench.__version__}\n" and "run" in command("--help").stdout
    said = command("doctor").stdout
    assert "All that is required works." in said and f"workbench {workbench.__version__} in {installed}" in said


@pytest.fixture(scope="module")
def empty(wheel, tmp_path_factory):
    """An environment of its own with the wheel and what it needs at the pinned versions, from wherever pip is told to look."""
    place = tmp_path_factory.mktemp("empty")
    python("-m", "venv", place)
    binaries = place / ("Scripts" if os.name == "nt" else "bin")
    pip = [binaries / "python", "-m", "pip", "install", "--no-compile", "--quiet"]
    done = subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", wheel], capture_output=True, text=True)
    unreached = (
        "NewConnectionError",
        "Could not fetch URL",
        "No matching distribution",
        "ReadTimeout",
        "ConnectTimeout",
    )
    if done.returncode and any(one in done.stderr for one in unreached):
        pytest.skip(f"pip reaches no index that has all packages: {done.stderr.strip().splitlines()[-1]}")
    assert not done.returncode, done.stderr
    return binaries


@pytest.mark.timeout(1800)
def test_an_empty_environment_needs_the_wheel_alone(empty, tmp_path):
    # Nothing of this environment or checkout may help.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def go(*arguments):
        return subprocess.run(
            list(map(str, arguments)), capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
        ).stdout

    listed = go(empty / "python", "-m", "pip", "list", "--format", "freeze").lower()
    assert "scgpt-workbench" in listed
    assert not [
        one for one in ("pytest", "ruff", "mypy", "sphinx", "jupytext", "scgpt==") if f"\n{one}" in f"\n{listed}"
    ]
    assert go(empty / "workbench", "--version") == f"workbench {workbench.__version__}\n"
    assert "All that is required works." in go(empty / "workbench", "doctor")
    assert "layers" in go(empty / "workbench", "inspect", ROOT / "artifacts" / "scgpt-blood-mini")


def test_the_demo_runs_from_it_in_its_smallest_form(command, tmp_path):
    sets = [part for one in SMALL for part in ("--set", one)]
    done = command("run", ROOT / "experiments" / "demo.yaml", "--out", "out", *sets)
    assert "Report: " in done.stdout
    report = tmp_path / "out" / "report.html"
    assert report.stat().st_size > 100_000 and (tmp_path / "out" / "algorithm").is_dir()
    command("figures", "out", "--only", "heads")
    command("clean", "out", "--stages")
    command("figures", "out", "--only", "heads")
