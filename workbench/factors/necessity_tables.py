"""What the tables of ablated factors say over splits: drops with their null, impacts, subsets, and what lasts."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from workbench.errors import EvaluationError
from workbench.factors.necessity import OK, PLACE
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg, null_summary, permutation_p, spearman

_NAN = float("nan")


def summarise(effects: pd.DataFrame) -> pd.DataFrame:
    """Drops of each factor over splits, with their null.

    Parameters
    ----------
    effects
        Table `Ablation.effects`, of all splits one below the other.

    Returns
    -------
    pandas.DataFrame
        One row per ``factor``, ``how``, ``endpoint`` and ``metric``: ``drop`` (mean), ``sd``, ``n_splits`` (defined ones),
        ``intact``, ``none``, ``moved``, ``status``; ``null_mean``, ``null_high`` (97.5 %), ``n_null`` (draws) and ``p`` of
        the relabellings, and ``q`` (Benjamini-Hochberg over the rows of a ``how``).

    Notes
    -----
    The mean of a draw over splits is a draw of the mean, since a relabelling is the same in all splits. p is one-sided (a
    drop is worse than the null's), of the factor's own draws, and no smaller than 1 / (1 + draws). Splits that share cells
    are not independent; sd over them is not a standard error.
    """
    table = _over_splits(effects, PLACE, "drop", "intact", "none", "moved")
    return _with_null(table, _drawn(effects), PLACE, "drop")


def impacts(effects: pd.DataFrame) -> pd.DataFrame:
    """One number per factor: its mean drop over endpoint metrics.

    Parameters
    ----------
    effects
        As in `summarise`.

    Returns
    -------
    pandas.DataFrame
        One row per ``factor`` and ``how``, the largest impact first: ``impact`` (mean over endpoint metrics of the mean
        drop over splits; a negative drop, where the readout is better without the factor, counts as it is),
        ``training_impact`` (the same on the training cells), ``moved``, ``sd`` (over splits), ``n_splits``, ``n_metrics``,
        ``share`` (of the summed positive impacts; 0 where it is not positive), ``cumulative`` (of the shares), and the
        columns of the null as in `summarise`, q over the factors of a ``how``.
    """
    keys = ["factor", "how"]
    known = effects[effects["drop"].notna()]
    per_metric = known.groupby(PLACE, sort=False)[["drop", "training_drop", "moved"]].mean().reset_index()
    table = effects[keys].drop_duplicates()
    columns = {"impact": ("drop", "mean"), "training_impact": ("training_drop", "mean"), "moved": ("moved", "mean")}
    columns["n_metrics"] = ("drop", "count")
    table = table.merge(per_metric.groupby(keys).agg(**columns).reset_index(), on=keys, how="left")
    per_split = known.groupby([*keys, "split"])["drop"].mean().groupby(keys).agg(sd="std", n_splits="count")
    table = table.merge(per_split.reset_index(), on=keys, how="left").fillna({"n_metrics": 0, "n_splits": 0})
    table = table.astype({"n_metrics": int, "n_splits": int})
    table = table.sort_values("impact", ascending=False, kind="stable").sort_values("how", kind="stable")
    positive = table["impact"].clip(lower=0)
    total = positive.groupby(table["how"]).transform("sum")
    table["share"] = positive / total.where(total > 0)
    table["cumulative"] = table.groupby("how")["share"].cumsum()
    return _with_null(table.reset_index(drop=True), _drawn(effects).groupby(keys).mean(), keys, "impact")


def _drawn(effects: pd.DataFrame) -> pd.DataFrame:
    """Drops under each relabelling, mean over the splits in which they are defined: a row per place, a column per draw."""
    known = effects[effects["drop"].notna()]
    drops = np.stack(known["relabelled"].to_list()) if len(known) else np.zeros((0, 0))
    return pd.DataFrame(drops, index=pd.MultiIndex.from_frame(known[PLACE])).groupby(level=PLACE).mean()


def _over_splits(rows: pd.DataFrame, keys: list[str], value: str, *more: str) -> pd.DataFrame:
    means = {name: (name, "mean") for name in more}
    spread = {value: (value, "mean"), "sd": (value, "std"), "n_splits": (value, "count")}
    return rows.groupby(keys, sort=False).agg(**spread, **means, status=("status", _status)).reset_index()


def _status(column: pd.Series) -> str:
    return OK if (column == OK).any() else "; ".join(dict.fromkeys(column))


def _with_null(table: pd.DataFrame, drawn: pd.DataFrame, keys: list[str], value: str) -> pd.DataFrame:
    draws = drawn.reindex(pd.MultiIndex.from_frame(table[keys])).to_numpy(dtype=float)
    found = [null_summary(one, own) for one, own in zip(table[value], draws, strict=True)]
    table = table.join(pd.DataFrame(found, index=table.index))
    table["q"] = table.groupby("how")["p"].transform(lambda p: benjamini_hochberg(p.to_numpy(dtype=float)))
    return table


def summarise_subsets(subsets: pd.DataFrame) -> pd.DataFrame:
    """Scores of subsets over splits, beside what their factors give one by one.

    Parameters
    ----------
    subsets
        Table `Ablation.subsets`, of all splits one below the other.

    Returns
    -------
    pandas.DataFrame
        One row per ``kind``, ``subset``, ``how``, ``endpoint`` and ``metric``: ``size``, ``value`` (mean), ``sd``,
        ``n_splits`` (in which the subset occurs and the endpoint is defined), ``intact`` and ``none`` (mean over the same
        splits), ``fraction`` = (value - none) / (intact - none), NaN where intact is not above none; ``additive``: none
        plus what each factor of the subset adds when kept alone; ``interaction`` = value - additive, above 0 where the
        factors do more together. Scores are bounded, so that factors that each do well come out below 0.

    Notes
    -----
    ``none`` is the score of the same probe with every factor taken out, when it says the same of every cell: 1 / classes
    for balanced accuracy, 0.5 for AUROC, and 0 for a rank correlation, which is undefined there.
    """
    keys = ["kind", "subset", "size", "how", "endpoint", "metric"]
    known = subsets.copy()
    # Means over the same splits.
    known.loc[known["value"].isna(), ["intact", "none", "additive"]] = _NAN
    table = _over_splits(known, keys, "value", "intact", "none", "additive")
    above = table["intact"] - table["none"]
    table["fraction"] = (table["value"] - table["none"]) / above.where(above > 1e-12)
    table["interaction"] = table["value"] - table["additive"]
    return table


def persistence(
    before: pd.DataFrame, after: pd.DataFrame, *, n_top: int = 4, permutations: int = 10000, seed: int
) -> pd.DataFrame:
    """Whether the same factors are the important ones after a change, such as `hard_sparse`.

    Parameters
    ----------
    before, after
        From `impacts`, of the same factors by name.
    n_top
        How many of the most important ones are compared.
    permutations
        Draws of the null, in which factors of one side are renamed at random. The smallest p is 1 / (1 + permutations).
    seed
        Seed of the renaming; each way of taking out has draws of its own.

    Returns
    -------
    pandas.DataFrame
        One row per ``how``: ``n_factors``, ``spearman`` of impacts with one-sided ``p``, ``n_top``, ``overlap`` (factors
        among the first `n_top` on both sides), ``overlap_p``, and ``top_before`` and ``top_after`` by name.

    Raises
    ------
    EvaluationError
        If both do not hold the same factors, or the impact of one is not known.

    Examples
    --------
    >>> import pandas as pd
    >>> from workbench.factors.necessity_tables import persistence
    >>> before = pd.DataFrame({"how": "mean", "factor": ["f00", "f01", "f02"], "impact": [0.3, 0.1, 0.0]})
    >>> persistence(before, before.assign(impact=[0.2, 0.0, 0.1]), n_top=1, permutations=99, seed=0)["overlap"].tolist()
    [1]
    """
    rows = []
    for how in dict.fromkeys(before["how"]):
        one, other = (side[side["how"] == how].set_index("factor")["impact"] for side in (before, after))
        if set(one.index) != set(other.index) or not len(one):
            differ = sorted(set(one.index) ^ set(other.index))
            raise EvaluationError(
                f"Factors before and after are not the same for '{how}' ({', '.join(differ)} on one side only); compare the "
                "same factors by name."
            )
        a, b = one.to_numpy(dtype=float), other[one.index].to_numpy(dtype=float)
        if not np.isfinite([a, b]).all():
            raise EvaluationError(
                f"Some factors have no impact for '{how}': no endpoint is defined for them; leave them out."
            )
        n, top = len(a), min(n_top, len(a))
        best = [np.argsort(-side, kind="stable")[:top] for side in (a, b)]
        first, second = (np.isin(np.arange(n), at) for at in best)
        rng = generator(seed, "persistence", how)
        orders = np.array([rng.permutation(n) for _ in range(permutations)], dtype=int).reshape(permutations, n)
        rho, overlap = spearman(a, b), int((first & second).sum())
        # Renaming keeps the ranks: of each draw, their correlation is a product.
        x, y = (side - side.mean() for side in (rankdata(a), rankdata(b)))
        scale = np.sqrt((x @ x) * (y @ y)) if np.isfinite(rho) else np.nan
        p = permutation_p(rho, y[orders] @ x / scale)
        overlap_p = permutation_p(overlap, (first & second[orders]).sum(1).astype(float))
        before_after = [", ".join(one.index.to_numpy()[at]) for at in best]
        rows.append((how, n, rho, p, top, overlap, overlap_p, *before_after))
    columns = ["how", "n_factors", "spearman", "p", "n_top", "overlap", "overlap_p", "top_before", "top_after"]
    return pd.DataFrame(rows, columns=columns)
