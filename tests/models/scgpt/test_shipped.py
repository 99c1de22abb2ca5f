"""The checkpoint that ships: it is small, upstream reads it, and its card says what it does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.engine.config import make_config, read_config
from workbench.files import read_json
from workbench.models.scgpt.checkpoint import load_checkpoint
from workbench.models.scgpt.pretraining import validate
from workbench.models.scgpt.tokenizer import Tokenizer
from workbench.recipes.pretrain.config import PretrainConfig
from workbench.recipes.pretrain.context import PretrainContext

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "artifacts" / "scgpt-blood-mini"
GROUPS = ["donors of kang2018_8donors", "donors of combat", "study pbmc68k"]


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


def test_its_report_is_of_its_configuration_and_says_what_it_beats_and_what_not():
    config = read_config(ROOT / "experiments" / "pretrain_blood_studies.yaml", PretrainConfig)
    report, card = read_json(SHIPPED / "training.json"), (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert make_config(type(config.settings), **report["settings"]) == config.settings
    assert report["note"] == config.note and config.note in card
    assert report["n_train"] == 12_030 and sum(report["held_out"].values()) == len(report["held_out_cells"])
    rows = pd.DataFrame(report["evaluation"])
    assert rows["cells"].unique().tolist() == list(report["held_out"]) == GROUPS
    by = rows.assign(
        kind=rows["predictor"]
        .str.extract(r"^([^(]+?)(?: \(|$)")[0]
        .str.replace(r"\d+ components", "components", regex=True)
    )
    error = by.pivot_table(index=["cells", "mask_ratio"], columns="kind", values="mse")
    fair, near = (
        error["linear regression on components of what is expressed and visible"],
        error["100 nearest training cells"],
    )
    own = error["expression decoder"]
    assert (by.loc[by["kind"] == "expression decoder", "gain_low"] > 0).all(), "the gene mean is beaten in every group"
    assert (own < 0.96 * near).all() and (own < fair).groupby("cells").all().tolist() == [False, True, True]
    # Asked of a checkpoint worth asking are 8 % under both; docs/pretraining.md says that it is not reached.
    assert (own > 0.92 * fair).all()


def test_the_study_held_out_is_predicted_as_the_report_says(pbmc68k):
    """By this test's own loop and masks, on the cells that ship: nearer than what each gene is on average over these very cells."""
    model, report = load_checkpoint(SHIPPED), read_json(SHIPPED / "training.json")
    tokens = Tokenizer(pbmc68k, model.config, model.vocabulary).tokens(0, 150)
    masked = (torch.rand(tokens.values.shape, generator=torch.Generator().manual_seed(0)) < 0.5) & ~tokens.padding
    masked[:, 0] = False
    shown = replace(tokens, values=torch.where(masked, torch.tensor(float(model.config.mask_value)), tokens.values))
    said = model(shown, outputs=("expression",)).expression
    off = torch.where(masked, (said - tokens.values) ** 2, 0.0).sum(1) / masked.sum(1)
    row = next(
        r
        for r in report["evaluation"]
        if (r["cells"], r["mask_ratio"], r["predictor"]) == ("study pbmc68k", 0.5, "expression decoder")
    )
    # 150 cells scatter over some 4 % of their mean.
    assert float(off.mean()) == pytest.approx(row["mse"], rel=0.1)


@pytest.mark.slow
@pytest.mark.shared_data("kang2018_8donors.h5ad", "combat_pbmc_6donors.h5ad")
def test_its_curve_is_that_of_its_weights_on_the_cells_held_out(shared_data, tmp_path):
    """Reads two studies and passes 512 cells: half a minute."""
    files = [shared_data / name for name in ("kang2018_8donors.h5ad", "combat_pbmc_6donors.h5ad")]
    sets = [f"data.name={files[0]}", f"studies.combat.name={files[1]}"]
    config = read_config(ROOT / "experiments" / "pretrain_blood_studies.yaml", PretrainConfig, sets)
    data, report = PretrainContext(config, tmp_path).data, read_json(SHIPPED / "training.json")
    assert sorted(data.cell_ids[data.held_out].tolist()) == report["held_out_cells"]
    assert {group: len(rows) for group, rows in data.held_out_groups.items()} == report["held_out"]
    last = report["curve"][-1]
    held_out = validate(load_checkpoint(SHIPPED), data, config.settings)
    assert np.allclose(held_out, (last["held_out_expression"], last["held_out_mvc"]), rtol=1e-3)
