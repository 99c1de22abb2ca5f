"""The explorer in Jupyter."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from anndata import AnnData

from workbench.cells.genes import MIN_SHARE
from workbench.engine.config import read_config
from workbench.engine.folder import RESOLVED
from workbench.errors import ArtifactError, ConfigError, EvaluationError
from workbench.explorer.data import ExplorerData, from_model, from_run, weights_of, with_cells
from workbench.explorer.live import Session, answer, open_session
from workbench.explorer.page import script
from workbench.models import CellModel, load_model
from workbench.recipes.run.config import RunConfig


def explore(
    run_or_model: str | Path | CellModel,
    cells: AnnData | None = None,
    *,
    ablation: str | Path | None = None,
    geometry: str | Path | None = None,
    n_cells: int = 200,
    max_cells: int = 60,
    null_draws: int = 10,
    batch_size: int = 16,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
    device: str | None = None,
    **model_options: Any,
) -> Any:
    """Click through the heads of a run or of a model; with cells, switch heads off and see cells move.

    Parameters
    ----------
    run_or_model
        Folder of a ``workbench run``, or a model.
    cells
        As `workbench.load` returns them. With a run, the checkpoint that its configuration names is loaded.
    ablation
        Folder of a ``workbench ablate`` of the same checkpoint, for its effects on the map of heads; with a run only.
    geometry
        Folder of a ``workbench geometry`` of the same checkpoint, for its measures of every layer and its maps of cells; with a run only.
    n_cells
        Cells on the map at most, drawn by seed and name.
    max_cells
        Cells that are ablated at once, at most.
    null_draws
        Random directions beside each ablation, 1 or more.
    batch_size
        Cells per forward pass; changes memory and speed only.
    seed
        Seed of drawn cells, random directions and shufflings.
    min_gene_share
        Smallest share of the cells' genes that must be in the vocabulary.
    device
        Where the checkpoint of a run goes, as in its configuration, whose ``device`` it is by default; its float type is the run's.
        A model stays where it is.
    **model_options
        ``genes`` and ``kind`` of `from_model`; with a model only.

    Returns
    -------
    anywidget.AnyWidget
        Shown by a notebook.

    Raises
    ------
    ConfigError
        If anywidget is not installed.
    ArtifactError
        If the folder is no run, or names another checkpoint than the one that it was made with.

    Examples
    --------
    >>> workbench.explore("my_run")  # doctest: +SKIP
    >>> workbench.explore(model, cells)  # doctest: +SKIP
    """
    kind = _widget_class()
    session: Session | None = None
    options: dict[str, Any] = {"n_cells": n_cells, "max_cells": max_cells, "null_draws": null_draws}
    options |= {"batch_size": batch_size, "seed": seed, "min_gene_share": min_gene_share}
    if not isinstance(run_or_model, str | Path):
        if ablation is not None or geometry is not None:
            raise EvaluationError("An ablation or a geometry is shown beside a run; give the folder of the run too.")
        if device is not None:
            raise ConfigError(
                "The model is on a device already, and stays there; load it with load_model(path, device=...)."
            )
        session = None if cells is None else open_session(run_or_model, cells, **options)
        data = from_model(
            run_or_model, cells, session=session, seed=seed, min_gene_share=min_gene_share, **model_options
        )
    else:
        if model_options:
            raise EvaluationError(f"{', '.join(sorted(model_options))}: a run has its genes and its operators already.")
        data = from_run(run_or_model, ablation=ablation, geometry=geometry, seed=seed)
        if cells is not None:
            config = read_config(Path(run_or_model) / RESOLVED, RunConfig)
            model = _model_of(Path(run_or_model), config, device)
            session = open_session(model, cells, ruler=config.ruler, stages=config.stages, **options)
            data = with_cells(data, session)
    return kind(data if session is None else replace(data, live=session.settings()), session)


def _model_of(run: Path, config: RunConfig, device: str | None) -> CellModel:
    """The model that a run was made with."""
    model = load_model(config.checkpoint, device=device or config.device, dtype=getattr(torch, config.dtype))
    wanted, found = weights_of(run), model.fingerprint()
    if wanted and wanted != found:
        raise ArtifactError(
            f"The checkpoint that '{run / RESOLVED}' names has other weights ({found[:8]}) than the run was made with "
            f"({wanted[:8]}). Put the old checkpoint back, or run again."
        )
    return model


@cache
def _widget_class() -> type:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise ConfigError(
            'The explorer in a notebook needs the package anywidget: pip install "scgpt-workbench[notebook]". A page '
            "without it: workbench.explorer.page.write_explorer."
        ) from error

    class Explorer(anywidget.AnyWidget):
        """The explorer as a widget; a session answers what is asked, where there are cells."""

        _esm = script()
        data = traitlets.Dict().tag(sync=True)

        def __init__(self, shown: ExplorerData, session: Session | None = None) -> None:
            super().__init__(data=shown.to_dict())
            self.session = session
            self.on_msg(self._asked)

        def _asked(self, _: Any, content: Any, buffers: Any) -> None:
            if self.session is None or not isinstance(content, dict) or content.get("type") != "ablate":
                return
            try:
                self.send(answer(self.session, content))
            except BaseException as error:
                # Else the page would wait for ever, after an interrupted kernel too; the notebook's log has the whole of it.
                stopped = isinstance(error, KeyboardInterrupt)
                failed = f"The ablation failed ({type(error).__name__}: {error}); see the log of the notebook."
                sentence = "The ablation was interrupted; ask again." if stopped else failed
                self.send({"type": "error", "id": content.get("id"), "message": sentence})
                raise

    return Explorer
