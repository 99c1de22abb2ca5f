"""The planted checkpoint: an ordinary scGPT checkpoint in which one head, no larger than the others, carries a label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from workbench.ablation.study import intact_cells
from workbench.errors import CheckpointError
from workbench.models.scgpt.checkpoint import load_checkpoint, save_checkpoint
from workbench.models.scgpt.planted import LABEL, N_SIGNAL, plant_head, planted_cells

SHAPE = {"n_layers": 3, "n_heads": 4, "d_model": 32, "n_genes": 60}


def tokens_of(planted, cells):
    return planted.model.tokenizer(cells).tokens()


def held_out_accuracy(x, label):
    readout = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return cross_val_score(readout, x, label, cv=4).mean()


@pytest.fixture(scope="module")
def planted():
    return plant_head(0, **SHAPE)


@pytest.fixture(scope="module")
def cells(planted):
    return planted_cells(planted, 80, 0)


@pytest.fixture(scope="module")
def folder(planted, tmp_path_factory):
    return save_checkpoint(planted.model, tmp_path_factory.mktemp("planted") / "checkpoint")


# The checkpoint


def test_it_is_read_back_as_it_was_written(planted, cells, folder):
    read, tokens = load_checkpoint(folder), tokens_of(planted, cells)
    assert read.config == planted.model.config and dict(read.vocabulary.ids) == dict(planted.model.vocabulary.ids)
    weights, mine = read.state_dict(), planted.model.state_dict()
    assert list(weights) == list(mine) and all(torch.equal(weights[name], mine[name]) for name in mine)
    with torch.no_grad():
        ours, theirs = (model(tokens, outputs=("cell", "expression", "mvc")) for model in (planted.model, read))
    for name in ("cell", "expression", "mvc"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))


def test_the_oracle_reads_it_and_agrees(planted, cells, folder, eager_upstream):
    config = planted.model.config
    theirs = eager_upstream(
        config.n_tokens,
        config.d_model,
        config.n_heads,
        config.d_mlp,
        config.n_layers,
        vocab=dict(planted.model.vocabulary.ids),
        pad_value=int(config.pad_value),
        do_mvc=True,
    ).eval()
    absent, unexpected = theirs.load_state_dict(torch.load(folder / "best_model.pt", weights_only=True), strict=False)
    assert not unexpected and all(name.startswith("cls_decoder.") for name in absent)
    tokens = tokens_of(planted, cells)[0:8]
    with torch.no_grad():
        ours = planted.model(tokens, outputs=("cell", "expression", "mvc"))
        said = theirs(tokens.gene_ids, tokens.values, tokens.padding, MVC=True)
    assert (ours.cell - said["cell_emb"]).abs().max() < 1e-5
    assert (ours.expression - said["mlm_output"])[~tokens.padding].abs().max() < 1e-5
    assert (ours.mvc - said["mvc_output"])[~tokens.padding].abs().max() < 1e-5


def test_it_is_in_evaluation_mode_and_wants_no_gradients(planted):
    assert not planted.model.training and not any(p.requires_grad for p in planted.model.parameters())


# What is planted


@pytest.mark.parametrize("seed", range(4))
def test_the_planted_head_is_no_larger_than_the_others(seed):
    """Frobenius norm of every matrix: equal over heads, in the planted layer as in the others."""
    planted = plant_head(seed, **SHAPE)
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        norms = planted.model.stacked(name).double().flatten(2).norm(dim=2)
        assert norms.shape == (3, 4)
        assert torch.allclose(norms, norms[planted.layer, planted.head].expand_as(norms), rtol=1e-5), name
    assert (planted.model.block(planted.layer).attn.qkv.bias == 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_no_other_part_writes_or_reads_the_direction(seed):
    planted = plant_head(seed, **SHAPE)
    model, direction = planted.model, torch.as_tensor(planted.direction)
    assert direction.norm() == pytest.approx(1) and abs(float(direction.sum())) < 1e-6
    written = torch.einsum("lhed,d->lhe", model.stacked("W_O").double(), direction).norm(dim=2)
    assert written[planted.layer, planted.head] == pytest.approx(1, abs=1e-6)
    written[planted.layer, planted.head] = 0
    assert written.max() < 1e-6
    for name in ("W_Q", "W_K", "W_V"):
        assert torch.einsum("lhde,d->lhe", model.stacked(name).double(), direction).abs().max() < 1e-6
    for i in range(3):
        mlp = model.block(i).mlp
        assert (mlp.linear1.weight.double() @ direction).abs().max() < 1e-6
        assert (direction @ mlp.linear2.weight.double()).abs().max() < 1e-6


def test_the_head_looks_at_its_genes_from_the_cls_token(planted, cells):
    tokens = tokens_of(planted, cells)
    name = f"blocks.{planted.layer}.attn.hook_pattern"
    with torch.no_grad():
        pattern = planted.model.run_with_cache(tokens, names_filter=name)[1][name][:, :, 0]
    ids = torch.as_tensor(planted.model.vocabulary.encode(list(planted.genes)))
    on_genes = torch.where(torch.isin(tokens.gene_ids, ids)[:, None], pattern, 0).sum(2).mean(0)
    others = torch.cat([on_genes[: planted.head], on_genes[planted.head + 1 :]])
    assert on_genes[planted.head] > 2 * others.max()


def test_the_class_reads_from_the_embedding_and_moves_along_the_direction(planted, cells):
    embedding, label = intact_cells(planted.model, tokens_of(planted, cells)), cells.obs[LABEL].to_numpy()
    assert held_out_accuracy(embedding, label) > 0.97
    along = embedding @ planted.direction
    up, down = along[label == "up"], along[label == "down"]
    assert up.min() > down.max() or down.min() > up.max()
    rest = embedding - np.outer(along, planted.direction)
    assert held_out_accuracy(rest, label) < 0.8, "hardly anything of it lies elsewhere"


@pytest.mark.parametrize("seed", range(3))
def test_the_class_does_not_read_from_the_bins_of_other_genes(seed):
    planted = plant_head(seed, **SHAPE)
    cells = planted_cells(planted, 400, seed)
    tokens, label = tokens_of(planted, cells), cells.obs[LABEL].to_numpy()
    bins = np.zeros((400, len(planted.model.vocabulary)))
    np.put_along_axis(bins, tokens.gene_ids.numpy(), np.where(tokens.padding, 0, tokens.values.numpy()), axis=1)
    mine = planted.model.vocabulary.encode([*planted.genes, *planted.opposite])
    special = [planted.model.vocabulary.cls_id, planted.model.vocabulary.pad_id]
    others = np.setdiff1d(np.arange(bins.shape[1]), [*mine, *special])
    assert np.ptp(bins[:, others]) > 40, "there is something to read"
    for x in (bins[:, others], bins[:, others] > 0):
        assert abs(held_out_accuracy(x, label) - 0.5) < 4 * np.sqrt(0.25 / 400)
    for group in (planted.genes, planted.opposite):
        assert held_out_accuracy(bins[:, planted.model.vocabulary.encode(list(group))], label) > 0.95


# Cells


def test_cells_are_counts_of_two_classes_of_one_size(planted, cells):
    x = cells.X.toarray()
    assert x.shape == (80, 60) and (x >= 0).all() and (x == np.round(x)).all()
    assert (cells.obs[LABEL] == "up").sum() == (cells.obs[LABEL] == "down").sum() == 40
    assert list(cells.var_names) == list(planted.model.vocabulary.genes) and cells.obs_names.is_unique
    up = (cells.obs[LABEL] == "up").to_numpy()
    for group, sign in ((planted.genes, 1), (planted.opposite, -1)):
        assert len(group) == N_SIGNAL
        there = x[:, [cells.var_names.get_loc(gene) for gene in group]]
        assert (there > 0).all() and sign * (np.log(there[up]).mean() - np.log(there[~up]).mean()) > 2
    assert not set(planted.genes) & set(planted.opposite)
    again, other = planted_cells(planted, 80, 0), planted_cells(planted, 80, 1)
    assert np.array_equal(again.X.toarray(), x) and not np.array_equal(other.X.toarray(), x)


# Seeds and shapes


def test_the_seed_decides_weights_and_place():
    first, again = plant_head(5, **SHAPE), plant_head(5, **SHAPE)
    assert first.model.fingerprint() == again.model.fingerprint()
    assert (first.layer, first.head, first.genes, first.opposite) == (
        again.layer,
        again.head,
        again.genes,
        again.opposite,
    )
    assert np.array_equal(first.direction, again.direction)
    many = [plant_head(seed, **SHAPE) for seed in range(12)]
    assert len({p.model.fingerprint() for p in many}) == 12
    assert len({(p.layer, p.head) for p in many}) > 4 and len({p.genes for p in many}) == 12


def test_the_seed_does_not_touch_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    plant_head(5, **SHAPE)
    assert torch.equal(torch.rand(3), expected)


def test_the_place_may_be_given():
    planted = plant_head(5, layer=2, head=3, **SHAPE)
    assert (planted.layer, planted.head) == (2, 3)
    assert plant_head(5, layer=0, **SHAPE).layer == 0 and plant_head(5, head=0, **SHAPE).head == 0


@pytest.mark.parametrize(
    "shape", [{"d_model": 8}, {"d_model": 16, "n_heads": 16}, {"n_genes": 4 * N_SIGNAL - 1}, {"n_genes": 0}]
)
def test_shapes_without_room_are_refused(shape):
    with pytest.raises(CheckpointError, match="A planted head needs d_model >= 16, two dimensions a head and 24 genes"):
        plant_head(0, **{**SHAPE, **shape})


@pytest.mark.parametrize("place", [{"layer": 3}, {"head": 4}, {"layer": -1}, {"head": -1}])
def test_places_that_do_not_exist_are_refused(place):
    with pytest.raises(CheckpointError, match="does not exist in 3 layers of 4 heads"):
        plant_head(0, **SHAPE, **place)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(CheckpointError):
        plant_head(0, n_heads=3, d_model=32)
