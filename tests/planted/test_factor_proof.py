"""The closed form of planted factors, and that they are found where they are and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import load_script

from workbench.operators.controls import NORMS
from workbench.planted.cells import make_world
from workbench.planted.checkpoint import plant_world
from workbench.planted.factor_proof import ANOTHER, PLANTED, centred, factor_recovery, planted_factors, planted_sets
from workbench.planted.proof import operators_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def planted():
    return plant_world(make_world(7), 7)


@pytest.mark.parametrize("kind", ["qk", "ov"])
def test_the_closed_form_spans_what_the_operator_reads(planted, kind):
    operator = operators_of(planted, None, kind)[planted.layer, planted.head]
    found = np.linalg.svd(centred(operator))[0][:, :6]
    truth = planted_factors(planted)
    np.testing.assert_allclose(np.linalg.norm(truth.T @ found, axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(truth, axis=0), 1)


def test_gene_sets_are_the_programs_and_decoys_of_the_world(planted):
    world = planted.world
    sets = planted_sets(world)
    programs = [term for term in sets.sets if term.startswith("program")]
    assert len(programs) == len(world.tips) and len(sets.sets) == 6 + 12 + 5
    used = [gene for genes in sets.sets.values() for gene in genes]
    assert len(used) == len(set(used)) and set(used) <= set(world.genes)
    assert all(gene.startswith("PLANTED-ERYTHROID") for gene in sets.sets["program erythroid"])


@pytest.mark.slow
def test_planted_factors_are_found_and_the_controls_lose():
    table = factor_recovery(8, "ov").set_index("feature_map")
    own, others = table.loc[PLANTED], table.drop(index=PLANTED)
    assert own["factors_found"] == own["matched"] == own["programs_found"] == 6
    assert (others["factors_found"].dropna() == 0).all() and (others["programs_found"][ANOTHER] < 3)
    # Which genes the operator hears at all is enough to be as near to the ruler; only factors tell that control apart.
    assert (others["residualised"].drop(index=NORMS) < own["residualised"]).all()


def test_the_page_counts_what_it_is_given():
    script = load_script("planted_extraction")
    rows = [
        {
            **{"seed": seed, "operator": "qk", "feature_map": name, "residualised": value + 0.01 * seed},
            **{
                "n_programs": 6,
                "factors_found": n,
                "matched": n,
                "programs_found": 6,
                "decoys_found": 1,
                "n_decoys": 17,
            },
        }
        for seed in range(8)
        for name, value, n in ((PLANTED, 0.7, 6), ("x", 0.3, 3))
    ]
    rows.append(
        {
            **rows[0],
            "feature_map": "x itself",
            **dict.fromkeys(("factors_found", "matched", "programs_found", "decoys_found"), np.nan),
        }
    )
    page = script.text(pd.DataFrame(rows), 8)
    assert f"| {PLANTED} | 1.00 (least 1.00) |" in page and "| x | 0.50 (least 0.50) |" in page
    assert "| x itself | no factors |" in page and "8 of 8, q 0.0078" in page
