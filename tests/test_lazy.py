"""Names that packages lend from their modules."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

import workbench

PACKAGES = [name for name in workbench._PACKAGES if hasattr(import_module(f"workbench.{name}"), "__getattr__")]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_that_a_package_lists_is_there(package):
    room = getattr(workbench, package)
    assert [getattr(room, name) for name in dir(room)]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_is_never_that_of_a_module_of_the_same_package(package):
    # Python puts a module into its package under its own name, which would hide the other.
    room = getattr(workbench, package)
    get = room.__getattr__
    where = dict(zip(get.__code__.co_freevars, (cell.cell_contents for cell in get.__closure__), strict=True))["where"]
    files = {file.stem for place in room.__path__ for file in Path(place).glob("*.py")}
    assert not set(where) & files


def test_a_name_that_is_not_there_is_refused():
    with pytest.raises(AttributeError, match="module 'workbench.cells' has no attribute 'lod'; it has make_anchors"):
        _ = workbench.cells.lod
