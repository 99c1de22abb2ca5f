"""What values are, and that every scale that can be known leads to the same expression."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from workbench.cells.scale import FEW_GENES, TARGET, find_scale, parse_values
from workbench.cells.values import describe_values
from workbench.errors import CellsError

N_GENES = FEW_GENES + 500


def made_counts(n_cells: int = 120, n_genes: int = N_GENES, seed: int = 0) -> np.ndarray:
    """Counts of a whole transcriptome: depths of 800 to 8,000, some genes in most cells and most genes in few."""
    rng = np.random.default_rng(seed)
    share = rng.lognormal(0, 2, n_genes)
    depth = rng.uniform(800, 8000, (n_cells, 1))
    return rng.poisson(share / share.sum() * depth * rng.gamma(5, 0.2, (n_cells, n_genes))).astype(np.float64)


COUNTS = made_counts()
TOTAL = COUNTS.sum(1, keepdims=True)
EXPECTED = np.log1p(COUNTS / TOTAL * 1e4)
NAMES = np.array([f"c{i}" for i in range(len(COUNTS))])
MEDIAN = float(np.median(TOTAL))

KNOWN = {
    "counts": COUNTS,
    "CP10k": COUNTS / TOTAL * 1e4,
    "CPM": COUNTS / TOTAL * 1e6,
    "median depth": COUNTS / TOTAL * MEDIAN,
    "log1p(CP10k)": EXPECTED,
    "log1p(CPM)": np.log1p(COUNTS / TOTAL * 1e6),
    "log1p at median depth": np.log1p(COUNTS / TOTAL * MEDIAN),
    "log2(CPM + 1)": np.log2(COUNTS / TOTAL * 1e6 + 1),
    "log2(CP10k + 1)": np.log2(COUNTS / TOTAL * 1e4 + 1),
    "log10(CP10k + 1)": np.log10(COUNTS / TOTAL * 1e4 + 1),
    "square roots of CP10k": np.sqrt(COUNTS / TOTAL * 1e4),
    "half precision": EXPECTED.astype(np.float16),
    "counts divided by size factors": COUNTS / np.random.default_rng(1).uniform(0.5, 2, (len(COUNTS), 1)),
    "counts joined with CPM": np.where(np.arange(len(COUNTS))[:, None] % 2, COUNTS, COUNTS / TOTAL * 1e6),
}


def brought(matrix, values=None, depth=None):
    scale = find_scale(matrix, NAMES[: matrix.shape[0]], values, depth)
    block = sp.csr_matrix(np.asarray(matrix, dtype=np.float32))
    return scale, scale.expression(block, scale.totals(block, NAMES, depth if scale.by_depth else None)).toarray()


@pytest.mark.parametrize("kind", KNOWN)
def test_what_can_be_known_becomes_log1p_of_cp10k(kind):
    scale, found = brought(KNOWN[kind])
    np.testing.assert_allclose(found, EXPECTED, rtol=1e-2 if kind == "half precision" else 1e-4, atol=1e-5)
    assert scale.counts == (kind == "counts")


def test_values_on_the_scale_already_are_left_bit_by_bit():
    scale, found = brought(EXPECTED)
    assert np.array_equal(found, EXPECTED.astype(np.float32)) and "taken as they are" in scale.said


def test_counts_after_removal_of_ambient_rna_are_normalised_by_their_sums():
    rng = np.random.default_rng(3)
    soup = np.maximum(COUNTS - rng.uniform(0, 0.6, COUNTS.shape), 0)
    scale, found = brought(soup)
    np.testing.assert_allclose(found, np.log1p(soup / soup.sum(1, keepdims=True) * 1e4), rtol=1e-4)
    assert scale.said.startswith("counts with decimals") and not scale.counts


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("counts", "log1p(CP10k)"),
        ("CPM", "log1p(CPM)"),
        ("log1p(CP10k)", "log2(CPM + 1)"),
        ("counts", "log10(CP10k + 1)"),
    ],
)
def test_joined_scales_are_refused_with_what_was_found(one, other):
    half = len(COUNTS) // 2
    joined = np.concatenate([KNOWN[one][:half], KNOWN[other][half:]])
    with pytest.raises(CellsError, match=r"mixed \(\d+ cells .*, \d+ cells .*bring all cells to one scale"):
        find_scale(joined, NAMES)


@pytest.mark.parametrize(
    ("kind", "says"), [("log1p(CP10k)", "hold whole numbers"), ("counts", "hold values with decimals")]
)
def test_a_cell_of_another_scale_that_no_sample_saw_is_refused_by_name(kind, says):
    scale = find_scale(KNOWN[kind], NAMES)
    other = KNOWN["counts" if kind != "counts" else "log1p(CP10k)"]
    block = sp.csr_matrix(np.concatenate([KNOWN[kind][:3], other[3:4]]).astype(np.float32))
    with pytest.raises(CellsError, match=rf"1 of 4 cells \(c3\) {says}"):
        scale.totals(block, NAMES)
    corrected = find_scale(np.maximum(COUNTS - 0.3, 0), NAMES)
    with pytest.raises(CellsError, match=r"1 of 1 cells \(c0\) look logged"):
        corrected.totals(sp.csr_matrix(KNOWN["log1p(CPM)"][:1].astype(np.float32)), NAMES)


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("log1p(CP10k)", "log1p at median depth"),
        ("log1p(CP10k)", "log10(CP10k + 1)"),
        ("log2(CP10k + 1)", "log1p(CP10k)"),
        ("square roots of CP10k", "log1p(CP10k)"),
        ("CP10k", "averages"),
    ],
)
def test_a_few_cells_of_a_lower_scale_are_refused_by_name(kind, other):
    joined = KNOWN[kind].copy()
    joined[40:42] = KNOWN[other][40:42] if other in KNOWN else (EXPECTED[40:42] + EXPECTED[50:52]) / 2
    with pytest.raises(
        CellsError, match=r"2 of 120 cells \(c40, c41\) add up to less than the total of 10,000 .*--values"
    ):
        brought(joined)


def test_genes_filtered_after_normalising_and_counts_among_cp10k_are_read():
    few = np.argsort(-COUNTS.sum(0))[-300:]
    scale, found = brought(np.delete(EXPECTED, few, axis=1))
    assert scale.target == TARGET and np.array_equal(found, np.delete(EXPECTED, few, axis=1).astype(np.float32))
    joined = KNOWN["CP10k"].copy()
    joined[:3] = COUNTS[:3]
    np.testing.assert_allclose(brought(joined)[1], EXPECTED, rtol=1e-4)


def test_few_genes_need_the_depth_or_a_word():
    few = np.argsort(-COUNTS.sum(0))[:700]
    with pytest.raises(CellsError, match=r"counts .* on 700 genes.*--depth.*--values.*counts: nothing but these"):
        find_scale(COUNTS[:, few], NAMES)
    for kind in ("log1p(CP10k)", "CPM", "log2(CPM + 1)"):
        with pytest.raises(CellsError, match="on 700 genes"):
            find_scale(KNOWN[kind][:, few], NAMES)
        scale, found = brought(KNOWN[kind][:, few], depth=TOTAL.ravel())
        np.testing.assert_allclose(found, EXPECTED[:, few], rtol=1e-3, err_msg=kind)
        assert "the column of depths shows" in scale.said
    np.testing.assert_allclose(brought(COUNTS[:, few], depth=TOTAL.ravel())[1], EXPECTED[:, few], rtol=1e-4)
    # Cut first and normalised then: the depth does not fit, which is seen.
    cut = COUNTS[:, few] / COUNTS[:, few].sum(1, keepdims=True)
    for depth in (TOTAL.ravel(), TOTAL.ravel() * np.random.default_rng(0).uniform(0.3, 3, len(TOTAL))):
        with pytest.raises(CellsError, match="on 700 genes and do not fit the column of depths.*--layer"):
            find_scale(np.log1p(cut * 1e4), NAMES, depth=depth)


def test_a_depth_that_is_named_counts_on_many_genes_too():
    most = np.sort(np.argsort(-COUNTS.sum(0))[20 : FEW_GENES + 20])
    for kind in ("counts", "log1p(CPM)"):
        scale, found = brought(KNOWN[kind][:, most], depth=TOTAL.ravel())
        np.testing.assert_allclose(found, EXPECTED[:, most], rtol=1e-3, err_msg=kind)
        assert "the column of depths" in scale.said


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("counts", "counts"),
        ("CP10k", "cp10k"),
        ("CPM", "cpm"),
        ("log1p(CP10k)", "log1p:1e4"),
        ("log2(CPM + 1)", "log2:1e6"),
        ("log10(CP10k + 1)", "log10:10000"),
        ("square roots of CP10k", "sqrt:1e4"),
        ("log1p at median depth", f"log1p:{MEDIAN}"),
        ("log1p at median depth", "log1p"),
    ],
)
def test_what_is_said_is_done_also_on_few_genes(kind, values):
    np.testing.assert_allclose(brought(KNOWN[kind], values)[1], EXPECTED, rtol=1e-4)
    few = np.arange(0, N_GENES, 20)
    if values == "counts":
        own = COUNTS[:, few]
        np.testing.assert_allclose(brought(own, values)[1], np.log1p(own / own.sum(1, keepdims=True) * 1e4), rtol=1e-4)
    elif values == "log1p":
        with pytest.raises(CellsError, match=r"need the total that cells had before; say it, as in log1p:10000"):
            find_scale(KNOWN[kind][:, few], NAMES, values)
    else:
        np.testing.assert_allclose(brought(KNOWN[kind][:, few], values)[1], EXPECTED[:, few], rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("counts", "log1p:1e4"),
        ("log1p(CP10k)", "counts"),
        ("log1p(CP10k)", "log2:1e6"),
        ("log1p(CPM)", "log1p:1e4"),
        ("log1p(CP10k)", "log1p:1e6"),
        ("CPM", "log1p:1e6"),
    ],
)
def test_what_is_said_against_the_values_is_refused(kind, values):
    with pytest.raises(CellsError, match="are said to be .*, but look like "):
        find_scale(KNOWN[kind], NAMES, values)


def test_more_than_the_total_is_refused_on_few_genes_too():
    few = np.argsort(-COUNTS.sum(0))[:3000]
    scale = find_scale(KNOWN["log1p(CPM)"][:, few], NAMES, "log1p:1e4")
    with pytest.raises(CellsError, match="add up to more than the total of 10,000 once 'log1p' is undone"):
        scale.totals(sp.csr_matrix(KNOWN["log1p(CPM)"][:, few].astype(np.float32)), NAMES)
    with pytest.raises(CellsError, match="hold more counts than the column of depths says"):
        depth = np.full(len(COUNTS), 10.0)
        scale = find_scale(COUNTS[:, few], NAMES, depth=depth)
        scale.totals(sp.csr_matrix(COUNTS[:, few].astype(np.float32)), NAMES, depth)


@pytest.mark.parametrize(
    "values", ["count", "log1p:", "log1p:-1", "log1p:nan", "log1p:inf", "cp", "linear", "log1p:1e4:2", ""]
)
def test_unknown_words_are_refused(values):
    with pytest.raises(CellsError, match=r"are unknown; say counts, cp10k.*--layer"):
        parse_values(values)


def test_presence_is_no_expression():
    with pytest.raises(CellsError, match="0/1 .*presence is no expression"):
        find_scale((COUNTS > 0).astype(float), NAMES)
    scale, _ = brought((COUNTS > 0).astype(float), "counts")
    assert scale.counts


def test_what_cannot_be_known_is_refused():
    smoothed = EXPECTED @ np.full((N_GENES, 1), 1 / N_GENES) + EXPECTED * 0.3  # imputed values
    with pytest.raises(CellsError, match="unknown .*neither whole numbers nor equal sums.*--values"):
        find_scale(smoothed, NAMES)
    filtered = KNOWN["log1p(CP10k)"][:, np.argsort(COUNTS.sum(0))[: FEW_GENES + 100]]
    with pytest.raises(CellsError, match="do not add up to one total, as if genes had been left out"):
        find_scale(filtered, NAMES)
    with pytest.raises(CellsError, match="1 cells hold negative values .c4."):
        find_scale(np.where(np.arange(len(COUNTS))[:, None] == 4, -COUNTS, COUNTS), NAMES)


def test_one_entry_of_several_is_added_before_the_logarithm():
    scale = find_scale(EXPECTED, NAMES)
    twice = sp.csr_matrix((np.log1p([3.0, 4.0, 5.0]), [1, 0, 1], [0, 3]), shape=(1, 2))
    np.testing.assert_allclose(scale.merged(twice).toarray(), np.log1p([[4.0, 8.0]]), rtol=1e-6)


@pytest.mark.parametrize(
    ("matrix", "kind"),
    [
        ([[1, 2], [40, 0]], "counts"),
        ([[1.5, 2], [40, 0]], "counts with decimals"),
        ([[1.5, 2], [19.9, 0]], "unknown"),
        ([[1, 0, 1], [0, 1, 0]], "0/1"),
    ],
)
def test_a_few_values_say_little(matrix, kind):
    report = describe_values(sp.csr_matrix(np.array(matrix, np.float32)))
    assert report.kind == kind and report.maximum == np.float32(np.max(matrix)) and report.n_cells == len(matrix)


def test_a_large_matrix_is_looked_at_in_part_and_evenly():
    dense = np.ones((3000, 2))
    dense[2990] = 7.5
    report = describe_values(sp.csr_matrix(dense), n_cells=1000)
    assert 900 <= report.n_cells <= 1100
    assert report.maximum == 7.5, "the last rows are among those looked at"


def test_a_matrix_without_values_is_refused():
    for empty in (sp.csr_matrix((4, 3)), np.zeros((4, 3)), sp.csr_matrix((0, 3))):
        with pytest.raises(CellsError, match=rf"matrix of {empty.shape[0]} cells x 3 genes holds no value above zero"):
            describe_values(empty)


def test_cells_without_values_at_the_start_do_not_hide_the_others():
    dense = np.zeros((300, 3))
    dense[250:] = 2
    report = describe_values(sp.csr_matrix(dense))
    assert report.maximum == 2 and report.n_cells == 50


def test_the_target_is_that_of_scgpt_and_scanpy():
    assert TARGET == 1e4
