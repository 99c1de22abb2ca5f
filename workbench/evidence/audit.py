"""The audit that no method depends on the cells that it is judged on, nor on which of them it is asked about at once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int

from workbench.cells.placed import PlacedCells
from workbench.engine.fingerprint import UnknownError, fingerprint
from workbench.evidence.measure import ended, reason
from workbench.evidence.methods import Listed
from workbench.evidence.protocol import Predictions, Training, Trial
from workbench.seeds import generator

OK, LEAKING = "ok", "leaks"
RANDOM = (
    "not run: two fits to the same cells predict differently, by chance without a seed or by what it remembers, so it cannot be "
    "audited"
)
KEPT = "not run: its class, or what its code reads outside, is changed by a fit and kept for the next one, of which other cells are held out"
# By what the audit found: why the campaign does not judge the method.
REFUSED = {LEAKING: "not run: it depends on the cells that it is judged on (audit)", RANDOM: RANDOM, KEPT: KEPT}
# Relative to the largest value: more than rounding, less than anything that matters.
_SAME = 1e-4
# What a cell is held out by; noise in it would hold out other cells.
_KEPT = ("donor", "group", "fold")


def audit(listed: Listed, trial: Trial, other: Training) -> dict[str, Any]:
    """Compare what a method predicts after being fitted on either of two training sides that should be the same.

    Parameters
    ----------
    listed
        The method, which is fitted twice.
    trial
        The split as it is.
    other
        Its training side, made from cells of which the held-out ones are noise.

    Returns
    -------
    dict
        ``depends_on_test``: greatest difference of predictions between both fits, over the largest value;
        ``depends_on_company``: the same between every other cell asked about alone and among all; ``status``: ``ok``,
        ``leaks``, `RANDOM`, `KEPT`, or why it could not be audited.
    """
    found = {"depends_on_test": np.nan, "depends_on_company": np.nan}
    test, before = trial.test, _outside(listed)
    try:
        with ended(fitted := listed.method.fit(trial.train)):
            whole, half = fitted.predict(test), fitted.predict(every_other(test))
        # The gene panel is part of what is chosen: with another one, nothing can be compared.
        if other.cells.genes != trial.train.cells.genes:
            return {**found, "depends_on_test": np.inf, "status": LEAKING}
        with ended(fitted := listed.method.fit(other)):
            again = fitted.predict(test)
        found = {"depends_on_test": _difference(whole, again), "depends_on_company": _difference(_thinned(whole), half)}
        if _outside(listed) != before:
            return {**found, "status": KEPT}
        if max(found.values()) <= _SAME:
            return {**found, "status": OK}
        # Before it is accused: what differs between fits to the same cells anyway is not owed to the test side.
        with ended(fitted := listed.method.fit(trial.train)):
            by_chance = _difference(whole, fitted.predict(test)) > _SAME
    except Exception as error:
        return {**found, "status": reason(error)}
    return {**found, "status": RANDOM if by_chance else LEAKING}


def _outside(listed: Listed) -> str:
    """Hash of what a user's method is copied from, and of all that its code reads; empty where it cannot be known."""
    if listed.identity:
        with suppress(UnknownError):
            return fingerprint(listed.method)
    return ""


def replaced_by_noise(cells: PlacedCells, rows: Int[np.ndarray, " row"], seed: int) -> PlacedCells:
    """The same cells, of which some hold other cells' values, of other genes, under other labels.

    Parameters
    ----------
    cells
        Cells before anything is chosen or fitted.
    rows
        Numbers of the cells to replace, which keep their donors; nothing fitted without them can change by it.
    seed
        Seed of all the permutations.
    """
    rng = generator(seed, "benchmark audit")
    gene, obs = rng.permutation(len(cells.genes)), cells.obs.copy()
    order = rng.permutation(rows)
    kept = np.ones(len(cells), dtype=bool)
    kept[rows] = False

    def noisy(matrix: sp.csr_matrix) -> sp.csr_matrix:
        rest = sp.csr_matrix(sp.diags(kept.astype(matrix.dtype)) @ matrix)
        place = sp.csr_matrix((np.ones(len(rows), dtype=matrix.dtype), (rows, order)), shape=(len(kept), len(kept)))
        return sp.csr_matrix(rest + place @ matrix[:, gene])

    for column in sorted(set(map(str, obs)) - set(_KEPT)):
        values = obs[column].to_numpy().copy()
        values[rows] = rng.permutation(values[rows])
        obs[column] = values
    embeddings = {name: array.copy() for name, array in cells.embeddings.items()}
    for name, array in embeddings.items():
        array[rows] = rng.permutation(cells.embeddings[name][order], axis=1)
    counts = None if cells.counts is None else noisy(cells.counts)
    return replace(cells, obs=obs, expression=noisy(cells.expression), counts=counts, embeddings=embeddings)


def every_other(cells: PlacedCells) -> PlacedCells:
    """Every other cell, the first among them.

    Parameters
    ----------
    cells
        Cells in any order, which is kept.
    """
    return cells.take(np.arange(0, len(cells), 2))


def _thinned(predictions: Predictions) -> Predictions:
    of = {name: replace(one, values=one.values[::2]) for name, one in predictions.of.items()}
    return Predictions(of, None if predictions.latent is None else predictions.latent[::2])


def _difference(one: Predictions, other: Predictions) -> float:
    """Greatest difference over the largest value, of all predictions."""
    if one.of.keys() != other.of.keys():
        return float("inf")
    worst = 0.0
    for name, prediction in one.of.items():
        a, b = prediction.values, other.of[name].values
        if a.shape != b.shape or not np.isfinite(a).all() or not np.isfinite(b).all():
            return float("inf")
        worst = max(worst, float(np.abs(a - b).max(initial=0) / max(np.abs(a).max(initial=0), 1e-12)))
    return worst
