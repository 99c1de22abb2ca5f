"""The benchmark as an object: a user's cells, embeddings and methods beside those of the workbench."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import h5py
import pandas as pd
from anndata import AnnData

from workbench.cells.datasets import STANDARD, CellMapping, load
from workbench.engine.config import make_config
from workbench.engine.folder import claim
from workbench.engine.sweep import Backend
from workbench.engine.tables import read_table, table_path
from workbench.errors import ConfigError, EvaluationError, OutputError
from workbench.evidence.own import own_method
from workbench.files import atomically, plain
from workbench.models import CellModel
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.recipes.benchmark.config import BenchmarkConfig, EmbeddedDataConfig
from workbench.recipes.benchmark.recipe import RECIPE, run_benchmark

_CELLS, _CHECKPOINT = "cells.h5ad", "checkpoint"
_MADE_BY = "workbench.Benchmark"
_WHAT = ["method", "kind", "data", "endpoint", "metric"]
_COMPARED = ["difference", "low", "high", "p", "q", "test", "detectable", "outcome"]


class Benchmark:
    """Methods x splits x endpoints on a user's cells, as ``workbench benchmark`` judges them: the same stages, files and report.

    Parameters
    ----------
    cells
        Path of a file or name of a dataset, used as it is; or an AnnData, of which values, columns and embeddings that are used are
        written to ``cells.h5ad`` in the output folder at the first run. Cells that `workbench.load` gave bring their columns. Leave
        them as they are until then.
    model
        Checkpoint folder; or a model in memory, which is written to ``checkpoint`` in the output folder.
    cell_type, donor
        Columns of ``obs`` with the labels that the ruler places, and with the donors that splits hold out; none by default.
    embeddings
        Entries of ``obsm`` that are judged by linear probes on them, each as a method of its own.
    methods
        Names of methods or groups of methods to judge beside your own; all, which takes long, when empty.
    own
        Your own objects by the name that tables give them. ``fit(X, y)`` gets the log-normalised expression of the split's panel
        (cell by gene, CSR, float32) and the labels of the training cells (text); then ``transform(X)`` gives a latent for linear
        probes, or else ``predict_proba(X)`` (columns as ``classes_``) or ``predict(X)`` gives such labels. Or a subclass of
        `workbench.evidence.protocol.Method`. Each is copied for every split, and audited.
    splits
        Number of splits, or a mapping with the keys of the section ``splits``.
    out
        Output folder, with whose finished work a run goes on; by default a temporary one that is removed with this object.
    **config
        Further keys of the configuration, such as ``panel={"size": 500}``, ``ours="PCA-10"`` or ``data={"layer": "counts"}``.

    Raises
    ------
    ConfigError
        If a key is unknown or a value has the wrong type.
    EvaluationError
        If an object of `own` is no method or cannot be copied.

    Examples
    --------
    >>> import workbench
    >>> from sklearn.decomposition import NMF
    >>> benchmark = workbench.Benchmark(  # doctest: +SKIP
    ...     "atlas.h5ad", "scgpt-human", cell_type="cell_type", donor="donor_id", embeddings=["X_scVI"],
    ...     methods=["PCA-10", "raw log1p"], own={"NMF-10": NMF(10)}, splits=12, out="artifacts/mine",
    ... )
    >>> benchmark.run().table()  # doctest: +SKIP
    """

    def __init__(
        self,
        cells: str | Path | AnnData,
        model: str | Path | CellModel,
        *,
        cell_type: str | None = None,
        donor: str | None = None,
        embeddings: Iterable[str] = (),
        methods: Iterable[str] = (),
        own: Mapping[str, Any] | None = None,
        splits: int | Mapping[str, Any] | None = None,
        out: str | Path | None = None,
        **config: Any,
    ) -> None:
        for name, given in (("embeddings", embeddings), ("methods", methods)):
            if isinstance(given, str):
                raise ConfigError(f"'{name}' is the text '{given}'; give a list of names, such as ['{given}'].")
        if out is None:
            out = Path(mkdtemp(prefix="workbench-benchmark-")) / "out"
            weakref.finalize(self, shutil.rmtree, out.parent, ignore_errors=True)
        self.out = Path(out).expanduser()
        self._model, self._done = model, False
        self._own = {str(name): own_method(str(name), one) for name, one in (own or {}).items()}
        data: dict[str, Any] = {"cell_type": cell_type, "donor": donor, "embeddings": list(embeddings)}
        # Of a dataset that ships, columns that nobody names stay its own.
        data = {**config.pop("data", {}), **{key: value for key, value in data.items() if value}}
        self._cells: AnnData | None = None
        if isinstance(cells, AnnData):
            # What `load` made says of itself which columns are there, and that it has depths.
            said = cells.uns.get("workbench", {})
            known = [
                one
                for one in (*said.get("columns", ()), "depth")
                if one in cells.obs and (one != "depth" or said.get("depth"))
            ]
            told = make_config(EmbeddedDataConfig, **{**dict(zip(known, known, strict=True)), **data})
            self._cells = as_written(cells, told)
            data = {one: one for one in (*STANDARD, "depth") if one in self._cells.obs}
            data |= {"embeddings": list(told.embeddings), "min_gene_share": told.min_gene_share}
        data["name"] = str(cells) if self._cells is None else str(self.out / _CELLS)
        if isinstance(model, str | Path):
            config["checkpoint"] = str(Path(model).expanduser())
        else:
            if not isinstance(model, HookedScGPT):
                raise ConfigError(
                    f"A {type(model).__name__} cannot be written as a checkpoint; give the folder that it is from."
                )
            about = {"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")}
            config = {**about, **config, "checkpoint": str(self.out / _CHECKPOINT)}
        if splits is not None:
            config["splits"] = {"n": splits} if isinstance(splits, int) else dict(splits)
        self.config = make_config(BenchmarkConfig, data=data, methods=list(methods), **config)

    def run(self, backend: Backend | None = None, progress: bool = True) -> Benchmark:
        """Judge what was not judged yet, and report.

        Parameters
        ----------
        backend
            Who does the tasks; one after the other in this process by default.
        progress
            Show bars of progress on stderr; what is done is said there in either case.

        Returns
        -------
        Benchmark
            This object.

        Raises
        ------
        ConfigError
            If a method cannot be sent to the processes of the backend.
        OutputError
            If the output folder is another command's, or holds files of other origin.
        WorkbenchError
            What ``workbench benchmark`` refuses is refused here, before any work.
        """
        backend = replace(backend or Backend(), progress=progress)
        if backend.name in ("loky", "dask"):
            self._check_sent()
        new = not self.out.exists()
        try:
            self._write()
            run_benchmark(self.config, self.out, backend, self._own)
        except BaseException:
            # What is refused leaves no folder behind.
            if new and not (self.out / "stages").exists():
                shutil.rmtree(self.out, ignore_errors=True)
            raise
        self._done = True
        return self

    def table(self) -> pd.DataFrame:
        """What was found, a row per method and endpoint metric.

        Returns
        -------
        DataFrame
            ``method``, ``group``, ``kind`` (of the splits), ``data``, ``endpoint``, ``metric``, ``better``, ``value`` (mean over
            splits), ``sd``, ``n_splits``, ``status``; and of ``config.ours`` less the method, above 0 where ours is better:
            ``difference`` with ``low`` and ``high`` (95 %), ``p`` and ``q`` by ``test``, ``detectable``, ``outcome`` for ours. They are
            missing in the rows of ours.

        Raises
        ------
        EvaluationError
            If nothing was run yet.
        """
        self._finished()
        summary, compared = (read_table(table_path(self.out, name)) for name in ("summary", "comparisons"))
        found = summary.merge(compared[[*_WHAT, *_COMPARED]], on=_WHAT, how="left")
        return found[["method", "group", *_WHAT[1:], "better", "value", "sd", "n_splits", "status", *_COMPARED]]

    @property
    def report(self) -> Path:
        """Path of ``report.html``.

        Raises
        ------
        EvaluationError
            If nothing was run yet.
        """
        self._finished()
        return self.out / "report.html"

    def _finished(self) -> None:
        if not self._done:
            raise EvaluationError("Nothing was judged yet; call run() first.")

    def _check_sent(self) -> None:
        from joblib.externals.loky.backend.reduction import dumps

        for name, one in self._own.items():
            try:
                dumps(one)
            except Exception as error:
                raise ConfigError(
                    f"Your own method '{name}' cannot be sent to another process ({type(error).__name__}: {error}). Make what "
                    "cannot be sent in fit, or run without a backend."
                ) from error

    def _write(self) -> None:
        """Cells and a model that are in memory, as files that belong to this benchmark."""
        if self._cells is not None:
            file = self.out / _CELLS
            if file.exists() and not _ours(file):
                raise OutputError(f"'{file}' is there already, and is of other origin; choose another folder as out.")
            claim(self.out, RECIPE.name)
            atomically(file, self._cells.write_h5ad)
            self._cells = None
        if isinstance(self._model, HookedScGPT):
            claim(self.out, RECIPE.name)
            self._model = save_checkpoint(self._model, self.out / _CHECKPOINT)


def _ours(file: Path) -> bool:
    with h5py.File(file, "r") as handle:
        return "uns/workbench/made_by" in handle and handle["uns/workbench/made_by"].asstr()[()] == _MADE_BY


def as_written(cells: AnnData, data: EmbeddedDataConfig) -> AnnData:
    """What the benchmark reads of cells in memory, for a file: values, standard columns, genes and embeddings.

    Parameters
    ----------
    cells
        Cells as the user has them, which stay as they are.
    data
        Which of their columns mean what.
    """
    given = {name: value for name in CellMapping.__dataclass_fields__ if (value := getattr(data, name)) is not None}
    found = load(cells.to_memory() if cells.isbacked else cells, **given)
    about = found.uns["workbench"]
    said = {key: about[key] for key in ("name", "source", "values") if about.get(key)} | {"made_by": _MADE_BY}
    var = found.var[["gene_id"]] if "gene_id" in found.var else found.var[[]]
    return AnnData(X=found.X, obs=found.obs, var=var, obsm=dict(found.obsm), uns={"workbench": plain(said)})
