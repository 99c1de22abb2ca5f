"""How far each axis of a latent follows what sequencing makes of a cell."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata
from scipy.stats import t as student

from workbench.cells.anchors import TECHNICAL

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
