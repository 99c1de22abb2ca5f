"""The gates, one cohort at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from workbench.cells.anchors import TECHNICAL
from workbench.cells.splits import Split
from workbench.errors import EvaluationError
from workbench.evidence.anchor_set import AnchorSet
from workbench.evidence.donor_interval import FEWEST_DONORS
from workbench.evidence.gate_spec import BRANCH, DONOR, NULL_RULER, PERMUTATION, RANDOM, SPEC, TO_FAIL, TRUST, GateSpec
from workbench.evidence.holdout import holdout_correlation
from workbench.evidence.null_rulers import meaningless
from workbench.evidence.permutation import blocked_permutation
from workbench.evidence.ruler import Ruler
from workbench.geometry.quality import trustworthiness
from workbench.operators.adaptor import LETAdaptor, angles, fit_to_ruler
from workbench.seeds import generator
from workbench.stats import null_summary
from workbench.threads import one_thread

_TRUST_NULL = 20
_FEW = "too few anchors or stages on either side"
NAN = float("nan")
# What a holdout says beside its value.
_BESIDE = ["between", "between_high", "between_p", "donor_low", "donor_high", "n_donors"]
_BESIDE += ["weighted", "within", "within_weighted", "within_high", "within_p"]


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
    plain
        The same of features as they are, where `value` is of features without what follows sequencing; equal where nothing was
        regressed out. A gate passes only if both do. NaN of gates 6 and 7.
    sd, n, unit
        Spread of the value over its units, their number, and what they are.
    null_mean, null_high, n_null, p
        The null: its mean, 97.5 % quantile and number of draws, and the one-sided p of the value.
    between, between_high, between_p
        Of holdouts: the value over pairs of different cell types only, 97.5 % of its null, and its p.
    donor_low, donor_high, n_donors
        Of holdouts: 95 % interval of the value, donors drawn again, and their number; NaN with fewer than five donors.
    weighted, within, within_weighted, within_high, within_p
        Of the branch holdout: branches weighted by their anchors; the anchors of a held-out branch compared with each
        other, branches alike and weighted by their anchors, 97.5 % of the null of the former, and its p.
    note
        What else there is to know; of a gate that is not applicable, why.
    """

    gate: str
    status: str
    value: float = NAN
    rule: str = ">="
    threshold: float = NAN
    plain: float = NAN
    sd: float = NAN
    n: int = 0
    unit: str = ""
    null_mean: float = NAN
    null_high: float = NAN
    n_null: int = 0
    p: float = NAN
    between: float = NAN
    between_high: float = NAN
    between_p: float = NAN
    donor_low: float = NAN
    donor_high: float = NAN
    n_donors: int = 0
    weighted: float = NAN
    within: float = NAN
    within_weighted: float = NAN
    within_high: float = NAN
    within_p: float = NAN
    note: str = ""

    @property
    def margin(self) -> float:
        """Value minus the mean of its null; NaN without a null, and of a p, which is measured by its null already."""
        return self.value - self.null_mean if self.rule == ">=" else NAN


def evaluate(
    anchors: AnchorSet, ruler: Ruler, adaptor: LETAdaptor, *, seed: int, refits: int = 20, spec: GateSpec = SPEC
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
    return [*first, _Cohort(anchors, ruler, adaptor, seed, spec.null_rulers, spec).null_ruler(first[3])]


def first_five(
    anchors: AnchorSet, ruler: Ruler, adaptor: LETAdaptor, *, seed: int, refits: int = 0, spec: GateSpec = SPEC
) -> list[Gate]:
    """Gates 1 to 5, which are what a null ruler or a cohort that is expected to fail has to fail.

    They are asked of features without what follows library size, detected genes and mitochondrial share, and of features as
    they are; a gate passes if both do. Where nothing of this is known, only the latter are asked.

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
            f"{broken} of {len(anchors.features)} anchors have features that are NaN or infinite. Look for such values in the "
            "cells and in the checkpoint's weights."
        )
    without = anchors.without_technical()
    if not without.regressed:
        return [
            replace(gate, plain=gate.value) for gate in _asked(_Cohort(anchors, ruler, adaptor, seed, refits, spec))
        ]
    both = [_asked(_Cohort(of, ruler, adaptor, seed, n, spec)) for of, n in ((without, refits), (anchors, 0))]
    said = ", ".join(TECHNICAL[name] for name in without.regressed)
    return [_both(one, plain, f"{said} regressed out") for one, plain in zip(*both, strict=True)]


def _both(one: Gate, plain: Gate, said: str) -> Gate:
    """A gate of features without what follows sequencing, which passes only if that of the features as they are does."""
    if one.status == "not applicable":
        return one
    status = plain.status if one.status == "pass" else one.status
    return replace(one, status=status, plain=plain.value, note=f"{one.note}; {said}")


@one_thread()
def _asked(cohort: _Cohort) -> list[Gate]:
    """Gates 1 to 5 of the features that a cohort has."""
    anchors = cohort.anchors
    random = anchors.random_splits(cohort.spec.random_splits, cohort.seed)
    donors = anchors.donor_splits()
    no_donor = "the data name no donors" if anchors.donor is None else "all judged anchors are of one donor"
    one_branch = "all anchors are of one branch"
    return [
        _guarded(TRUST, cohort.trust),
        _guarded(RANDOM, partial(cohort.holdout, RANDOM, lambda _: random, "splits", _FEW)),
        _guarded(DONOR, partial(cohort.holdout, DONOR, lambda _: donors, "donors", no_donor)),
        _guarded(BRANCH, partial(cohort.holdout, BRANCH, cohort.branches, "branches", one_branch)),
        _guarded(PERMUTATION, cohort.permutation),
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


@dataclass(frozen=True)
class _Cohort:
    """Anchors and what they are judged by; refits are draws of the null of holdouts."""

    anchors: AnchorSet
    ruler: Ruler
    adaptor: LETAdaptor
    seed: int
    refits: int
    spec: GateSpec

    def latent(self, train: np.ndarray, judged: np.ndarray) -> np.ndarray:
        of = self.anchors
        fitted = fit_to_ruler(self.adaptor, of.features, of.stage, self.ruler.distances, of.weights, train)
        return fitted.transform(of.features[judged])

    def trust(self) -> Gate:
        spec, x = self.spec, self.anchors.features[self.anchors.test]
        z = self.latent(self.anchors.train, self.anchors.test)
        terms = trustworthiness(x, z, spec.neighbours)
        orders = [generator(self.seed, "trust null", str(i)).permutation(len(z)) for i in range(_TRUST_NULL)]
        null = np.array([trustworthiness(x, z[order], spec.neighbours).mean() for order in orders])
        about = {"sd": float(terms.std(ddof=1)), "n": len(x), "unit": "anchors"}
        about |= {"note": "null: the latent's rows permuted", **null_summary(float(terms.mean()), null)}
        return _judged(TRUST, terms.mean(), ">=", spec.trustworthiness, **about)

    def branches(self, anchors: AnchorSet) -> list[Split]:
        return anchors.branch_splits(np.array(self.ruler.branches))

    def holdout(self, name: str, splits: Callable[[AnchorSet], list[Split]], unit: str, none: str) -> Gate:
        donor = self.anchors.donor
        found, null = self.correlation(splits, kinds=self.anchors.kind, donor=donor, within=name == BRANCH)
        if not found["n_splits"]:
            raise EvaluationError(f"No holdout can be made: {_FEW if splits(self.anchors) else none}.")
        value, note = found["spearman"], f"{found['n_pairs']:.0f} pairs of anchors each"
        note += "; adaptor frozen" if self.anchors.is_frozen else ""
        note += f"; inside {found['n_within']} branches with stages apart" if name == BRANCH else ""
        if (n_donors := found.get("n_donors", 0)) < FEWEST_DONORS:
            known = f"{n_donors} donors are judged" if n_donors else "the data name no donors"
            note += f"; no interval over donors, for {known} (at least {FEWEST_DONORS})"
        beside = {name: found[name] for name in _BESIDE if name in found}
        about = beside | {
            "sd": found["sd"],
            "n": found["n_splits"],
            "unit": unit,
            "note": note,
            **null_summary(value, null),
        }
        return _judged(name, value, ">=", self.spec.correlation, **about)

    def correlation(self, splits: Callable[[AnchorSet], list[Split]], **more: Any) -> tuple[dict[str, Any], np.ndarray]:
        of = self.anchors
        drawn: Any = {"refits": self.refits, "seed": self.seed, "weights": of.weights, **more}

        def again(stage: np.ndarray) -> list[Split]:
            return splits(of.with_stages(stage))

        return holdout_correlation(of.features, of.stage, self.ruler.distances, again, self.adaptor, **drawn)

    def permutation(self) -> Gate:
        split, of, ruler = self.anchors.halves(self.seed), self.anchors, self.ruler.distances
        rows, draws = split.test, self.spec.permutations
        between = angles(self.latent(split.train, rows))
        found = blocked_permutation(between, of.stage[rows], ruler, of.blocks(rows), draws=draws, seed=self.seed)
        blocks = [name for name, column in (("donor", of.donor), ("tissue", of.tissue)) if column is not None]
        note = f"Spearman {found.spearman:.3f}; {found.n_movable} of {found.n} anchors can move inside "
        about = {"n": found.n, "unit": "anchors", "note": note + (" x ".join(blocks) or "one block")}
        about |= null_summary(found.spearman, found.null)
        return _judged(PERMUTATION, found.p, "<=", self.spec.permutation_p, **about)

    def null_ruler(self, branch: Gate) -> Gate:
        """Gate 6: the meaningless ruler fails, and no ruler with its stages exchanged does as well on unseen branches."""
        spec, without = self.spec, self.anchors.without_technical()
        if branch.status == "not applicable":
            return Gate(NULL_RULER, "not applicable", rule="<=", threshold=spec.null_p, note=branch.note)
        known = null_summary(branch.value, replace(self, anchors=without).correlation(self.branches)[1])
        other = first_five(self.anchors, meaningless(self.ruler), self.adaptor, seed=self.seed, spec=spec)
        fails = verdict(other) == "fail"
        said = f"fails {_failing(other)}" if fails else "passes, so nothing counts"
        note = f"the meaningless ruler {said}; branch holdout {branch.value:.3f} against rulers with exchanged stages"
        note += (
            f"; {', '.join(TECHNICAL[name] for name in without.regressed)} regressed out" if without.regressed else ""
        )
        status = "pass" if fails and known["p"] <= spec.null_p else "fail"
        about: Any = {"n": known["n_null"], "unit": "rulers", "note": note, **known}
        return Gate(NULL_RULER, status, known["p"], "<=", spec.null_p, **about)


def _failing(gates: Sequence[Gate]) -> str:
    """Gates that fail, each with the number that failed: of features as they are, where only that one did."""

    def number(gate: Gate) -> float:
        good = gate.value >= gate.threshold if gate.rule == ">=" else gate.value <= gate.threshold
        return gate.plain if good else gate.value

    return ", ".join(f"{gate.gate} ({number(gate):.3f})" for gate in gates if gate.status == "fail")
