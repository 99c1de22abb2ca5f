"""The extractor as a scikit-learn estimator, and as a file."""

from __future__ import annotations

import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.utils.estimator_checks import parametrize_with_checks

from workbench.cells.datasets import CellMapping, load
from workbench.errors import ArtifactError, EvaluationError, GeneMatchError, ShapeError
from workbench.operators import calibration, cell_losses, exporting
from workbench.operators.algorithm import Algorithm
from workbench.operators.estimator import LABEL, Extractor
from workbench.operators.saved_operator import Operator

GENES = [f"G{i}" for i in range(30)]
LABELS = ("HSC", "CMP", "monocyte", "B")
# Along a line: HSC - CMP - monocyte, and B beside.
DISTANCES = pd.DataFrame(
    [[0, 0.3, 0.6, 0.7], [0.3, 0, 0.3, 1.0], [0.6, 0.3, 0, 1.0], [0.7, 1.0, 1.0, 0]], index=LABELS, columns=LABELS
)


@pytest.fixture
def cells():
    """Expression in which each label has a program of its own, sparse and not negative."""
    rng = np.random.default_rng(0)
    label = np.array(LABELS)[np.arange(160) % 4]
    program = rng.random((4, 30)) * (rng.random((4, 30)) < 0.4) * 3
    x = np.maximum(program[np.arange(160) % 4] + 0.5 * rng.standard_normal((160, 30)), 0)
    return x, label


@pytest.fixture
def operator():
    return np.random.default_rng(1).standard_normal((30, 12))


@pytest.fixture(autouse=True)
def few_levels(monkeypatch):
    """How far a readout holds with fewer genes is judged in tests/operators/test_exporting.py; here two levels of one draw each do."""
    monkeypatch.setattr(exporting, "GENE_SHARES", (1.0, 0.5))
    monkeypatch.setattr(exporting, "DRAWS", 1)
    monkeypatch.setattr(exporting, "PERMUTED", 1)


@pytest.fixture
def epochs(monkeypatch):
    """Cell heads of so many epochs at most, instead of 120."""

    def at_most(n):
        descend = cell_losses.descend
        monkeypatch.setattr(cell_losses, "descend", lambda *args, **options: descend(*args, **{**options, "epochs": n}))

    return at_most


@pytest.fixture
def short(epochs):
    """Cell heads of few epochs, where it is not asked how good they are."""
    epochs(5)


# The shape checks of these tests refuse parameters of a wrong type already in the constructor, which is not so elsewhere.
@parametrize_with_checks(
    [Extractor(k=2)],
    expected_failed_checks=lambda _: {"check_do_not_raise_errors_in_init_or_set_params": "types are checked in tests"},
)
def test_scikit_learn_s_checks(estimator, check, monkeypatch):
    # None of these checks asks how well the probabilities are calibrated, for which each fit takes five more.
    monkeypatch.setattr(calibration, "INNER", 2)
    check(estimator)


@pytest.mark.parametrize("objective", ["anchors", "cells", "hybrid"])
def test_labels_are_found_and_latents_follow_the_distances(cells, operator, objective, epochs):
    epochs(30)
    x, label = cells
    made = Extractor(operator, DISTANCES, objective, k=3).fit(x[:100], label[:100])
    assert made.score(x[100:], label[100:]) > 0.9
    z = made.transform(x[100:])
    assert z.shape == (60, 3) and np.allclose(made.predict_proba(x[100:]).sum(1), 1)
    means = np.stack([z[label[100:] == name].mean(0) for name in LABELS])
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    angle = np.arccos(np.clip(unit @ unit.T, -1, 1))
    assert angle[0, 1] < angle[0, 3] and angle[1, 2] < angle[1, 3]


def test_the_operator_is_frozen(cells, operator, short):
    x, label = cells
    before = operator.copy()
    for objective in ("anchors", "cells"):
        made = Extractor(operator, DISTANCES, objective, k=3).fit(x, label)
        assert np.array_equal(operator, before) and made.operator is operator
        # Whatever was trained, the latent lies in what the operator passes on.
        assert np.linalg.matrix_rank(np.column_stack([operator, made.matrix_]), tol=1e-8) == 12


def test_sparse_and_dense_and_named_columns_give_the_same(cells, operator):
    x, label = cells
    dense = Extractor(operator, k=3).fit(x, label)
    sparse = Extractor(operator, k=3).fit(sp.csr_matrix(x), label)
    table = Extractor(operator, k=3).fit(pd.DataFrame(x, columns=GENES), label)
    np.testing.assert_allclose(sparse.transform(sp.csr_matrix(x)), dense.transform(x), atol=1e-10)
    np.testing.assert_allclose(table.transform(pd.DataFrame(x, columns=GENES)), dense.transform(x), atol=1e-10)
    assert table.genes_ == tuple(GENES)


@pytest.mark.parametrize("objective", ["anchors", "cells"])
def test_the_order_of_named_cells_does_not_matter(cells, operator, objective, short):
    x, label = cells
    names, order = np.array([f"cell {i}" for i in range(160)]), np.random.default_rng(2).permutation(160)
    one = Extractor(operator, DISTANCES, objective, k=3).fit(x, label, names=names)
    other = Extractor(operator, DISTANCES, objective, k=3).fit(x[order], label[order], names=names[order])
    scale = np.abs(one.matrix_).max()
    np.testing.assert_allclose(other.matrix_, one.matrix_, atol=1e-4 * scale)


def test_donors_may_be_a_list_or_a_column_of_a_table(cells, operator):
    x, label = cells
    donor = [f"d{i // 4 % 4}" for i in range(160)]
    index = [f"cell {i}" for i in range(160)]
    made = [
        Extractor(operator, k=3, min_cells=2).fit(x, label, groups=groups).transform(x)
        for groups in (np.array(donor), donor, pd.Series(donor, index=index), pd.Categorical(donor))
    ]
    for one in made[1:]:
        np.testing.assert_array_equal(one, made[0])
    with pytest.raises(ShapeError, match="3 groups were given for 160 cells"):
        Extractor(operator).fit(x, label, groups=donor[:3])


def test_the_round_trip_is_bit_exact(cells, operator, tmp_path):
    x, label = cells
    made = Extractor(operator, DISTANCES, k=3).fit(pd.DataFrame(x, columns=GENES), label)
    again = Extractor.from_pretrained(made.save_pretrained(tmp_path / "it", card={"data": "made up"}))
    assert np.array_equal(again.transform(x), made.transform(pd.DataFrame(x, columns=GENES)))
    assert np.array_equal(again.predict_proba(x), made.predict_proba(pd.DataFrame(x, columns=GENES)))
    assert again.predict(x).tolist() == made.predict(pd.DataFrame(x, columns=GENES)).tolist()
    with pytest.raises(ValueError, match="feature names should match"):  # as before saving
        again.predict(pd.DataFrame(x, columns=GENES).iloc[:, ::-1])
    assert "made up" in (tmp_path / "it" / "README.md").read_text()
    logged = ad.AnnData(sp.csr_matrix(x.astype(np.float32)), var=pd.DataFrame(index=GENES))
    logged = load(logged, CellMapping(values="log1p:10000"))
    known = Algorithm.from_pretrained(tmp_path / "it")
    np.testing.assert_allclose(known.transform(logged), made.transform(pd.DataFrame(x, columns=GENES)), atol=1e-5)


# What names its genes is aligned by them


def named(operator, order=slice(None)):
    names = np.array(GENES)[order]
    return Operator(tuple(names), operator[order], "qk", "L0H0", "made up")


@pytest.mark.parametrize("objective", ["anchors", "cells"])
def test_an_operator_is_aligned_to_the_table_s_genes(cells, operator, objective, short):
    x, label = cells
    shuffled = np.random.default_rng(5).permutation(30)
    given = named(operator, shuffled)
    table = pd.DataFrame(x, columns=GENES)
    expected = Extractor(operator, DISTANCES, objective, k=3).fit(table, label)
    for one in (given, pd.DataFrame(given.matrix, index=list(given.genes))):
        made = Extractor(one, DISTANCES, objective, k=3).fit(table, label)
        assert np.array_equal(made.transform(table), expected.transform(table))
        assert made.to_algorithm().genes == tuple(GENES)


def test_genes_that_an_operator_lacks_say_nothing_and_half_of_its_own_must_be_there(cells, operator):
    x, label = cells
    table = pd.DataFrame(x, columns=GENES)
    made = Extractor(named(operator, slice(0, 20)), k=3).fit(table, label)
    assert not made.matrix_[20:].any() and made.matrix_[:20].any()
    assert np.array_equal(
        made.matrix_[:15], Extractor(np.vstack([operator[:20], np.zeros((10, 12))]), k=3).fit(x, label).matrix_[:15]
    )
    with pytest.raises(GeneMatchError, match="14 of the operator's 30 genes are there"):
        Extractor(named(operator), k=3).fit(table.iloc[:, :14], label)
    with pytest.raises(ShapeError, match="names its genes and the cells do not"):
        Extractor(named(operator), k=3).fit(x, label)


@pytest.mark.parametrize(
    ("genes", "said"),
    [
        (GENES[::-1], "column 0 is 'G0' and was named 'G29'"),
        ([*GENES[:-1], "CD3E"], "column 29 is 'G29' and was named 'CD3E'"),
        (GENES[:-1], "column 29 is 'G29' and was named 'no gene'"),
    ],
)
def test_names_that_contradict_those_that_were_fitted_are_refused(cells, operator, tmp_path, genes, said):
    x, label = cells
    made = Extractor(operator, k=3).fit(pd.DataFrame(x, columns=GENES), label)
    assert made.save_pretrained(tmp_path / "same", GENES)
    for extractor in (made, Extractor.from_pretrained(tmp_path / "same")):
        with pytest.raises(ShapeError, match=said):
            extractor.save_pretrained(tmp_path / "other", genes)
    assert not (tmp_path / "other").exists()


def test_labels_and_donors_of_cells_in_another_order_are_refused(cells, operator):
    x, label = cells
    index = [f"cell {i}" for i in range(160)]
    table, labels = pd.DataFrame(x, index, GENES), pd.Series(label, index)
    donors = pd.Series([f"d{i % 5}" for i in range(160)], index)
    made = Extractor(operator, k=3).fit(table, labels, groups=donors)
    assert made.classes_.tolist() == sorted(LABELS)
    with pytest.raises(ShapeError, match="labels name the cells in another order.*cell 159.*cell 0"):
        Extractor(operator, k=3).fit(table, labels[::-1])
    with pytest.raises(ShapeError, match="groups name the cells in another order"):
        Extractor(operator, k=3).fit(table, labels, groups=donors[::-1])


@pytest.mark.slow
def test_loading_and_applying_need_no_torch(cells, operator, tmp_path):
    x, label = cells
    Extractor(operator, k=3).fit(x, label).save_pretrained(tmp_path / "it", GENES)
    code = (
        "import sys, numpy as np\nfrom workbench.operators.estimator import Extractor\n"
        f"print(Extractor.from_pretrained({str(tmp_path / 'it')!r}).transform(np.ones((2, 30))).shape)\n"
        "assert not {'torch', 'scgpt', 'transformer_lens'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(2, 3)", done.stderr


def test_what_is_wrong_is_said(cells, operator, tmp_path):
    x, label = cells
    with pytest.raises(EvaluationError, match="one class only"):
        Extractor().fit(x, ["B"] * 160)
    with pytest.raises(ShapeError, match="reads 30 genes and the cells have 20"):
        Extractor(operator).fit(x[:, :20], label)
    with pytest.raises(EvaluationError, match="1 of 4 labels have no ruler distance \\(first: B\\)"):
        Extractor(distances=DISTANCES.drop(index="B")).fit(x, label)
    with pytest.raises(EvaluationError, match="Unknown objective 'cels'"):
        Extractor(objective="cels").fit(x, label)
    made = Extractor(k=2).fit(x, label)
    with pytest.raises(ShapeError, match="30 genes need a name each; found 0"):
        made.save_pretrained(tmp_path / "x")
    folder = made.save_pretrained(tmp_path / "y", GENES)
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"G3"', '"G99"'))
    with pytest.raises(ArtifactError, match="a file was changed or swapped"):
        Extractor.from_pretrained(folder)
    readouts = {"stage": made.readout_}
    Algorithm(tuple(GENES), made.matrix_, made.offset_, readouts, {}).save_pretrained(tmp_path / "z")
    with pytest.raises(EvaluationError, match="readouts stage, not the one of an Extractor"):
        Extractor.from_pretrained(tmp_path / "z")
    assert LABEL == "label"


def test_the_file_takes_along_what_is_known_of_the_training_cells(cells, operator, tmp_path):
    x, label = cells
    made = Extractor(operator, DISTANCES, k=3, thin=(0.5,)).fit(pd.DataFrame(x, columns=GENES), label)
    made.save_pretrained(tmp_path / "a")
    known, again = Algorithm.from_pretrained(tmp_path / "a"), Extractor.from_pretrained(tmp_path / "a")
    assert known.reference.classes.names == tuple(sorted(LABELS)) and known.reference.levels[0].accuracy > 0.8
    assert {level.kind for level in known.reference.levels} == {"share of genes", "share of counts"}
    # Saved again, it is the same.
    again.save_pretrained(tmp_path / "b")
    assert Algorithm.from_pretrained(tmp_path / "b").reference.told() == known.reference.told()
    measured = np.arange(30) >= 6
    matrix, offset = known.given(measured)
    filled = (x * measured) @ matrix + offset
    assert (
        np.abs(filled - made.transform(pd.DataFrame(x, columns=GENES))).mean()
        < np.abs(
            np.asarray((x * measured) @ made.matrix_ + made.offset_) - made.transform(pd.DataFrame(x, columns=GENES))
        ).mean()
    )


def test_values_below_zero_cannot_be_thinned(cells, operator):
    x, label = cells
    with pytest.raises(EvaluationError, match="some values are below 0; leave thin out"):
        Extractor(operator, DISTANCES, k=3, thin=(0.5,)).fit(x - 1, label)
