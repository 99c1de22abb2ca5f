"""Refits of the LET adaptor to relabelled stages, to the same optimum: the workbench's compiled fit against SciPy's L-BFGS-B.

The peer minimises the same compiled loss from the same start, on one core, until the norm of the gradient is the same share of that at
the start. Anchors are noisy copies of stages whose features' variances fall as those of an operator do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import Result, Side, Sizes, arguments, compared, measure, serve, show, versions
from scipy.optimize import minimize

from workbench.evidence.holdout import relabelled
from workbench.operators.let import loss, minimised, weights_of
from workbench.threads import one_thread, threaded

SIZES: Sizes = {"anchors": 48, "features": 200, "stages": 10, "k": 10, "fits": 40}
FULL: Sizes = {**SIZES, "anchors": 298, "features": 1200, "stages": 34, "fits": 4}
TOY: Sizes = {"anchors": 12, "features": 20, "stages": 4, "k": 3, "fits": 2}
ALPHA, BETA, TOL, STEPS = 0.1, 1 / np.pi, 1e-6, 20_000
PEER = "SciPy's L-BFGS-B on the same loss"

Ready = tuple[np.ndarray, list[np.ndarray], Sizes]


def prepare(sizes: Sizes) -> Ready:
    """Make anchors on their principal axes, and distances of stages relabelled again and again.

    Parameters
    ----------
    sizes
        Sizes.
    """
    rng, n = np.random.default_rng(0), sizes["anchors"]
    stage = np.arange(n) % sizes["stages"]
    noise = rng.standard_normal((n, sizes["features"]))
    x = (rng.standard_normal((sizes["stages"], sizes["features"]))[stage] + 0.5 * noise) * 0.9 ** np.arange(
        sizes["features"]
    )
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    kept = s > s[0] * 1e-10
    points = u[:, kept] * s[kept] / np.sqrt((s**2).sum() / n)
    labels = [relabelled(stage, 0, draw) for draw in range(sizes["fits"])]
    return points, [np.abs(np.subtract.outer(one, one)) / (sizes["stages"] - 1) for one in labels], sizes


def ours(ready: Ready) -> Result:
    """Fit all, in as many threads as there are.

    Parameters
    ----------
    ready
        From `prepare`.
    """
    points, targets, sizes = ready
    given: dict[str, Any] = {"k": sizes["k"], "alpha": ALPHA, "beta": BETA, "steps": STEPS, "tol": TOL}
    found = threaded(lambda distances: minimised(points, distances, None, **given), targets)
    return _result([(one.stress + one.reconstruction, one.n_iter, one.gradient) for one in found])


def peer(ready: Ready) -> Result:
    """Fit one after the other.

    Parameters
    ----------
    ready
        From `prepare`.
    """
    points, targets, sizes = ready
    k, axes, found = sizes["k"], points.shape[1], []
    weights = weights_of(None, len(points))

    def fit(distances: np.ndarray) -> tuple[float, int, float]:
        def both(flat: np.ndarray) -> tuple[float, np.ndarray]:
            stress, rebuilt, gradient = loss(flat, k, points, distances, *weights, BETA, ALPHA)
            return stress + rebuilt, gradient

        start = np.concatenate([np.eye(k, axes).ravel(), np.zeros(axes)])
        first = np.linalg.norm(both(start)[1])

        def enough(intermediate_result: Any) -> None:
            if (
                np.linalg.norm(
                    intermediate_result.jac if "jac" in intermediate_result else both(intermediate_result.x)[1]
                )
                <= TOL * first
            ):
                raise StopIteration

        options = {"maxiter": STEPS, "maxfun": 10 * STEPS, "maxcor": 20, "ftol": 0, "gtol": 0}
        done = minimize(both, start, jac=True, method="L-BFGS-B", callback=enough, options=options)
        return done.fun, done.nit, float(np.linalg.norm(both(done.x)[1]) / first)

    with one_thread():
        found = [fit(distances) for distances in targets]
    return _result(found)


def _result(found: list[tuple[float, int, float]]) -> Result:
    return {
        name: np.array(values)
        for name, values in zip(("loss", "steps", "gradient"), zip(*found, strict=True), strict=True)
    }


SIDES = {"ours": Side(prepare, ours, lambda _, found: found), "peer": Side(prepare, peer, lambda _, found: found)}


def report(figures: dict[str, dict[str, Any]], results: dict[str, Result], sizes: Sizes) -> dict[str, Any]:
    """Check that ours are at an optimum as deep, and put the figures together.

    Parameters
    ----------
    figures, results
        As `measure` gives them.
    sizes
        What was measured.
    """
    one, other = results["ours"], results["peer"]
    if one["gradient"].max() > TOL or one["loss"].mean() > other["loss"].mean() * 1.02:
        raise SystemExit(
            f"Ours ends at a gradient of {one['gradient'].max():g} and a mean loss of {one['loss'].mean():g}; the peer at {other['loss'].mean():g}."
        )
    same = np.abs(one["loss"] - other["loss"]) < 1e-6
    return {
        "what": "adaptor: refits to relabelled stages, each to a gradient of a millionth of that at its start",
        "bounds": {"ratio": "at least 5"},
        "data": "synthetic anchors",
        **compared(figures, sizes, PEER),
        "sizes": {name: sizes[name] for name in SIZES},
        "more": {
            "same optimum": f"{same.sum()} of {len(same)} fits",
            "steps, median": f"{np.median(one['steps']):.0f} against {np.median(other['steps']):.0f}",
            "fits of the peer that reach the tolerance": f"{(other['gradient'] <= TOL * 1.01).sum()} of {len(same)}",
        },
        "versions": versions("scipy", "numpy", "numba"),
    }


def main() -> None:
    options = arguments(
        __doc__, threads={"type": int, "default": 1, "help": "threads of BLAS for either side (default: 1)"}
    )
    if options.serve:
        return serve(SIDES, options.serve)
    outer = 1 if options.full else 2
    sizes = {**(FULL if options.full else SIZES), "threads": options.threads}
    figures, results = measure(__file__, [["ours"], ["peer"]], sizes, TOY, outer)
    show(report(figures, results, {**sizes, "repetitions": outer}), options.json)


if __name__ == "__main__":
    main()
