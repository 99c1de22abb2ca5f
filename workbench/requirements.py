"""What the workbench needs to be installed, what of it is, and the commands that bring the rest.

Versions are read from the metadata of installed packages; what is required is also imported, when `importable` is asked.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from itertools import zip_longest
from operator import eq, ge, lt
from pathlib import Path

from workbench.machine import first_line

ROOT = Path(__file__).resolve().parents[1]
# As in pyproject.toml, which an installed package does not carry; a test holds them together.
REQUIRED = (
    "anndata>=0.12.10", "einops>=0.8", "filelock>=4.1", "gseapy>=1.3.1", "h5py>=3.11", "jaxtyping>=0.3", "joblib>=1.4",
    "numba>=0.60", "numpy>=2.0", "pandas>=2.2.2", "plotly>=6", "psutil>=5.9", "pyarrow>=14", "pydantic>=2.7",
    "pynndescent>=0.5.13", "pyyaml>=6.0.1", "safetensors>=0.4", "scanpy>=1.10", "scikit-learn>=1.7", "scipy>=1.15", "shtab>=1.13",
    "threadpoolctl>=3.1", "torch>=2.6", "tqdm>=4.66", "transformer-lens>=3.9", "umap-learn>=0.5.6", "zarr>=3.1",
)  # fmt: skip
# Its data alone are read, and what it asks for holds pandas back.
LIANA = ("--no-deps", "liana>=1.10")
# Feature, its packages, and what brings them: an extra of pyproject.toml, or arguments of pip.
OPTIONAL: tuple[tuple[str, tuple[str, ...], str | tuple[str, ...]], ...] = (
    ("parity with upstream scGPT", ("scgpt==0.2.4",), ("--no-deps", "scgpt==0.2.4")),
    ("sweeps on a Dask cluster", ("distributed>=2024.8",), "dask"),
    ("explorer in Jupyter", ("anywidget>=0.9",), "notebook"),
    ("notebooks", ("ipykernel>=6", "jupytext>=1.16", "nbclient>=0.10"), "notebook"),
    ("figures as SVG or PNG", ("kaleido>=1.0",), "image"),
    (
        "peers of the benchmark",
        ("celltypist>=1.7", "igraph>=0.11", "palantir>=1.4", "sctop>=2.0.3", "scvi-tools>=1.3"),
        "peers",
    ),
    ("training of sparse dictionaries", ("sae-lens>=6.54",), "dictionaries"),
    ("ruler of communication between cells", LIANA[1:], LIANA),
    ("documentation", ("furo>=2025.1", "myst-parser>=4", "sphinx>=8"), "docs"),
    (
        "tests and checks",
        ("beartype>=0.19", "mypy>=1.10", "pytest>=8", "ruff>=0.6", "sae-lens>=6.54", "scikit-dimension>=0.5"),
        "dev",
    ),
    ("tests in a browser", ("playwright",), ("playwright",)),
)
# Modules of distributions that are named otherwise.
_MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn", "transformer-lens": "transformer_lens", "umap-learn": "umap"}
# Packages that also need a browser, and what fetches one for them.
FETCH_BROWSER = {"kaleido": "plotly_get_chrome", "playwright": "playwright install chromium"}
_BROWSERS = ("google-chrome", "google-chrome-stable", "chrome", "chromium", "chromium-browser")


@dataclass(frozen=True)
class Need:
    """Something that is needed.

    Attributes
    ----------
    what
        Requirement such as ``numpy>=2,<3``, or a program's name.
    found
        Version or path that was found; None where there is none.
    problem
        What is wrong, to follow the name in a sentence; None where nothing is.
    """

    what: str
    found: str | None
    problem: str | None


@dataclass(frozen=True)
class Feature:
    """An optional feature.

    Attributes
    ----------
    name
        What it is for, in a few words.
    needs
        Packages and programs that it takes.
    install
        Commands that bring what is lacking; none where it works.
    """

    name: str
    needs: tuple[Need, ...]
    install: tuple[str, ...]

    @property
    def works(self) -> bool:
        """Whether all that it needs was found."""
        return not any(need.problem for need in self.needs)


def installed(name: str) -> str | None:
    """Version of an installed distribution, without importing it; None when it is not there.

    Parameters
    ----------
    name
        Name of the distribution, such as ``umap-learn``; not that of its module.
    """
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check(requirement: str, find: Callable[[str], str | None] = installed) -> Need:
    """Whether an installed package is of a version that is needed.

    Parameters
    ----------
    requirement
        Name and bounds (``>=``, ``<``, ``==``), as in ``numpy>=2,<3``.
    find
        Function from a name to its version, or to None where it is not there.

    Examples
    --------
    >>> from workbench.requirements import check
    >>> check("numpy>=2,<3", find=lambda name: "3.1").problem
    'here in version 3.1'
    """
    found = find(name_of(requirement))
    if found is None:
        return Need(requirement, None, "not installed")
    tests = {">=": ge, "<": lt, "==": eq}
    bounds = re.findall(r"(>=|<|==)([\d.]+)", requirement)
    fits = all(tests[how](*_releases(found, bound)) for how, bound in bounds)
    return Need(requirement, found, None if fits else f"here in version {found}")


def importable(need: Need) -> Need:
    """Import an installed package, since versions that fit one by one may not fit together.

    Parameters
    ----------
    need
        What `check` found; comes back as it is where it has a problem already.
    """
    if need.problem:
        return need
    name = name_of(need.what)
    error = import_error(_MODULES.get(name, name))
    return need if error is None else Need(need.what, need.found, f"cannot be imported ({error})")


def import_error(module: str) -> str | None:
    """Import a module; kind and first line of the error, or None where there is none.

    Parameters
    ----------
    module
        Name of the module, as after ``import``; what it raises is caught.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import_module(module)
    # A broken installation may raise anything.
    except Exception as error:
        return first_line(error)
    return None


def read_features(
    find: Callable[[str], str | None] = installed, browser: Callable[[str], str | None] | None = None
) -> tuple[Feature, ...]:
    """What each optional feature needs and lacks.

    Parameters
    ----------
    find
        Function from a name to its version, as in `check`.
    browser
        From the name of a package to the browser that it can use; `find_browser` when None.
    """
    features = []
    for name, packages, source in OPTIONAL:
        needs = [check(package, find) for package in packages]
        lacking = any(need.problem for need in needs)
        install = [extra(source) if isinstance(source, str) else pip(*source)] if lacking else []
        for package in FETCH_BROWSER.keys() & {name_of(one) for one in packages}:
            place = (browser or find_browser)(package)
            needs.append(Need("Chrome or Chromium", place, None if place else "not found"))
            install += [] if place else [FETCH_BROWSER[package]]
        features.append(Feature(name, tuple(needs), tuple(install)))
    return tuple(features)


def find_browser(package: str) -> str | None:
    """Path of a Chrome or Chromium: named by BROWSER_PATH, installed, or fetched for the package.

    Parameters
    ----------
    package
        Package that is to use it: ``kaleido`` or ``playwright``.
    """
    named = os.environ.get("BROWSER_PATH")
    mac = [f"/Applications/{name}.app/Contents/MacOS/{name}" for name in ("Google Chrome", "Chromium")]
    for name in (*([named] if named else []), *_BROWSERS, *mac):
        if path := shutil.which(name):
            return path
    if package == "playwright":
        caches = [Path.home() / ".cache" / "ms-playwright", Path.home() / "Library" / "Caches" / "ms-playwright"]
        named = os.environ.get("PLAYWRIGHT_BROWSERS_PATH")
        fetched = [path for cache in ([Path(named)] if named else caches) for path in sorted(cache.glob("chromium-*"))]
        return str(fetched[0]) if fetched else None
    try:
        return import_module("choreographer.browsers.chromium").Chromium.find_browser(skip_local=False)
    # It is there with kaleido alone, and what it raises is no concern of who asks.
    except Exception:
        return None


def pip(*arguments: str) -> str:
    """Command that installs into the environment that runs this.

    Parameters
    ----------
    *arguments
        Arguments of ``pip install``; quoted for a shell where need be.
    """
    found = shutil.which("pip")
    own = found is not None and Path(found).parent == Path(sys.executable).parent
    command = ["pip"] if own else [sys.executable, "-m", "pip"]
    return shlex.join([*command, "install", *arguments])


def extra(name: str) -> str:
    """Command that installs an extra: from the checkout where there is one, otherwise from the index.

    Parameters
    ----------
    name
        Name of the extra in ``pyproject.toml``; whether it exists is not checked.
    """
    if not (ROOT / "pyproject.toml").is_file():
        return pip(f"scgpt-workbench[{name}]")
    place = Path(".") if Path.cwd() == ROOT else ROOT
    # CellTypist needs an older scikit-learn than the rest.
    constraints = "constraints-peers.txt" if name == "peers" else "constraints.txt"
    return pip("-e", f"{place}[{name}]", "-c", str(place / constraints))


def name_of(requirement: str) -> str:
    """Name of the distribution in a requirement such as ``numpy>=2,<3``.

    Parameters
    ----------
    requirement
        Name, with or without bounds.
    """
    return re.split("[<>=]", requirement)[0]


def _releases(*versions: str) -> tuple[tuple[int, ...], ...]:
    """Release numbers of versions, padded to one length: 2 is 2.0, and 2.6.0+cpu is 2.6."""
    parts = [re.match(r"\d+(?:\.\d+)*", version) for version in versions]
    numbers = [[int(number) for number in part[0].split(".")] if part else [0] for part in parts]
    return tuple(zip(*zip_longest(*numbers, fillvalue=0), strict=True))
