"""What the report of a run says of its heads and readouts, where something of it is not known."""

from __future__ import annotations

import numpy as np
import pandas as pd

from workbench.evidence.latent_measures import AXES, SCORE, SPREAD, TRUST
from workbench.recipes.run.adaptor_heads import HYBRID
from workbench.recipes.run.extract_sections import _heads_said, _unconverged_said


def rows(kind, head, **measures):
    return [{"head": head, "kind": kind, "measure": name, "value": value} for name, value in measures.items()]


def table(trust, score, other):
    measures = {TRUST: trust, SPREAD: 0.25, AXES: 0.5}
    made = rows("anchor", "anchor head", **measures) + rows("cells", "cell head", **measures)
    made += rows(HYBRID, "hybrid 1", **measures, **{SCORE: score})
    return pd.DataFrame([*made, *rows(HYBRID, "hybrid 2", **measures, **{SCORE: other})])


def test_of_hybrid_heads_the_best_by_its_score_is_named():
    said = _heads_said(table(0.75, 0.1, 0.2))
    assert "anchor head 0.75, 0.25, 0.50; cell head" in said and "hybrid 1" not in said
    assert "hybrid 2 (the best of its kind by the selection score, chosen on these cells) 0.75" in said


def test_a_measure_that_no_fold_allows_is_said_to_be_unknown():
    said = _heads_said(table(np.nan, 0.1, np.nan))
    assert "anchor head unknown, 0.25, 0.50" in said and "hybrid 1 (the best" in said
    assert "best of its kind" not in _heads_said(table(0.75, np.nan, np.nan))


def test_one_head_is_beside_no_other():
    assert _heads_said(pd.DataFrame(rows("anchor", "anchor head", **{TRUST: 0.5}))) == ""


def test_fits_that_ended_early_are_said_and_only_where_there_are_some():
    whole = {"heads": pd.DataFrame({"n_unconverged": [0, 0]}), "holdouts": pd.DataFrame({"n_unconverged": [0, np.nan]})}
    assert _unconverged_said(whole) == []
    (said,) = _unconverged_said(whole | {"heads": pd.DataFrame({"n_unconverged": [0, 3]})})
    assert said.startswith("3 fits of the adaptor") and "1 of 4 rows" in said
