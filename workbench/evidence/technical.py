"""How far each axis of a latent follows what sequencing makes of a cell, and features without what follows it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from scipy.stats import rankdata
from scipy.stats import t as student

from workbench.cells.anchors import TECHNICAL

# Anchors that each column of a regression needs, beside one for each donor.
_PER_COLUMN = 4
COLUMNS = ("axis", "variance_share", "covariate", "spearman", "within", "within_sd", "n_donors", "null_high", "n_cells")


def technical_axes(z: Float[np.ndarray, "cell k"], obs: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of each latent axis with library size, detected genes and mitochondrial share of the cells.

    Parameters
    ----------
    z
        Latent of the cells, whose axes are looked at one by one.
    obs
        ``stage`` of the same cells (those without a place, -1, are left out), those of `anchors.TECHNICAL` that are known,
        and ``donor`` where there is one.

    Returns
    -------
    DataFrame
        A row for each axis and covariate that varies. ``variance_share`` of the latent; ``spearman`` over all cells;
        ``within``: ranks less their means in each stage, from -1 to 1; ``within_sd``: its standard deviation over donors,
        NaN for one; ``null_high``: what it stays below in size, with 95 % probability, where cells of a stage are exchangeable.
    """
    rows = np.flatnonzero(obs["stage"].to_numpy() >= 0)
    z, obs = z[rows], obs.iloc[rows]
    stage, found = obs["stage"].to_numpy(), []
    donor = obs["donor"].to_numpy() if "donor" in obs else np.zeros(len(rows))
    donors = sorted(set(donor.tolist()))
    free = len(rows) - len(set(stage.tolist())) - 1
    quantile = student.ppf(0.975, max(free, 1))
    variance = z.var(0)
    known = [name for name in TECHNICAL if name in obs and obs[name].nunique() > 1]
    for axis in range(z.shape[1]):
        for name in known:
            values = obs[name].to_numpy(dtype=float)
            each = [_within(z[own, axis], values[own], stage[own]) for one in donors if (own := donor == one).any()]
            each = [value for value in each if np.isfinite(value)]
            found.append(
                {
                    "axis": f"z_{axis + 1}",
                    "variance_share": variance[axis] / variance.sum(),
                    "covariate": TECHNICAL[name],
                    "spearman": _within(z[:, axis], values, np.zeros(len(rows))),
                    "within": _within(z[:, axis], values, stage),
                    "within_sd": np.std(each, ddof=1) if len(each) > 1 else np.nan,
                    "n_donors": len(each) if len(donors) > 1 else 0,
                    "null_high": quantile / np.sqrt(quantile**2 + free) if free > 0 else np.nan,
                    "n_cells": len(rows),
                }
            )
    return pd.DataFrame(found, columns=list(COLUMNS))


def _within(one: np.ndarray, other: np.ndarray, group: np.ndarray) -> float:
    """Correlation of ranks without their group means; NaN where nothing is left of one."""
    ranks = pd.DataFrame({"one": rankdata(one), "other": rankdata(other)})
    a, b = (ranks - ranks.groupby(group).transform("mean")).to_numpy().T
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else float("nan")


def without_technical(
    features: Float[np.ndarray, "anchor feature"],
    technical: Mapping[str, Float[np.ndarray, " anchor"]],
    donor: Shaped[np.ndarray, " anchor"] | None = None,
) -> tuple[Float[np.ndarray, "anchor feature"], tuple[str, ...]]:
    """Take from features what follows library size, detected genes and mitochondrial share of the anchors.

    Log-normalised expression still depends on library size, for a gene in a thin cell is zero more often and higher otherwise.
    So each feature is regressed on the second-degree polynomial of the covariates, and what it follows of their deviation from
    the mean is taken off. Slopes are those inside donors, whose own effects stay. No label is looked at: if a stage is known
    by its sequencing alone, nothing of it is left, and anchors are exchangeable for a null that relabels stages.

    Parameters
    ----------
    features
        Features of the anchors of one cohort.
    technical
        Covariates of the same anchors by name, as `Anchors.technical` gives them. Those that are not known of all anchors, or the
        same in all, are left out.
    donor
        Donor of each anchor; one for all when None.

    Returns
    -------
    features, names
        The features without it, and the covariates that were regressed out. With fewer than four anchors for each column
        and donor the polynomial is of the first degree, and where that is too much nothing is regressed out.
    """
    known = {name: of for name, of in technical.items() if np.isfinite(of).all() and np.ptp(of) > 1e-12}
    donors = np.zeros(len(features), int) if donor is None else np.unique(donor, return_inverse=True)[1].reshape(-1)
    numbers = np.array([(of - of.mean()) / of.std() for of in known.values()]).reshape(len(known), len(features))
    first, second = np.triu_indices(len(known))
    for columns in (np.vstack([numbers, numbers[first] * numbers[second]]), numbers):
        if len(columns) and len(features) >= _PER_COLUMN * (len(columns) + 1 + donors.max()):
            inside = columns.T - _means(columns.T, donors)
            slopes = np.linalg.lstsq(inside, features - _means(features, donors), rcond=1e-8)[0]
            return features - (columns.T - columns.mean(1)) @ slopes, tuple(known)
    return features, ()


def _means(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Mean of each column over the rows of a row's group."""
    indicator = np.eye(group.max() + 1)[group]
    return np.asarray(indicator @ ((indicator.T @ values) / indicator.sum(0)[:, None]))
