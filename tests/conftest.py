"""Shape checks, and what several tests read but never change."""

from __future__ import annotations

import gc
import inspect
from pathlib import Path

import numba
import pytest
import shape_checks
import torch
from browser import browser_page, chromium  # noqa: F401
from jaxtyping import config as shape_config

TESTS = Path(__file__).resolve().parent
SHARED_DATA = TESTS.parents[1] / "shared" / "data"
# Files whose tests take longest: the first, so that no worker is left with one when the others have ended.
LONGEST = (
    # Of the slow tier, with few fast tests.
    "test_notebooks.py",
    "test_rehearsal.py",
    "planted/test_proof.py",
    "planted/test_dictionary.py",
    "recipes/geometry/test_recipe.py",
    # Of the fast tier, and of both.
    "recipes/gates/test_recipe.py",
    "recipes/run/test_run.py",
    "test_performance_scripts.py",
    "operators/test_estimator.py",
    "tools/test_tools.py",
    "dictionaries/test_training.py",
    "recipes/run/test_factors.py",
    "recipes/run/test_invariance.py",
    "recipes/ablate/test_recipe.py",
    "ablation/test_effects.py",
    "habits/test_scanpy.py",
    "recipes/benchmark/test_recipe.py",
    "recipes/benchmark/test_benchmark.py",
    "test_docs.py",
    "ablation/test_attribution.py",
    "engine/test_report_in_browser.py",
    "recipes/run/test_keys.py",
    "engine/test_sweep.py",
    "recipes/gates/test_operators.py",
    "recipes/manifold/test_recipe.py",
    "capture/test_resume.py",
)


def _njit_of_plain_functions(njit):
    def wrapped(*args, **options):
        if args and callable(args[0]):
            return compiled(args[0], *args[1:], **options)
        return lambda function: compiled(function, *args, **options)

    def compiled(function, *args, **options):
        # The import hook below decorates every function innermost; numba can compile only what lies under that.
        function = inspect.unwrap(function)
        # These take seconds to compile, in every process; numba keeps them beside their sources, in the environment.
        if function.__module__.partition(".")[0] in ("umap", "pynndescent"):
            options = {"cache": True, **options}
        return njit(*args, **options)(function)

    return wrapped


# Both before workbench is imported: shapes are checked in tests and cost nothing elsewhere.
numba.njit = _njit_of_plain_functions(numba.njit)
shape_checks.install(
    [
        f"workbench.{room}"
        for room in ("models", "capture", "ablation", "geometry", "operators", "factors", "dictionaries")
    ]
)
torch.set_num_threads(1)


def pytest_configure(config):
    config.addinivalue_line(
        "markers",
        "shared_data(*files): needs these files of ../shared/data; skipped, with the reason, where they are not",
    )
    config.addinivalue_line(
        "markers", "gpu: needs a CUDA card; skipped where torch sees none; `make test-gpu` runs these"
    )
    # Many tests cut fits short, for which their few steps suffice.
    config.addinivalue_line("filterwarnings", "ignore:LET stopped before its optimum")


def pytest_collection_modifyitems(items):
    # Stable, so that the others stay as they are; `make test` deals files out in this order.
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.relative_to(TESTS).as_posix(), len(place)))


def pytest_collection_finish(session):
    # What was imported stays; a collection need not look at it again.
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    # Compiled loops of other packages that start threads give torch as many, whose OpenMP is the same library.
    torch.set_num_threads(1)
    for mark in item.iter_markers("shared_data"):
        absent = [name for name in mark.args if not (SHARED_DATA / name).is_file()]
        if absent:
            pytest.skip(f"needs {', '.join(absent)} in {SHARED_DATA}, which is not there")
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA card, and torch sees none")


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real data for tests; use it with the `shared_data` marker, which skips openly."""
    return SHARED_DATA


@pytest.fixture(scope="session")
def pbmc68k():
    """The 700 real cells that ship with scanpy. Read only."""
    from workbench.cells.datasets import load

    return load("pbmc68k")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """Folder of a tiny random checkpoint. Read only: copy it to break it."""
    from helpers import tiny_model

    from workbench.models.scgpt.checkpoint import save_checkpoint

    return save_checkpoint(tiny_model(seed=3), tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def upstream():
    """scGPT's own `TransformerModel`, the oracle; a skip with its reason, or a failure in CI, where it is not installed."""
    from helpers import require_upstream

    return require_upstream("model.model").TransformerModel


@pytest.fixture
def eager_upstream(upstream):
    """`upstream` with torch's fused encoder layer off, so that its submodules are called and can be listened to."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield upstream
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.fixture
def without_shape_checks():
    """As users run it: our own sentence about a wrong shape instead of jaxtyping's, which comes first in tests."""
    shape_config.update("jaxtyping_disable", True)
    yield
    shape_config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def few_null_rulers():
    """Nine null rulers at p = 0.1 instead of 99 at 0.01, and few draws beside trustworthiness, for tests of what goes round the gates."""
    from workbench.evidence import gates as module
    from workbench.evidence.gate_spec import GateSpec

    spec = GateSpec(null_rulers=9, null_p=0.1, random_splits=3)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("first_five", "evaluate"):
            function = getattr(module, name)
            function = getattr(function, "__wrapped__", function)
            patch.setitem(function.__kwdefaults__, "spec", spec)
        patch.setattr(module, "_TRUST_NULL", 4)
        yield
