"""The order of sorted bulk populations along each lineage, in a latent that was fitted without that lineage.

    python experiments/bulk_order.py POPULATIONS.csv.gz --out artifacts/bulk_order

POPULATIONS.csv.gz: genes x populations, log2 values, gene symbols in the first column, one column per sorted population. Written for
the 38 human populations of Novershtern et al. (Cell 2011, GSE24759), which do not ship with the project. Bulk, one profile per
population, no donors: an outside check of the ruler's order and nothing more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from workbench.cells.genes import match_genes
from workbench.engine.provenance import describe_model
from workbench.errors import CellsError
from workbench.evidence.holdout import group_splits, holdout_correlation, with_null
from workbench.evidence.ruler import load_ruler
from workbench.files import write_text
from workbench.geometry.trajectories import trajectory_table
from workbench.models import load_model
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.controls import gaussian
from workbench.operators.operator import DenseOperators, FeatureMapSpec, feature_map
from workbench.operators.weight_operators import KINDS, weight_operators

LINEAGES = ("erythroid", "megakaryocyte", "granulocyte", "monocyte", "B", "T")
COLUMNS = ["map", "lineage", "spearman", "p", "q", "null_high", "n_anchors", "n_depths", "status"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=Path("artifacts/scgpt-blood-mini"))
    parser.add_argument("--out", type=Path, default=Path("artifacts/bulk_order"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model, ruler = load_model(arguments.checkpoint), load_ruler("hematopoiesis")
    cells = populations(arguments.data)
    match = match_genes(cells.var_names.to_numpy(dtype=str), model.vocabulary.genes, 0.0)
    genes = match.genes
    # Of several probes of a gene the first counts, as logged microarray values do not add up.
    x = np.asarray(cells.X, dtype=float)[:, [int(np.flatnonzero(match.place == i)[0]) for i in range(len(genes))]]
    stage, unknown = ruler.place(cells.obs["cell_type"])
    x, stage = x[stage >= 0], stage[stage >= 0]
    maps = {"identity (x itself)": np.eye(len(genes))}
    maps |= {
        f"{kind}, drift": feature_map(DenseOperators(weight_operators(model, genes, kind).dense()), FeatureMapSpec())
        for kind in KINDS
    }
    maps["gaussian (random matrix)"] = gaussian(maps["qk, drift"], arguments.seed)
    branch = np.array(ruler.branches)
    trajectories, holdouts = [], []
    for name, matrix in maps.items():
        features, adaptor = x @ matrix, LETAdaptor()
        table = trajectory_table(features, stage, ruler, adaptor, branches=LINEAGES, seed=arguments.seed)
        trajectories.append(table.assign(map=name)[COLUMNS])
        held, null = holdout_correlation(
            features,
            stage,
            ruler.distances,
            lambda labels: list(group_splits(branch[labels], against_rest=True)),
            adaptor,
            refits=40,
            seed=arguments.seed,
        )
        holdouts.append({"map": name, **with_null(held, null)})
    found, held_out = pd.concat(trajectories), pd.DataFrame(holdouts)
    write_text(arguments.out / "trajectories.csv", found.to_csv(index=False))
    write_text(arguments.out / "branch_holdout.csv", held_out.to_csv(index=False))
    print(
        f"{describe_model(model, arguments.checkpoint)}; {len(x)} bulk populations, {len(genes)} genes; unknown labels: {unknown}"
    )
    print(found.to_string(index=False, float_format="%.3f"))
    print(held_out.to_string(index=False, float_format="%.3f"))


def populations(path: Path) -> AnnData:
    """Populations as if they were cells; a gene that is listed twice is averaged."""
    if not path.is_file():
        raise CellsError(f"There is no file '{path}'; give a table of genes x populations.")
    table = pd.read_csv(path, index_col=0)
    table = table.groupby(table.index.astype(str)).mean().T
    return AnnData(
        table.to_numpy(dtype=np.float32),
        obs=pd.DataFrame({"cell_type": table.index.astype(str)}, index=table.index.astype(str)),
        var=pd.DataFrame(index=table.columns),
    )


if __name__ == "__main__":
    main()
