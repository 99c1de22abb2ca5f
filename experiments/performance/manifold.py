"""Intrinsic dimension and trustworthiness: one shared neighbour search against scikit-dimension and scikit-learn.

The points lie near a curved 8-dimensional manifold in 50 dimensions, and their embedding is that of two principal
components. Both sides give TwoNN, the maximum likelihood, local PCA, the correlation integral and trustworthiness at one
k. The peer is each library's own function alone, as its users call it. Beyond some ten thousand points the peer's
memory, which grows with their square, decides: 20,000 need about 10 GiB.
"""

from __future__ import annotations

import importlib.util
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from common import Result, Side, Sizes, arguments, compared, measure, serve, show, versions

from workbench.geometry.dimension import correlation_dimension, likelihood, pca_local, two_nn
from workbench.geometry.neighbors import find_neighbors
from workbench.geometry.quality import trustworthiness

SIZES: Sizes = {"points": 6_000, "features": 50, "dimension": 8, "k": 20, "k1": 10, "trust_k": 15}
FULL: Sizes = {**SIZES, "points": 20_000}
TOY: Sizes = {"points": 300}
PEER = "scikit-dimension and scikit-learn"
PARTS = ("neighbours", "TwoNN", "maximum likelihood", "local PCA", "correlation integral", "trustworthiness")

Ready = tuple[np.ndarray, np.ndarray, Sizes]


def require_peer() -> None:
    """Stop with a sentence where scikit-dimension is not installed."""
    if importlib.util.find_spec("skdim") is None:
        print(
            "This comparison needs scikit-dimension, which is not installed. Install it with: "
            "pip install scikit-dimension==0.5.0",
            file=sys.stderr,
        )
        raise SystemExit(2)


def prepare(sizes: Sizes) -> Ready:
    """Make points and their embedding, the same in every process.

    Parameters
    ----------
    sizes
        Sizes.
    """
    rng = np.random.default_rng(0)
    z = rng.uniform(-1, 1, (sizes["points"], sizes["dimension"]))
    curved = np.hstack([z, np.sin(2 * z), z * np.roll(z, 1, axis=1)])
    x = curved @ rng.standard_normal((curved.shape[1], sizes["features"])) / np.sqrt(curved.shape[1])
    x += 0.01 * rng.standard_normal(x.shape)
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return x, np.ascontiguousarray(u[:, :2] * s[:2]), sizes


def timed(parts: dict[str, Callable[[], float]]) -> np.ndarray:
    """Value and seconds of each part, in the order of `PARTS`; NaN and 0 for one that is not there.

    Parameters
    ----------
    parts
        By name.
    """
    found = np.full((len(PARTS), 2), [np.nan, 0.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, part in parts.items():
            start = time.perf_counter()
            value = part()
            found[PARTS.index(name)] = value, time.perf_counter() - start
    return found


def ours(ready: Ready) -> np.ndarray:
    """All measures from one neighbour search.

    Parameters
    ----------
    ready
        From `prepare`.
    """
    x, y, sizes = ready
    kept: list[Any] = []

    def search() -> float:
        kept.append(find_neighbors(x, sizes["k"], approximate=False, seed=0))
        return float("nan")

    return timed(
        {
            "neighbours": search,
            "TwoNN": lambda: two_nn(kept[0]),
            "maximum likelihood": lambda: likelihood(kept[0]),
            "local PCA": lambda: float(pca_local(x, kept[0]).mean()),
            "correlation integral": lambda: correlation_dimension(x, kept[0], k1=sizes["k1"], k2=sizes["k"], n_radii=2),
            "trustworthiness": lambda: float(trustworthiness(x, y, sizes["trust_k"]).mean()),
        }
    )


def peer(ready: Ready) -> np.ndarray:
    """The same by each library's own function.

    Parameters
    ----------
    ready
        From `prepare`.
    """
    from skdim import id as skdim
    from sklearn import manifold

    x, y, sizes = ready
    k = sizes["k"]
    return timed(
        {
            "TwoNN": lambda: skdim.TwoNN().fit(x).dimension_,
            "maximum likelihood": lambda: skdim.MLE().fit(x, n_neighbors=k).dimension_,
            "local PCA": lambda: skdim.lPCA().fit_pw(x, n_neighbors=k).dimension_pw_.mean(),
            "correlation integral": lambda: skdim.CorrInt(k1=sizes["k1"], k2=k).fit(x).dimension_,
            "trustworthiness": lambda: manifold.trustworthiness(x, y, n_neighbors=sizes["trust_k"]),
        }
    )


def finish(_: Ready, found: np.ndarray) -> Result:
    """Values and seconds apart.

    Parameters
    ----------
    found
        From either side.
    """
    return {"values": found[:, 0], "seconds": found[:, 1]}


SIDES = {"ours": Side(prepare, ours, finish), "peer": Side(prepare, peer, finish)}


def report(figures: dict[str, dict[str, Any]], results: dict[str, Result], sizes: Sizes) -> dict[str, Any]:
    """Check that the sides agree and put their figures together.

    Parameters
    ----------
    figures, results
        As `measure` gives them.
    sizes
        What was measured.
    """
    one, other = (results[side]["values"][1:] for side in ("ours", "peer"))
    difference = np.abs(one - other) / np.abs(other)
    # A pair within rounding of a radius may be counted on one side only.
    if not (difference < 1e-6).all():
        worst = PARTS[1 + int(np.argmax(np.where(np.isnan(difference), np.inf, difference)))]
        raise SystemExit(
            f"The two sides differ in {worst} by a share of {np.nanmax(difference):g}; nothing was compared."
        )
    more: dict[str, Any] = {"greatest relative difference": float(difference.max())}
    for i, name in enumerate(PARTS):
        a, b = (results[side]["seconds"][i] for side in ("ours", "peer"))
        value = f", value {results['peer']['values'][i]:.4f}" if i else ""
        more[name] = f"{a:10.3f} s against {b:.3f} s{value}" if i else f"{a:10.3f} s, shared"
    return {
        "what": "manifold: four dimension estimates and trustworthiness of the same points",
        "bounds": {"ratio": "at least 3"},
        "data": "synthetic: a curved manifold with noise",
        **compared(figures, sizes, PEER),
        "sizes": {name: sizes[name] for name in SIZES},
        "greatest_difference": float(difference.max()),
        "more": more,
        "versions": versions("scikit-dimension", "scikit-learn", "numpy", "numba"),
    }


def main() -> None:
    options = arguments(
        __doc__,
        threads={"type": int, "default": 1, "help": "threads of BLAS and OpenMP for either side (default: 1)"},
        points={"type": int, "help": "points (default: 6,000; 20,000 with --full)"},
    )
    require_peer()
    if options.serve:
        return serve(SIDES, options.serve)
    outer = 1 if options.full else 2
    sizes = {**(FULL if options.full else SIZES), "threads": options.threads}
    sizes["points"] = options.points or sizes["points"]
    figures, results = measure(__file__, [["ours"], ["peer"]], sizes, TOY, outer)
    show(report(figures, results, {**sizes, "repetitions": outer}), options.json)


if __name__ == "__main__":
    main()
