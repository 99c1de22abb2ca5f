"""The stage that takes one head apart: factors, whether they last, what breaks without them, which programs they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workbench.engine.stages import Result, Results
from workbench.engine.sweep import Task, run_sweep
from workbench.factors.factorise import READ, WRITE, Factors, hard_sparse, svd_factors, top_genes
from workbench.factors.gene_sets import GeneSets, load_gene_sets
from workbench.factors.necessity import ablate_factors
from workbench.factors.necessity_tables import impacts, persistence, summarise, summarise_subsets
from workbench.factors.programs import Enrichment, enrich
from workbench.factors.stability import Stability, stability
from workbench.operators.controls import coexpression
from workbench.operators.operator import Head, head_name
from workbench.recipes.run.config import FactorsConfig
from workbench.recipes.run.context import RunContext
from workbench.recipes.run.splits import fold_pairs, head_of, split_name
from workbench.stats import enough_draws

if TYPE_CHECKING:
    from workbench.engine.context import Handle

TABLES = (
    *("factors", "factor_effects", "factor_subsets", "factor_genes", "factor_stability"),
    *("factor_persistence", "programs", "programs_control"),
)
_PLACE = ("split", "how", "endpoint", "metric")
_EFFECT = ("factor", "intact", "none", "value", "drop", "training_drop", "relabelled", "moved", "status")
_KINDS = {
    "effects": (*_PLACE, *_EFFECT),
    "subsets": (*_PLACE, "kind", "subset", "size", "value", "intact", "none", "additive", "status"),
}
# Share of labels that a relabelling has to change for its null to say something.
_MOVED = 0.2
_CORE_NOTE = (
    "The factors whose subsets are tried were chosen by their drops on training cells, averaged over the splits: every cell "
    "is a training cell of some split, so these subsets look a little too good. 'top kept' chooses inside each split."
)


def factors_stage(context: RunContext, settings: FactorsConfig, folder: Path, _: Results) -> Result:
    """Take the factors of one head: their genes and programs, their stability, and their necessity, a task per split.

    Parameters
    ----------
    context
        Run whose cells were placed and whose operators were read.
    settings
        Which head, how many factors, and how they are judged.
    folder
        Folder of the stage; finished splits in it are kept.
    _
        Results of the stages before, which are read from the disk.

    Returns
    -------
    dict
        What the report says of the tables: ``head``, ``method``, numbers of factors, splits, draws and groups, ``core``,
        ``gene_sets``, ``skipped`` and ``cautions`` among it.
    """
    sets, head = load_gene_sets(settings.gene_sets), head_of(context, settings.head)
    factors = factors_of(context, head, settings)
    pairs = fold_pairs(context, settings.splits)

    def sweep(name: str, core: tuple[int, ...] = (), *, sparse: bool = False) -> dict[str, pd.DataFrame]:
        tasks = [Task(split_name(pair), (context.handle, settings, head, pair, core, sparse)) for pair in pairs]
        identity = {"head": head_name(*head), "splits": len(pairs), "core": core, "sparse": sparse}
        rows = run_sweep(folder / name, identity, tasks, ablation_split, context.backend)
        return {kind: rows.loc[rows["table"] == kind, list(columns)] for kind, columns in _KINDS.items()}

    first = sweep("ablation")
    found = impacts(first["effects"])
    core = _core(found, factors, settings.top)
    named = sweep("core", tuple(core))["subsets"].query("kind == 'alone'")
    sparse = sweep("sparse", sparse=True)
    after = impacts(sparse["effects"])
    lasting = _stability(context, head, factors, settings)
    programs, control = _programs(context, factors, sets, settings)
    found["place"] = found.groupby("how").cumcount() + 1
    found["strength"] = found["factor"].map(dict(zip(factors.names, factors.strength, strict=True)))
    kept = persistence(found, after, n_top=settings.top, seed=context.config.seed)
    for column, table in (("share_before", found), ("share_after", after)):
        top = table.groupby("how")["share"].apply(lambda share: share.head(settings.top).sum())
        kept[column] = kept["how"].map(top)
    subsets = summarise_subsets(pd.concat([first["subsets"].query("kind != 'alone'"), named], ignore_index=True))
    tables = {
        "factors": found,
        "factor_effects": summarise(first["effects"]),
        "factor_subsets": subsets,
        "factor_genes": _genes(factors, lasting, settings.n_genes),
        "factor_stability": pd.DataFrame({"factor": factors.names}) if lasting is None else lasting.factors,
        "factor_persistence": kept,
        "programs": programs.table,
        "programs_control": control,
    }
    context.write(tables)
    n_groups = 0 if lasting is None else context.operators.n_groups
    return {
        "head": head_name(*head),
        "chosen": settings.head is None,
        "method": factors.method,
        "n_factors": len(factors.strength),
        "n_splits": len(pairs),
        "null_draws": settings.null_draws,
        "moved": float(found["moved"].mean()),
        "program_draws": settings.program_draws,
        "core": [factors.names[i] for i in core],
        "bootstraps": settings.bootstraps if lasting is not None else 0,
        "groups": n_groups,
        "gene_sets": sets.name,
        "n_terms": int(programs.terms["kept"].sum()),
        "skipped": {} if lasting is not None else _no_stability(context.operators.kind),
        "cautions": [*_cautions(context, settings, n_groups), *_few_draws(settings, found), *_left_out(sets)],
    }


def factors_of(context: RunContext, head: Head, settings: FactorsConfig) -> Factors:
    """Factors of a head's operator over all cells; no label has a part in them.

    Parameters
    ----------
    context
        Run whose operators were read.
    head
        Layer and number of the head, from 0.
    settings
        How many factors are wanted; at most as many as there are genes.
    """
    return svd_factors(context.operators.head(*head), context.operators.genes, settings.n)


def ablation_split(
    handle: Handle, settings: FactorsConfig, head: Head, folds: tuple[int, ...], core: tuple[int, ...], sparse: bool
) -> pd.DataFrame:
    """Factors taken out on one split: adaptor and probes are fitted without the held-out folds.

    Parameters
    ----------
    handle
        Opens the run in this process.
    settings
        How many factors, and how they are judged.
    head
        Layer and number of the head that they are of, from 0.
    folds
        Numbers of the folds that are held out.
    core
        Numbers of the factors whose subsets are tried; empty: chosen inside the split.
    sparse
        Take apart the hard sparse form instead.

    Returns
    -------
    DataFrame
        The tables of `workbench.factors.necessity.Ablation` under each other; ``table`` says which.
    """
    context: RunContext = handle.open()
    factors, n_genes = factors_of(context, (head[0], head[1]), settings), len(context.cells.genes)
    if sparse:
        factors = hard_sparse(factors, min(settings.n_genes, n_genes), min(settings.n_genes, n_genes))
    fitted, outside = context.fitted(factors.matrix(), folds), context.cells.outside(folds)
    found = ablate_factors(
        context.cells.expression,
        factors,
        fitted.encoder_,
        fitted.bias_,
        context.endpoints,
        np.flatnonzero(outside),
        np.flatnonzero(~outside),
        split=split_name(folds),
        groups=context.cells.obs["group"].to_numpy(),
        names=context.cells.names,
        core=list(core) or None,
        n_core=min(settings.top, len(factors.strength)),
        # Only the factors as they are need a null.
        null_draws=0 if core or sparse else settings.null_draws,
        seed=context.config.seed,
    )
    return pd.concat([getattr(found, kind).assign(table=kind) for kind in _KINDS], ignore_index=True)


def _core(found: pd.DataFrame, factors: Factors, top: int) -> list[int]:
    own = found[found["how"] == "mean"].sort_values("training_impact", ascending=False, kind="stable")
    return sorted(factors.names.index(name) for name in own["factor"].head(top))


def _stability(context: RunContext, head: Head, factors: Factors, settings: FactorsConfig) -> Stability | None:
    """Bootstrap over the groups that the capture kept sums by; None for operators that no cell has a part in."""
    source = context.operators
    if source.kind != "attention":
        return None
    sums, counts = zip(*(source.of_group(group, *head) for group in range(source.n_groups)), strict=True)
    return stability(
        np.stack(sums),
        np.stack(counts),
        source.genes,
        factors,
        n_top=min(settings.n_genes, len(source.genes)),
        draws=settings.bootstraps,
        seed=context.config.seed,
    )


def _no_stability(kind: str) -> dict[str, str]:
    why = f"the {kind} operator comes from the checkpoint alone: no other sample of cells would change it"
    return {"Stability of factors over cells": why}


def _genes(factors: Factors, lasting: Stability | None, n: int) -> pd.DataFrame:
    genes = top_genes(factors, min(n, len(factors.genes)))
    if lasting is None:
        return genes.assign(share=np.nan, sign=np.nan)
    columns = ["factor", "side", "gene", "share", "sign"]
    return genes.merge(lasting.genes[columns], how="left", on=["factor", "side", "gene"])


def _programs(
    context: RunContext, factors: Factors, sets: GeneSets, settings: FactorsConfig
) -> tuple[Enrichment, pd.DataFrame]:
    """Programs of the factors, and how many hits the factors of the cells' own gene correlation have."""
    cells = context.cells

    def of(one: Factors) -> Enrichment:
        return enrich(
            {READ: one.read, WRITE: one.write.T},
            cells.genes,
            sets,
            cells.expression,
            n_top=min(settings.n_genes, len(cells.genes)),
            draws=settings.program_draws,
            seed=context.config.seed,
        )

    plain = of(svd_factors(coexpression(cells.expression), cells.genes, len(factors.strength))).table
    rows = [
        {
            "method": method,
            "control": "factors of the cells' own gene correlation",
            "n_tests": len(part),
            "hits": int((part["q"] <= 0.05).sum()),
            "smallest_p": part["p"].min(),
        }
        for method, part in plain.groupby("method", sort=False)
    ]
    return of(factors), pd.DataFrame(rows)


def _few_draws(settings: FactorsConfig, found: pd.DataFrame) -> list[str]:
    """What the null of the factors cannot show."""
    n, wanted, moved = found["factor"].nunique(), enough_draws(found["factor"].nunique()), found["moved"].mean()
    said = []
    if settings.null_draws < wanted:
        said.append(
            f"{settings.null_draws} relabellings give no p below {1 / (1 + settings.null_draws):.2g}: a single needed factor of "
            f"{n} cannot reach q <= 0.05; set factors.null_draws to {wanted} or more."
        )
    if moved < _MOVED:
        said.append(
            f"Relabelling inside groups changes {moved:.0%} of the labels: where groups hold hardly more than one label each, no "
            "factor can be shown to be needed."
        )
    return said


def _left_out(sets: GeneSets) -> list[str]:
    n = len(sets.empty)
    return [f"{n} terms of '{sets.name}' name no gene and were left out ({', '.join(sets.empty[:3])})."] if n else []


def _cautions(context: RunContext, settings: FactorsConfig, n_groups: int) -> list[str]:
    cautions = [
        "Necessity is of a factor for these readouts, given the others: two factors that say the same are each unneeded. It is beside "
        "no information at all, not beside another direction of as much variance.",
        "Gene programs: a hit says what a factor is about, more than a random direction of the cells' expression is, not that the model "
        "learnt it; hits of the cells' own gene correlation stand in programs_control.csv.",
        _CORE_NOTE,
    ]
    if n_groups:
        hashed = context.cells.donor is None
        units, more = ("cells", ", and say nothing of other donors") if hashed else ("whole donors", "")
        cautions.append(
            f"Stability of factors: {n_groups} groups of {units} were drawn again; so few make coarse intervals{more}."
        )
        cautions.append(
            "Factors come from the operator over all cells, held-out ones among them, though without any label."
        )
    if settings.head is None:
        cautions.append("The head was chosen by all anchors of this run; name another with factors.head.")
    return cautions
