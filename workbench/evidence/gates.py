"""The gates, one cohort at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from workbench.cells.splits import Split
from workbench.errors import EvaluationError
from workbench.evidence.anchor_set import AnchorSet
from workbench.evidence.gate_spec import BRANCH, DONOR, NULL_RULER, PERMUTATION, RANDOM, SPEC, TO_FAIL, TRUST, GateSpec
from workbench.evidence.holdout import holdout_values, relabelled
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
        Name of the gate, one of `gate_spec.GATES`.
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
    anchors: AnchorSet,
    ruler: Ruler,
    adaptor: LETAdaptor,
    *,
    seed: int,
    refits: int = 20,
    spec: GateSpec = SPEC,
) -> list[Gate]:
    """Gates 1 to 6 of a cohort.

    Parameters
    ----------
    anchors
        Its anchors under a feature map, and those that the adaptor may be fitted on.
    ruler
        Ruler that the stage numbers of the anchors belong to.
    adaptor
        Settings of the adaptor; fresh copies are fitted and it is not changed.
    seed
        Seed of splits, permutations and null rulers; the answers depend on no other random number.
    refits
        Draws of the null beside gates 2 to 4 (stages relabelled, adaptor fitted again); no gate depends on them.
    spec
        Thresholds and numbers of draws; every result of the workbench is of the frozen ones.

    Returns
    -------
    list of Gate
        In the order of `spec.GATES`; a gate that cannot be computed says why.
    """
    first = first_five(anchors, ruler, adaptor, seed=seed, refits=refits, spec=spec)
    return [*first, _null_ruler(anchors, ruler, adaptor, first[3], seed, spec)]


@threadpool_limits.wrap(limits=1)
def first_five(
    anchors: AnchorSet, ruler: Ruler, adaptor: LETAdaptor, *, seed: int, refits: int = 0, spec: GateSpec = SPEC
) -> list[Gate]:
    """Gates 1 to 5, which are what a null ruler or a cohort that is expected to fail has to fail.

    Parameters
    ----------
    anchors, ruler, adaptor, seed, refits, spec
        As `evaluate` takes them, but that no null of holdouts is drawn by default.

    Raises
    ------
    EvaluationError
        If a feature is NaN or infinite: then something is wrong with the operator or the cells, and no gate can say what.
    """
    broken = int((~np.isfinite(anchors.features)).any(1).sum())
    if broken:
        raise EvaluationError(
            f"{broken} of {len(anchors.features)} anchors have features that are NaN or infinite; look for such values in the "
            "cells and in the checkpoint's weights."
        )
    branches = np.array(ruler.branches)
    random = anchors.random_splits(spec.random_splits, seed)
    donors = anchors.donor_splits()
    no_donor = "the data name no donors" if anchors.donor is None else "all judged anchors are of one donor"
    few = "too few anchors or stages on either side"

    def held(name: str, splits: Callable[[AnchorSet], list[Split]], unit: str, none: str) -> Gate:
        return _holdout(
            name, anchors, ruler, adaptor, splits, unit, few if splits(anchors) else none, seed, refits, spec
        )

    return [
        _guarded(TRUST, lambda: _trust(anchors, ruler, adaptor, seed, spec)),
        _guarded(RANDOM, lambda: held(RANDOM, lambda _: random, "splits", few)),
        _guarded(DONOR, lambda: held(DONOR, lambda _: donors, "donors", no_donor)),
        _guarded(
            BRANCH,
            lambda: held(BRANCH, lambda p: p.branch_splits(branches), "branches", "all anchors are of one branch"),
        ),
        _guarded(PERMUTATION, lambda: _permutation(anchors, ruler, adaptor, seed, spec)),
    ]


def expected_to_fail(cohorts: Mapping[str, Sequence[Gate]]) -> Gate:
    """Gate 7: every cohort that is expected to fail does.

    Parameters
    ----------
    cohorts
        Gates 1 to 5 of each such cohort, by its name; gate 7 is not applicable where there is none.
    """
    if not cohorts:
        return Gate(TO_FAIL, "not applicable", rule="<=", threshold=0, note="no cohort is expected to fail")
    passing = [name for name, gates in cohorts.items() if verdict(gates[:5]) != "fail"]
    failed = "; ".join(f"{name} fails {_failing(gates)}" for name, gates in cohorts.items() if name not in passing)
    note = f"{', '.join(passing)} passes what can be computed" if passing else failed
    status = "fail" if passing else "pass"
    return Gate(TO_FAIL, status, len(passing), "<=", 0, n=len(cohorts), unit="cohorts", note=note)


def verdict(gates: Sequence[Gate]) -> str:
    """``fail`` where a gate fails, ``pass`` where all pass, and ``incomplete`` where one is not applicable.

    Parameters
    ----------
    gates
        Gates of one cohort, in any order; none at all is ``incomplete``.
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


def _fitted(anchors: AnchorSet, train: np.ndarray, ruler: Ruler, adaptor: LETAdaptor) -> LETAdaptor:
    stage = anchors.stage[train]
    if len(train) < 3 or len(set(stage.tolist())) < 2:
        raise EvaluationError(
            f"{len(train)} anchors of {len(set(stage.tolist()))} stages are left to fit on; three of two stages are needed."
        )
    between = ruler.distances[np.ix_(stage, stage)]
    return LETAdaptor(**adaptor.get_params()).fit(anchors.features[train], between, anchors.weights[train])


def _trust(anchors: AnchorSet, ruler: Ruler, adaptor: LETAdaptor, seed: int, spec: GateSpec) -> Gate:
    x = anchors.features[anchors.test]
    z = _fitted(anchors, anchors.train, ruler, adaptor).transform(x)
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
    anchors: AnchorSet,
    ruler: Ruler,
    adaptor: LETAdaptor,
    splits: Callable[[AnchorSet], list[Split]],
    unit: str,
    why: str,
    seed: int,
    refits: int,
    spec: GateSpec,
) -> Gate:
    values, pairs = _scores(anchors, ruler, adaptor, splits)
    if not len(values):
        raise EvaluationError(f"No holdout can be made: {why}.")
    null = np.array([_mean(_scores(_again(anchors, seed, i), ruler, adaptor, splits)[0]) for i in range(refits)])
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
        note=f"{pairs.mean():.0f} pairs of anchors each" + ("; adaptor frozen" if anchors.is_frozen else ""),
    )


def _scores(
    anchors: AnchorSet, ruler: Ruler, adaptor: LETAdaptor, splits: Callable[[AnchorSet], list[Split]]
) -> tuple[np.ndarray, np.ndarray]:
    return holdout_values(anchors.features, anchors.stage, ruler.distances, splits(anchors), adaptor, anchors.weights)


def _again(anchors: AnchorSet, seed: int, draw: int) -> AnchorSet:
    return anchors.with_stages(relabelled(anchors.stage, seed, draw))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else NAN


def _permutation(anchors: AnchorSet, ruler: Ruler, adaptor: LETAdaptor, seed: int, spec: GateSpec) -> Gate:
    split = anchors.halves(seed)
    rows = split.test
    z = _fitted(anchors, split.train, ruler, adaptor).transform(anchors.features[rows])
    found = blocked_permutation(
        angles(z), anchors.stage[rows], ruler.distances, anchors.blocks(rows), draws=spec.permutations, seed=seed
    )
    blocks = [name for name, column in (("donor", anchors.donor), ("tissue", anchors.tissue)) if column is not None]
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


def _null_ruler(anchors: AnchorSet, ruler: Ruler, adaptor: LETAdaptor, branch: Gate, seed: int, spec: GateSpec) -> Gate:
    """Gate 6: the meaningless ruler fails, and no ruler with its stages exchanged does as well on unseen branches."""
    if branch.status == "not applicable":
        return Gate(NULL_RULER, "not applicable", rule="<=", threshold=spec.null_p, note=branch.note)
    names = np.array(ruler.branches)
    with threadpool_limits(1):
        null = np.array(
            [
                _mean(_scores(_again(anchors, seed, i), ruler, adaptor, lambda p: p.branch_splits(names))[0])
                for i in range(spec.null_rulers)
            ]
        )
    null = null[np.isfinite(null)]
    p = permutation_p(branch.value, null)
    other = first_five(anchors, meaningless(ruler), adaptor, seed=seed, spec=spec)
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
