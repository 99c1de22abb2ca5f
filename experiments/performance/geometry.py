"""Geometry of every layer: all measures of scFoundry with the neighbours of expression found once, against its script run once per layer.

Both sides read the same counts and the same embeddings, one file per layer, and give participation ratio, spectral anisotropy, TwoNN raw and standardised,
R_NX at three sizes, and partial eta squared of cell type and batch. The figures have to agree to 1e-5; beyond 5,000 cells scFoundry finds the
neighbours for TwoNN approximately, and there they have to agree within a tenth.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from common import Result, Side, Sizes, arguments, compared, measure, serve, show, synthetic_cells, versions

from workbench.geometry.expression import expression_neighbors, technical_genes
from workbench.geometry.space_tables import measure_space

SIZES: Sizes = {"cells": 2_400, "genes": 6_000, "expressed": 700, "batches": 4, "layers": 8, "width": 128}
FULL: Sizes = {"cells": 20_000, "genes": 20_000, "expressed": 2_000, "batches": 8, "layers": 12, "width": 512}
LARGE: Sizes = {"cells": 100_000, "genes": 3_000, "expressed": 300, "batches": 8, "layers": 1, "width": 64}
TOY: Sizes = {"cells": 420, "genes": 2_600, "expressed": 500, "batches": 2, "layers": 1, "width": 16}
# Set for many cells, where the peer's approximate search and its copies of all counts weigh. The default size, at which its search is exact, misses them.
BOUNDS = {"ratio": "at least 5", "memory_ratio": "at least 4"}
PEER = "scFoundry's script per layer"
APPROXIMATE = 5_000
TYPES = 6
# Our measure and scope, and their column.
FIGURES = {
    ("participation ratio", "unit variance"): "pr",
    ("spectral anisotropy", "about the origin"): "aniso_spec",
    ("R_NX", "k = 15"): "rnx_k15",
    ("R_NX", "k = 30"): "rnx_k30",
    ("R_NX", "k = 50"): "rnx_k50",
    ("partial eta squared", "cell type, per coordinate"): "partial_eta2_celltype",
    ("partial eta squared", "batch, per coordinate"): "partial_eta2_batch",
    ("TwoNN", "raw"): "id_twonn_raw",
    ("TwoNN", "standardised"): "id_twonn_z",
}

Ready = tuple[Path, Sizes, Any]


def script() -> Path | None:
    """ScFoundry's own script; None where it is not installed."""
    found = importlib.util.find_spec("scfoundry")
    return Path(str(found.origin)).parent / "pipeline/bin/geometry/embedding_geometry.py" if found else None


def require_peer() -> None:
    """Stop with a sentence where scFoundry is not installed."""
    if script() is None:
        print(
            "This comparison needs scFoundry, which is not installed. Install it with: pip install --no-deps scfoundry==0.2.1",
            file=sys.stderr,
        )
        raise SystemExit(2)


def prepare(sizes: Sizes) -> Ready:
    """Write counts and embeddings, the same in every process, and import scFoundry's script.

    Parameters
    ----------
    sizes
        Sizes.
    """
    folder = Path(tempfile.mkdtemp())
    rng = np.random.default_rng(0)
    cells = synthetic_cells(sizes["cells"], sizes["genes"], sizes["expressed"])
    kind = rng.integers(0, TYPES, sizes["cells"])
    batch = np.arange(sizes["cells"]) % sizes["batches"]
    cells.obs = cells.obs.assign(cell_type=[f"type{i}" for i in kind], batch_id=[f"batch{i}" for i in batch])
    del cells.uns["workbench"]
    cells.write_h5ad(folder / "counts.h5ad")
    width = sizes["width"]
    latent = rng.normal(size=(sizes["cells"], 10)) + 2 * rng.normal(size=(TYPES, 10))[kind]
    for layer in range(sizes["layers"]):
        points = latent @ rng.normal(size=(10, width)) + rng.normal(size=(sizes["batches"], width))[batch]
        points += 0.5 * rng.normal(size=points.shape) + 1
        ad.AnnData(points.astype(np.float32), obs=cells.obs[[]]).write_h5ad(folder / f"layer{layer:02}.h5ad")
    if (path := script()) is None:
        return folder, sizes, None  # our side needs none of it
    spec = importlib.util.spec_from_file_location("embedding_geometry", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if sizes["cells"] > APPROXIMATE:
        # So that what its approximate search compiles is in neither figure.
        few = rng.normal(size=(400, 8)).astype(np.float32)
        module.compute_neighbors(few, 30, 0, sizes["threads"], exact_max_cells=0)
    return folder, sizes, module


def ours(ready: Ready) -> np.ndarray:
    """All layers beside one search for the neighbours of expression.

    Parameters
    ----------
    ready
        From `prepare`.
    """
    folder, sizes, _ = ready
    cells = ad.read_h5ad(folder / "counts.h5ad", backed="r")
    kind, batch = (cells.obs[name].to_numpy(dtype=object) for name in ("cell_type", "batch_id"))
    expression = expression_neighbors(
        cells.X, batch, leave_out=technical_genes(cells.var_names), fewest=101, seed=0
    ).neighbors
    rows = []
    for layer in range(sizes["layers"]):
        points = np.asarray(ad.read_h5ad(folder / f"layer{layer:02}.h5ad").X)
        table = measure_space(
            points, expression=expression, cell_type=kind, batch=batch, n_draws=0, convention="scfoundry", seed=0
        ).table
        found = table.set_index(["measure", "scope"])["value"]
        rows.append([found[key] for key in FIGURES])
    cells.file.close()
    return np.array(rows)


def peer(ready: Ready) -> np.ndarray:
    """The script's own function for each layer, which is what each run of it does.

    Parameters
    ----------
    ready
        From `prepare`.
    """
    folder, sizes, module = ready
    before = sys.argv
    sys.argv = ["geometry", "--embedding-dir", "", "--data-dir", "", "--method", "m", "--output-dir", ""]
    sys.argv += ["--n-jobs", str(sizes["threads"])]
    options = module.parse_args()
    sys.argv = before
    rows = []
    for layer in range(sizes["layers"]):
        row, _ = module.process_pair(folder / f"layer{layer:02}.h5ad", folder / "counts.h5ad", "m", options)
        rows.append([row[name] for name in FIGURES.values()])
    return np.array(rows, dtype=float)


def finish(ready: Ready, found: np.ndarray) -> Result:
    """Remove the files; keep the figures.

    Parameters
    ----------
    ready
        From `prepare`.
    found
        From either side.
    """
    for path in ready[0].iterdir():
        path.unlink(missing_ok=True)
    ready[0].rmdir()
    return {"values": found}


def large(ready: Ready) -> np.ndarray:
    """All of our own measures but trustworthiness, which needs all pairs, of more cells than are searched exactly.

    Parameters
    ----------
    ready
        From `prepare`.

    Returns
    -------
    ndarray
        Lowest recall of an approximate search.
    """
    folder, _, _ = ready
    cells = ad.read_h5ad(folder / "counts.h5ad", backed="r")
    kind, batch = (cells.obs[name].to_numpy(dtype=object) for name in ("cell_type", "batch_id"))
    expression = expression_neighbors(cells.X, batch, leave_out=technical_genes(cells.var_names), seed=0)
    points = np.asarray(ad.read_h5ad(folder / "layer00.h5ad").X)
    table = measure_space(
        points, expression=expression, cell_type=kind, batch=batch, trust_k=None, n_draws=0, seed=0
    ).table
    cells.file.close()
    return table["note"].str.extract("approximate neighbours, recall ([0-9.]+)")[0].astype(float).min()


SIDES = {
    "ours": Side(prepare, ours, finish),
    "peer": Side(prepare, peer, finish),
    "large": Side(prepare, large, finish),
}


def report(figures: dict[str, dict[str, Any]], results: dict[str, Result], sizes: Sizes) -> dict[str, Any]:
    """Check that the sides agree and put their figures together.

    Parameters
    ----------
    figures, results
        As `measure` gives them.
    sizes
        What was measured.
    """
    one, other = (pd.DataFrame(results[side]["values"], columns=list(FIGURES.values())) for side in ("ours", "peer"))
    difference = ((one - other).abs() / other.abs()).max()
    bound = pd.Series(1e-5, index=difference.index)
    if sizes["cells"] > APPROXIMATE:
        bound[["id_twonn_raw", "id_twonn_z"]] = 0.1
    if not (difference < bound).all():
        worst = (difference / bound).fillna(np.inf).idxmax()
        raise SystemExit(f"The two sides differ in {worst} by a share of {difference[worst]:g}; nothing was compared.")
    exact = difference[bound < 1e-4]
    more: dict[str, Any] = {"greatest relative difference": float(exact.max())}
    if len(exact) < len(difference):
        more["of TwoNN, theirs approximate"] = float(difference.drop(exact.index).max())
    return {
        "what": "geometry: nine figures of every layer",
        "bounds": BOUNDS,
        "data": "synthetic: negative binomial counts; embeddings of rank 10 with noise, cell types and batches",
        **compared(figures, sizes, PEER),
        "sizes": {name: sizes[name] for name in SIZES},
        "greatest_difference": float(exact.max()),
        "more": more,
        "versions": versions("scfoundry", "scikit-learn", "numpy", "numba"),
    }


def main() -> None:
    options = arguments(
        __doc__,
        threads={"type": int, "default": 1, "help": "threads of BLAS and OpenMP for either side (default: 1)"},
        cells={"type": int, "help": "cells (default: 2,400; 20,000 with --full)"},
        layers={"type": int, "help": "layers (default: 8; 12 with --full)"},
        large={"action": "store_true", "help": "peak memory and recall at 100,000 cells x 64, without the peer"},
    )
    if options.serve:
        return serve(SIDES, options.serve)
    if options.large:
        figures, results = measure(__file__, [["large"]], {**LARGE, "threads": options.threads}, TOY, 1)
        print(
            f"100,000 cells x 64: {figures['large']['peak_bytes'] / 2**20:.0f} MiB at the peak (bound: at most 4096), "
            f"{figures['large']['cpu_seconds']:.0f} s of the processor, recall {float(results['large']['values']):.3f} at the lowest"
        )
        return None
    require_peer()
    outer = 1
    sizes = {**(FULL if options.full else SIZES), "threads": options.threads}
    sizes |= {name: value for name in ("cells", "layers") if (value := getattr(options, name)) is not None}
    figures, results = measure(__file__, [["ours"], ["peer"]], sizes, TOY, outer)
    show(report(figures, results, {**sizes, "repetitions": outer}), options.json)


if __name__ == "__main__":
    main()
