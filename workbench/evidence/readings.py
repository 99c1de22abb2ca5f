"""What a publication may have meant by a holdout or a correlation: each reading by name, beside the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from workbench.cells.anchors import Anchors
from workbench.cells.splits import Split
from workbench.evidence.anchor_set import AnchorSet
from workbench.evidence.gate_spec import SPEC
from workbench.evidence.holdout import holdout_correlation, random_splits, with_null
from workbench.evidence.ruler import Ruler
from workbench.evidence.screen import score_anchors
from workbench.operators.adaptor import LETAdaptor
from workbench.threads import one_thread

RANDOM, DONOR, BRANCH, FROZEN = "random holdout", "donor holdout", "branch holdout", "adaptor of the internal cohort"
# Of the random holdout the paper names a share; of the others it is not known what is compared with what.
SHARES = (0.2, 0.3)
AMONG, AGAINST = "held-out anchors with each other", "held-out anchors with all others"
PLAIN, LABELS, ALL = (
    "as it is",
    "donor and tissue regressed out",
    "donor, tissue, library size and detection regressed out",
)
_FEW, _NO_DONORS, _ONE_DONOR = (
    "not applicable: too few anchors or stages on either side",
    "not applicable: the data name no donors",
    "not applicable: one donor only",
)


@one_thread()
def holdout_readings(
    anchors: AnchorSet, ruler: Ruler, adaptor: LETAdaptor, *, refits: int, seed: int
) -> list[dict[str, Any]]:
    """Holdouts of a cohort's own anchors, under each reading.

    Parameters
    ----------
    anchors
        Its anchors under a feature map; the adaptor is fitted on those that are not held out.
    ruler
        Ruler that the stage numbers of the anchors belong to.
    adaptor
        Settings of the adaptor; fresh copies are fitted and it is not changed.
    refits
        Draws of the null beside each value: stages relabelled, adaptor fitted again.
    seed
        Seed of the splits and of the null.

    Returns
    -------
    list of dict
        ``measure``, ``reading``, ``value`` (mean over splits of the rank correlation of latent angles with ruler distances),
        ``sd``, ``n`` (splits), ``unit``, ``null_mean``, ``null_high``, ``n_null``, ``p``, ``status``.
    """
    branches, rows = np.array(ruler.branches), []

    def row(measure: str, reading: str, splits: Callable[[AnchorSet], Sequence[Split]], unit: str, none: str) -> None:
        def again(stage: np.ndarray) -> Sequence[Split]:
            return splits(anchors.with_stages(stage))

        drawn: Any = {"refits": refits, "seed": seed, "weights": anchors.weights}
        found = with_null(
            *holdout_correlation(anchors.features, anchors.stage, ruler.distances, again, adaptor, **drawn)
        )
        about = {"value": found.pop("spearman"), "n": found.pop("n_splits"), "unit": unit}
        kept = {name: found[name] for name in ("sd", "null_mean", "null_high", "n_null", "p")}
        rows.append({"measure": measure, "reading": reading, **about, **kept, "status": "ok" if about["n"] else none})

    for share in SHARES:
        fixed = list(random_splits(len(anchors.stage), SPEC.random_splits, seed, share))
        row(RANDOM, f"{share:.0%} held out", _whatever_the_stages(fixed), "splits", _FEW)
    none = _NO_DONORS if anchors.donor is None else _ONE_DONOR
    row(DONOR, AMONG, lambda of: of.donor_splits(), "donors", none)
    row(DONOR, AGAINST, lambda of: _against(of, of.donor_splits()), "donors", none)
    row(BRANCH, AMONG, lambda of: [Split(one.train, one.test) for one in of.branch_splits(branches)], "branches", _FEW)
    row(BRANCH, AGAINST, lambda of: of.branch_splits(branches), "branches", _FEW)
    return rows


def frozen_readings(
    both: AnchorSet, judged: Anchors, ruler: Ruler, adaptor: LETAdaptor, *, refits: int, seed: int
) -> list[dict[str, Any]]:
    """Correlation of a cohort that meets the adaptor of another one, with and without what is regressed out.

    Parameters
    ----------
    both
        Anchors that the adaptor is fitted on and those that are judged, as `AnchorSet.frozen` makes them.
    judged
        The latter as they were made, with their donors, tissues and technical covariates.
    ruler, adaptor, refits, seed
        As `holdout_readings` takes them; the draws are of the null.

    Returns
    -------
    list of dict
        As of `holdout_readings`; ``n`` counts anchors. The null is of the reading with everything regressed out.
    """
    found, null, _ = score_anchors(both, judged, ruler, adaptor, refits=refits, seed=seed)
    about = {"measure": FROZEN, "n": found["n_anchors"], "unit": "anchors", "status": "ok"}
    whole = with_null({"spearman": found["residualised"]}, null)
    return [
        {**about, "reading": PLAIN, "value": found["spearman"]},
        {**about, "reading": LABELS, "value": found["residualised_labels"]},
        {**about, "reading": ALL, "value": whole.pop("spearman"), **whole},
    ]


def reading_rows(rows: Sequence[dict[str, Any]], **about: str) -> pd.DataFrame:
    """Readings as a table.

    Parameters
    ----------
    rows
        Rows of `holdout_readings` and `frozen_readings`.
    **about
        What stands in front of every row, such as its ``cohort``.
    """
    columns = ["measure", "reading", "value", "sd", "n", "unit", "null_mean", "null_high", "n_null", "p", "status"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    for place, (name, value) in enumerate(about.items()):
        table.insert(place, name, value)
    return table


def _whatever_the_stages(splits: Sequence[Split]) -> Callable[[AnchorSet], Sequence[Split]]:
    return lambda _: splits


def _against(anchors: AnchorSet, splits: Sequence[Split]) -> list[Split]:
    return [Split(one.train, one.test, np.setdiff1d(anchors.test, one.test)) for one in splits]
