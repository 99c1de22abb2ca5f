"""From cells and settings to a study: which cells, metrics and references, and what is said of what is left out."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from helpers import genes, tiny_cells, tiny_model

from workbench.ablation.build import METRICS, choose_cells, choose_rows, expression_components, prepare
from workbench.ablation.metrics import Metric, mask_values
from workbench.ablation.reference import build_reference
from workbench.ablation.settings import StudyConfig
from workbench.ablation.sites import Ablation, all_heads
from workbench.ablation.study import evaluate, intact_cells
from workbench.cells.genes import match_genes
from workbench.cells.groups import make_folds, make_groups
from workbench.errors import CellsError, CheckpointError, EvaluationError, GeneMatchError, HookError
from workbench.evidence.ruler import load_ruler

N, SEED = 40, 3
# Any three stages will do.
STAGES = dict(zip("BTM", load_ruler("hematopoiesis").stages[:3], strict=True))


@pytest.fixture(scope="module")
def model():
    return tiny_model(1)


@pytest.fixture(scope="module")
def grid(model):
    return all_heads(model.config)[:2]


@pytest.fixture
def cells():
    adata = tiny_cells(N, seed=2)
    adata.obs["cell_type"] = [("B", "T", "M")[i % 3] for i in range(N)]
    return adata


@pytest.fixture
def make(model, grid, cells):
    def of(*metrics, model=model, adata=cells, grid=grid, seed=SEED, extra=(), share=0.3, **settings):
        given = {"folds": 2, "neighbours": 5, "metrics": metrics or ("cell_shift",), **settings}
        return prepare(model, adata, StudyConfig(**given), grid, seed=seed, min_gene_share=share, extra=extra)

    return of


def names_of(study):
    return list(study.names)


def per_label(study):
    return [metric.name for metric in study.metrics if metric.label is not None]


def folds_of(cells, n):
    donors = cells.obs["donor"].to_numpy() if "donor" in cells.obs else None
    return make_folds(make_groups(cells.obs_names.to_numpy(), donors, None, SEED), cells.obs["cell_type"], n, SEED)


# Which cells


def test_cells_are_drawn_by_name_in_whatever_order_the_file_has_them(cells):
    drawn = choose_cells(cells, 12, SEED)
    assert drawn.n_obs == 12
    turned = choose_cells(cells[np.random.default_rng(0).permutation(N)].copy(), 12, SEED)
    assert set(turned.obs_names) == set(drawn.obs_names)
    assert drawn.obs_names.tolist() == [name for name in cells.obs_names if name in set(drawn.obs_names)]
    assert set(choose_cells(cells, 12, SEED + 1).obs_names) != set(drawn.obs_names)
    assert (drawn.X[3] != cells[drawn.obs_names[3]].X).nnz == 0


def test_fewer_cells_are_some_of_more(cells):
    names = [set(choose_cells(cells, n, SEED).obs_names) for n in (5, 12, 30)]
    assert names[0] < names[1] < names[2]
    rest = cells[~cells.obs_names.isin(list(names[1])[:3])].copy()  # other cells do not matter to those that stay
    assert names[1] & set(rest.obs_names) <= set(choose_cells(rest, 12, SEED).obs_names)


@pytest.mark.parametrize("n", [None, N, N + 5])
def test_all_cells_where_none_are_to_be_left_out(cells, n):
    drawn = choose_cells(cells, n, SEED)
    assert drawn.obs_names.tolist() == cells.obs_names.tolist() and not drawn.is_view
    assert choose_rows(cells.obs_names.to_list(), n, SEED) == list(range(N))


def test_no_cell_is_refused(cells, make):
    with pytest.raises(CellsError, match="The selection holds no cell; check the filter"):
        choose_cells(cells[:0], None, SEED)
    with pytest.raises(CellsError, match="no cell"):
        make(adata=cells[cells.obs["cell_type"] == "none"])


def test_a_model_without_a_cell_embedding_is_refused_before_any_pass(make, monkeypatch):
    shape = {"perturbation": True, "n_classes": 0, "mvc_style": None}
    model = tiny_model(**shape)
    monkeypatch.setattr(type(model), "tokenizer", lambda *_, **__: pytest.fail("cells were tokenised"))
    with pytest.raises(CheckpointError, match="no cell embedding.*cell_emb_style: avg-pool"):
        make("masked_error", model=model)
    monkeypatch.undo()
    mean = tiny_model(**shape, cell_style="avg-pool")
    logged = tiny_cells(N, seed=2, kind="log-normalised")
    assert make("cell_shift", model=mean, adata=logged, grid=all_heads(mean.config)[:1]).names == ("cell_shift",)


def test_the_study_is_of_the_drawn_cells_and_the_reference_of_some_of_them(make, cells, model):
    study = make("cell_shift", "masked_error", reference=7, max_tokens=12, batch_size=5, mask_share=0.4)
    assert study.tokens.cell_ids == tuple(cells.obs_names) and study.tokens.gene_ids.shape[1] == 12
    assert (study.batch_size, study.seed, study.mask_share) == (5, SEED, 0.4)
    rows = choose_rows(cells.obs_names.to_list(), 7, SEED)
    assert study.reference.tokens.cell_ids == tuple(cells.obs_names[rows])
    assert study.masked_reference.tokens.cell_ids == study.reference.tokens.cell_ids
    tokens = model.tokenizer(cells, seed=SEED, max_tokens=12).tokens()
    assert torch.equal(study.tokens.values, tokens.values) and torch.equal(study.tokens.gene_ids, tokens.gene_ids)
    hook = "blocks.0.attn.hook_z"
    masked, _, where = mask_values(tokens.take(rows), model.config, 0.4, SEED)
    assert where.any()
    for reference, given in ((study.reference, tokens.take(rows)), (study.masked_reference, masked)):
        torch.testing.assert_close(reference.means[hook], build_reference(model, given, [hook]).means[hook])
    assert set(study.reference.means) == {hook}


def test_what_needs_no_reference_gets_none(make, cells):
    study = make("cell_shift", "masked_error", cells=9, grid=[Ablation("L0H0", "zero")])
    assert study.tokens.cell_ids == tuple(choose_cells(cells, 9, SEED).obs_names) and len(study.obs) == 9
    assert study.reference is None and study.masked_reference is None
    patched = make("cell_shift", grid=[Ablation("L0H0", "zero"), Ablation("L0H0", "patch")], reference=7)
    assert len(patched.reference.tokens) == 7 and patched.reference.means == {}


def test_a_reference_that_shares_few_genes_is_refused_for_the_means_it_would_give_and_not_for_zeros(make, cells):
    rows = choose_rows(cells.obs_names.to_list(), 1, SEED)
    dense = cells.X.toarray()
    dense[rows, 4:] = 0
    cells.X = sp.csr_matrix(dense)
    with pytest.raises(GeneMatchError, match="how='zero', which needs none"):
        make("cell_shift", reference=1)
    zero = [Ablation("L0H0", "zero")]
    study = make("cell_shift", reference=1, grid=zero)
    assert len(evaluate(study, zero, range(N))) == 2 * N


# Which metrics


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("cell_shift", "cell_shift"),
        ("masked_error", "masked_error"),
        ("mvc_error", "mvc_error"),
        ("label_loss", "label_loss"),
        ("label_error", "label_error"),
        ("trustworthiness", "trustworthiness"),
        ("ruler", "ruler"),
        ("gene:GENE3", "gene:GENE3"),
    ],
)
def test_every_name_makes_its_metric_and_the_metric_works(make, grid, name, made):
    study = make(name, per_label=False, stages=STAGES)
    assert names_of(study) == [made] and study.notes == {} and per_label(study) == []
    assert (study.masked_reference is not None) == study.metrics[0].masked
    table = evaluate(study, grid, range(N))
    assert set(table["ablation"]) == {"intact", *(one.key for one in grid)}
    assert made in table or study.metrics[0].together


def test_the_names_above_are_all(make):
    assert len(METRICS) == 7
    every = make(*METRICS, "gene:GENE3", stages=STAGES)
    assert len(names_of(every)) == 8 + 3 and every.notes == {}


def test_label_errors_are_also_of_every_class(make):
    study = make("label_error", "label_loss")
    assert names_of(study) == ["label_error", "label_error: B", "label_error: M", "label_error: T", "label_loss"]
    assert per_label(study) == ["label_error: B", "label_error: M", "label_error: T"]


def test_probes_read_each_cell_without_having_seen_its_fold(make, cells):
    study = make("label_loss", folds=3)
    assert study.obs["fold"].tolist() == folds_of(cells, 3).tolist()
    assert study.obs["cell_type"].tolist() == cells.obs["cell_type"].tolist()


def test_the_ruler_s_stages_are_those_of_the_labels(make):
    study = make("ruler", stages=STAGES)
    placed = [load_ruler("hematopoiesis").stages[i] for i in study.obs["stage"]]
    assert placed == [STAGES[label] for label in study.obs["cell_type"]] and study.notes == {}


def test_labels_on_no_stage_are_said(make, cells):
    cells.obs.loc[cells.obs_names[:6], "cell_type"] = "mystery"
    study = make("ruler", stages=STAGES)
    assert names_of(study) == ["ruler"]
    assert study.notes == {"ruler": "labels that are on no stage of it were left out: mystery"}
    assert (study.obs["stage"][:6] < 0).all() and (study.obs["stage"][6:] >= 0).all()


def test_without_labels_what_needs_them_is_left_out_and_said(make, cells):
    del cells.obs["cell_type"]
    study = make("label_loss", "cell_shift", "label_error", "ruler")
    assert names_of(study) == ["cell_shift"] and per_label(study) == []
    assert set(study.notes) == {"label_loss", "label_error", "ruler"}
    assert set(study.notes.values()) == {"the cells have no cell type column"}
    with pytest.raises(EvaluationError, match="A study needs metrics"):
        make("label_loss")


@pytest.mark.parametrize(
    ("shape", "name", "said"),
    [
        ({"mvc_style": None}, "mvc_error", "the checkpoint has no mvc decoder"),
        ({"has_expression": False}, "masked_error", "the checkpoint has no expression decoder"),
    ],
)
def test_a_checkpoint_without_the_decoder_is_judged_by_the_others_and_that_is_said(make, shape, name, said):
    study = make("cell_shift", name, model=tiny_model(1, **shape))
    assert names_of(study) == ["cell_shift"] and study.notes == {name: said}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cell_shfit", "Unknown metric 'cell_shfit': did you mean 'cell_shift'"),
        ("gene:GENE3x", "Unknown gene 'GENE3x': did you mean 'GENE3"),
        ("gene:", "Unknown gene ''"),
        ("beauty", "Unknown metric 'beauty': known: cell_shift, "),
    ],
)
def test_an_unknown_metric_or_gene_is_refused(make, name, said):
    with pytest.raises(EvaluationError, match=said):
        make("cell_shift", name)


def test_a_metric_named_twice_is_refused(make):
    with pytest.raises(EvaluationError, match="each with a name of its own"):
        make("cell_shift", "cell_shift")


def test_a_metric_of_one_s_own_is_judged_by_too(make, grid):
    own = Metric("first number", "none", 0, lambda run: run.output()[:, 0])
    study = make("cell_shift", extra=[own])
    assert names_of(study) == ["cell_shift", "first number"]
    cell = intact_cells(study.model, study.tokens)
    table = evaluate(study, grid, range(N)).query("ablation == 'intact'")
    np.testing.assert_allclose(table["first number"], cell[:, 0], atol=1e-5)


def test_a_place_that_the_model_does_not_have_is_refused_first(make, cells):
    with pytest.raises(HookError, match="There is no L7H0"):
        make("no such metric", grid=[Ablation("L7H0")])


# What trustworthiness compares with


def components(cells, model):
    return expression_components(cells, match_genes(cells.var_names, model.vocabulary.genes))


def test_principal_components_keep_the_distances_of_logged_expression(model, cells):
    space = components(cells, model)
    dense = np.asarray(cells.X.todense(), dtype=np.float64)
    logged = np.log1p(dense / dense.sum(1, keepdims=True) * 1e4)
    wanted = np.linalg.norm(logged[:, None] - logged[None], axis=2)
    assert space.shape == (N, 40)
    np.testing.assert_allclose(np.linalg.norm(space[:, None] - space[None], axis=2), wanted, rtol=1e-4, atol=1e-3)


def test_genes_outside_the_vocabulary_are_no_part_of_it(model, cells):
    alien = ad.AnnData(cells.X[:, :25], obs=cells.obs, uns={"workbench": {"values": "counts"}})
    alien.var_names = [*genes(20), *(f"ALIEN{i}" for i in range(5))]
    assert components(alien, model).shape == (N, 20)


# What is around it


def test_the_caller_s_cells_stay_as_they_are(make, cells):
    cells.obs["donor"] = [f"d{i % 4}" for i in range(N)]
    cells.obs["fold"] = "mine"
    cells.obs["stage"] = 7.5
    cells.uns["note"] = {"a": 1}
    before = cells.copy()
    study = make("label_loss", "label_error", "trustworthiness", "ruler", "masked_error", stages=STAGES)
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    pd.testing.assert_frame_equal(cells.var, before.var)
    assert (cells.X != before.X).nnz == 0 and cells.uns == before.uns and cells.X.dtype == before.X.dtype
    # Columns of one's own that happen to be called so are not taken for folds and stages.
    assert study.obs["fold"].tolist() == folds_of(cells, 2).tolist()
    assert study.obs.groupby("donor")["fold"].nunique().eq(1).all()
    assert set(study.obs) == {"cell_type", "donor", "fold", "stage"}


def test_donors_are_numbered(make, cells):
    assert make().donors is None
    cells.obs["donor"] = [("x", "y", "x", "z")[i % 4] for i in range(N)]
    assert make().donors.tolist() == [(0, 1, 0, 2)[i % 4] for i in range(N)]


def test_another_seed_masks_and_draws_otherwise(make, cells):
    studies = [make("masked_error", seed=seed, reference=9) for seed in (1, 2)]
    first, second = (s.masked_reference.tokens.cell_ids for s in studies)
    assert first != second
    again = make("masked_error", seed=1, reference=9)
    assert torch.equal(again.masked_reference.tokens.values, studies[0].masked_reference.tokens.values)


def test_genes_must_match_the_vocabulary_as_asked_for(make, cells):
    strange = cells.copy()
    strange.var_names = [f"ALIEN{i}" if i < 30 else name for i, name in enumerate(genes(40))]
    with pytest.raises(GeneMatchError, match="Only 25.0% of 40 genes are in the vocabulary"):
        make(adata=strange)
    assert len(make(adata=strange, share=0.2).tokens) == N


def test_batches_are_read_where_the_checkpoint_needs_them(make, cells):
    cells.obs["batch"] = [i % 2 for i in range(N)]
    study = make(model=tiny_model(1, n_batches=2))
    assert study.tokens.batch_labels.tolist() == [i % 2 for i in range(N)]
