"""A process of its own for a method of another package: run as ``PYTHON peer_worker.py FOLDER``, it needs no workbench.

One request a line on stdin, one JSON reply a line on stdout; arrays go through safetensors files in a folder. The cells that
are judged come with a second request, after the method was fitted: until then they do not exist for it. FOLDER is the
temporary one of the exchange; it is removed when there is nobody left to ask.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import scipy.sparse as sp
    from safetensors.numpy import load_file, save_file
except ImportError as error:
    print(json.dumps({"error": "missing", "message": str(error)}), flush=True)
    sys.exit(0)


class NotRun(Exception):
    """The method cannot be run on such data."""


def read_cells(folder: Path, side: str) -> dict[str, Any]:
    """Matrices, and whatever stands beside them.

    Parameters
    ----------
    folder, side
        Folder of the exchange, and which file in it: ``side.safetensors``.
    """
    arrays = load_file(folder / f"{side}.safetensors")
    shape = tuple(arrays.pop("shape").tolist())
    found: dict[str, Any] = {"counts": None}
    for kind in ("expression", "counts"):
        if f"{kind}/data" in arrays:
            parts = tuple(arrays.pop(f"{kind}/{part}") for part in ("data", "indices", "indptr"))
            found[kind] = sp.csr_matrix(parts, shape=shape)
    return {**found, **arrays}


def anndata(matrix: sp.csr_matrix, prefix: str = "cell") -> Any:
    """Cells as AnnData; names are numbers.

    Parameters
    ----------
    matrix
        Values, cell by gene, which are copied.
    prefix
        What the names of the cells begin with.
    """
    import pandas as pd
    from anndata import AnnData

    obs = pd.DataFrame(index=[f"{prefix}{i}" for i in range(matrix.shape[0])])
    return AnnData(matrix.copy(), obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(matrix.shape[1])]))


class Nearest:
    """What new cells get of training cells: the plain mean over their nearest ones along principal components."""

    def __init__(self, expression: sp.csr_matrix, components: int, neighbours: int) -> None:
        from sklearn.decomposition import PCA
        from sklearn.neighbors import NearestNeighbors

        x = expression.astype(np.float64)
        self.pca = PCA(min(components, *(n - 1 for n in x.shape)), svd_solver="covariance_eigh").fit(x)
        self.z = self.pca.transform(x)
        self.search = NearestNeighbors(n_neighbors=min(neighbours, len(self.z))).fit(self.z)

    def __call__(self, expression: sp.csr_matrix, values: np.ndarray) -> np.ndarray:
        """Means of `values` (training cell by column) for other cells."""
        z = self.pca.transform(expression.astype(np.float64))
        return values[self.search.kneighbors(z, return_distance=False)].mean(1)

    def root(self, early: np.ndarray) -> int:
        """The training cell nearest to the mean of some of them."""
        return int(np.argmin(np.linalg.norm(self.z - self.z[early].mean(0), axis=1)))


def diffusion_pseudotime(
    z: np.ndarray, root: int, neighbours: int, width: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Diffusion components and pseudotime of points from one of them, by scanpy.

    Parameters
    ----------
    z
        Points, point by coordinate, such as principal components of cells.
    root
        Number of the point at which time begins.
    neighbours, width
        Neighbours in the graph, and diffusion components; fewer where there are too few points.
    seed
        Seed of neighbours and of the diffusion map.
    """
    import scanpy as sc

    cells = anndata(sp.csr_matrix((len(z), 1), dtype=np.float32))
    cells.obsm["X_z"] = z.astype(np.float32)
    sc.pp.neighbors(cells, n_neighbors=min(neighbours, len(z) - 1), use_rep="X_z", random_state=seed)
    width = min(width, len(z) - 2)
    sc.tl.diffmap(cells, n_comps=width + 1, random_state=seed)
    cells.uns["iroot"] = root
    sc.tl.dpt(cells, n_dcs=width)
    found = cells.obs["dpt_pseudotime"].to_numpy(dtype=np.float64)
    # A cell of another component than the root's is infinitely far; it is put behind all that can be reached.
    found = np.where(np.isfinite(found), found, np.nanmax(np.where(np.isfinite(found), found, np.nan)))
    # The first component is constant.
    return np.asarray(cells.obsm["X_diffmap"][:, 1:], dtype=np.float64), found


class DPT:
    """scanpy: principal components, neighbours, diffusion map, diffusion pseudotime from a root."""

    package = "scanpy"

    @classmethod
    def warm(cls) -> None:
        """Let what scanpy compiles be compiled; like imports, that is no part of what a fit takes."""
        noise = sp.csr_matrix(np.random.default_rng(0).random((60, 20), dtype=np.float32))
        cls({"expression": noise, "early": np.arange(60) < 5}, {"seed": 0})

    def __init__(self, train: dict[str, Any], options: dict[str, Any]) -> None:
        self.nearest = Nearest(train["expression"], int(options.get("components", 50)), 15)
        root, few = self.nearest.root(train["early"].astype(bool)), int(options.get("neighbours", 15))
        width = int(options.get("diffusion_components", 10))
        self.latent, self.time = diffusion_pseudotime(self.nearest.z, root, few, width, int(options["seed"]))
        self.n_parameters = self.nearest.pca.components_.size + self.latent.size + self.time.size

    def predict(self, cells: dict[str, Any]) -> dict[str, np.ndarray]:
        """Latent and pseudotime of cells."""
        found = self.nearest(cells["expression"], np.column_stack([self.latent, self.time]))
        return {"latent": found[:, :-1], "pseudotime": found[:, -1]}


class Palantir(DPT):
    """Palantir: diffusion maps, multiscale space, pseudotime from an early cell."""

    package = "palantir"

    def __init__(self, train: dict[str, Any], options: dict[str, Any]) -> None:
        import palantir
        import pandas as pd

        seed = int(options["seed"])
        self.nearest = Nearest(train["expression"], int(options.get("components", 50)), 15)
        n = len(self.nearest.z)
        names = [f"cell{i}" for i in range(n)]
        table = pd.DataFrame(self.nearest.z, index=names)
        few = min(int(options.get("neighbours", 30)), n - 1)
        maps = palantir.utils.run_diffusion_maps(table, n_components=10, knn=few, seed=seed)
        space = palantir.utils.determine_multiscale_space(maps)
        early = names[self.nearest.root(train["early"].astype(bool))]
        found = palantir.core.run_palantir(
            space,
            early,
            knn=few,
            num_waypoints=min(int(options.get("waypoints", 500)), n),
            use_early_cell_as_start=True,
            n_jobs=1,
            seed=seed,
        )
        self.latent = space.loc[names].to_numpy(dtype=np.float64)
        self.time = found.pseudotime.loc[names].to_numpy(dtype=np.float64)
        self.n_parameters = self.nearest.pca.components_.size + self.latent.size + self.time.size


class CellTypist:
    """CellTypist, trained on the stages of the training side with its own defaults."""

    package = "celltypist"

    def __init__(self, train: dict[str, Any], options: dict[str, Any]) -> None:
        import celltypist

        stage = train["stage"].astype(str)
        given = {"random_state": int(options["seed"]), **{k: v for k, v in options.items() if k != "seed"}}
        cells = anndata(train["expression"])
        x, genes = np.asarray(cells.X.todense()), list(cells.var_names)
        try:
            self.model = celltypist.train(x, labels=stage, genes=genes, check_expression=False, n_jobs=1, **given)
        except TypeError as error:
            if "multi_class" not in str(error):
                raise
            version = importlib.metadata.version("scikit-learn")
            raise NotRun(
                f"it passes an argument that scikit-learn {version} no longer takes; install 'scikit-learn<1.8' beside it, or "
                "set its option use_SGD to true"
            ) from error
        classifier = self.model.classifier
        self.n_parameters = int(classifier.coef_.size + classifier.intercept_.size)
        # It leaves out genes that no training cell expresses, and those that it does not select.
        place = {name: i for i, name in enumerate(cells.var_names)}
        self.columns = np.array([place[name] for name in classifier.features])

    def predict(self, cells: dict[str, Any]) -> dict[str, np.ndarray]:
        """Probability of each stage, and the stages' numbers; the one-against-rest scores of a cell are made to sum to 1."""
        classifier, scaler = self.model.classifier, self.model.scaler
        x = np.asarray(cells["expression"].todense(), dtype=np.float64)[:, self.columns]
        # What celltypist.annotate does before it asks its classifier: scale, and cut at 10.
        x = np.minimum((x - (scaler.mean_ if scaler.with_mean else 0)) / scaler.scale_, 10)
        logits = classifier.decision_function(x)
        logits = np.column_stack([-logits, logits]) if logits.ndim == 1 else logits
        chance = 1 / (1 + np.exp(-logits))
        chance = np.maximum(chance, 1e-12)
        numbers = np.array([int(name) for name in classifier.classes_])
        return {"stages": numbers, "chance": chance / chance.sum(1, keepdims=True), "latent": logits}


class ScTOP:
    """scTOP: rank z-scores of a cell, projected on those of the stages' means by a pseudo-inverse; nothing is tuned."""

    package = "sctop"

    @classmethod
    def warm(cls) -> None:
        """Let what scTOP compiles be compiled, as for `DPT`."""
        noise = sp.csr_matrix(np.random.default_rng(0).random((6, 20), dtype=np.float32))
        cls({"expression": noise, "counts": None, "stage": np.arange(6) % 2}, {"seed": 0})

    def __init__(self, train: dict[str, Any], options: dict[str, Any]) -> None:
        import pandas as pd
        import sctop

        self.top, self.stages = sctop, np.unique(train["stage"])
        values = self.values(train)
        means = [sctop.process(values.loc[:, train["stage"] == stage], average=True) for stage in self.stages]
        self.basis = pd.concat(means, axis=1)
        self.basis.columns = [str(stage) for stage in self.stages]
        self.n_parameters = self.basis.size

    def values(self, cells: dict[str, Any]) -> Any:
        """Genes by cells on a linear scale, which its means are taken on: counts, or logged values taken back."""
        import pandas as pd

        given = cells["expression"].expm1() if cells["counts"] is None else cells["counts"]
        dense = np.asarray(given.todense(), dtype=np.float32).T
        return pd.DataFrame(dense, index=[f"gene{i}" for i in range(len(dense))])

    def predict(self, cells: dict[str, Any]) -> dict[str, np.ndarray]:
        """Projections on the stages, and shares made of them: what is below 0 counts as nothing."""
        found = self.top.score(self.basis, self.top.process(self.values(cells)))
        # A cell that expresses none of the genes has no ranks and so no direction; every stage is as likely.
        latent = np.nan_to_num(found.to_numpy(dtype=np.float64).T)
        chance = np.maximum(latent, 1e-12)
        return {"stages": self.stages, "chance": chance / chance.sum(1, keepdims=True), "latent": latent}


class ScVI:
    """scVI: a variational autoencoder of counts; the latent is the mean of its posterior.

    Donors are batches in training. The encoder does not see the batch, so a cell of a donor that was never seen is encoded
    as any other; which batch it is given makes no difference.
    """

    package = "scvi-tools"

    def __init__(self, train: dict[str, Any], options: dict[str, Any]) -> None:
        if train["counts"] is None:
            raise NotRun("it needs integer counts, and the data hold none")
        import logging

        import scvi

        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        scvi.settings.seed = int(options["seed"])
        scvi.settings.verbosity = logging.ERROR
        self.scvi, cells = scvi, anndata(train["counts"])
        cells.obs["batch"] = train["donor"].astype(str) if "donor" in train else "one"
        self.batch = cells.obs["batch"].iloc[0]
        scvi.model.SCVI.setup_anndata(cells, batch_key="batch")
        self.model = scvi.model.SCVI(cells, n_latent=int(options.get("latent", 10)))
        self.model.train(
            max_epochs=int(options.get("epochs", 100)),
            accelerator="cpu",
            devices=1,
            early_stopping=True,
            enable_progress_bar=False,
            logger=False,
            enable_checkpointing=False,
        )
        self.n_parameters = sum(part.numel() for part in self.model.module.parameters())

    def predict(self, cells: dict[str, Any]) -> dict[str, np.ndarray]:
        """Mean of the posterior."""
        if cells["counts"] is None:
            raise NotRun("it needs integer counts, and these cells have none")
        given = anndata(cells["counts"], "new")
        given.obs["batch"] = self.batch
        return {"latent": np.asarray(self.model.get_latent_representation(given), dtype=np.float64)}


class Watch:
    """Seconds, and the most memory above that at the beginning, looked at every ten milliseconds.

    Without psutil it is what the greatest memory of the process grew by, which is less where there was more before.
    """

    def __enter__(self) -> Watch:
        self.peak, self.done = 0, threading.Event()
        try:
            import psutil

            self.resident = lambda: psutil.Process().memory_info().rss
        except ImportError:
            import resource

            unit = 1 if sys.platform == "darwin" else 1024
            self.resident = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        self.before = self.resident()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()
        self.began = time.perf_counter()
        return self

    def _look(self) -> None:
        while not self.done.wait(0.01):
            self.peak = max(self.peak, self.resident() - self.before)

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self.began
        self.done.set()
        self.thread.join()
        self.peak = max(self.peak, self.resident() - self.before)


METHODS = {"dpt": DPT, "palantir": Palantir, "celltypist": CellTypist, "sctop": ScTOP, "scvi": ScVI}


def done(request: dict[str, Any], held: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks for.

    Parameters
    ----------
    request
        ``do``: fit or predict; ``folder`` and ``side`` of the cells; and to fit: ``method`` and ``options``.
    held
        Keeps the fitted method between requests; changed by a fit.

    Returns
    -------
    dict
        ``seconds``, ``peak_bytes``, ``n_parameters`` and ``version``; predictions go to ``side.predicted.safetensors``.
    """
    folder, side = Path(request["folder"]), request["side"]
    cells = read_cells(folder, side)
    if request["do"] == "fit":
        kind: Any = METHODS[request["method"]]
        # Imports are no part of what a fit takes.
        __import__({"scvi-tools": "scvi"}.get(kind.package, kind.package))
        if hasattr(kind, "warm"):
            kind.warm()
        with Watch() as watch:
            held["fitted"] = kind(cells, request["options"])
        held["version"] = f"{kind.package} {importlib.metadata.version(kind.package)}"
    else:
        with Watch() as watch:
            predicted = held["fitted"].predict(cells)
        arrays = {name: np.ascontiguousarray(value) for name, value in predicted.items()}
        save_file(arrays, folder / f"{side}.predicted.safetensors")
    return {
        "seconds": watch.seconds,
        "peak_bytes": watch.peak,
        "n_parameters": int(held["fitted"].n_parameters),
        "version": held["version"],
    }


def end_with(parent: int, folder: Path) -> None:
    """End when the process that asks has ended, even in the middle of a fit, and take the folder of the exchange along.

    Parameters
    ----------
    parent
        Process id of who asks, whose end is looked for twice a second.
    folder
        Folder of the exchange, which the ended process can no longer remove.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def main() -> None:
    """Do what is asked, request by request, until there are no more."""
    mine = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if mine is not None:
        threading.Thread(target=end_with, args=(os.getppid(), mine), daemon=True).start()
    replies = os.fdopen(os.dup(1), "w")
    # Packages that print must not get between the replies.
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    held: dict[str, Any] = {}
    for line in sys.stdin:
        try:
            reply = done(json.loads(line), held)
        except NotRun as error:
            reply = {"error": "not run", "message": str(error)}
        except ImportError as error:
            reply = {"error": "missing", "message": " ".join(str(error).split())[:300]}
        # Whatever a package raises belongs into the table of the campaign.
        except Exception as error:
            reply = {"error": "failed", "message": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        try:
            replies.write(json.dumps(reply) + "\n")
            replies.flush()
        except BrokenPipeError:
            break
    if mine is not None:
        shutil.rmtree(mine, ignore_errors=True)


if __name__ == "__main__":
    main()
