"""The checkpoint that ships: it is small, upstream reads it, and its card says what it does."""

from pathlib import Path

import numpy as np
import torch

from workbench.engine.config import make_config, read_config
from workbench.files import read_json
from workbench.models.scgpt.checkpoint import load_checkpoint
from workbench.models.scgpt.pretraining import validate
from workbench.models.scgpt.pretraining_data import prepare
from workbench.models.scgpt.tokenizer import Tokenizer
from workbench.recipes.pretrain.config import PretrainConfig

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "artifacts" / "scgpt-blood-mini"


def test_it_is_small_and_has_heads_enough():
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 8 * 2**20
    config = load_checkpoint(SHIPPED).config
    assert 4 <= config.n_layers <= 6 and config.n_layers * config.n_heads >= 16


def test_the_oracle_reads_it_and_agrees(eager_upstream, pbmc68k):
    model = load_checkpoint(SHIPPED)
    config = model.config
    theirs = eager_upstream(
        len(model.vocabulary),
        config.d_model,
        config.n_heads,
        config.d_mlp,
        config.n_layers,
        vocab=dict(model.vocabulary.ids),
        pad_value=int(config.pad_value),
        do_mvc=True,
    ).eval()
    state = torch.load(SHIPPED / "best_model.pt", weights_only=True)
    absent, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("cls_decoder.") for name in absent)
    tokens = Tokenizer(pbmc68k, config, model.vocabulary).tokens(0, 6)
    ours = model(tokens, outputs=("cell", "expression", "mvc"))
    with torch.no_grad():
        said = theirs(tokens.gene_ids, tokens.values, tokens.padding, MVC=True)
    real = ~tokens.padding
    assert (ours.cell - said["cell_emb"]).abs().max() < 1e-5
    # Predicted bins go up to 50: the bound is relative to that.
    assert (ours.expression - said["mlm_output"])[real].abs().max() < 1e-5 * 50
    assert (ours.mvc - said["mvc_output"])[real].abs().max() < 1e-5 * 50


def test_its_report_is_that_of_its_configuration_and_weights(pbmc68k):
    config = read_config(ROOT / "experiments" / "pretrain_blood_mini.yaml", PretrainConfig)
    settings, report = config.settings, read_json(SHIPPED / "training.json")
    assert make_config(type(settings), **report["settings"]) == settings
    data = prepare({"pbmc68k": pbmc68k}, settings)
    assert sorted(data.cell_ids[data.held_out].tolist()) == report["held_out_cells"]
    held_out = validate(load_checkpoint(SHIPPED), data, settings)
    last = report["curve"][-1]
    assert np.allclose(held_out, (last["held_out_expression"], last["held_out_mvc"]), rtol=1e-3)
    for ratio in settings.mask_ratios:
        rows = {r["predictor"]: r for r in report["evaluation"] if r["mask_ratio"] == ratio}
        assert rows["expression decoder"]["gain_low"] > 0, "the card says that the gene mean is beaten"
