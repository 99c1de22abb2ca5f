"""Features that are alike in how often and how strongly they fire: what a feature's effect is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.ablation.effects import bootstrap_weights, cell_means, interval
from workbench.ablation.nulls import degrees_of, excess, is_beyond, over, p_among, rms, standard_error
from workbench.dictionaries.dictionary import Dictionary
from workbench.errors import EvaluationError
from workbench.models import CellModel
from workbench.models.devices import Fitting
from workbench.models.tokens import Tokens
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg


def feature_usage(model: CellModel, dictionary: Dictionary, tokens: Tokens, batch_size: int = 16) -> pd.DataFrame:
    """How often each feature fires, and how long what it writes is then.

    Parameters
    ----------
    model, dictionary
        The intact model, and a dictionary of one of its hooks with a row per gene.
    tokens
        Cells that are looked at.
    batch_size
        Cells per pass; results differ by rounding only.

    Returns
    -------
    pandas.DataFrame
        A row per feature: ``feature``, ``rate`` (share of genes of cells at which it fires) and ``norm`` (root mean square of its activation where it
        fires, times the length of its direction; 0 where it is silent).
    """
    own = dictionary.to(model.device)

    def work(batch: Tokens) -> tuple[Tensor, Tensor, int]:
        _, cache = model.run_with_cache(batch, outputs=(), names_filter=dictionary.hook, return_cache_object=False)
        genes = batch.genes.to(model.device)
        features = own.encode(cache[dictionary.hook])[genes].double()
        return (features > 0).sum(0), (features**2).sum(0), len(features)

    with torch.no_grad():
        fired, squares, n = zip(*Fitting(batch_size).batches(tokens, work), strict=True)
    times = torch.stack(fired).sum(0).cpu().numpy()
    mean = torch.stack(squares).sum(0).cpu().numpy() / np.maximum(times, 1)
    length = own.directions.norm(dim=1).double().cpu().numpy()
    return pd.DataFrame(
        {"feature": np.arange(len(times)), "rate": times / max(sum(n), 1), "norm": np.sqrt(mean) * length}
    )


def alike(usage: pd.DataFrame, feature: int, within: float) -> np.ndarray:
    """Other features whose rate and norm both lie within a factor of those of a feature.

    Parameters
    ----------
    usage
        Rate and norm of all features, as `feature_usage` gives them.
    feature
        Number of the feature; it is not among those that are found.
    within
        Largest factor between two features that are alike, above 1.
    """
    rate, norm = usage["rate"].to_numpy(), usage["norm"].to_numpy()
    if not rate[feature] > 0:
        return np.zeros(0, dtype=int)
    with np.errstate(divide="ignore"):
        near = [np.abs(np.log(x) - np.log(x[feature])) <= np.log(within) + 1e-12 for x in (rate, norm)]
    found = near[0] & near[1] & (rate > 0)
    found[feature] = False
    return np.flatnonzero(found)


def draw_alike(
    usage: pd.DataFrame, features: Sequence[int], draws: int, within: float, seed: int
) -> dict[int, np.ndarray]:
    """Some of the features that are alike, drawn at random for each feature.

    Parameters
    ----------
    usage, within
        Table of all features and largest factor, as `alike` takes them.
    features
        Numbers of the features that are to be compared.
    draws
        Features to draw for each; all that are alike where there are no more.
    seed
        Seed of the draws, keyed by the feature.

    Raises
    ------
    EvaluationError
        If the factor is not above 1, or the number of draws is below 0.
    """
    if not within > 1 or draws < 0:
        raise EvaluationError(
            f"Features are alike within a factor of {within}, and {draws} are drawn: give a factor above 1, and 0 draws or more."
        )
    found = {}
    for feature in features:
        there = alike(usage, feature, within)
        found[feature] = np.sort(generator(seed, "alike", str(feature)).permutation(there)[:draws])
    return found


def compare_features(
    differences: Mapping[str, Float[np.ndarray, "feature cell"]],
    swept: Sequence[int],
    drawn: Mapping[int, np.ndarray],
    *,
    draws: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> pd.DataFrame:
    """Effects of features beside those of features that are alike.

    Parameters
    ----------
    differences
        By metric: its value without the feature (or with it changed) minus that in the intact model.
    swept
        Numbers of the features that rows of `differences` are of.
    drawn
        By the number of each feature that is tested: the features that it is compared with.
    draws, seed
        Number of bootstrap draws, and their seed.
    groups
        Donor of each cell; None to draw cells.

    Returns
    -------
    pandas.DataFrame
        Rows and columns as `feature_effects` gives them, as far as they follow from the effects.
    """
    place = {feature: i for i, feature in enumerate(swept)}
    weights = bootstrap_weights(len(next(iter(differences.values()))[0]), draws, seed, groups)
    parts = []
    for metric, values in differences.items():
        known: Bool[np.ndarray, "feature cell"] = np.isfinite(values)
        n, means, errors = known.sum(1), cell_means(values), standard_error(values, groups)
        rows = []
        for feature, others in drawn.items():
            i, alike_ones = place[feature], np.array([place[int(k)] for k in others], dtype=int)
            alike_ones = alike_ones[np.isfinite(means[alike_ones])]
            null, null_se = means[alike_ones], rms(errors[alike_ones])
            low, high = interval(values[i], weights)
            rows.append(
                {
                    "metric": metric,
                    "feature": feature,
                    "effect": means[i],
                    "low": low,
                    "high": high,
                    "sd": float(values[i][known[i]].std(ddof=1)) if n[i] > 1 else np.nan,
                    "se": errors[i],
                    "n_cells": int(n[i]),
                    "null_mean": float(null.mean()) if len(null) else np.nan,
                    "null_low": float(null.min()) if len(null) else np.nan,
                    "null_high": float(null.max()) if len(null) else np.nan,
                    "null_se": null_se,
                    "n_null": len(null),
                    "ratio": abs(over(means[i], rms(null))),
                    "p": p_among(means[i], null, excess(errors[i], null_se), degrees_of(values[i], groups)),
                    "smallest_p": 1 / (1 + len(null)) if len(null) else np.nan,
                }
            )
        table = pd.DataFrame(rows)
        table["q"] = benjamini_hochberg(table["p"].to_numpy())
        parts.append(table)
    table = pd.concat(parts, ignore_index=True)
    table["beyond"] = is_beyond(table)
    return table
