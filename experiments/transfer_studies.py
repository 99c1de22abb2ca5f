"""Files and configurations of the transfers between studies: one training run each, and what `experiments/transfers.py` asks for.

    $(make -s python) experiments/transfer_studies.py --kang8 F --kangifn F --combat F --spectra F --out OUT

The files are those that docs/transfers.md names; none ships with the project. Counts of the two logged ones are restored from their values, which are whole
multiples of each cell's smallest once the logarithm is undone. Of a study with more labelled cells 1,400 are drawn for training. Then, for each of OUT/*.yaml:

    workbench extract OUT/NAME.yaml --out OUT/NAME
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import scipy.sparse as sp
import yaml

from workbench.cells.placed import place_cells
from workbench.engine.config import load_cells, make_config
from workbench.evidence.ruler import load_ruler
from workbench.seeds import order_of
from workbench.settings import DataConfig

CHECKPOINT = Path(__file__).parents[1] / "artifacts" / "scgpt-blood-mini"
TRAINED, GENES = 1_400, 1_200
# Counts are whole numbers to this share of theirs, where the logarithm was rounded to single precision.
_NEAR = 1e-3


@dataclass(frozen=True)
class Study:
    """What is known of a study beside its file."""

    group: str
    cell_type: str | None = None
    donor: str | None = None
    base: float | None = None
    stages: tuple[tuple[str, str], ...] = ()


STUDIES = {
    "pbmc": Study("zheng"),
    "kang8": Study("kang", "cell_type", "donor"),
    "kangifn": Study("kang", "cell_type", base=np.e),
    "combat": Study("combat", "gated_type", "donor"),
    "spectra": Study(
        "spectra",
        "cell_type_annotations",
        base=2.0,
        stages=(
            ("CD8_T", "CD8"),
            ("CD4_T", "CD4"),
            ("gdT", "gamma-delta T"),
            ("B_memory", "B memory"),
            ("B_naive", "B naive"),
            ("B_GC", "B germinal centre"),
        ),
    ),
}
# The fourth study is only tried.
TRAINING = ("pbmc", "kang8", "kangifn", "combat")


def restored(x: sp.csr_matrix, base: float) -> sp.csr_matrix:
    """Counts of values log(1 + scale * count), with a scale of each cell's own and a count of 1 in each.

    Raises
    ------
    SystemExit
        If the values of some cell are no whole multiples of its smallest.
    """
    counts = sp.csr_matrix(x, dtype=np.float64)
    counts.data = np.expm1(counts.data * np.log(base))
    for i in range(counts.shape[0]):
        own = slice(counts.indptr[i], counts.indptr[i + 1])
        if own.stop > own.start:
            counts.data[own] /= counts.data[own].min()
    if (np.abs(counts.data - np.rint(counts.data)) > _NEAR * counts.data).any():
        raise SystemExit(
            "Some values are no whole multiples of the smallest of their cell; give the file that the page names."
        )
    counts.data = np.rint(counts.data)
    return counts.astype(np.float32)


def main() -> int:
    """Write the files of cells, `studies.yaml`, and a configuration for each training run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in STUDIES:
        if name != "pbmc":
            parser.add_argument(f"--{name}", type=Path, required=True, help=f"file of the study {name}")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files and configurations")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    ruler, studies = load_ruler("hematopoiesis"), dict[str, Any]()
    excluded = anndata.read_h5ad(given.combat, backed="r").uns["gating_genes"]
    gating = sorted({str(gene) for gene in np.ravel(excluded)})
    for name, one in STUDIES.items():
        data: dict[str, Any] = {"name": "pbmc68k"}
        if one.cell_type is not None:
            path = Path(getattr(given, name)).resolve()
            if one.base is not None:
                cells = anndata.read_h5ad(path)
                bare = anndata.AnnData(
                    restored(sp.csr_matrix(cells.X), one.base), obs=cells.obs[[one.cell_type]], var=cells.var[[]]
                )
                path = (given.out / f"{name}_counts.h5ad").resolve()
                bare.write_h5ad(path)
            data = {"name": str(path), "cell_type": one.cell_type, "values": "counts"}
            data |= {} if one.donor is None else {"donor": one.donor}
        studies[name] = {"group": one.group, "data": data} | ({"stages": dict(one.stages)} if one.stages else {})
        if name not in TRAINING:
            continue
        loaded = load_cells(make_config(DataConfig, **data))
        if one.cell_type is not None:
            whole = anndata.read_h5ad(data["name"])
            stage = place_cells(loaded, ruler, {})[0]["stage"].to_numpy(dtype=int)
            placed = np.flatnonzero(stage >= 0)
            rows = np.sort(
                placed[order_of(given.seed, whole.obs_names.to_numpy(dtype=str)[placed], "training cells")[:TRAINED]]
            )
            path = (given.out / f"{name}_training.h5ad").resolve()
            whole[rows].copy().write_h5ad(path)
            data = {**data, "name": str(path)}
        config = {
            "name": name,
            "checkpoint": str(CHECKPOINT),
            "data": {**data, "min_gene_share": 0.01},
            "panel": {"size": GENES, "exclude": [gene for gene in gating if gene in set(loaded.var_names)]},
            "capture": {"max_tokens": 400},
            "anchors": {"min_cells": 5, "parts": 2 if one.donor else 6},
            "adaptor": {"k": 10, "feature_map": "drift"},
            # The algorithm depends on none of these nulls and controls.
            "evaluation": {"permutations": 1, "refits": 1, "head_refits": 1, "holdouts": 1, "control_draws": 2},
        }
        (given.out / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    (given.out / "studies.yaml").write_text(yaml.safe_dump(studies, sort_keys=False), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
