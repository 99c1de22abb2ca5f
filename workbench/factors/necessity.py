"""What a latent's readouts lose when factors of the operator are taken out, adaptor and probes as they were.

Everything is linear in x: with an operator that is a sum of factors, the latent z = W (x A - b) is a sum of one
contribution per factor, (x read_f) strength_f (W write_f), and an offset, -W b. A factor is taken out of the latent by
setting its contribution to ``zero``, or to its ``mean`` over the training cells. Zero also moves every cell away from
where the probes were fitted; the mean takes away only what differs between cells, and is what factors are ranked by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from workbench.errors import EvaluationError, ShapeError
from workbench.factors.factorise import Factors
from workbench.operators.readout import METRICS, Endpoint, probe, said, score_many
from workbench.seeds import generator

Expression: TypeAlias = sp.csr_matrix | sp.csr_array | Float[np.ndarray, "cell gene"]

ZERO, MEAN = "zero", "mean"
HOWS = (ZERO, MEAN)
TURNED, RANDOM_PART = "turned", "random part"
NULLS = (TURNED, RANDOM_PART)
ALONE, TOP_KEPT, TOP_REMOVED = "alone", "top kept", "top removed"
OK = "ok"
PLACE = ["factor", "how", "endpoint", "metric"]
_NAN = float("nan")
# Numbers of a latent that are held at once.
_AT_ONCE = 8_000_000


@dataclass(frozen=True)
class Ablation:
    """Tables of one split; those of several splits are put together row by row. What is undefined is NaN and says why.

    Attributes
    ----------
    effects
        One row per ``split``, ``factor``, ``how``, ``endpoint`` and ``metric``: ``intact``, ``value`` without the factor,
        ``drop`` (intact - value), ``none`` (without any factor), ``training_drop`` (the drop on the training cells),
        ``null_mean`` and ``null_high`` (97.5 %) of the drops of the turned draws, ``status`` ("ok" or why not).
    null
        One row per draw as well, of defined endpoints: ``null`` ("turned" or "random part"), ``draw``, ``drop``.
    subsets
        One row per ``split``, ``kind``, ``subset``, ``how``, ``endpoint`` and ``metric``: ``size`` (factors named),
        ``value``, ``intact``, ``none``, ``additive``. Kinds: "alone" (a subset of the core, all else taken out;
        "f00+f02"), "top kept" ("top 3": all else taken out) and "top removed" ("without top 3"), both in the order of
        the drops on the training cells.
    """

    effects: pd.DataFrame
    null: pd.DataFrame
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


@threadpool_limits.wrap(limits=1)
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
    core: Sequence[int] | None = None,
    n_core: int = 4,
    null_draws: int = 50,
    seed: int,
) -> Ablation:
    """Take factors out of the latent of one split's test cells, and score every endpoint with probes that stay fixed.

    Linear probes are fitted once, on the intact latent of the training cells, and judged on the test cells. Nothing is
    chosen on the test cells: factors are ranked by their mean drop over endpoint metrics on the training cells (taken
    out by their mean), and the core is the first `n_core`, unless it is given. A core that is chosen may differ between
    splits. A named subset then occurs in some of them only; "top kept" of four, the core alone, occurs in all. A core
    given beforehand should come from other cells, or the subsets' scores are too good.

    Two nulls, with `null_draws` draws for each factor. "turned": the factor's own number per cell is taken out along a
    random direction of the latent, as long as the factor's own in units of the latent's spread over the training cells
    (Mahalanobis): it asks whether what the factor says matters, given how much it says. "random part": instead of the
    factor, a random rank-one operator of the same Frobenius norm (random unit read and write vectors) is taken out. That
    moves the latent far less than a factor that reads what all cells express, so that its p is small too often even for
    labels that nothing carries; it is reported beside the other, not in its place.

    Parameters
    ----------
    x, factors, encoder, bias
        As in `contributions`. To average over splits, a name must stand for the same factor in all of them.
    wanted
        Endpoints; their cells are rows of `x`.
    train, test
        Rows of the cells that probes are fitted on, and judged on.
    split
        Name of the split, for the column ``split`` of the tables.
    core
        Numbers of the factors whose subsets are tried, 2^n - 1 of them; None to choose.
    n_core
        Size of a core that is chosen; its 2^n - 1 subsets are tried. Not used where `core` is given.
    null_draws
        Draws of each null per factor, 1 or more. Most of the time goes here: 4 x factors x draws scorings of each
        endpoint.
    seed
        Seed of both nulls. A factor's draws depend on its name, not on its place among the factors.

    Raises
    ------
    ShapeError
        As in `contributions`.
    EvaluationError
        If there are no training cells, no test cells, no endpoint or no draws, a cell is on both sides or is no row, or a
        factor of the core does not exist.
    """
    _check(train, test, x.shape[0], wanted, null_draws)
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
    judges = [_Judge(endpoint, rows, is_train, intact) for endpoint in wanted]
    training = {how: [judge.scores(latent(basic, how), True) for judge in judges] for how in HOWS}
    drops = np.array([v[0] - v[2:] for scores in training[MEAN] for v in scores.values()]).reshape(-1, n)
    known = drops[np.isfinite(drops).all(1)]
    # Where nothing is defined, the order is that of strength.
    order = np.argsort(-known.mean(0) if len(known) else np.arange(n), kind="stable")
    chosen = [int(i) for i in (sorted(order[:n_core]) if core is None else core)]
    subsets = list(_subsets(factors.names, order, chosen))
    kept = np.concatenate([basic, [variant.kept for variant in subsets]])
    draws = _Draws(here, factors, encoder, bias, intact, is_train, null_draws, seed)
    # Few large calls of a probe are quicker than many small ones.
    size = max(1, _AT_ONCE // (null_draws * intact.size))
    blocks = [range(start, min(start + size, n)) for start in range(0, n, size)]
    tables: dict[str, list[pd.DataFrame]] = {"effects": [], "null": [], "subsets": []}
    for how in HOWS:
        shown = latent(kept, how)
        drawn: dict[str, list[list[dict[str, np.ndarray]]]] = {null: [] for null in NULLS}
        for null, block in product(NULLS, blocks):
            z = np.concatenate([draws.latents(f, null, how) for f in block])
            drawn[null].append([judge.scores(z, False) for judge in judges])
        for j, (judge, trained) in enumerate(zip(judges, training[how], strict=True)):
            for metric, values in judge.scores(shown, False).items():
                place = {"split": split, "how": how, "endpoint": judge.name, "metric": metric}
                whole = {"intact": values[0], "none": values[1], "status": judge.status}
                by_null = {
                    name: values[0] - np.concatenate([of[j][metric] for of in drawn[name]]).reshape(n, null_draws)
                    for name in NULLS
                }
                effect = {"value": values[2 : n + 2], "drop": values[0] - values[2 : n + 2]}
                effect["training_drop"] = trained[metric][0] - trained[metric][2:]
                effect["null_mean"] = by_null[TURNED].mean(1)
                effect["null_high"] = np.quantile(by_null[TURNED], 0.975, axis=1)
                about = {"split": split, "factor": factors.names, **place, **whole}
                tables["effects"].append(pd.DataFrame({**about, **effect}))
                if judge.status == OK:
                    tables["null"] += _null_rows(factors.names, by_null, place)
                tables["subsets"].append(_subset_rows(subsets, values[n + 2 :], place, whole))
    # Where no endpoint is defined there is no draw, and the columns alone are left.
    tables["null"] = tables["null"] or [pd.DataFrame(columns=["split", *PLACE, "null", "draw", "drop"])]
    return Ablation(**{name: pd.concat(part, ignore_index=True) for name, part in tables.items()})


def _check(train: np.ndarray, test: np.ndarray, n_cells: int, wanted: Sequence[Endpoint], draws: int) -> None:
    if not len(train) or not len(test):
        raise EvaluationError(f"The split has {len(train)} training and {len(test)} test cells; it needs some of both.")
    every = np.concatenate([train, test])
    if len(set(every.tolist())) < len(every) or every.min() < 0 or every.max() >= n_cells:
        raise EvaluationError(
            f"Training and test cells must be different rows of the {n_cells} cells; {len(every) - len(set(every.tolist()))} "
            f"are named twice, and the numbers go from {every.min()} to {every.max()}."
        )
    if not wanted or draws < 1:
        raise EvaluationError(
            f"{len(wanted)} endpoints and {draws} null draws were given; there must be one at least of each."
        )


class _Judge:
    """Fixed probe of one endpoint, fitted on the intact latent of the training cells."""

    def __init__(self, endpoint: Endpoint, rows: np.ndarray, is_train: np.ndarray, latent: np.ndarray) -> None:
        self.name, self.kind = endpoint.name, endpoint.kind
        own, target = np.isin(rows, endpoint.cells), endpoint.target[rows]
        # Numbers instead of names, as `score_many` takes them.
        self.target = np.unique(target, return_inverse=True)[1] if self.kind == "classes" else target
        self.cells = {True: np.flatnonzero(own & is_train), False: np.flatnonzero(own & ~is_train)}
        self.defined = {side: len(set(self.target[cells].tolist())) > 1 for side, cells in self.cells.items()}
        few = [name for train, name in ((True, "training"), (False, "test")) if not self.defined[train]]
        self.status = f"undefined: fewer than two classes among the {' and the '.join(few)} cells" if few else OK
        if self.defined[True]:
            self.model = probe(self.kind).fit(latent[self.cells[True]], self.target[self.cells[True]])

    def scores(self, latents: np.ndarray, train: bool) -> dict[str, np.ndarray]:
        """Metrics of latents (variant, cell, k) on the training or the test cells."""
        if not self.defined[True] or not self.defined[train]:
            return {metric: np.full(len(latents), _NAN) for metric in METRICS[self.kind]}
        z, truth = latents[:, self.cells[train]], self.target[self.cells[train]]
        predicted = said(self.model, self.kind, z.reshape(-1, z.shape[2])).reshape(z.shape[:2])
        # Equal latents say equal things; BLAS may round two equal rows differently, and a rank metric would see that.
        flat = (z == z[:, :1]).all((1, 2))
        predicted[flat] = predicted[flat, :1]
        found = score_many(self.kind, truth, predicted)
        # A constant orders nothing: no correlation is 0 here, the counterpart of an AUROC of 0.5.
        return {metric: np.where(flat, np.nan_to_num(values, nan=0.0), values) for metric, values in found.items()}


@dataclass
class _Draws:
    """Latents of the null draws, of which there are n per factor."""

    x: Expression
    factors: Factors
    encoder: np.ndarray
    bias: np.ndarray
    intact: np.ndarray
    is_train: np.ndarray
    n: int
    seed: int

    def __post_init__(self) -> None:
        self.heard, self.spoken = _heard_and_spoken(self.x, self.factors, self.encoder, self.bias)
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(self.intact[self.is_train].T, bias=True)))
        wide = values > 1e-10 * max(values.max(), np.finfo(np.float64).tiny)
        vectors, spread = vectors[:, wide], np.sqrt(values[wide])
        # Symmetric roots, so that a draw is the same direction whatever basis the eigenvectors come in.
        self.root, self.inverse = (vectors * spread) @ vectors.T, (vectors / spread) @ vectors.T

    def latents(self, f: int, null: str, how: str) -> np.ndarray:
        """Latent of each draw for factor f, (draw, cell, k)."""
        # By name: a factor keeps its draws when others are left out, and in every split.
        rng = generator(self.seed, null, self.factors.names[f])
        d, k = len(self.factors.genes), self.intact.shape[1]
        if null == RANDOM_PART:
            # Unit vectors on both sides: strength alone is the Frobenius norm of a rank-one part.
            read, write = (_unit(rng.standard_normal((self.n, d))) for _ in range(2))
            amount = self.factors.strength[f] * np.asarray(self.x @ read.T).T
            direction = write @ self.encoder.T
        else:
            # Turned where the latent's spread is 1 in every direction, then brought back: a plain rotation would send the
            # factor into directions in which cells hardly differ, where the same length is a far larger change for a
            # probe. inverse @ root takes out directions without any spread, which have no such length.
            turned = _unit(rng.standard_normal((self.n, k)) @ self.inverse @ self.root)
            amount = np.broadcast_to(self.heard[:, f], (self.n, len(self.intact)))
            direction = np.linalg.norm(self.inverse @ self.spoken[f]) * turned @ self.root
        if how == MEAN:
            # The same is left in as of the factor: its mean over the training cells.
            amount = amount - amount[:, self.is_train].mean(1, keepdims=True)
        return self.intact - amount[:, :, None] * direction[:, None, :]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)


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


def _null_rows(names: Sequence[str], null: dict[str, np.ndarray], place: dict[str, Any]) -> Iterator[pd.DataFrame]:
    for name, drops in null.items():
        factor, draw = (axis.ravel() for axis in np.indices(drops.shape))
        row = {"factor": np.array(names)[factor], **place, "null": name, "draw": draw, "drop": drops.ravel()}
        yield pd.DataFrame(row)


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
