"""The stage of ever smaller feature maps, split by split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.engine.sweep import Backend, Task, run_sweep
from workbench.factors.compaction import judge, summarise, undefined, variants
from workbench.files import write_text
from workbench.operators.algorithm import fold
from workbench.operators.operator import head_name
from workbench.recipes.run.chain import Chain
from workbench.recipes.run.splits import chain_of, fold_pairs, head_of, required


def compaction_split(config: str, out: str, folds: tuple[int, ...]) -> pd.DataFrame:
    """All variants on one split: feature maps, adaptor and readouts know nothing of the held-out folds.

    Parameters
    ----------
    config, out
        As in `chain_of`.
    folds
        Held out.
    """
    chain = chain_of(config, out)
    settings = required(chain.config.compaction, "compaction")
    head = head_of(chain, settings.head, folds)
    test = ~chain.outside(folds)
    rows = []
    for variant in variants(
        chain.feature_map(folds),
        chain.operators.leaving(folds).head(*head),
        chain.panel,
        ranks=settings.ranks,
        n_factors=settings.n_factors,
        n_read=settings.n_read,
        n_write=settings.n_write,
        alternatives=settings.alternatives,
        width=chain.config.adaptor.k,
        seed=chain.config.seed,
    ):
        about = {
            "split": "+".join(map(str, folds)),
            "head": head_name(*head),
            "variant": variant.name,
            "order": variant.order,
            "bytes": variant.n_bytes,
            "parameters": variant.n_weights,
            "relative_error": variant.error,
            "note": variant.note,
        }
        if variant.matrix is None:
            rows += [{**about, **row} for row in undefined(chain.endpoints)]
            continue
        fitted = chain.fitted(variant.matrix, folds)
        encode, offset = fold(variant.matrix, fitted.encoder_, fitted.bias_)
        z = np.asarray(chain.expression @ encode) + offset
        rows += [
            {**about, **row} for row in judge(z, chain.endpoints, test, chain.config.readout.hidden, chain.config.seed)
        ]
    return pd.DataFrame(rows)


def compaction_stage(chain: Chain, config: str, backend: Backend, folder: Path) -> dict[str, Any]:
    """The chain of ever smaller feature maps, over repeated splits.

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
    settings = required(chain.config.compaction, "compaction")
    pairs = fold_pairs(chain, settings.splits)
    tasks = [Task("+".join(map(str, pair)), (config, str(chain.out.resolve()), pair)) for pair in pairs]
    rows = run_sweep(folder / "sweep", {"splits": len(pairs)}, tasks, compaction_split, **backend.options())
    share = float(np.mean([(~chain.outside(pair)).mean() for pair in pairs]))
    table = summarise(rows, share)
    write_text(chain.tables / "compaction.csv", table.to_csv(index=False))
    lost = table.groupby("variant", sort=False)["lost"].agg(lost="sum", n_metrics="size").reset_index()
    write_text(chain.tables / "compaction_lost.csv", lost.to_csv(index=False))
    heads = rows.drop_duplicates("split")["head"].value_counts()
    return {"n_splits": len(pairs), "held_out": share, "heads": heads.to_dict(), "folds_left_out": len(pairs[0])}
