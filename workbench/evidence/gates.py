"""The gates, one panel at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from workbench.errors import EvaluationError
from workbench.evidence.anchor_pool import Pool
from workbench.evidence.gate_spec import BRANCH, DONOR, NULL_RULER, PERMUTATION, RANDOM, SPEC, TO_FAIL, TRUST, GateSpec
from workbench.evidence.holdout import Split, holdout_values, relabelled
from workbench.evidence.null_rulers import meaningless
from workbench.evidence.permutation import blocked_permutation
from workbench.evidence.ruler import Ruler
from workbench.geometry.quality import trustworthiness
from workbench.operators.adaptor import LETAdaptor, angles
from workbench.seeds import generator
from workbench.stats import permutation_p

_TRUST_NULL = 20
NAN = float("nan")


@dataclass(frozen=True)
class Gate:
    """One gate's answer.

    Attributes
    ----------
    gate
        Its name.
    status
        ``pass``, ``fail`` or ``not applicable``, which is never a pass.
    value, rule, threshold
        What was compared, and how (``>=`` or ``<=``).
    sd, n, unit
        Spread of the value over its units, their number, and what they are.
    null_mean, null_high, n_null, p
        The null: its mean, 97.5 % quantile and number of draws, and the one-sided p of the value.
    note
        What else there is to know; of a gate that is not applicable, why.
    """

    gate: str
    status: str
    value: float = NAN
    rule: str = ">="
    threshold: float = NAN
    sd: float = NAN
    n: int = 0
    unit: str = ""
    null_mean: float = NAN
    null_high: float = NAN
    n_null: int = 0
    p: float = NAN
    note: str = ""


def evaluate(
    pool: Pool,
    ruler: Ruler,
    adaptor: LETAdaptor,
    *,
    seed: int,
    refits: int = 20,
    spec: GateSpec = SPEC,
) -> list[Gate]:
    """Gates 1 to 6 of a panel.

    Parameters
    ----------
    pool
        Its anchors under a feature map.
    ruler
        The ruler that the stage numbers belong to.
    adaptor
        Settings; fresh copies are fitted.
    seed
        The one seed.
    refits
        Draws of the null beside gates 2 to 4 (stages relabelled, adaptor fitted again); no gate depends on them.
    spec
        What the gates ask.

    Returns
    -------
    list of Gate
        In the order of `spec.GATES`; a gate that cannot be computed says why.
    """
    first = first_five(pool, ruler, adaptor, seed=seed, refits=refits, spec=spec)
    return [*first, _null_ruler(pool, ruler, adaptor, first[3], seed, spec)]


@threadpool_limits.wrap(limits=1)
def first_five(
    pool: Pool, ruler: Ruler, adaptor: LETAdaptor, *, seed: int, refits: int = 0, spec: GateSpec = SPEC
) -> list[Gate]:
    """Gates 1 to 5, which are what a null ruler or a panel that is expected to fail has to fail.

    Parameters
    ----------
    pool, ruler, adaptor, seed, refits, spec
        As in `evaluate`.

    Raises
    ------
    EvaluationError
        If a feature is NaN or infinite: then something is wrong with the operator or the cells, and no gate can say what.
    """
    broken = int((~np.isfinite(pool.features)).any(1).sum())
    if broken:
        raise EvaluationError(
            f"{broken} of {len(pool.features)} anchors have features that are NaN or infinite; look for such values in the "
            "cells and in the checkpoint's weights."
        )
    branches = np.array(ruler.branches)
    random = pool.random_splits(spec.random_splits, seed)
    donors = pool.donor_splits()
    no_donor = "the data name no donors" if pool.donor is None else "all judged anchors are of one donor"
    few = "too few anchors or stages on either side"

    def held(name: str, splits: Callable[[Pool], list[Split]], unit: str, none: str) -> Gate:
        return _holdout(name, pool, ruler, adaptor, splits, unit, few if splits(pool) else none, seed, refits, spec)

    return [
        _guarded(TRUST, lambda: _trust(pool, ruler, adaptor, seed, spec)),
        _guarded(RANDOM, lambda: held(RANDOM, lambda _: random, "splits", few)),
        _guarded(DONOR, lambda: held(DONOR, lambda _: donors, "donors", no_donor)),
        _guarded(
            BRANCH,
            lambda: held(BRANCH, lambda p: p.branch_splits(branches), "branches", "all anchors are of one branch"),
        ),
        _guarded(PERMUTATION, lambda: _permutation(pool, ruler, adaptor, seed, spec)),
    ]


def expected_to_fail(panels: Mapping[str, Sequence[Gate]]) -> Gate:
    """Gate 7: every panel that is expected to fail does.

    Parameters
    ----------
    panels
        Gates 1 to 5 of each such panel.
    """
    if not panels:
        return Gate(TO_FAIL, "not applicable", rule="<=", threshold=0, note="no panel is expected to fail")
    passing = [name for name, gates in panels.items() if verdict(gates[:5]) != "fail"]
    failed = "; ".join(f"{name} fails {_failing(gates)}" for name, gates in panels.items() if name not in passing)
    note = f"{', '.join(passing)} passes what can be computed" if passing else failed
    status = "fail" if passing else "pass"
    return Gate(TO_FAIL, status, len(passing), "<=", 0, n=len(panels), unit="panels", note=note)


def verdict(gates: Sequence[Gate]) -> str:
    """``fail`` where a gate fails, ``pass`` where all pass, and ``incomplete`` where one is not applicable.

    Parameters
    ----------
    gates
        Of a panel.
    """
    statuses = {gate.status for gate in gates}
    if "fail" in statuses:
        return "fail"
    return "pass" if statuses == {"pass"} else "incomplete"


def _guarded(name: str, compute: Callable[[], Gate]) -> Gate:
    try:
        return compute()
    except EvaluationError as error:
        return Gate(name, "not applicable", note=str(error))


def _judged(name: str, value: float, rule: str, threshold: float, **more: Any) -> Gate:
    good = value >= threshold if rule == ">=" else value <= threshold
    return Gate(name, "pass" if good else "fail", float(value), rule, threshold, **more)


def _fitted(pool: Pool, train: np.ndarray, ruler: Ruler, adaptor: LETAdaptor) -> LETAdaptor:
    stage = pool.stage[train]
    if len(train) < 3 or len(set(stage.tolist())) < 2:
        raise EvaluationError(
            f"{len(train)} anchors of {len(set(stage.tolist()))} stages are left to fit on; three of two stages are needed."
        )
    between = ruler.distances[np.ix_(stage, stage)]
    return LETAdaptor(**adaptor.get_params()).fit(pool.features[train], between, pool.weights[train])


def _trust(pool: Pool, ruler: Ruler, adaptor: LETAdaptor, seed: int, spec: GateSpec) -> Gate:
    x = pool.features[pool.test]
    z = _fitted(pool, pool.train, ruler, adaptor).transform(x)
    terms = trustworthiness(x, z, spec.neighbours)
    null = [
        trustworthiness(x, z[generator(seed, "trust null", str(i)).permutation(len(z))], spec.neighbours).mean()
        for i in range(_TRUST_NULL)
    ]
    return _judged(
        TRUST,
        terms.mean(),
        ">=",
        spec.trustworthiness,
        sd=float(terms.std(ddof=1)),
        n=len(x),
        unit="anchors",
        null_mean=float(np.mean(null)),
        null_high=float(np.quantile(null, 0.975)),
        n_null=len(null),
        p=permutation_p(float(terms.mean()), np.array(null)),
        note="null: the latent's rows permuted",
    )


def _holdout(
    name: str,
    pool: Pool,
    ruler: Ruler,
    adaptor: LETAdaptor,
    splits: Callable[[Pool], list[Split]],
    unit: str,
    why: str,
    seed: int,
    refits: int,
    spec: GateSpec,
) -> Gate:
    values, pairs = _scores(pool, ruler, adaptor, splits)
    if not len(values):
        raise EvaluationError(f"No holdout can be made: {why}.")
    null = np.array([_mean(_scores(_again(pool, seed, i), ruler, adaptor, splits)[0]) for i in range(refits)])
    null = null[np.isfinite(null)]
    return _judged(
        name,
        values.mean(),
        ">=",
        spec.correlation,
        sd=float(values.std(ddof=1)) if len(values) > 1 else NAN,
        n=len(values),
        unit=unit,
        null_mean=_mean(null),
        null_high=float(np.quantile(null, 0.975)) if len(null) else NAN,
        n_null=len(null),
        p=permutation_p(float(values.mean()), null),
        note=f"{pairs.mean():.0f} pairs of anchors each" + ("; adaptor frozen" if pool.is_frozen else ""),
    )


def _scores(
    pool: Pool, ruler: Ruler, adaptor: LETAdaptor, splits: Callable[[Pool], list[Split]]
) -> tuple[np.ndarray, np.ndarray]:
    return holdout_values(pool.features, pool.stage, ruler.distances, splits(pool), adaptor, pool.weights)


def _again(pool: Pool, seed: int, draw: int) -> Pool:
    return pool.with_stages(relabelled(pool.stage, seed, draw))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else NAN


def _permutation(pool: Pool, ruler: Ruler, adaptor: LETAdaptor, seed: int, spec: GateSpec) -> Gate:
    split = pool.halves(seed)
    rows = split.test
    z = _fitted(pool, split.train, ruler, adaptor).transform(pool.features[rows])
    found = blocked_permutation(
        angles(z), pool.stage[rows], ruler.distances, pool.blocks(rows), draws=spec.permutations, seed=seed
    )
    blocks = [name for name, column in (("donor", pool.donor), ("tissue", pool.tissue)) if column is not None]
    return _judged(
        PERMUTATION,
        found.p,
        "<=",
        spec.permutation_p,
        n=found.n,
        unit="anchors",
        null_mean=float(found.null.mean()),
        null_high=float(np.quantile(found.null, 0.975)),
        n_null=len(found.null),
        p=found.p,
        note=f"Spearman {found.spearman:.3f}; {found.n_movable} of {found.n} anchors can move inside "
        + (" x ".join(blocks) or "one block"),
    )


def _null_ruler(pool: Pool, ruler: Ruler, adaptor: LETAdaptor, branch: Gate, seed: int, spec: GateSpec) -> Gate:
    """Gate 6: the meaningless ruler fails, and no ruler with its stages exchanged does as well on unseen branches."""
    if branch.status == "not applicable":
        return Gate(NULL_RULER, "not applicable", rule="<=", threshold=spec.null_p, note=branch.note)
    names = np.array(ruler.branches)
    with threadpool_limits(1):
        null = np.array(
            [
                _mean(_scores(_again(pool, seed, i), ruler, adaptor, lambda p: p.branch_splits(names))[0])
                for i in range(spec.null_rulers)
            ]
        )
    null = null[np.isfinite(null)]
    p = permutation_p(branch.value, null)
    other = first_five(pool, meaningless(ruler), adaptor, seed=seed, spec=spec)
    fails = verdict(other) == "fail"
    said = (
        f"the meaningless ruler fails {_failing(other)}" if fails else "the meaningless ruler passes, so nothing counts"
    )
    return Gate(
        NULL_RULER,
        "pass" if fails and p <= spec.null_p else "fail",
        p,
        "<=",
        spec.null_p,
        n=len(null),
        unit="rulers",
        null_mean=_mean(null),
        null_high=float(np.quantile(null, 0.975)) if len(null) else NAN,
        n_null=len(null),
        p=p,
        note=f"{said}; branch holdout {branch.value:.3f} against rulers with exchanged stages",
    )


def _failing(gates: Sequence[Gate]) -> str:
    return ", ".join(f"{gate.gate} ({gate.value:.3f})" for gate in gates if gate.status == "fail")
