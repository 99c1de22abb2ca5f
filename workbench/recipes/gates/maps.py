"""The features of a gate run by name: heads, the configured feature map, and controls that hold less of the model, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from workbench.evidence.anchor_set import AnchorSet, anchors_of, kinds_of
from workbench.evidence.gate_table import ZERO_SHOT
from workbench.evidence.null_rulers import dealt
from workbench.operators.controls import CODE, IDENTITY, RANDOM, control, label_code
from workbench.operators.controls import CONTROLS as MATRICES
from workbench.operators.operator import head_names
from workbench.operators.store import StoredOperators

if TYPE_CHECKING:
    from workbench.recipes.gates.context import GatesContext

MODEL = "configured feature map"
CONTROLS = (*MATRICES, CODE)
# Negative panels: the configured feature map on cells whose stages were dealt anew.
PER_ANCHOR, PER_TYPE = "one random stage per anchor", "one random stage per cell type"
NEGATIVES = (PER_ANCHOR, PER_TYPE)
# What is drawn; the other controls hold no random number.
DRAWN = (*RANDOM, CODE, *NEGATIVES)
# What goes through every gate, once: the null ruler costs more than all other gates together.
WHOLE = (MODEL, IDENTITY, CODE)
NOT_ASKED = f"asked of {', '.join(WHOLE)} alone and in one draw, for it costs more than all other gates together"


class MeansOfHeads(StoredOperators):
    """Stored operators whose means over heads are taken head by head, in single precision.

    From sums in double precision they would differ in the seventh digit, which the fit of an adaptor turns into the third,
    and the gates' numbers would no longer be those that earlier runs had.
    """

    def mean(self, layers: Sequence[int]) -> Float[np.ndarray, "gene gene"]:
        """See `OperatorSource`."""
        heads = [(layer, head) for layer in layers for head in range(self.shape[1])]
        total = self.head(*heads[0])
        for head in heads[1:]:
            total += self.head(*head)
        return total / np.float32(len(heads))


def matrix_of(context: GatesContext, name: str, draw: int = 0) -> Float[np.ndarray, "gene feature"]:
    """Linear feature map f(x) = x F.

    Parameters
    ----------
    context
        Gate run whose operators were read.
    name
        Name of a head such as ``L0H1``, `MODEL`, or one of `CONTROLS` but the code per label, which is no map of genes.
    draw
        Number of the draw of a random control, from 0.
    """
    if name == MODEL:
        return context.feature_map
    if name in MATRICES:
        expression = context.cohorts[context.internal].expression
        return control(name, context.feature_map, expression, context.config.seed, draw)
    return context.operators.head(*head_names(context.operators.shape)[name])


def draws_of(context: GatesContext, name: str) -> range:
    """Numbers of the draws of a feature map: one where it has no random number.

    Parameters
    ----------
    context
        Gate run whose configuration says how many.
    name
        Name as `anchors_under` knows it.
    """
    return range(context.config.control_draws if name in DRAWN else 1)


def anchors_under(context: GatesContext, cohort: str, role: str, name: str, draw: int = 0) -> AnchorSet:
    """Anchors of a cohort under a feature map, under the code per label, or of a negative panel.

    Parameters
    ----------
    context
        Gate run with its cohorts and operators.
    cohort
        Name of the cohort that is judged, as configured.
    role
        What it is judged as: zero shot, the adaptor may be fitted on the internal cohort only; else on its own anchors.
    name
        Name of the feature map as `matrix_of` knows it, the code per label, or one of `NEGATIVES`. What is drawn per label is
        one draw for both cohorts.
    draw
        Number of the draw, from 0.
    """
    if name in NEGATIVES:
        own = anchors_under(context, cohort, role, MODEL)
        groups = own.kind if name == PER_TYPE else np.arange(len(own.stage))
        return own.with_stages(dealt(own.stage, groups, context.config.seed, draw))
    names = [context.internal, cohort] if role == ZERO_SHOT else [cohort]
    sets = [anchors_of(context.cohorts[one]) for one in names]
    if name == CODE:
        n_cells = np.concatenate([one.table["n_cells"].to_numpy(dtype=int) for one in sets])
        code = label_code(kinds_of(*sets), n_cells, context.config.seed, draw)
        features = np.split(code, [len(sets[0])])
    else:
        matrix = matrix_of(context, name, draw)
        features = [one.centroids @ matrix for one in sets]
    if role == ZERO_SHOT:
        return AnchorSet.frozen((features[0], sets[0]), (features[1], sets[1]))
    return AnchorSet.of_cohort(features[0], sets[0])
