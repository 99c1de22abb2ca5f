"""What the stages of a run depend on, as JSON: everything that is made is in it, and nothing else.

What a setting leads to stands for the setting: the genes of the panel, the groups of the cells, where labels come to lie. So
a mapping of labels, a ruler, a number of folds or a limit that changes none of that makes nothing anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

from workbench.cells.datasets import values_hash
from workbench.cells.expression import expression_hash
from workbench.evidence.ruler import Ruler
from workbench.files import digest
from workbench.recipes.run.context import RunContext

Inputs = dict[str, Any]
_LABELS = ("cell_type", "donor", "tissue")


def panel_inputs(context: RunContext) -> Inputs:
    """What the panel's stage keeps.

    Parameters
    ----------
    context
        Run whose genes are matched for this.
    """
    tokenizer, groups = context.tokenizer, context.groups
    matched = {"matched": tokenizer.match.to_dict(), "looks": str(tokenizer.values)}
    return {**matched, "genes": context.panel, "groups": [groups.kind, groups.names]}


def operators_inputs(context: RunContext) -> Inputs:
    """What the operators and the cells' embeddings depend on: no label, ruler, fold or anchor is among it.

    Parameters
    ----------
    context
        Run whose cells and checkpoint are hashed for this.
    """
    known = {**context.model_inputs(context.panel), **vector_inputs(context), "weights": context.model.fingerprint()}
    if not context.config.embedding:
        known["embedding"] = False
    return {**known, **_of_pass(context)} if reads_cells(context) else known


def reads_cells(context: RunContext) -> bool:
    """Whether there is a pass over the cells: for operators, embeddings or vectors of genes.

    Parameters
    ----------
    context
        Run whose configuration is looked at.
    """
    return context.config.operator == "attention" or context.embeds or bool(context.gene_layers)


def vector_inputs(context: RunContext) -> Inputs:
    """Which vectors of genes are kept beside the operators; nothing is said where none are.

    Parameters
    ----------
    context
        Run whose rulers are looked at.
    """
    return {"vectors": context.gene_layers} if context.gene_layers else {}


def untrained_inputs(context: RunContext) -> Inputs:
    """What the operators of the untrained model depend on: of the checkpoint its shape and vocabulary only.

    Parameters
    ----------
    context
        Run whose cells and checkpoint are looked at for this.
    """
    model, known = context.model, context.model_inputs(context.panel)
    if context.config.operator == "attention" or context.gene_layers:
        known |= {**_of_pass(context), **vector_inputs(context)}
    known |= {"seed": context.config.seed, "dtype": context.config.dtype}
    return {**known, "shape": [model.architecture, asdict(model.config)]}  # type: ignore[call-overload]


def _of_pass(context: RunContext) -> Inputs:
    return context.pass_inputs(context.values, context.read_obs, grouped=True)


def cells_inputs(context: RunContext) -> Inputs:
    """What the placed cells depend on.

    Parameters
    ----------
    context
        Run whose cells are placed for this.
    """
    obs, unplaced = context.places
    known = {"name": context.adata.uns["workbench"]["name"], "values": context.expression, "genes": context.panel}
    return {**known, "obs": digest(obs.to_dict("list")), "unplaced": unplaced, "sizes": sizes_named(context)}


def sizes_named(context: RunContext) -> str:
    """Hash of the library sizes that a column of the cells names; empty where none does, and expression says the rest.

    Parameters
    ----------
    context
        Run whose cells are loaded for this.
    """
    named = context.adata.uns["workbench"].get("depth")
    return digest(context.adata.obs["depth"].tolist()) if named else ""


def anchor_inputs(context: RunContext) -> Inputs:
    """What adaptors depend on that are fitted to the anchors of all cells, the feature map apart.

    Parameters
    ----------
    context
        Run whose cells are placed for this.
    """
    obs, config = context.places[0], context.config
    return {
        "values": context.expression,
        "genes": context.panel,
        "labels": digest({name: obs[name].tolist() for name in _LABELS if name in obs}),
        "stage": digest(obs["stage"].to_numpy()),
        "ruler": context.ruler.fingerprint(),
        "anchors": config.anchors.model_dump(mode="json"),
        "adaptor": config.adaptor.parameters(),
        "seed": config.seed,
    }


def map_inputs(context: RunContext) -> Inputs:
    """Which feature map is configured; heads of `topk` are screened by random holdouts.

    Parameters
    ----------
    context
        Run whose settings are looked at.
    """
    config = context.config
    used = {"drift": ("blocks",), "single": ("layer", "head"), "topk": ("top",)}[config.adaptor.feature_map]
    screened = {"holdouts": config.evaluation.holdouts} if config.adaptor.feature_map == "topk" else {}
    return {**config.adaptor.model_dump(mode="json", include={"feature_map", *used}), **screened}


def fold_inputs(context: RunContext) -> str:
    """Hash of the fold of each cell.

    Parameters
    ----------
    context
        Run whose cells are placed for this.
    """
    return digest(context.places[0]["fold"].to_numpy())


def writing_inputs(context: RunContext) -> Inputs:
    """What is compared with that which heads write: expression, cell types, library sizes and folds; no ruler and no adaptor.

    Parameters
    ----------
    context
        Run whose cells are placed for this.
    """
    obs = context.places[0]
    kinds = digest(obs["cell_type"].tolist()) if "cell_type" in obs else ""
    known = {"values": context.expression, "genes": context.panel, "sizes": sizes_named(context)}
    return {**known, "kinds": kinds, "fold": fold_inputs(context), "seed": context.config.seed}


def study_inputs(context: RunContext) -> Inputs:
    """What the trials on other studies depend on: their values, names and stages.

    Parameters
    ----------
    context
        Run whose other studies are read for this.
    """
    return {
        name: [expression_hash(cells, values_hash(cells)), digest(stage), cells.var_names.tolist()]
        for name, (cells, stage) in context.studies.items()
    }


def explorer_inputs(context: RunContext, rulers: Sequence[Ruler]) -> Inputs:
    """What the explorer depends on beside the tables and operators that it shows.

    Parameters
    ----------
    context
        Run whose seed is looked at.
    rulers
        Those that give the colours of branches.
    """
    files = sorted(resources.files("workbench.explorer").iterdir(), key=lambda file: file.name)
    page = {file.name: file.read_text(encoding="utf-8") for file in files if file.name.endswith((".js", ".html"))}
    return {
        "page": digest(page),
        "colors": [pair for ruler in rulers for pair in ruler.colors.items()],
        "seed": context.config.seed,
    }
