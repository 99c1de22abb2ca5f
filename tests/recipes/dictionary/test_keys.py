"""What makes which stage of ``workbench dictionary`` anew: every field of the configuration, and that no label reaches a training."""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import yaml
from helpers import genes, leaves, tiny_model

from workbench.engine.config import read_config
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.recipes.dictionary.config import DictionaryRunConfig
from workbench.recipes.dictionary.context import DictionaryContext
from workbench.recipes.dictionary.recipe import stages

OWN, CONTROLS = {"train", "train_2"}, {"untrained", "shuffled"}
SWEPT = {"feature_effects", "feature_attribution", "feature_circuits"}
LABELLED = SWEPT - {"feature_circuits"}
# Pages show what features do, where that was asked for.
EFFECTS = {"feature_effects", "pages"}
STEERING = "[{{target: B, source: T, doses: [{}], draws: 3}}]"
AFTER = {"judge", "stability", "name", "pages"} | SWEPT
EVERY = OWN | CONTROLS | AFTER
# Field: what it is set to, and what that makes anew; a control's absence is a stage less.
FIELDS = {
    "name": ("other", set()),
    "checkpoint": ("OTHER_WEIGHTS", EVERY - {"untrained"}),
    "seed": (5, EVERY),
    "device": ("cpu", set()),
    "dtype": ("bfloat16", EVERY),
    "data.name": ("COPY", set()),
    "data.backed": ("true", set()),
    "data.layer": ("more", EVERY),
    "data.values": ("cp10k", set()),
    "data.depth": ("deep", set()),
    "data.gene_column": ("symbol", EVERY),
    "data.cell_type": ("coarse", {"name", "pages"} | LABELLED),
    "data.donor": ("lane", EVERY),
    "data.tissue": ("coarse", set()),
    "data.batch": ("lane", EVERY),
    "data.min_gene_share": (0.2, EVERY),
    "hooks": ("[blocks.1.hook_resid_post]", EVERY - {"feature_circuits"}),
    "targets": ("TARGETS", EVERY),
    **{
        f"dictionary.{name}": (value, EVERY)
        for name, value in {
            **{
                "architecture": "l1",
                "width": 33,
                "k": 5,
                "penalty": 2.0,
                "matryoshka": "[4]",
                "epochs": 4,
                "rows": 65,
                "buffer": 401,
            },
            **{"learning_rate": 0.01, "warmup": 0.1, "decay": 0.1, "dead_after": 10, "balance": True, "share": 0.5},
        }.items()
    },
    "dictionary.cells_at_once": (9, set()),
    "trainings": (3, {"judge", "stability", "pages"}),
    "held_out.folds": (3, EVERY),
    "held_out.donors": (False, EVERY),
    "judge.n_cells": (30, {"judge", "name", "pages"}),
    "judge.mask_share": (0.5, {"judge", "pages"}),
    "judge.bootstrap": (9, {"judge", "pages"}),
    "names.sets": ("hematopoiesis", {"name", "pages"}),
    "names.n_top": (5, {"name", "pages"}),
    "names.draws": (9, {"name", "pages"}),
    "names.ranked_draws": (9, {"name", "pages"}),
    "names.network": ("NETWORK", {"name", "pages"}),
    "sweep.hooks": ("[blocks.1.hook_resid_post]", {"pages", *LABELLED}),
    "sweep.features": (3, {*EFFECTS, "feature_steering"}),
    "sweep.how": ("clamp", {*EFFECTS, "feature_attribution"}),
    "sweep.amount": ("2.0", {*EFFECTS, "feature_attribution"}),
    "sweep.n_cells": (20, {"pages", *SWEPT}),
    "sweep.alike": (5, EFFECTS),
    "sweep.check": (4, {"feature_attribution", "feature_circuits"}),
    "sweep.targets": (4, {"feature_circuits"}),
    "sweep.mixtures": (4, {"feature_circuits"}),
    "sweep.steering": (STEERING.format(3), {"feature_steering"}),
    "controls": ("[untrained]", {"judge", "pages"}),
}


@pytest.fixture(scope="module")
def planned(tiny, tmp_path_factory):
    """The configuration as a file, with cells that have more than one kind of everything."""
    folder = tmp_path_factory.mktemp("planned")
    cells = ad.read_h5ad(tiny["data"]["name"])
    cells.layers["more"] = cells.X * 2
    cells.obs["deep"] = 1000.0
    cells.var["symbol"] = cells.var_names[::-1].to_numpy()
    at = np.arange(cells.n_obs)
    cells.obs["lane"] = np.array([f"lane{i}" for i in range(5)])[at * 7 % 5]
    cells.obs["coarse"] = np.array(["0", "1"])[at // 2 % 2]
    cells.write_h5ad(folder / "cells.h5ad")
    shutil.copy(folder / "cells.h5ad", folder / "copy.h5ad")
    save_checkpoint(tiny_model(seed=8), folder / "other")
    path = folder / "tiny.yaml"
    given = {**tiny, "checkpoint": str(tiny["checkpoint"]), "data": {**tiny["data"], "name": "cells.h5ad"}}
    # Whom other seeds and donors hold out may be too few to steer.
    given["sweep"] = {**tiny["sweep"], "steering": []}
    path.write_text(yaml.safe_dump(given))
    # Sets that both have genes of: the shipped ones hold none of these cells' genes.
    return path


def keys(config, *overrides):
    made = {}
    context = DictionaryContext(read_config(config, DictionaryRunConfig, overrides), config.parent / "none")
    for stage in stages(context):
        made[stage.name] = {"key": stage.key(made)}
    return made


@pytest.fixture(scope="module")
def before(planned):
    return keys(planned)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_makes_anew_what_depends_on_it_and_nothing_else(planned, before, field):
    value, expected = FIELDS[field]
    folder = planned.parent
    given = {
        "OTHER_WEIGHTS": str(folder / "other"),
        "COPY": str(folder / "copy.h5ad"),
        "TARGETS": "{blocks.1.hook_resid_post: blocks.1.hook_mlp_out}",
    }
    if field == "names.network":
        edges = "".join(f"{a},{b}\n" for a, b in zip(genes(), [*genes()[1:], genes()[0]], strict=True))
        (folder / "network.csv").write_text(f"source,target\n{edges}")
        value = str(folder / "network.csv")
    more = ["dictionary.architecture=batchtopk"] if field == "targets" else []
    # An amount goes with a way that takes one.
    with_it = {"sweep.how": ["sweep.amount=1.0"], "sweep.amount": ["sweep.how=scale"]}.get(field, [])
    more += ["sweep.how=scale", "sweep.amount=1.0"] if field == "sweep.amount" else []
    more += [f"sweep.steering={STEERING.format(2)}"] if field in ("sweep.steering", "sweep.features") else []
    if field == "names.sets":
        (folder / "others.gmt").write_text(
            Path(yaml.safe_load(planned.read_text())["names"]["sets"]).read_text().replace("first", "third")
        )
        value = str(folder / "others.gmt")
    known = keys(planned, *more) if more else before
    after = keys(planned, *more, *with_it, f"{field}={given.get(value, value)}")
    assert {name for name in after if name in known and after[name] != known[name]} == expected


def test_every_field_of_the_configuration_is_listed():
    every = {"sweep.steering" if name.startswith("sweep.steering.") else name for name in leaves(DictionaryRunConfig)}
    assert set(FIELDS) == every


def test_no_label_reaches_a_training(planned, before):
    after = keys(planned, "data.cell_type=coarse")
    assert all(before[name] == after[name] for name in OWN | CONTROLS | {"judge", "stability"})
