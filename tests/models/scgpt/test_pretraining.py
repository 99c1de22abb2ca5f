"""Training: resumable to the bit, split by cell name, and in scGPT's format."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from helpers import genes, greatest_difference, require_upstream, tiny_cells, upstream_activations

from workbench.errors import ArtifactError, CellsError
from workbench.models.scgpt.checkpoint import load_checkpoint
from workbench.models.scgpt.pretraining import (
    draw_tokens,
    masked_error,
    model_config,
    save_trained,
    train,
    validate,
)
from workbench.models.scgpt.pretraining_data import prepare
from workbench.pretrain_settings import PretrainSettings

SETTINGS = PretrainSettings(
    d_model=8,
    n_layers=1,
    n_heads=2,
    d_mlp=8,
    dropout=0.1,
    steps=10,
    batch_size=4,
    genes_per_cell=12,
    warmup=3,
    held_out=0.2,
    validate_every=4,
    save_every=3,
    seed=1,
)


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def data():
    return prepare({"tiny": tiny_cells(40, 25)}, SETTINGS)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Model and curve of a training that nothing interrupts. Read only."""
    return train(data, SETTINGS, tmp_path_factory.mktemp("whole"))


def interrupt_at(*steps):
    left = list(steps)

    def progress(step, row):
        if left and step == left[0]:
            left.pop(0)
            raise Interrupted

    return progress


@pytest.mark.parametrize("stops", [(1,), (3,), (4,), (9,), (10,), (4, 8)], ids=str)
def test_an_interrupted_training_resumes_to_the_same_bits(data, whole, tmp_path, stops):
    progress = interrupt_at(*stops)
    for _ in stops:
        with pytest.raises(Interrupted):
            train(data, SETTINGS, tmp_path, progress)
    seen = []
    model, curve = train(data, SETTINGS, tmp_path, lambda step, row: seen.append(step))
    # The state of a step is saved after its progress is told, so an interruption there goes back to the save before.
    last_save = (stops[-1] - 1) // SETTINGS.save_every * SETTINGS.save_every
    assert seen == list(range(last_save + 1, 11))
    assert curve == whole[1]
    for name, value in whole[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_training_does_not_depend_on_torchs_global_state(data, whole, tmp_path):
    torch.manual_seed(123)
    np.random.seed(5)
    model, _ = train(data, SETTINGS, tmp_path, lambda step, row: torch.rand(step))
    assert all(torch.equal(value, whole[0].state_dict()[name]) for name, value in model.state_dict().items())


def test_another_seed_is_another_training(data, whole, tmp_path):
    model, _ = train(data, SETTINGS.model_copy(update={"seed": 2}), tmp_path)
    assert not torch.equal(model.embed.gene.embedding.weight, whole[0].embed.gene.embedding.weight)


def test_the_trained_model_and_its_curve(whole):
    model, curve = whole
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert [row["step"] for row in curve] == [4, 8, 10]
    assert all(np.isfinite(list(row.values())).all() for row in curve)
    assert {"train_expression", "train_mvc", "held_out_expression", "held_out_mvc"} <= set(curve[0])


# The identity of a state does not hold the names yet: adding them while a training runs would refuse its own state.
@pytest.mark.parametrize(
    "other",
    [
        "learning rate",
        "steps",
        "seed",
        "a value",
        "cell names",
        "gene names",
    ],
)
def test_the_state_of_another_training_is_refused(data, tmp_path, other):
    with pytest.raises(Interrupted):
        train(data, SETTINGS, tmp_path, interrupt_at(5))
    changes = {"learning rate": {"learning_rate": 1e-2}, "steps": {"steps": 11}, "seed": {"seed": 2}}.get(other, {})
    settings = SETTINGS.model_copy(update=changes)
    cells = tiny_cells(40, 25)
    if other == "a value":
        cells.X.data[0] += 1
    elif other == "cell names":
        cells.obs_names = [f"other{i}" for i in range(40)]
    elif other == "gene names":
        cells.var_names = [f"OTHER{i:02d}" for i in range(25)]
    with pytest.raises(
        ArtifactError, match="training-state' is the state of a training with other settings or other cells"
    ):
        train(prepare({"tiny": cells}, settings), settings, tmp_path)
    assert train(data, SETTINGS, tmp_path)[1][-1]["step"] == 10, "the refused state is still there to go on from"


@pytest.mark.parametrize("change", [lambda data: data[:100], lambda data: data[:-9] + b"\x01" + data[-8:]])
def test_a_damaged_state_is_said_and_the_training_starts_again(data, whole, tmp_path, capsys, change):
    with pytest.raises(Interrupted):
        train(data, SETTINGS, tmp_path, interrupt_at(5))
    state = tmp_path / "training-state" / "state.safetensors"
    state.write_bytes(change(state.read_bytes()))
    steps = []
    model, _ = train(data, SETTINGS, tmp_path, lambda step, row: steps.append(step))
    assert steps[0] == 1 and model.fingerprint() == whole[0].fingerprint()
    assert "state.safetensors' was changed since it was saved" in capsys.readouterr().err


def test_the_split_depends_on_the_cell_name_alone():
    cells = tiny_cells(200, 25)

    def held_out(some, settings=SETTINGS):
        found = prepare({"tiny": some}, settings)
        assert sorted([*found.train, *found.held_out]) == list(range(len(found.cell_ids)))
        return set(found.cell_ids[found.held_out])

    wanted = held_out(cells)
    order = np.random.default_rng(0).permutation(200)
    values = cells.copy()
    values.X = sp.csr_matrix(np.roll(values.X.toarray(), 3, axis=1))
    assert held_out(cells[order]) == held_out(values) == wanted
    assert held_out(cells[:120]) == wanted & set(cells.obs_names[:120])
    assert held_out(cells[:, :9]) == wanted
    assert held_out(cells, SETTINGS.model_copy(update={"seed": 9})) != wanted
    # A larger share only adds cells; shares are met up to chance (5 standard deviations).
    more = held_out(cells, SETTINGS.model_copy(update={"held_out": 0.5}))
    assert wanted < more
    for share, found in ((0.2, wanted), (0.5, more)):
        assert abs(len(found) - 200 * share) < 5 * np.sqrt(200 * share * (1 - share))


def test_cells_that_cannot_be_split_are_refused():
    with pytest.raises(CellsError, match="3 cells split into . for training and . held out"):
        prepare({"tiny": tiny_cells(3, 25)}, SETTINGS.model_copy(update={"held_out": 1.0}))
    with pytest.raises(CellsError, match="0 held out"):
        prepare({"tiny": tiny_cells(9, 25)}, SETTINGS.model_copy(update={"held_out": 0.0}))
    # Two donors of two cells each: half of them are too few to tune what a training is compared with.
    few = tiny_cells(4, 25)
    few.obs["donor"] = ["a", "a", "b", "b"]
    with pytest.raises(CellsError, match="4 cells split into 2 for training and 2 held out; at least 3 are"):
        prepare({"tiny": few}, SETTINGS)
    bad = tiny_cells(20, 25)
    bad.X.data[0] = np.nan
    with pytest.raises(CellsError, match="NaN or infinite .cell0."):
        prepare({"tiny": bad}, SETTINGS)


def test_masks_hide_a_share_of_the_values_and_nothing_else(data):
    config = model_config(SETTINGS, data.vocabulary)
    ratios = (0.25, 0.75)
    rows = np.tile(np.arange(40), 20)
    tokens, target, masked = draw_tokens(data, rows, config, 12, ratios, seed=3)
    assert tokens.gene_ids.shape[1] <= 13
    assert not masked[:, 0].any() and not (masked & tokens.padding).any()
    assert (tokens.values[masked] == -1).all() and torch.equal(tokens.values[~masked], target[~masked])
    assert target[masked].min() >= 1 and target[masked].max() <= 50
    possible = (~tokens.padding).sum(1) - 1
    share = float(masked.sum() / possible.sum())
    assert share == pytest.approx(0.5, abs=0.06), "the mean of the two ratios"
    shares = (masked.sum(1) / possible).numpy()
    assert np.quantile(shares, 0.2) < 0.4 and np.quantile(shares, 0.8) > 0.6, "two kinds of cells"
    again = draw_tokens(data, rows, config, 12, ratios, seed=3)
    assert torch.equal(again[0].values, tokens.values) and torch.equal(again[2], masked)
    assert not torch.equal(draw_tokens(data, rows, config, 12, ratios, seed=4)[2], masked)


def test_the_error_is_the_mean_square_at_masked_values(data, whole):
    model = whole[0]
    tokens, target, masked = draw_tokens(data, data.train[:4], model.config, 12, (0.5,), seed=0)
    expression, mvc = masked_error(model, tokens, target, masked)
    out = model(tokens, outputs=("expression", "mvc"))
    for found, predicted in ((expression, out.expression), (mvc, out.mvc)):
        assert float(found) == pytest.approx(np.mean((predicted - target).numpy()[masked.numpy()] ** 2), rel=1e-5)


def test_validation_weighs_every_masked_value_alike(data, whole):
    found = validate(whole[0], data, SETTINGS)
    assert found == validate(whole[0], data, SETTINGS)
    assert whole[1][-1]["held_out_expression"] == found[0] and whole[1][-1]["held_out_mvc"] == found[1]
    assert len(data.held_out) % SETTINGS.batch_size, "the last batch should be smaller for this test"


def test_what_is_finished_is_a_checkpoint(data, whole, tmp_path):
    model = whole[0]
    save_trained(model, SETTINGS, tmp_path)
    read = load_checkpoint(tmp_path)
    tokens, _, _ = draw_tokens(data, data.held_out, model.config, 12, (0.5,), seed=0)
    assert torch.equal(read(tokens).cell, model(tokens).cell)
    args = json.loads((tmp_path / "args.json").read_text())
    assert args["mask_ratio"] == [0.25, 0.5, 0.75] and args["task"] == "pretrain"
    assert list(json.loads((tmp_path / "vocab.json").read_text())) == ["<pad>", "<cls>", "<eoc>", *sorted(genes(25))]


def test_upstream_reads_what_was_trained(eager_upstream, data, whole, tmp_path):
    save_trained(whole[0], SETTINGS, tmp_path)
    args, vocabulary = (json.loads((tmp_path / name).read_text()) for name in ("args.json", "vocab.json"))
    theirs = eager_upstream(
        len(vocabulary),
        args["embsize"],
        args["nheads"],
        args["d_hid"],
        args["nlayers"],
        vocab=vocabulary,
        do_mvc=args["MVC"],
        pad_value=args["pad_value"],
        n_input_bins=args["n_bins"],
    ).eval()
    left = theirs.load_state_dict(torch.load(tmp_path / "best_model.pt", weights_only=True), strict=False)
    # Pretraining has no classes, and upstream always makes a classifier.
    assert not left.unexpected_keys and all(name.startswith("cls_decoder.") for name in left.missing_keys)
    tokens, _, _ = draw_tokens(data, data.held_out, whole[0].config, 12, (0.5,), seed=0)
    wanted = upstream_activations(theirs, tokens)
    found = whole[0](tokens, outputs=("cell", "expression", "mvc"))
    for name in ("cell", "expression", "mvc"):
        assert greatest_difference(getattr(found, name), wanted[name], tokens.padding) < 1e-5


def test_a_gene_twice_in_the_data_is_trained_once():
    cells = tiny_cells(30, 10)
    twice = ad.concat([cells, cells[:, :2]], axis=1)
    data = prepare({"tiny": twice}, SETTINGS)
    assert data.matrix.shape == (30, 10) and len(set(data.column_ids)) == 10


def test_training_bins_as_upstream_does(data):
    upstream_binning = require_upstream("preprocess").binning
    config = model_config(SETTINGS, data.vocabulary)
    tokens, target, _ = draw_tokens(data, np.arange(40), config, 30, (0.5,), seed=0)
    for cell in range(40):
        row = data.matrix[cell].toarray()[0]
        draws = np.stack([upstream_binning(row, SETTINGS.n_bins) for _ in range(30)])
        bins = np.zeros(25)
        real = ~tokens.padding[cell].numpy()
        real[0] = False
        bins[tokens.gene_ids[cell].numpy()[real] - 3] = target[cell].numpy()[real]
        order = data.column_ids - 3
        assert ((bins[order] > 0) == (row > 0)).all()
        fixed = (draws == draws[0]).all(0)
        assert (bins[order][fixed] == draws[0][fixed]).all()


@pytest.mark.slow
def test_training_learns_a_planted_structure(tmp_path):
    rng = np.random.default_rng(0)
    # Two programs: each cell runs one, so that a few visible genes tell the values of all others.
    program = rng.random((300, 1)) < 0.5
    profile = rng.permuted(np.tile(np.arange(1, 31), (2, 1)), axis=1)
    counts = np.where(program, profile[0], profile[1]) + 0.2 * rng.random((300, 30))
    cells = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)))
    cells.var_names, cells.obs_names = genes(30), [f"cell{i}" for i in range(300)]
    changes = {"d_model": 32, "d_mlp": 32, "n_layers": 2, "steps": 400, "batch_size": 32, "genes_per_cell": 30}
    changes |= {"warmup": 20, "dropout": 0.0, "learning_rate": 3e-3, "validate_every": 100}
    settings = SETTINGS.model_copy(update=changes)
    _, curve = train(prepare({"tiny": cells}, settings), settings, tmp_path)
    variance = np.var(np.linspace(1, 50, 30))
    assert curve[-1]["held_out_expression"] < 0.25 * variance
    assert curve[-1]["held_out_mvc"] < 0.6 * variance
    assert curve[-1]["held_out_expression"] < curve[0]["held_out_expression"]
