"""The stage that takes one head apart: factors, whether they last, what breaks without them, which programs they are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.capture.pairs import GenePairSink
from workbench.capture.record import capture
from workbench.engine.sweep import Backend, Task, run_sweep
from workbench.factors.factorise import READ, WRITE, Factors, hard_sparse, svd_factors, top_genes
from workbench.factors.gene_sets import GeneSets, load_gene_sets, on_panel
from workbench.factors.necessity import ablate_factors
from workbench.factors.necessity_tables import impacts, persistence, summarise, summarise_subsets
from workbench.factors.programs import Enrichment, enrich
from workbench.factors.stability import Stability, stability
from workbench.files import write_text
from workbench.operators.controls import coexpression
from workbench.operators.operator import Head, head_name
from workbench.recipes.run.chain import Chain
from workbench.recipes.run.splits import chain_of, fold_pairs, head_of, required
from workbench.seeds import key
from workbench.settings import FactorsConfig

TABLES = (
    *("factors", "factor_effects", "factor_subsets", "factor_genes", "factor_stability"),
    *("factor_persistence", "programs", "programs_null"),
)
_PLACE = ("split", "how", "endpoint", "metric")
_KINDS = {
    "effects": (
        *_PLACE,
        "factor",
        "intact",
        "none",
        "value",
        "drop",
        "training_drop",
        "null_mean",
        "null_high",
        "status",
    ),
    "null": (*_PLACE, "factor", "null", "draw", "drop"),
    "subsets": (*_PLACE, "kind", "subset", "size", "value", "intact", "none", "additive", "status"),
}
_SPARSE = "sparse"
_FEWEST_DONORS = 5
_CORE_NOTE = (
    "The factors whose subsets are tried were chosen by their drops on training cells, averaged over the splits: every cell "
    "is a training cell of some split, so these subsets look a little too good. 'top kept' chooses inside each split."
)


def factors_stage(chain: Chain, config: str, backend: Backend, folder: Path) -> dict[str, Any]:
    """Factors of one head.

    Parameters
    ----------
    chain
        The run.
    config
        As in `chain_of`.
    backend
        Who does the splits.
    folder
        Of the stage; finished splits in it are kept.
    """
    settings = required(chain.config.factors, "factors")
    sets = load_gene_sets(settings.gene_sets)
    on_panel(sets, chain.panel)  # a collection that does not fit is said before the work, not after it
    head = head_of(chain, settings.head)
    factors = factors_of(chain, head, settings)
    pairs = fold_pairs(chain, settings.splits)
    out = str(chain.out.resolve())

    def sweep(name: str, *more: Any) -> dict[str, pd.DataFrame]:
        tasks = [Task("+".join(map(str, pair)), (config, out, head, pair, *more)) for pair in pairs]
        identity = {"head": head_name(*head), "splits": len(pairs), "more": [str(part) for part in more]}
        rows = run_sweep(folder / name, identity, tasks, ablation_split, **backend.options())
        return {kind: rows.loc[rows["table"] == kind, list(columns)] for kind, columns in _KINDS.items()}

    first = sweep("ablation", (), False)
    found = impacts(first["effects"], first["null"])
    core = _core(found, factors, settings.top)
    named = sweep("core", tuple(core), False)["subsets"].query("kind == 'alone'")
    sparse = sweep(_SPARSE, (), True)
    after = impacts(sparse["effects"], sparse["null"])
    lasting, skipped = _stability(chain, head, factors, settings, folder)
    programs, control = _programs(chain, factors, sets, settings)
    found["place"] = found.groupby("how").cumcount() + 1
    found["strength"] = found["factor"].map(dict(zip(factors.names, factors.strength, strict=True)))
    kept = persistence(found, after, n_top=settings.top, seed=chain.config.seed)
    for column, table in (("share_before", found), ("share_after", after)):
        top = table.groupby("how")["share"].apply(lambda share: share.head(settings.top).sum())
        kept[column] = kept["how"].map(top)
    subsets = summarise_subsets(pd.concat([first["subsets"].query("kind != 'alone'"), named], ignore_index=True))
    tables = {
        "factors": found,
        "factor_effects": summarise(first["effects"], first["null"]),
        "factor_subsets": subsets,
        "factor_genes": _genes(factors, lasting, settings.n_genes),
        "factor_stability": pd.DataFrame({"factor": factors.names}) if lasting is None else lasting.factors,
        "factor_persistence": kept,
        "programs": programs.table,
        "programs_null": pd.concat([programs.null, control], ignore_index=True),
    }
    for name in TABLES:
        write_text(chain.tables / f"{name}.csv", tables[name].to_csv(index=False))
    return {
        "head": head_name(*head),
        "chosen": settings.head is None,
        "method": factors.method,
        "n_factors": len(factors.strength),
        "n_splits": len(pairs),
        "null_draws": settings.null_draws,
        "core": [factors.names[i] for i in core],
        "bootstraps": settings.bootstraps if lasting is not None else 0,
        "groups": int(lasting.factors["n_groups"].iloc[0]) if lasting is not None else 0,
        "gene_sets": sets.name,
        "n_terms": int(programs.terms["kept"].sum()),
        "skipped": skipped,
        "cautions": _cautions(chain, settings),
    }


def factors_of(chain: Chain, head: Head, settings: FactorsConfig) -> Factors:
    """Factors of a head's operator over all cells; no label has a part in them.

    Parameters
    ----------
    chain, head, settings
        The run, the head, and how many factors.
    """
    return svd_factors(chain.operators.head(*head), chain.panel, settings.n)


def ablation_split(
    config: str, out: str, head: Head, folds: tuple[int, ...], core: tuple[int, ...], sparse: bool
) -> pd.DataFrame:
    """Factors taken out on one split: adaptor and probes are fitted without the held-out folds.

    Parameters
    ----------
    config, out
        As in `chain_of`.
    head
        Whose factors.
    folds
        Held out.
    core
        Factors whose subsets are tried; empty: chosen inside the split.
    sparse
        Take apart the hard sparse form instead.

    Returns
    -------
    DataFrame
        The tables of `Ablation` under each other; ``table`` says which.
    """
    chain = chain_of(config, out)
    settings = required(chain.config.factors, "factors")
    factors = factors_of(chain, (head[0], head[1]), settings)
    if sparse:
        factors = hard_sparse(factors, min(settings.n_genes, len(chain.panel)), min(settings.n_genes, len(chain.panel)))
    fitted = chain.fitted(factors.matrix(), folds)
    outside = chain.outside(folds)
    found = ablate_factors(
        chain.expression,
        factors,
        fitted.encoder_,
        fitted.bias_,
        chain.endpoints,
        np.flatnonzero(outside),
        np.flatnonzero(~outside),
        split="+".join(map(str, folds)),
        core=list(core) or None,
        n_core=min(settings.top, len(factors.strength)),
        # Only the factors as they are need a null; three draws are the fewest that can be standardised.
        null_draws=3 if core or sparse else settings.null_draws,
        seed=chain.config.seed,
    )
    return pd.concat([getattr(found, kind).assign(table=kind) for kind in _KINDS], ignore_index=True)


def _core(found: pd.DataFrame, factors: Factors, top: int) -> list[int]:
    own = found[found["how"] == "mean"].sort_values("training_impact", ascending=False, kind="stable")
    return sorted(factors.names.index(name) for name in own["factor"].head(top))


def _stability(
    chain: Chain, head: Head, factors: Factors, settings: FactorsConfig, folder: Path
) -> tuple[Stability | None, list[dict[str, str]]]:
    """Bootstrap over groups of cells, from a second pass over one layer."""
    if chain.config.operator != "attention":
        why = f"the {chain.config.operator} operator comes from the checkpoint alone: no other sample of cells would change it"
        return None, [{"what": "Stability of factors over cells", "why": why}]
    groups = _groups(chain, settings)
    hook = f"blocks.{head[0]}.attn.hook_pattern"
    sink = GenePairSink(chain.panel, chain.model.vocabulary, groups)
    capture(
        chain.model,
        chain.tokenizer,
        [hook],
        [sink],
        batch_size=chain.config.capture.batch_size,
        state=folder / "capture",
        save_every=256,
    )
    parts = [sink.group(i) for i in range(sink.n_groups)]
    found = stability(
        np.stack([part.sums[0, head[1]] for part in parts]),
        np.stack([part.counts for part in parts]),
        chain.panel,
        factors,
        n_top=min(settings.n_genes, len(chain.panel)),
        draws=settings.bootstraps,
        seed=chain.config.seed,
    )
    shutil.rmtree(folder / "capture", ignore_errors=True)
    return found, []


def _groups(chain: Chain, settings: FactorsConfig) -> dict[str, int]:
    """What is drawn again: whole donors where there are several, else random groups of cells, dealt by a hash of their names."""
    names = chain.obs.index.astype(str)
    donors = [] if chain.donors is None else chain.donors.tolist()
    units = donors if len(set(donors)) >= _FEWEST_DONORS else list(names)
    n = max(2, min(settings.groups, len(set(units))))
    order = sorted(set(units), key=lambda unit: key(chain.config.seed, "bootstrap group", unit))
    place = {unit: i % n for i, unit in enumerate(order)}
    return {name: place[unit] for name, unit in zip(names, units, strict=True)}


def _genes(factors: Factors, lasting: Stability | None, n: int) -> pd.DataFrame:
    genes = top_genes(factors, min(n, len(factors.genes)))
    if lasting is None:
        return genes.assign(share=np.nan, sign=np.nan)
    return genes.merge(
        lasting.genes[["factor", "side", "gene", "share", "sign"]], how="left", on=["factor", "side", "gene"]
    )


def _programs(
    chain: Chain, factors: Factors, sets: GeneSets, settings: FactorsConfig
) -> tuple[Enrichment, pd.DataFrame]:
    """Programs of the factors, and how many hits the factors of the cells' own gene correlation have."""

    def of(one: Factors, draws: int) -> Enrichment:
        return enrich(
            {READ: one.read, WRITE: one.write.T},
            chain.panel,
            sets,
            n_top=min(settings.n_genes, len(chain.panel)),
            permutations=settings.permutations,
            null_draws=draws,
            seed=chain.config.seed,
        )

    plain = of(svd_factors(coexpression(chain.expression), chain.panel, len(factors.strength)), 0).table
    rows = [
        {
            "method": method,
            "draw": "factors of the cells' own gene correlation",
            "n_tests": len(part),
            "hits": int((part["q"] <= 0.05).sum()),
            "smallest_p": part["p"].min(),
        }
        for method, part in plain.groupby("method", sort=False)
    ]
    return of(factors, settings.program_draws), pd.DataFrame(rows)


def _cautions(chain: Chain, settings: FactorsConfig) -> list[str]:
    cautions = [
        "Necessity is of a factor for these readouts, given the others: two factors that say the same are each unneeded.",
        "Gene programs: genes of a program go together in any factor of expression, so a hit says what a factor is about, not that the "
        "model learnt it; hits of the cells' own gene correlation stand in programs_null.csv.",
        _CORE_NOTE,
    ]
    if chain.config.operator == "attention":
        cautions.append(
            "Factors come from the operator over all cells, held-out ones among them, though without any label."
        )
    if settings.head is None:
        cautions.append("The head was chosen by all anchors of this run; name another with factors.head.")
    return cautions
