"""Ever smaller feature maps: what they are, what they weigh, and what is said of their losses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from workbench.factors.compaction import FOLDED, REFERENCE, SINGLE, judge, summarise, variants
from workbench.operators.readout import Endpoint
from workbench.stats import corrected_difference

GENES = tuple(f"G{i}" for i in range(40))


@pytest.fixture
def head():
    rng = np.random.default_rng(0)
    return rng.random((40, 6)) @ rng.random((6, 40)) + 0.1 * rng.random((40, 40))


def made(head, **more):
    settings = {
        "ranks": (16, 4),
        "n_factors": 5,
        "n_read": 8,
        "n_write": 7,
        "alternatives": True,
        "width": 3,
        "seed": 0,
    }
    reference = np.concatenate([head, -head], axis=1)
    return {v.name: v for v in variants(reference, head, GENES, **{**settings, **more})}


def test_the_chain_goes_from_large_to_small(head):
    found = made(head)
    sparse = "hard sparse, 5 x (8 + 7)"
    assert list(found) == [REFERENCE, FOLDED, SINGLE, "rank 16", "rank 4", sparse, "NMF, 5", "sparse PCA, 5"]
    assert [v.order for v in found.values()] == list(range(8))
    assert found[REFERENCE].n_bytes == 40 * 80 * 4 and found[SINGLE].n_bytes == 40 * 40 * 4
    assert found[FOLDED].n_bytes == 4 * 3 * 41 and found[FOLDED].matrix is found[REFERENCE].matrix
    assert found["rank 4"].n_weights == 4 * (40 + 40 + 1) and found[sparse].n_weights == 5 * (8 + 7 + 1)
    assert (found[sparse].matrix != 0).any(1).sum() <= 40


def test_truncation_is_the_nearest_of_its_rank(head):
    found = made(head)
    values = np.linalg.svd(head, compute_uv=False)
    tail = np.sqrt((values[4:] ** 2).sum() / (values**2).sum())
    assert found["rank 4"].error == pytest.approx(tail) and found[SINGLE].error == 0
    same_rank = made(head, ranks=(5,))["rank 5"].error
    assert all(found[name].error >= same_rank for name in ("hard sparse, 5 x (8 + 7)", "NMF, 5", "sparse PCA, 5"))


def test_what_cannot_be_made_says_why(head):
    found = made(head - head.mean(), ranks=(41, 4))
    assert found["rank 41"].matrix is None and "41 factors" in found["rank 41"].note
    assert found["NMF, 5"].matrix is None and "negative" in found["NMF, 5"].note
    assert found["rank 4"].matrix is not None


def test_judging_is_on_held_out_cells_and_undefined_is_nan():
    rng = np.random.default_rng(1)
    target = np.array(["a", "b"])[rng.integers(0, 2, 60)]
    z = (target == "a")[:, None] + 0.1 * rng.standard_normal((60, 2))
    test = np.arange(60) >= 40
    z[test] = 1 - z[test]
    one = np.where(np.arange(60) < 45, target, "a")
    wanted = [
        Endpoint("right", "classes", target, np.arange(60)),
        Endpoint("none", "binary", one == "b", np.arange(45, 60)),
    ]
    rows = {(row["endpoint"], row["metric"]): row["value"] for row in judge(z, wanted, test, 0, 0)}
    assert rows["right", "balanced accuracy"] < 0.1, "what the training cells say is wrong of the held-out ones"
    assert np.isnan(rows["none", "AUROC"])


def rows(values):
    about = {"order": 1, "bytes": 10, "parameters": 5, "relative_error": 0.1, "note": ""}
    return pd.DataFrame(
        [
            {**about, "split": str(i), "variant": name, "endpoint": "e", "metric": "m", "value": value}
            for name, own in values.items()
            for i, value in enumerate(own)
        ]
    )


def test_losses_are_paired_and_adjusted():
    rng = np.random.default_rng(2)
    reference = rng.random(20)
    worse, same = reference - 0.2 - 0.05 * rng.random(20), reference + 0.01 * rng.standard_normal(20)
    table = summarise(rows({REFERENCE: reference, "worse": worse, "same": same, "equal": reference}), 0.25).set_index(
        "variant"
    )
    assert table.loc["worse", "difference"] == pytest.approx((worse - reference).mean())
    assert table.loc["worse", "p_wilcoxon"] == pytest.approx(wilcoxon(worse - reference).pvalue)
    assert table.loc["worse", "p"] == pytest.approx(corrected_difference(worse - reference, 0.25)["p"])
    assert table["lost"].to_dict() == {REFERENCE: False, "worse": True, "same": False, "equal": False}
    assert (
        table.loc["equal", "p"] == table.loc["equal", "p_wilcoxon"] == 1
        and table.loc["equal", "low"] == table.loc["equal", "high"] == 0
    )
    assert table.loc["worse", "q"] == pytest.approx(3 * table.loc["worse", "p"])
    assert table.loc["worse", "low"] < table.loc["worse", "difference"] < table.loc["worse", "high"] < 0
    assert np.isnan(table.loc[REFERENCE, "p"]) and (table["n_splits"] == 20).all()


def test_splits_that_are_undefined_do_not_count():
    reference = np.array([0.5, 0.6, np.nan, 0.7, 0.8])
    other = np.array([0.4, np.nan, 0.9, 0.6, 0.7])
    table = summarise(rows({REFERENCE: reference, "other": other, "nothing": np.full(5, np.nan)}), 0.2).set_index(
        "variant"
    )
    assert table.loc["other", "n_splits"] == 3 and table.loc["other", "difference"] == pytest.approx(-0.1)
    assert table.loc["nothing", "n_splits"] == 0 and np.isnan(table.loc["nothing", "value"])
    assert not table.loc["nothing", "lost"]
