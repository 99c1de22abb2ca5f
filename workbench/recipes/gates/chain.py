"""The stages of ``workbench gates``: panels, operators, gates with controls, head screen, geometry."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.capture.pairs import PATTERNS, GenePairSink
from workbench.capture.record import capture
from workbench.capture.sinks import Only
from workbench.cells.datasets import content_hash
from workbench.cells.genes import choose_panel, match_genes
from workbench.engine.sweep import Backend, Task, run_sweep
from workbench.errors import EvaluationError, unknown_name
from workbench.evidence.gate_spec import GATES, SPEC
from workbench.evidence.ruler import Ruler, load_ruler
from workbench.files import digest, write_arrays, write_text
from workbench.geometry.overview import geometry
from workbench.models.scgpt.checkpoint import load_checkpoint
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.scgpt.tokenizer import Tokenizer
from workbench.operators.operator import DenseOperators, check_spec, feature_map, head_name
from workbench.operators.weight_operators import weight_operators
from workbench.recipes.gates.panels import (
    EXTERNAL,
    INTERNAL,
    Measured,
    Panel,
    check_panels,
    load_panel,
    measure,
    panel_table,
)
from workbench.recipes.gates.store import MATRICES, read_panel, write_panel
from workbench.recipes.gates.tasks import (
    MODEL,
    Place,
    adaptor_of,
    gate_tasks,
    gates_of,
    screen_of,
    screen_table,
    screen_tasks,
    unmet,
    with_gate_seven,
)
from workbench.settings import GatesConfig


class GatesChain:
    """The stages of a gate run and the data they share, each loaded when it is first needed.

    Parameters
    ----------
    config
        What to run.
    out
        Folder of the run.
    backend
        Who does the gates of panels and the heads of the screen.

    Raises
    ------
    EvaluationError
        If a required gate does not exist, or the feature map was chosen by what the gates judge.
    """

    def __init__(self, config: GatesConfig, out: Path, backend: Backend) -> None:
        for gate in config.required:
            if gate not in GATES:
                raise EvaluationError(f"Key 'required': {unknown_name('gate', gate, GATES)}")
        if config.adaptor.feature_map == "topk":
            raise EvaluationError(
                "The topk feature map chooses its heads by the very anchors that the gates judge; use 'single' or 'drift'."
            )
        self.config, self.out, self.backend, self.tables = config, out, backend, out / "tables"

    @cached_property
    def model(self) -> HookedScGPT:
        """The checkpoint."""
        return load_checkpoint(self.config.checkpoint)

    @cached_property
    def ruler(self) -> Ruler:
        """The ruler."""
        return load_ruler(self.config.ruler)

    @cached_property
    def panels(self) -> dict[str, Panel]:
        """Panels by name; no cell is in two of them."""
        config = self.config
        made = [
            load_panel(name, settings, config.data, self.ruler, config.stages, config.seed)
            for name, settings in config.panels.items()
        ]
        check_panels(made)
        return {panel.name: panel for panel in made}

    @cached_property
    def internal(self) -> Panel:
        """The panel that adaptors are fitted on."""
        return next(panel for panel in self.panels.values() if panel.role == INTERNAL)

    @property
    def external(self) -> str | None:
        """The first external panel, which heads are screened on."""
        return next((name for name, panel in self.panels.items() if panel.role == EXTERNAL), None)

    @cached_property
    def genes(self) -> tuple[str, ...]:
        """The genes of the operators: those of the internal panel seen in most of its cells; no label is looked at."""
        cells = self.internal.cells
        match = match_genes(cells.var_names.to_numpy(dtype=str), self.model.vocabulary, self._share(self.internal))
        return choose_panel(cells, match, self.config.genes.size, self.config.genes.exclude)

    @cached_property
    def measured(self) -> dict[str, Measured]:
        """Panels on these genes, with their anchors."""
        config, made = self.config, {}
        for name, panel in self.panels.items():
            try:
                made[name] = measure(
                    panel,
                    self.genes,
                    self.model.vocabulary,
                    config.panels[name].anchors or config.anchors,
                    min_gene_share=self._share(panel),
                    seed=config.seed,
                )
            except EvaluationError as error:
                raise EvaluationError(f"Panel '{name}': {error}") from error
        return made

    def _share(self, panel: Panel) -> float:
        return (self.config.panels[panel.name].data or self.config.data).min_gene_share

    def inputs(self) -> dict[str, Any]:
        """Everything that panels and operators depend on."""
        chosen = self.config.model_dump(
            mode="json", include={"panels", "data", "genes", "capture", "anchors", "stages", "operator", "seed"}
        )
        return {
            **chosen,
            "content": {name: content_hash(panel.cells) for name, panel in self.panels.items()},
            "weights": self.model.fingerprint(),
            "vocabulary": digest(dict(self.model.vocabulary.ids)),
            "graph": self.ruler.fingerprint(),
        }

    def panels_stage(self, folder: Path) -> dict[str, Any]:
        """Anchors and cells of every panel, for the workers.

        Parameters
        ----------
        folder
            Of the stage.
        """
        for measured in self.measured.values():
            write_panel(folder, measured, self.config.seed)
        table = panel_table(list(self.measured.values()), self.ruler)
        self._write("panels", table)
        write_text(folder / "genes.txt", "\n".join(self.genes) + "\n")
        return {"n_genes": len(self.genes), "panels": table.to_dict("records")}

    def operators_stage(self, folder: Path) -> dict[str, Any]:
        """One matrix per head, and the configured feature map.

        Parameters
        ----------
        folder
            Of the stage; an interrupted capture in it goes on.
        """
        config, found = self.config, dict[str, Any]()
        check_spec(config.adaptor.feature_map_spec(), (self.model.config.n_layers, self.model.config.n_heads))
        if config.operator == "attention":
            operators, found = self._attention(folder)
        else:
            operators = weight_operators(self.model, self.genes, config.operator).dense()
        arrays = {head_name(layer, head): operators[layer, head] for layer, head in np.ndindex(*operators.shape[:2])}
        arrays[MODEL] = feature_map(DenseOperators(operators), config.adaptor.feature_map_spec())
        write_arrays(folder / MATRICES, {name: matrix.astype(np.float32) for name, matrix in arrays.items()})
        shutil.rmtree(folder / "capture", ignore_errors=True)
        return {"shape": list(operators.shape), **found}

    def _attention(self, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
        config, cells = self.config, self.internal.cells
        tokenizer = Tokenizer(
            cells,
            self.model.config,
            self.model.vocabulary,
            seed=config.seed,
            max_tokens=config.capture.max_tokens,
            batch_column="batch" if "batch" in cells.obs else None,
            min_share=self._share(self.internal),
        )
        pairs = GenePairSink(self.genes, self.model.vocabulary)
        done = capture(
            self.model,
            tokenizer,
            [PATTERNS],
            [Only(PATTERNS, pairs)],
            batch_size=config.capture.batch_size,
            state=folder / "capture",
            save_every=256,
        )
        total = pairs.result()
        return total.mean(), {"n_tokens": done.n_tokens, "share_of_pairs_seen": float((total.counts > 0).mean())}

    def gates_stage(self, folder: Path) -> dict[str, Any]:
        """Every panel through the gates, with the configured feature map and with controls.

        Parameters
        ----------
        folder
            Of the stage; finished tasks in it are kept.
        """
        rows = self._sweep(folder, gate_tasks(self.place), gates_of)
        rows = with_gate_seven(rows)
        own = rows["operator"] == MODEL
        self._write("gates", rows[own].drop(columns="operator"))
        self._write("controls", rows[~own])
        return {"spec": SPEC.hash, "unmet": unmet(rows[own], self.config.required)}

    def screen_stage(self, folder: Path) -> dict[str, Any]:
        """Every head alone, and the controls, from the internal to the first external panel.

        Parameters
        ----------
        folder
            Of the stage; finished tasks in it are kept.
        """
        shape = (self.model.config.n_layers, self.model.config.n_heads)
        rows = self._sweep(folder, screen_tasks(self.place, str(self.external), shape), screen_of)
        heads, controls = screen_table(rows)
        self._write("screen", heads)
        self._write("screen_controls", controls)
        return {"panel": self.external, "n_heads": len(heads)}

    def geometry_stage(self, folder: Path) -> dict[str, Any]:
        """Dimension, neighbourhoods, shape, distances and lineages of the configured feature map, internal panel.

        Parameters
        ----------
        folder
            Of the stage.
        """
        side = read_panel(Path(self.place.panels), self.internal.name)
        tables, skipped = geometry(
            side,
            self.place.matrix(MODEL),
            self.ruler,
            adaptor_of(self.config),
            branches=self.config.trajectories,
            seed=self.config.seed,
        )
        for name, table in tables.items():
            self._write(name, table)
        return {"tables": list(tables), "skipped": skipped}

    @cached_property
    def place(self) -> Place:
        """Where tasks find what they need."""
        return Place.of(self.out, self.config)

    def _sweep(self, folder: Path, tasks: Sequence[Task], work: Callable[..., pd.DataFrame]) -> pd.DataFrame:
        return run_sweep(folder / "sweep", {"spec": SPEC.hash}, tasks, work, **self.backend.options())

    def _write(self, name: str, table: pd.DataFrame) -> None:
        write_text(self.tables / f"{name}.csv", table.to_csv(index=False))
