"""The anchors that gates judge, the anchors an adaptor may be fitted on, and how both are split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int, Shaped

from workbench.cells.anchors import Anchors
from workbench.cells.placed import PlacedCells
from workbench.cells.splits import Split
from workbench.errors import EvaluationError
from workbench.evidence.holdout import random_splits
from workbench.evidence.technical import without_technical
from workbench.seeds import generator, key

UNNAMED = "\0"  # no donor or tissue is called so


def anchors_of(cells: PlacedCells) -> Anchors:
    """Anchors that placed cells carry.

    Parameters
    ----------
    cells
        Cells whose anchors were made before; what judges them makes none of its own.

    Raises
    ------
    EvaluationError
        If they carry none.
    """
    if cells.anchors is None:
        raise EvaluationError(f"The cells of '{cells.name}' carry no anchors; make them with cells.make_anchors first.")
    return cells.anchors


def kinds_of(*sets: Anchors) -> Shaped[np.ndarray, " anchor"]:
    """Cell type of every anchor, one cohort after the other; its stage where one of them names no type.

    Parameters
    ----------
    *sets
        Anchors of one cohort or of several, whose types have the same names.
    """
    types = [one.column("cell_type") for one in sets]
    known = [one for one in types if one is not None]
    return np.concatenate(known if len(known) == len(sets) else [one.stage for one in sets]).astype(str)


@dataclass(frozen=True)
class AnchorSet:
    """Anchors under one feature map.

    Attributes
    ----------
    features
        Features of all anchors, those fitted on and those judged.
    stage
        Stage number of each anchor.
    weights
        Weight of each anchor when the adaptor is fitted.
    donor, tissue
        Donor and tissue of each anchor; None where the data name none. Of a frozen adaptor those of the judged cohort
        count.
    kind
        Cell type of each anchor, as `kinds_of` gives it.
    train
        Numbers of the anchors that an adaptor may be fitted on.
    test
        Numbers of the anchors that are judged: the same ones (a cohort by itself, with holdouts), or none of them (an
        adaptor that is frozen before it meets the cohort).
    technical
        Mean library size, detected genes and mitochondrial share of each anchor's cells by name, NaN where unknown.
    regressed
        Names of those that the features no longer follow, in the judged anchors.
    """

    features: Float[np.ndarray, "anchor feature"]
    stage: Int[np.ndarray, " anchor"]
    weights: Float[np.ndarray, " anchor"]
    donor: Shaped[np.ndarray, " anchor"] | None
    tissue: Shaped[np.ndarray, " anchor"] | None
    kind: Shaped[np.ndarray, " anchor"]
    train: Int[np.ndarray, " train"]
    test: Int[np.ndarray, " test"]
    technical: Mapping[str, Float[np.ndarray, " anchor"]] = field(default_factory=dict)
    regressed: tuple[str, ...] = ()

    @classmethod
    def of_cohort(cls, features: Float[np.ndarray, "anchor feature"], anchors: Anchors) -> AnchorSet:
        """A cohort by itself: fitted and judged on its own anchors.

        Parameters
        ----------
        features
            Its centroids under the feature map, anchor by feature.
        anchors
            Its anchors, in the same order.
        """
        rows, (donor, tissue) = np.arange(len(anchors)), (anchors.column(name) for name in ("donor", "tissue"))
        kinds, technical = kinds_of(anchors), anchors.technical
        return cls(features, anchors.stage, anchors.weights, donor, tissue, kinds, rows, rows, technical)

    @classmethod
    def frozen(cls, fitted: tuple[np.ndarray, Anchors], judged: tuple[np.ndarray, Anchors]) -> AnchorSet:
        """An adaptor from one cohort, judged on another.

        Parameters
        ----------
        fitted, judged
            Features and anchors of both cohorts, as `of_cohort` takes them; the features have one width.
        """
        (f, a), (g, b) = fitted, judged
        n = len(a)

        def both(name: str) -> np.ndarray | None:
            one, other = a.column(name), b.column(name)
            if other is None:
                return None
            # What the judged anchors are grouped by counts, whether or not those fitted on name theirs.
            return np.concatenate([np.full(n, UNNAMED) if one is None else one, other])

        unknown = [np.full(len(one), np.nan) for one in (a, b)]
        technical = {
            name: np.concatenate([one.technical.get(name, none) for one, none in zip((a, b), unknown, strict=True)])
            for name in {**a.technical, **b.technical}
        }
        return cls(
            np.concatenate([f, g]),
            np.concatenate([a.stage, b.stage]),
            np.concatenate([a.weights, b.weights]),
            both("donor"),
            both("tissue"),
            kinds_of(a, b),
            np.arange(n),
            np.arange(n, n + len(b)),
            technical,
        )

    @cached_property
    def is_frozen(self) -> bool:
        """Whether the judged anchors are none of those fitted on."""
        return not np.intersect1d(self.train, self.test).size

    def with_stages(self, stage: Int[np.ndarray, " anchor"]) -> AnchorSet:
        """The same anchors with other labels.

        Parameters
        ----------
        stage
            Stage number of each anchor.
        """
        return replace(self, stage=stage)

    def without_technical(self) -> AnchorSet:
        """The same anchors, their features without what follows sequencing, see `technical.without_technical`.

        Of a frozen adaptor both cohorts by themselves: studies differ in how deeply they were sequenced. The set itself where
        nothing of the judged one is known, or it has too few anchors.
        """
        features, names = np.array(self.features, dtype=np.float64), tuple[str, ...]()
        for rows in [self.train, self.test] if self.is_frozen else [self.test]:
            own = {name: of[rows] for name, of in self.technical.items()}
            donor = None if self.donor is None else self.donor[rows]
            features[rows], names = without_technical(self.features[rows], own, donor)
        return replace(self, features=features, technical={}, regressed=names) if names else self

    def random_splits(self, n_splits: int, seed: int) -> list[Split]:
        """Random holdouts of the judged anchors; one split, of all, where the adaptor is frozen.

        Parameters
        ----------
        n_splits
            How often 30 % of the anchors are drawn anew.
        seed
            Seed of the draws, as `holdout.random_splits` takes it.
        """
        if self.is_frozen:
            return [Split(self.train, self.test)]
        return list(random_splits(len(self.stage), n_splits, seed))

    def donor_splits(self) -> list[Split]:
        """Whole donors held out, one after the other; empty without donors, or with one that is also fitted on."""
        if self.donor is None:
            return []
        splits = []
        for donor in sorted(set(self.donor[self.test].tolist())):
            own = self.donor == donor
            splits.append(Split(self.train[~own[self.train]], self.test[own[self.test]]))
        return [split for split in splits if len(split.train)]

    def branch_splits(self, branches: Shaped[np.ndarray, " stage"]) -> list[Split]:
        """Whole branches held out and compared with the judged anchors of all others.

        Parameters
        ----------
        branches
            Branch of each stage of the ruler, by stage number.
        """
        branch = branches[self.stage]
        splits = []
        for name in sorted(set(branch[self.test].tolist())):
            own = branch == name
            rest = self.test[~own[self.test]]
            if len(rest) and not own[self.train].all():
                splits.append(Split(self.train[~own[self.train]], self.test[own[self.test]], rest))
        return splits

    def halves(self, seed: int) -> Split:
        """Anchors to fit on and others to judge, apart by donor where two donors or more are judged.

        Parameters
        ----------
        seed
            Decides who is in which half, by name.
        """
        if self.is_frozen:
            return Split(self.train, self.test)
        donors = [] if self.donor is None else sorted(set(self.donor.tolist()))
        if self.donor is not None and len(donors) >= 2:
            first = sorted(donors, key=lambda name: key(seed, "half", str(name)))[: len(donors) // 2]
            held = ~np.isin(self.donor, first)
        else:
            held = np.zeros(len(self.stage), dtype=bool)
            held[generator(seed, "half").permutation(len(held))[: len(held) // 2]] = True
        return Split(np.flatnonzero(~held), np.flatnonzero(held))

    def blocks(self, rows: Int[np.ndarray, " row"]) -> Shaped[np.ndarray, "row factor"]:
        """Donor and tissue of some anchors; one block for all where neither is named.

        Parameters
        ----------
        rows
            Numbers of the anchors, in the order of the result.
        """
        named = [column[rows].astype(str) for column in (self.donor, self.tissue) if column is not None]
        return np.column_stack(named) if named else np.zeros((len(rows), 1), dtype=int)
