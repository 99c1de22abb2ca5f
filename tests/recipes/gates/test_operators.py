"""What each stage of a gate run depends on: every key of the configuration, and that labels never cost a forward pass."""

from __future__ import annotations

import shutil
from importlib import resources

import anndata as ad
import pytest
from fixtures_gates import SMALL
from helpers import leaves

from workbench.engine.config import read_config
from workbench.engine.stages import StageRunner
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.planted.cells import make_world
from workbench.planted.checkpoint import plant_world
from workbench.planted.folder import write_world
from workbench.recipes.gates.config import GatesConfig
from workbench.recipes.gates.context import GatesContext
from workbench.recipes.gates.recipe import stages

MODEL = {"n_layers": 3, "n_heads": 2, "d_model": 32, "layer": 0, "head": 1}
LATER = {"gates", "verdict", "screen", "geometry", "readings"}
PLACED, READ, EVERY = {"cohorts", *LATER}, {"operators", *LATER}, {"cohorts", "operators", *LATER}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = write_world(tmp_path_factory.mktemp("planted"), 3, SMALL, **MODEL)
    cells = ad.read_h5ad(place / "internal.h5ad")
    cells.layers["same"], cells.layers["more"] = cells.X.copy(), cells.X * 3
    cells.obs["deep"] = 5000.0
    cells.var["symbol"] = cells.var_names
    cells.obs["number"] = [str(i % 2) for i in range(cells.shape[0])]
    cells.write_h5ad(place / "internal.h5ad")
    cells[:, 1:].write_h5ad(place / "one-gene-less.h5ad")
    save_checkpoint(plant_world(make_world(3, shape=SMALL), 4, **MODEL).model, place / "other-weights")
    shutil.copytree(place / "planted-checkpoint-3", place / "same-weights")
    text = (resources.files("workbench.evidence") / "rulers" / "hematopoiesis.yaml").read_text(encoding="utf-8")
    (place / "ruler.yaml").write_text(text, encoding="utf-8")
    (place / "genes.txt").write_text("\n".join(cells.var_names[5:25]) + "\n", encoding="utf-8")
    (place / "another.yaml").write_text(text.replace("name: ", "name: another ", 1), encoding="utf-8")
    return place


def context(folder, out, *overrides):
    given = ("operator=attention", *(one.format(folder=folder) for one in overrides))
    return GatesContext(read_config(folder / "gates.yaml", GatesConfig, given), out)


def keys(folder, *overrides):
    made = {}
    for stage in stages(context(folder, folder / "out", *overrides)):
        made[stage.name] = {"key": stage.key(made)}
    return made


@pytest.fixture(scope="module")
def usual(folder):
    return keys(folder)


def some_label(folder):
    return max(ad.read_h5ad(folder / "internal.h5ad").obs["cell_type"])


CASES = {
    "name=other": set(),
    "checkpoint={folder}/same-weights": set(),
    "checkpoint={folder}/other-weights": READ,
    "seed=7": EVERY,
    "data.name=another": set(),  # every cohort has its own
    "ruler={folder}/ruler.yaml": set(),
    "ruler={folder}/another.yaml": PLACED,
    "stages.nothing=HSC": set(),
    "stages.{label}=HSC": PLACED,
    "device=cpu": set(),
    "dtype=bfloat16": READ,
    "panel.size=20": EVERY,
    "panel.exclude=[PLANTED-T-00]": EVERY,
    "panel.by=variable": set(),  # every gene is taken
    "panel.file={folder}/genes.txt": EVERY,
    "capture.convention=paper": READ,
    "capture.over_cells=sum": READ,
    "capture.orientation=key x query": READ,
    "capture.sums=float64": READ,
    "capture.batch_size=3": READ,
    "capture.max_tokens=12": READ,
    "capture.groups=1": set(),
    "capture.groups=2": READ,
    "anchors.min_cells=3": PLACED,
    "anchors.parts=2": PLACED,
    "anchors.weights=cells": PLACED,
    "operator=ov": READ,
    "adaptor.k=3": LATER,
    "adaptor.alpha=0.2": LATER,
    "adaptor.beta=0.5": LATER,
    "adaptor.steps=20": LATER,
    "adaptor.tol=0.001": LATER,
    "adaptor.feature_map=drift": LATER,
    "adaptor.layer=1": LATER,
    "adaptor.head=0": LATER,
    "adaptor.blocks=[[0], [1]]": LATER,
    "adaptor.top=3": set(),  # of a feature map that the gates refuse
    "required=[trustworthiness]": {"verdict"},
    "screen=false": set(),
    "refits=3": {"gates", "verdict"},
    "head_refits=3": {"screen", "readings"},
    "control_draws=3": {"gates", "verdict", "screen"},
    "trajectories=[B]": {"geometry"},
    "cohorts.external.role=zero shot": PLACED,
    "cohorts.zero_shot.role=expected to fail": PLACED,
    "cohorts.external.select.donor=[D4, D5]": PLACED,
    "cohorts.external.part=[0, 2]": PLACED,
    "cohorts.external.stages.nothing=HSC": set(),
    "cohorts.internal.stages.{label}=HSC": PLACED,
    "cohorts.internal.anchors.min_cells=3": PLACED,
    "cohorts.internal.anchors.parts=2": PLACED,
    "cohorts.internal.anchors.weights=cells": PLACED,
    "cohorts.internal.select.donor=[D1, D2]": EVERY,
    "cohorts.internal.data.name={folder}/external.h5ad": None,  # refused: the cells of another cohort
    "cohorts.internal.data.backed=true": set(),
    "cohorts.internal.data.layer=same": set(),
    "cohorts.internal.data.layer=more": EVERY,
    "cohorts.internal.data.values=counts": set(),
    "cohorts.internal.data.depth=deep": PLACED,
    "cohorts.internal.data.gene_column=symbol": set(),
    "cohorts.internal.data.cell_type=tissue": None,  # refused by the anchors, for no tissue is a stage
    "cohorts.internal.data.donor=null": PLACED,
    "cohorts.internal.data.tissue=null": PLACED,
    "cohorts.internal.data.batch=number": EVERY,
    "cohorts.internal.data.min_gene_share=0.2": set(),
}


@pytest.mark.parametrize("override", [one for one, wanted in CASES.items() if wanted is not None])
def test_a_key_invalidates_the_stages_that_depend_on_it_and_no_other(folder, usual, override):
    found = keys(folder, override.replace("{label}", some_label(folder)))
    changed = {name for name, result in found.items() if result != usual[name]}
    assert changed == CASES[override] & set(found)
    gone = {"screen"} if override in ("screen=false", "cohorts.external.role=zero shot") else set()
    assert set(usual) - set(found) == gone and set(found) <= set(usual)


def test_every_key_of_the_configuration_has_a_case():
    tried = {
        one.partition("=")[0].replace("cohorts.internal.", "cohorts.").replace("cohorts.external.", "cohorts.")
        for one in CASES
    }
    # What holds for a cohort's own data holds for those of all, which cohorts without their own have.
    tried |= {one.removeprefix("cohorts.") for one in tried if one.startswith("cohorts.data.")}
    wanted = set(leaves(GatesConfig))
    assert (
        len(wanted) > 40
        and {one for one in wanted if not any(t == one or t.startswith(f"{one}.") for t in tried)} == set()
    )


@pytest.fixture
def passes(monkeypatch):
    """Numbers of cells of every forward pass."""
    seen, forward = [], HookedScGPT.forward

    def counted(self, tokens, **options):
        seen.append(len(tokens))
        return forward(self, tokens, **options)

    monkeypatch.setattr(HookedScGPT, "forward", counted)
    return seen


def test_labels_rulers_anchors_roles_and_other_cohorts_make_no_forward_pass(folder, tmp_path, passes):
    def run(*overrides):
        del passes[:]
        runner = StageRunner(tmp_path / "out")
        for stage in stages(context(folder, tmp_path / "out", *overrides))[:2]:
            runner.run(stage)
        assert list(runner.reused) == ["cohorts", "operators"]
        return sum(passes), runner.reused["cohorts"]

    read, _ = run("cohorts.internal.part=[0, 2]")
    assert read > 20, "the cells of the internal cohort, each once"
    for more, same in (
        ((), True),
        (("ruler={folder}/ruler.yaml",), True),
        (("stages.nothing=HSC",), True),
        (("adaptor.feature_map=drift", "adaptor.k=3", "refits=2", "required=[]"), True),
        (("ruler={folder}/another.yaml",), False),
        ((f"stages.{some_label(folder)}=HSC",), False),
        (("anchors.min_cells=2", "anchors.parts=3", "anchors.weights=stage"), False),
        (("cohorts.external.role=zero shot", "cohorts.zero_shot.role=external"), False),
        (("cohorts.external.select.donor=[D4]",), False),
        (("cohorts.internal.data.donor=null", "cohorts.internal.data.tissue=null"), False),
    ):
        found, kept = run("cohorts.internal.part=[0, 2]", *more)
        assert (found, kept) == (0, same), more
    assert run("cohorts.internal.part=[1, 2]")[0] > 20


def test_a_gene_to_leave_out_may_be_another_cohort_s_alone(folder, tmp_path):
    gone = ad.read_h5ad(folder / "internal.h5ad").var_names[0]
    less = context(
        folder, tmp_path, "cohorts.internal.data.name={folder}/one-gene-less.h5ad", f"panel.exclude=[{gone}]"
    )
    assert gone not in less.genes and less.genes
