"""A split: what is fitted on, what is judged, and what was left out of sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Split:
    """Rows to fit on and rows to judge; of cells or of anchors.

    Attributes
    ----------
    train
        Numbers of the rows that everything is fitted on.
    test
        Numbers of the rows that are held out.
    against
        Every held-out row is compared with each of these; None: the held-out ones with each other.
    name
        Name that tables have for it; may be empty.
    held
        Groups of cells (see `make_groups`) that are left out of operators.
    """

    train: Int[np.ndarray, " train"]
    test: Int[np.ndarray, " test"]
    against: Int[np.ndarray, " other"] | None = None
    name: str = ""
    held: frozenset[int] = frozenset()

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Both rows of every pair that is judged."""
        if self.against is None:
            i, j = np.triu_indices(len(self.test), 1)
            return self.test[i], self.test[j]
        i, j = (axis.ravel() for axis in np.indices((len(self.test), len(self.against))))
        return self.test[i], self.against[j]
