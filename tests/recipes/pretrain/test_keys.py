"""What makes which stage of a training anew, and that a killed one goes on to the same checkpoint."""

from __future__ import annotations

import shutil
import sys

import anndata as ad
import numpy as np
import pytest
from helpers import leaves
from processes import kill_once

from workbench.cli import main
from workbench.engine.config import read_config
from workbench.engine.tables import read_table
from workbench.recipes.pretrain.config import PretrainConfig
from workbench.recipes.pretrain.context import PretrainContext
from workbench.recipes.pretrain.recipe import stages

EVERY = {"train", "evaluation", "card"}
# Field: what it is set to, and what that makes anew.
FIELDS = {
    "out": ("elsewhere", set()),
    "device": ("cpu", set()),
    "dtype": ("bfloat16", EVERY),
    "note": ("Another one.", {"card"}),
    "data.name": ("COPY", {"card"}),
    "data.backed": ("true", set()),
    "data.layer": ("more", EVERY),
    "data.values": ("counts", set()),  # columns of one gene are added up by it, and here is none
    "data.depth": ("deep", {"card"}),  # which says what the values are taken to be
    "data.gene_column": ("symbol", EVERY),
    "data.donor": ("subject", EVERY),  # whole donors are held out
    **{f"data.{name}": (value, set()) for name, value in {"tissue": "place", "batch": "lane"}.items()},
    "data.cell_type": ("cell_type", set()),
    "data.min_gene_share": ("0.9", set()),  # the vocabulary is made of the cells' own genes
    **{
        f"settings.{name}": (value, EVERY)
        for name, value in {
            **{"d_model": 4, "n_layers": 1, "n_heads": 1, "d_mlp": 4, "dropout": 0.2, "n_bins": 9, "max_tokens": 20},
            **{"steps": 5, "batch_size": 5, "genes_per_cell": 9, "mask_ratios": "[0.5]", "learning_rate": 0.1},
            **{"weight_decay": 0.1, "warmup": 1, "held_out": 0.3, "validate_every": 1, "seed": 2},
        }.items()
    },
    "settings.n_genes": (20, EVERY),
    "held_out_studies": ("[more]", EVERY),
    "settings.save_every": (1, {"card"}),  # which lists every setting
}
FIELDS |= {f"studies.{name[5:]}": wanted for name, wanted in FIELDS.items() if name.startswith("data.")}
# Each of them is looked at where there is a second study.
MORE = ("held_out_studies", "studies.")


@pytest.fixture(scope="module")
def planned(config):
    """The configuration with cells that have more than one kind of everything."""
    cells = ad.read_h5ad(config.parent / "cells.h5ad")
    cells.layers["more"] = cells.X * 2
    cells.obs["deep"] = 1000.0
    cells.var["symbol"] = [f"other{i}" for i in range(cells.n_vars)]
    for name in ("subject", "place", "lane"):
        cells.obs[name] = np.array(["0", "1"])[np.arange(cells.n_obs) % 2]
    cells.write_h5ad(config.parent / "cells.h5ad")
    shutil.copy(config.parent / "cells.h5ad", config.parent / "copy.h5ad")
    return config


def keys(config, *overrides):
    made = {}
    for stage in stages(PretrainContext(read_config(config, PretrainConfig, overrides), config.parent)):
        made[stage.name] = {"key": stage.key(made)}
    return made


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_makes_anew_what_depends_on_it_and_nothing_else(planned, field):
    value, expected = FIELDS[field]
    beside = (f"studies.more.name={planned.parent / 'cells.h5ad'}",) if field.startswith(MORE) else ()
    before, of = keys(planned, *beside), field.replace("studies.", "studies.more.", 1) if "." in field else field
    after = keys(planned, *beside, f"{of}={planned.parent / 'copy.h5ad' if value == 'COPY' else value}")
    assert list(before) == list(after) and {name for name in after if after[name] != before[name]} == expected


def test_every_field_of_the_configuration_is_listed():
    assert set(FIELDS) == set(leaves(PretrainConfig))


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_checkpoint(planned, tmp_path):
    # More often saved than by the whole one, which changes nothing.
    settings = [part for one in ("steps=150", "validate_every=50") for part in ("--set", f"settings.{one}")]
    command = ["pretrain", str(planned), *settings, "--out"]
    killed, often = [*command, str(tmp_path / "killed")], ["--set", "settings.save_every=5"]
    state = tmp_path / "killed" / "stages" / "train" / "training-state" / "state.safetensors"
    kill_once(state.is_file, [sys.executable, "-m", "workbench.cli", *killed, *often])
    assert state.is_file() and not (tmp_path / "killed" / "best_model.pt").exists()
    assert main(killed) == 0 and not state.exists()
    assert main([*command, str(tmp_path / "whole")]) == 0
    for name in ("best_model.pt", "args.json", "vocab.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    for name in ("curve", "evaluation"):
        one, other = (read_table(tmp_path / run / "tables" / f"{name}.csv") for run in ("killed", "whole"))
        assert one.equals(other), name
