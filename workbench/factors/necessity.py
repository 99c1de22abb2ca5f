"""What a latent's readouts lose when factors of the operator are taken out, adaptor and probes as they were.

Everything is linear in x: with an operator that is a sum of factors, the latent z = W (x A - b) is a sum of one
contribution per factor, (x read_f) strength_f (W write_f), and an offset, -W b. A factor is taken out of the latent by
setting its contribution to ``zero``, or to its ``mean`` over the training cells. Zero also moves every cell away from
where the probes were fitted; the mean takes away only what differs between cells, and is what factors are ranked by.

A factor is needed where taking it out costs more than nothing. What nothing costs is found by relabelling: the test
cells of each group (a donor, or a part of the cells) change labels among themselves, all endpoints' at once and in every
split alike, while latent, probes and predictions stay as they are. Where no cell's label has anything to do with its
latent, the drop of the data is one more such draw, whatever the metric and whatever the removal does to the predictions;
so p = (1 + draws with as large a drop) / (1 + draws) calls 5 % at p <= 0.05. It says nothing of how much a factor costs
beside another direction of as much variance. Simulated level and power: `experiments/calibration_factors.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int, Shaped

from workbench.errors import EvaluationError, ShapeError
from workbench.factors.factorise import Factors
from workbench.operators.readout import METRICS, Endpoint, probe, said, score_many
from workbench.seeds import generator
from workbench.threads import one_thread

Expression: TypeAlias = sp.csr_matrix | sp.csr_array | Float[np.ndarray, "cell gene"]

ZERO, MEAN = "zero", "mean"
HOWS = (ZERO, MEAN)
ALONE, TOP_KEPT, TOP_REMOVED = "alone", "top kept", "top removed"
OK = "ok"
PLACE = ["factor", "how", "endpoint", "metric"]
_NAN = float("nan")


@dataclass(frozen=True)
class Ablation:
    """Tables of one split; those of several splits are put together row by row. What is undefined is NaN and says why.

    Attributes
    ----------
    effects
        One row per ``split``, ``factor``, ``how``, ``endpoint`` and ``metric``: ``intact``, ``value`` without the factor,
        ``drop`` (intact - value), ``none`` (without any factor), ``training_drop`` (the drop on the training cells),
        ``relabelled`` (array: the drop under each relabelling of the test cells), ``moved`` (share of the endpoint's test
        cells whose label a relabelling changes, mean over them), ``status`` ("ok" or why not).
    subsets
        One row per ``split``, ``kind``, ``subset``, ``how``, ``endpoint`` and ``metric``: ``size`` (factors named),
        ``value``, ``intact``, ``none``, ``additive``. Kinds: "alone" (a subset of the core, all else taken out;
        "f00+f02"), "top kept" ("top 3": all else taken out) and "top removed" ("without top 3"), both in the order of
        the drops on the training cells.
    """

    effects: pd.DataFrame
    subsets: pd.DataFrame


def contributions(
    x: Expression, factors: Factors, encoder: Float[np.ndarray, "k gene"], bias: Float[np.ndarray, " gene"]
) -> tuple[Float[np.ndarray, "cell factor k"], Float[np.ndarray, " k"]]:
    """What each factor adds to the latent of each cell, and what is there without any.

    Parameters
    ----------
    x
        Log-normalised expression, cell by gene, in the factors' order of genes.
    factors
        Factors of the operator that the adaptor was fitted on. What they leave out of it is missing in the latent.
    encoder
        W of the fitted adaptor (`LETAdaptor.encoder_`): rows are the coordinates of the latent.
    bias
        b of the same adaptor (`LETAdaptor.bias_`), which is subtracted before the encoder.

    Returns
    -------
    tuple
        Contributions and offset; the latent is ``contributions.sum(1) + offset``, as the adaptor gives it for
        ``x @ factors.matrix()``.

    Raises
    ------
    ShapeError
        If cells, factors and adaptor are not of one panel.
    """
    heard, spoken = _heard_and_spoken(x, factors, encoder, bias)
    return heard[:, :, None] * spoken, -encoder @ bias


def _heard_and_spoken(
    x: Expression, factors: Factors, encoder: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Number of each cell and factor (cell, factor), and what a factor says in the latent (factor, k)."""
    d = len(factors.genes)
    if x.shape[1] != d or encoder.shape[1:] != (d,) or bias.shape != (d,):
        raise ShapeError(
            f"The factors are of {d} genes, the cells of {x.shape[1]}, the adaptor of {encoder.shape[-1]} (bias "
            f"{len(bias)}); give all of one panel."
        )
    return np.asarray(x @ factors.read, dtype=np.float64) * factors.strength, factors.write @ encoder.T


@one_thread()
def ablate_factors(
    x: Expression,
    factors: Factors,
    encoder: Float[np.ndarray, "k gene"],
    bias: Float[np.ndarray, " gene"],
    wanted: Sequence[Endpoint],
    train: Int[np.ndarray, " train"],
    test: Int[np.ndarray, " test"],
    *,
    split: str,
    groups: Shaped[np.ndarray, " cell"],
    names: Shaped[np.ndarray, " cell"] | None = None,
    core: Sequence[int] | None = None,
    n_core: int = 4,
    null_draws: int = 400,
    seed: int,
) -> Ablation:
    """Take factors out of the latent of one split's test cells, and score every endpoint with probes that stay fixed.

    Linear probes are fitted once, on the intact latent of the training cells, and judged on the test cells. Nothing is
    chosen on the test cells: factors are ranked by their mean drop over endpoint metrics on the training cells (taken
    out by their mean), and the core is the first `n_core`, unless it is given. A core that is chosen may differ between
    splits. A named subset then occurs in some of them only; "top kept" of four, the core alone, occurs in all. A core
    given beforehand should come from other cells, or the subsets' scores are too good.

    Parameters
    ----------
    x, factors, encoder, bias
        As in `contributions`. To average over splits, a name must stand for the same factor in all of them.
    wanted
        Endpoints; their cells are rows of `x`.
    train, test
        Rows of the cells that probes are fitted on, and judged on; of each group all on one side.
    split
        Name of the split, for the column ``split`` of the tables.
    groups
        Group of each row of `x`: cells change labels inside it. A group has the same draws in every split.
    names
        Of the cells: with them the relabellings do not depend on their order.
    core
        Numbers of the factors whose subsets are tried, 2^n - 1 of them; None to choose.
    n_core
        Size of a core that is chosen; its 2^n - 1 subsets are tried. Not used where `core` is given.
    null_draws
        Relabellings of the test cells; 1 / (1 + draws) is the smallest p. At 0 there is no p.
    seed
        Seed that the relabellings of every group are drawn with.

    Raises
    ------
    ShapeError
        As in `contributions`.
    EvaluationError
        If there are no training cells, no test cells or no endpoint, draws are negative, a cell is on both sides or is no
        row, a group is on both sides, or a factor of the core does not exist.
    """
    _check(train, test, x.shape[0], wanted, null_draws, groups)
    if core is not None:
        factors.keep(core)
    rows, n = np.concatenate([train, test]), len(factors.strength)
    here, is_train = x[rows], np.arange(len(rows)) < len(train)
    parts, offset = contributions(here, factors, encoder, bias)
    mean = parts[is_train].mean(0)

    def latent(kept: np.ndarray, how: str) -> np.ndarray:
        z = np.tensordot(kept.astype(np.float64), parts, (1, 1)) + offset
        return z + ((~kept).astype(np.float64) @ mean)[:, None, :] if how == MEAN else z

    # Intact, nothing left, and each left out.
    basic = np.concatenate([np.ones((1, n), bool), np.zeros((1, n), bool), ~np.eye(n, dtype=bool)])
    intact = latent(basic[:1], ZERO)[0]
    orders = relabellings(test, wanted, groups, names, null_draws, seed)
    judges = [_Judge(endpoint, train, test, intact, orders) for endpoint in wanted]
    training = {how: [judge.scores(latent(basic, how), True) for judge in judges] for how in HOWS}
    drops = np.array([v[0] - v[2:] for scores in training[MEAN] for v in scores.values()]).reshape(-1, n)
    known = drops[np.isfinite(drops).all(1)]
    # Where nothing is defined, the order is that of strength.
    order = np.argsort(-known.mean(0) if len(known) else np.arange(n), kind="stable")
    chosen = [int(i) for i in (sorted(order[:n_core]) if core is None else core)]
    subsets = list(_subsets(factors.names, order, chosen))
    kept = np.concatenate([basic, [variant.kept for variant in subsets]])
    tables: dict[str, list[pd.DataFrame]] = {"effects": [], "subsets": []}
    for how in HOWS:
        shown = latent(kept, how)
        for judge, trained in zip(judges, training[how], strict=True):
            drawn = judge.relabelled(shown[: n + 2])
            for metric, values in judge.scores(shown, False).items():
                place = {"split": split, "how": how, "endpoint": judge.name, "metric": metric}
                whole = {"intact": values[0], "none": values[1], "status": judge.status}
                effect = {"value": values[2 : n + 2], "drop": values[0] - values[2 : n + 2], "moved": judge.moved}
                effect["training_drop"] = trained[metric][0] - trained[metric][2:]
                effect["relabelled"] = list((drawn[metric][:, :1] - drawn[metric][:, 2:]).T)
                tables["effects"].append(pd.DataFrame({"factor": factors.names, **place, **whole, **effect}))
                tables["subsets"].append(_subset_rows(subsets, values[n + 2 :], place, whole))
    return Ablation(**{name: pd.concat(part, ignore_index=True) for name, part in tables.items()})


def relabellings(
    test: Int[np.ndarray, " test"],
    wanted: Sequence[Endpoint],
    groups: Shaped[np.ndarray, " cell"],
    names: Shaped[np.ndarray, " cell"] | None,
    draws: int,
    seed: int,
) -> Int[np.ndarray, "draw test"]:
    """Whose label each test cell gets in each draw: that of a cell of its own group, each cell's once.

    Parameters
    ----------
    test
        Rows of the cells that change labels.
    wanted
        Endpoints; cells that are in none keep what they have.
    groups
        Group of each cell; whole groups are in `test`.
    names
        Of the cells, by which those of a group are put in order; None: as they come.
    draws
        Number of relabellings, a row of the result each.
    seed
        Seed of the draws, with which each group has its own.
    """
    orders = np.tile(test, (draws, 1))
    asked = np.isin(test, np.concatenate([endpoint.cells for endpoint in wanted]))
    for group in np.unique(groups[test]):
        at = np.flatnonzero(asked & (groups[test] == group))
        if names is not None:
            at = at[np.argsort(names[test[at]], kind="stable")]
        rng = generator(seed, "relabelled", str(group))
        for order in orders:
            order[at] = test[rng.permutation(at)]
    return orders


def _check(
    train: np.ndarray, test: np.ndarray, n_cells: int, wanted: Sequence[Endpoint], draws: int, groups: np.ndarray
) -> None:
    if not len(train) or not len(test):
        raise EvaluationError(f"The split has {len(train)} training and {len(test)} test cells; it needs some of both.")
    every = np.concatenate([train, test])
    if len(set(every.tolist())) < len(every) or every.min() < 0 or every.max() >= n_cells:
        raise EvaluationError(
            f"Training and test cells must be different rows of the {n_cells} cells; {len(every) - len(set(every.tolist()))} "
            f"are named twice, and the numbers go from {every.min()} to {every.max()}."
        )
    if not wanted or draws < 0:
        raise EvaluationError(
            f"{len(wanted)} endpoints and {draws} null draws were given; there must be one endpoint at least, and draws from 0 on."
        )
    if len(groups) != n_cells:
        raise ShapeError(f"{len(groups)} groups were given for {n_cells} cells; name the group of each cell.")
    if both := set(groups[train].tolist()) & set(groups[test].tolist()):
        raise EvaluationError(
            f"{len(both)} groups of cells are on both sides of the split, {sorted(both)[0]} among them; hold out whole groups."
        )


class _Judge:
    """Fixed probe of one endpoint, fitted on the intact latent of the training cells; rows of a latent: training, then test."""

    def __init__(
        self, endpoint: Endpoint, train: np.ndarray, test: np.ndarray, latent: np.ndarray, orders: np.ndarray
    ) -> None:
        self.name, self.kind, self.start = endpoint.name, endpoint.kind, len(train)
        # Numbers instead of names, as `score_many` takes them.
        numbered = endpoint.kind == "classes"
        target = np.unique(endpoint.target, return_inverse=True)[1] if numbered else endpoint.target
        own = np.isin(np.arange(len(target)), endpoint.cells)
        self.sides = {side: (own[rows], target[rows]) for side, rows in ((True, train), (False, test))}
        self.drawn = [(own[order], target[order]) for order in orders]
        self.defined = {side: len(set(truth[cells].tolist())) > 1 for side, (cells, truth) in self.sides.items()}
        few = [name for side, name in ((True, "training"), (False, "test")) if not self.defined[side]]
        self.status = f"undefined: fewer than two classes among the {' and the '.join(few)} cells" if few else OK
        cells, truth = self.sides[False]
        moved = [(~there | (label != truth))[cells].mean() for there, label in self.drawn if cells.any()]
        self.moved = float(np.mean(moved)) if moved else _NAN
        if self.defined[True]:
            cells, truth = self.sides[True]
            self.model = probe(self.kind).fit(latent[: self.start][cells], truth[cells])

    def scores(self, latents: np.ndarray, train: bool) -> dict[str, np.ndarray]:
        """Metrics of latents (variant, cell, k) on the training or the test cells."""
        if not (self.defined[True] and self.defined[train]):
            return {metric: np.full(len(latents), _NAN) for metric in METRICS[self.kind]}
        return self._scored(
            self._said(latents[:, : self.start] if train else latents[:, self.start :]), *self.sides[train]
        )

    def relabelled(self, latents: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics of latents (variant, cell, k) on the test cells under each relabelling: (draw, variant)."""
        if self.status != OK:
            return {metric: np.full((len(self.drawn), len(latents)), _NAN) for metric in METRICS[self.kind]}
        predicted = self._said(latents[:, self.start :])
        found = [self._scored(predicted, *drawn) for drawn in self.drawn]
        return {
            metric: np.array([one[metric] for one in found]).reshape(-1, len(latents)) for metric in METRICS[self.kind]
        }

    def _said(self, z: np.ndarray) -> np.ndarray:
        """Predictions (variant, cell)."""
        predicted = said(self.model, self.kind, z.reshape(-1, z.shape[2])).reshape(z.shape[:2])
        # Equal latents say equal things; BLAS may round two equal rows differently, and a rank metric would see that.
        flat = (z == z[:, :1]).all((1, 2))
        predicted[flat] = predicted[flat, :1]
        return predicted

    def _scored(self, predicted: np.ndarray, cells: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
        predicted = predicted[:, cells]
        found = score_many(self.kind, truth[cells], predicted)
        # A constant orders nothing: no correlation is 0 here, the counterpart of an AUROC of 0.5.
        flat = (predicted == predicted[:, :1]).all(1)
        return {metric: np.where(flat, np.nan_to_num(values, nan=0.0), values) for metric, values in found.items()}


class _Subset(NamedTuple):
    kind: str
    name: str
    size: int
    kept: np.ndarray
    members: tuple[int, ...] = ()


def _subsets(names: Sequence[str], order: np.ndarray, core: Sequence[int]) -> Iterator[_Subset]:
    """Single factors of the core first, in its order."""
    n = len(names)
    for size in range(1, len(core) + 1):
        for at in combinations(range(len(core)), size):
            members = [core[i] for i in at]
            name = "+".join(names[f] for f in members)
            yield _Subset(ALONE, name, size, np.isin(np.arange(n), members), at)
    for size in range(1, n + 1):
        top = np.isin(np.arange(n), order[:size])
        yield _Subset(TOP_KEPT, f"top {size}", size, top)
        yield _Subset(TOP_REMOVED, f"without top {size}", size, ~top)


def _subset_rows(
    subsets: Sequence[_Subset], values: np.ndarray, place: dict[str, Any], whole: dict[str, Any]
) -> pd.DataFrame:
    single, rows = [], []
    for s, value in zip(subsets, values, strict=True):
        # Those of one factor come first.
        if s.kind == ALONE and s.size == 1:
            single.append(value - whole["none"])
        # What the members would score if each added alone what it adds to nothing: no second order.
        additive = whole["none"] + sum(single[i] for i in s.members) if s.kind == ALONE else _NAN
        rows.append({**place, "kind": s.kind, "subset": s.name, "size": s.size, "value": value, "additive": additive})
    return pd.DataFrame(rows).assign(**whole)
