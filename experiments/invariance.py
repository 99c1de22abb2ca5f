"""Does a run depend on the batch size, the number of threads or the order of the cells? The largest differences, table by table.

    python experiments/invariance.py FOLDER

Makes 350 of the cells that ship, in three orders, runs the demo's adaptor, holdouts and readouts on them with batches of 32, 7 and 1 and with
two threads and one, and compares each run with the first, cell by cell. About two minutes a run on two cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

import workbench
from workbench.engine.tables import read_table

ROOT = Path(__file__).resolve().parents[1]
# Batch size, threads, order of the cells; the first is what the others are compared with.
RUNS = {
    "batches of 32": (32, 2, "as they are"),
    "batches of 7, one thread": (7, 1, "as they are"),
    "batches of 1, backwards": (1, 2, "backwards"),
    "shuffled": (32, 2, "shuffled"),
}
_CELLS, _TABLES, _COUNTED = 350, ("latent", "heads", "holdouts", "readouts"), ["n_iter"]


def write_cells(folder: Path) -> None:
    """Write the cells in each order.

    Parameters
    ----------
    folder
        Folder that exists.
    """
    every, rng = workbench.load("pbmc68k"), np.random.default_rng(0)
    some = every[np.sort(rng.permutation(every.n_obs)[:_CELLS])].copy()
    some.uns = {}
    orders = {
        "as they are": np.arange(_CELLS),
        "backwards": np.arange(_CELLS)[::-1],
        "shuffled": rng.permutation(_CELLS),
    }
    for name, order in orders.items():
        some[order].copy().write_h5ad(folder / f"{name}.h5ad")


def run(folder: Path, name: str) -> dict[str, pd.DataFrame]:
    """Tables of one run; those that are there already are read again.

    Parameters
    ----------
    folder
        Folder with the cells.
    name
        One of `RUNS`.
    """
    batch, threads, order = RUNS[name]
    config = yaml.safe_load((ROOT / "experiments" / "demo.yaml").read_text())
    data = {"name": str(folder / f"{order}.h5ad"), "cell_type": "cell_type", "depth": "depth", "values": "log1p:10000"}
    few = {"permutations": 5, "refits": 2, "head_refits": 1, "control_draws": 2}
    config |= {
        "checkpoint": str(ROOT / "artifacts" / "scgpt-blood-mini"),
        "data": data,
        "capture": {"batch_size": batch},
    }
    config["evaluation"] |= few
    file, out = folder / f"{name}.yaml", folder / name
    file.write_text(yaml.safe_dump(config))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "workbench.cli", "run", file, "--out", out], env=environment, check=True)
    tables = {table: read_table(out / "tables" / f"{table}.csv") for table in _TABLES}
    return tables | {"latent": tables["latent"].sort_values("cell_id").reset_index(drop=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_cells(folder)
    first, *others = RUNS
    wanted, rows = run(folder, first), []
    for name in others:
        for table, found in run(folder, name).items():
            # Steps are counted, and move with the last digits as the path does.
            numbers = [c for c in found.select_dtypes("number") if c not in _COUNTED]
            worst = (found[numbers] - wanted[table][numbers]).abs().max()
            pictured = worst.index.str.startswith("umap")
            row = {"run": name, "table": table, "largest difference": worst[~pictured].max()}
            rows.append(row | {"of UMAP": worst[pictured].max() if pictured.any() else np.nan})
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
