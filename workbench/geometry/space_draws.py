"""Intervals of what is measured of a space: donors drawn again, alike for every space of the same cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from scipy.stats import t as student

from workbench.errors import EvaluationError
from workbench.geometry.spaces import numbered
from workbench.seeds import generator
from workbench.threads import one_thread

# Where a space comes from, as tables have it; controls of a recipe have names of their own.
MODEL, RANDOM, BASELINE = "model", "random weights", "baseline"
COLUMNS = ["measure", "scope", "value", "low", "high", "n", "note"]
# Fewer donors can be drawn again in too few ways; cells are drawn instead, and the note says so.
FEWEST_DONORS = 5
DRAWS = 200
_GROUPS = 20
Labels = Shaped[np.ndarray, " cell"]


@dataclass(frozen=True)
class Draws:
    """Units, and how often each counts in every draw.

    Attributes
    ----------
    unit
        Number of each cell's unit, from 0.
    weights
        How often each unit was drawn, with replacement.
    over
        What the units are, in words.
    """

    unit: Int[np.ndarray, " cell"]
    weights: Float[np.ndarray, "draw unit"]
    over: str

    def of(self, statistic: Callable[[np.ndarray], Any]) -> Float[np.ndarray, "draw ..."]:
        """A statistic of the weights of units, for every draw.

        Parameters
        ----------
        statistic
            Function of one weight per unit that gives a number, or several.
        """
        with one_thread():  # of so small matrices threads would only wait for each other
            return np.array([statistic(weights) for weights in self.weights], dtype=float)

    def means(self, terms: Float[np.ndarray, " cell"]) -> Float[np.ndarray, " draw"]:
        """Mean over cells of a term, for every draw; cells of which it is NaN do not count.

        Parameters
        ----------
        terms
            One number per cell, NaN where the cell does not count.
        """
        known = np.isfinite(terms)
        n_units = self.weights.shape[1]
        total = np.bincount(self.unit[known], terms[known], n_units)
        with np.errstate(invalid="ignore"):
            return (self.weights @ total) / (self.weights @ np.bincount(self.unit[known], minlength=n_units))


def draw_units(n: int, donor: Labels | None = None, *, n_draws: int = DRAWS, seed: int) -> Draws:
    """Draws of donors with replacement, the same for every space of the same cells.

    Where there are fewer than five donors, cells are dealt at random into 20 groups, which are drawn instead.

    Parameters
    ----------
    n
        Number of cells that the units are made of.
    donor
        Donor of each cell; cells without one are a donor of their own.
    n_draws
        Number of draws; with fewer than 2 there is no interval.
    seed
        Seed of the draws and of the groups.
    """
    if donor is not None and len(donor) != n:
        raise EvaluationError(f"There are {n} cells, but donors of {len(donor)}; give one of each.")
    unit, names = numbered(np.full(n, "") if donor is None else donor)
    if len(names) >= FEWEST_DONORS:
        unit = np.where(unit < 0, len(names), unit)
        over = f"{unit.max() + 1} donors"
    else:
        groups = min(_GROUPS, n)
        unit = generator(seed, "groups of cells").permutation(np.arange(n) % groups)
        over = "cells" if donor is None else f"cells, as {len(names)} donors are too few to draw"
    n_units = int(unit.max()) + 1
    drawn = generator(seed, "draws").multinomial(n_units, np.full(n_units, 1 / n_units), n_draws)
    return Draws(unit, drawn.astype(float), over)


@dataclass(frozen=True)
class Measured:
    """What was measured of a space, and the same for every draw of units.

    Attributes
    ----------
    table
        Table of all rows, as `space_tables.measure_space` gives it.
    draws
        One row per row of the table.
    n_units
        Donors, or groups of cells, that were drawn.
    """

    table: pd.DataFrame
    draws: Float[np.ndarray, "row draw"]
    n_units: int

    def beyond(self, other: Measured) -> pd.DataFrame:
        """What this space has more than another of the same cells, paired by donor: each draw is of the same donors.

        Parameters
        ----------
        other
            Measured of the same cells, with the same donors and seed.

        Returns
        -------
        DataFrame
            As `measure_space`, of the rows that both have; the values are differences.

        Raises
        ------
        EvaluationError
            If the draws are not the same.
        """
        if (self.n_units, self.draws.shape[1]) != (other.n_units, other.draws.shape[1]):
            raise EvaluationError(
                "The two spaces were measured with different draws; give the same cells, donors and seed."
            )
        names = ["measure", "scope"]
        place = {tuple(row): i for i, row in enumerate(other.table[names].itertuples(index=False))}
        mine = [i for i, row in enumerate(self.table[names].itertuples(index=False)) if tuple(row) in place]
        its = [place[tuple(row)] for row in self.table[names].iloc[mine].itertuples(index=False)]
        value = self.table["value"].to_numpy()[mine] - other.table["value"].to_numpy()[its]
        margin = _margin(self.draws[mine] - other.draws[its], self.n_units)
        found = self.table.iloc[mine].reset_index(drop=True)
        return found.assign(value=value, low=value - margin, high=value + margin)


@dataclass
class Rows:
    """Rows of a table as they are found.

    Attributes
    ----------
    draws
        Draws that the intervals come from.
    found
        Measure, scope, value, cells and note of each row.
    drawn
        Value of each row in every draw.
    """

    draws: Draws
    found: list[tuple[str, str, float, int, str]] = field(default_factory=list)
    drawn: list[np.ndarray] = field(default_factory=list)

    def add(self, measure: str, scope: str, value: float, drawn: np.ndarray | None, n: int, *notes: str) -> None:
        """Add a row.

        Parameters
        ----------
        measure, scope
            What is measured, and of which cells or in which form.
        value, drawn
            The value, and that of every draw; None where there is no interval.
        n
            Number of cells behind the value.
        *notes
            What is to be said of it; empty ones are dropped.
        """
        self.found.append((measure, scope, float(value), int(n), "; ".join(note for note in notes if note)))
        self.drawn.append(np.full(len(self.draws.weights), np.nan) if drawn is None else drawn)

    def mean(self, measure: str, scope: str, terms: np.ndarray, *notes: str) -> None:
        """Add a row for the mean over cells of a term; none where no cell has it.

        Parameters
        ----------
        measure, scope, *notes
            As in `add`.
        terms
            One number per cell, NaN where the cell does not count.
        """
        known = np.isfinite(terms)
        if known.any():
            # Of one donor there is one value, however often it is drawn.
            several = len(np.unique(self.draws.unit[known])) > 1
            self.add(
                measure,
                scope,
                float(terms[known].mean()),
                self.draws.means(terms) if several else None,
                int(known.sum()),
                *notes,
            )

    def measured(self) -> Measured:
        """The table, with its intervals."""
        n_units = self.draws.weights.shape[1]
        drawn = np.array(self.drawn).reshape(len(self.found), -1)
        margin = _margin(drawn, n_units)
        rows = [
            (measure, scope, value, value - side, value + side, n, "; ".join(filter(None, [*said, note])))
            for (measure, scope, value, n, note), side in zip(self.found, margin, strict=True)
            for said in [[f"interval over {self.draws.over}" if np.isfinite(side) else "no interval"]]
        ]
        return Measured(pd.DataFrame(rows, columns=COLUMNS), drawn, n_units)


def _margin(drawn: Float[np.ndarray, "row draw"], n_units: int) -> Float[np.ndarray, " row"]:
    """Half a 95 % interval: t times the deviation over draws, which of n units is too small by the root of (n - 1) / n."""
    if drawn.shape[1] < 2 or n_units < 2:
        return np.full(len(drawn), np.nan)
    enough = np.isfinite(drawn).sum(1) > drawn.shape[1] // 2
    spread_ = np.full(len(drawn), np.nan)
    spread_[enough] = np.nanstd(drawn[enough], axis=1, ddof=1)
    return spread_ * np.sqrt(n_units / (n_units - 1)) * student.ppf(0.975, n_units - 1)
