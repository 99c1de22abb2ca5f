"""Who can signal to whom: strengths and distances counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import EvaluationError
from workbench.evidence.signalling import signal_strength, signalling_ruler

GENES = ("L1", "R1", "R2")
EXPRESSION = np.array([[2.0, 0.0, 0.0], [0.0, 3.0, 1.0], [1.0, 1.0, 1.0]])


def test_a_complex_is_its_least_subunit_and_pairs_that_are_not_measured_do_not_count():
    strength, n = signal_strength(EXPRESSION, GENES, [(("l1",), ("R1", "R2")), (("L1",), ("R9",))])
    assert n == 1
    np.testing.assert_allclose(strength, np.outer([2, 0, 1], [0, 1, 1]))
    with pytest.raises(
        EvaluationError, match="None of 1 pairs of senders and receivers has all of its genes among the 3"
    ):
        signal_strength(EXPRESSION, GENES, [(("L1",), ("R9",))])


def test_distances_are_shortest_paths_over_what_is_strong():
    ruler = signalling_ruler("c", ["a", "b", "c"], np.array([[9.0, 8, 0], [0, 0, 2], [0, 0, 0]]), "made up")
    # Means of both directions are 4 and 1: steps of 1/2 and 1, and from a to c there is the sum only.
    np.testing.assert_allclose(ruler.distances, np.array([[0, 0.5, 1.5], [0.5, 0, 1], [1.5, 1, 0]]) / 1.5)
    assert ruler.place(["b"])[0].tolist() == [1]
    with pytest.raises(EvaluationError, match=r"Of 3 groups of cells 1 can signal to none \(c\)"):
        signalling_ruler("c", ["a", "b", "c"], np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]), "")
