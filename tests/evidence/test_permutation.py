"""The blocked permutation beside a loop that permutes and correlates with SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from workbench.errors import EvaluationError
from workbench.evidence.null_rulers import permute_in_blocks
from workbench.evidence.permutation import blocked_permutation
from workbench.evidence.ruler import load_ruler


def case(n=24, n_stages=6, seed=0, follow=0.0):
    rng = np.random.default_rng(seed)
    ruler = load_ruler("hematopoiesis").distances
    stage = rng.choice(rng.choice(len(ruler), n_stages, replace=False), n)
    noise = rng.random((n, n))
    latent = follow * ruler[np.ix_(stage, stage)] + (noise + noise.T) / 2
    np.fill_diagonal(latent, 0)
    blocks = rng.integers(0, 3, (n, 2)).astype(str)
    return latent, stage, ruler, blocks


def test_every_draw_is_what_a_loop_gives():
    latent, stage, ruler, blocks = case(follow=0.5)
    found = blocked_permutation(latent, stage, ruler, blocks, draws=50, seed=3)
    upper = np.triu_indices(len(stage), 1)
    permuted, movable = permute_in_blocks(stage, blocks, 3, 50)
    for labels, value in zip([stage, *permuted], [found.spearman, *found.null], strict=True):
        expected = stats.spearmanr(latent[upper], ruler[np.ix_(labels, labels)][upper]).statistic
        assert value == pytest.approx(expected, abs=1e-12)
    assert found.n == 24 and found.n_movable == movable.sum()
    assert found.p == (1 + (found.null >= found.spearman - 1e-12).sum()) / 51


def test_an_asymmetry_by_rounding_parts_no_ties():
    latent, stage, ruler, blocks = case()
    shaken = ruler + 1e-16 * np.random.default_rng(0).random(ruler.shape)
    one, other = (blocked_permutation(latent, stage, r, blocks, draws=20, seed=0) for r in (ruler, shaken))
    np.testing.assert_allclose(one.null, other.null, atol=0.02)


def test_blocks_of_memory_change_nothing(monkeypatch):
    latent, stage, ruler, blocks = case()
    whole = blocked_permutation(latent, stage, ruler, blocks, draws=40, seed=0)
    monkeypatch.setattr("workbench.evidence.permutation._BLOCK_BYTES", 8 * 24 * 24 * 7)
    np.testing.assert_allclose(blocked_permutation(latent, stage, ruler, blocks, draws=40, seed=0).null, whole.null)


def test_what_follows_the_ruler_is_found_at_the_smallest_p():
    found = blocked_permutation(*case(n=40, follow=3.0), draws=2000, seed=0)
    assert found.p == 1 / 2001 and found.spearman > 0.5


@pytest.mark.slow
def test_p_is_uniform_where_labels_mean_nothing():
    p = [blocked_permutation(*case(n=30, seed=s), draws=199, seed=s).p for s in range(120)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_block_effect_alone_is_no_evidence():
    """Labels and latent both go with the donor: permuting inside donors leaves that to the null."""
    rng = np.random.default_rng(0)
    ruler, p = load_ruler("hematopoiesis").distances, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        donor = np.repeat(np.arange(3), 10)
        stage = rng.integers(0, 4, 30) + 12 * donor
        latent = (donor[:, None] != donor) + 0.3 * rng.random((30, 30))
        p.append(blocked_permutation((latent + latent.T) / 2, stage, ruler, donor[:, None], draws=99, seed=seed).p)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_what_cannot_be_computed_is_said():
    latent, stage, ruler, _ = case()
    alone = np.arange(24)[:, None]
    with pytest.raises(EvaluationError, match="24 have one member"):
        blocked_permutation(latent, stage, ruler, alone, draws=10, seed=0)
    with pytest.raises(EvaluationError, match="at least three"):
        blocked_permutation(latent[:2, :2], stage[:2], ruler, alone[:2], draws=10, seed=0)
    one_block = np.zeros((24, 1), dtype=int)
    with pytest.raises(EvaluationError, match="nothing to correlate"):
        blocked_permutation(np.ones((24, 24)), stage, ruler, one_block, draws=10, seed=0)
