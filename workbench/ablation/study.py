"""A study: cells, metrics and references, ready to judge ablations block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.ablation.edits import Edits
from workbench.ablation.exact import exact_sweep
from workbench.ablation.metrics import Metric, Run, mask_values
from workbench.ablation.reference import Reference
from workbench.ablation.sites import Ablation
from workbench.errors import CellsError, EvaluationError
from workbench.models import CellModel
from workbench.models.devices import Fitting
from workbench.models.outputs import Outputs
from workbench.models.tokens import Tokens

INTACT = "intact"


@dataclass(frozen=True)
class Study:
    """Everything that an ablation is judged with.

    Attributes
    ----------
    model
        The intact model, without hooks of its own.
    tokens
        Tokens of the cells, which carry their names.
    metrics
        What ablations are judged by, names each once.
    reference, masked_reference
        For mean and resample ablations, of plain and of masked input; None where nothing needs them.
    mask_share, seed
        Share of values masked for metrics of masked input, and the seed.
    batch_size
        Number of cells in a pass, at most.
    obs
        Standard columns of the cells, with ``fold`` where there are probes and ``stage`` where there is a ruler; no column
        for cells of which nothing is known.
    notes
        What was left out of what was asked for, and why, by name.
    """

    model: CellModel
    tokens: Tokens
    metrics: tuple[Metric, ...]
    reference: Reference | None = None
    masked_reference: Reference | None = None
    mask_share: float = 0.25
    seed: int = 0
    batch_size: int = 16
    obs: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.tokens) == 0:
            raise CellsError("The study holds no cell; check the filter of the cells.")
        if len(self.tokens.cell_ids) < len(self.tokens):
            raise CellsError("A study needs cells with names, and the tokens carry none; set Tokens.cell_ids.")
        if self.reference is not None:
            # All cells together: a batch of odd ones is no reason to stop in the middle.
            self.reference.check(self.tokens.to(self.reference.row.device))
        names = [metric.name for metric in self.metrics]
        if not names or len(set(names)) < len(names):
            raise EvaluationError(f"A study needs metrics, each with a name of its own; found {names or 'none'}.")

    @cached_property
    def fitting(self) -> Fitting:
        """Cells in a pass: `batch_size`, or fewer once memory has run out."""
        return Fitting(self.batch_size)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return tuple(metric.name for metric in self.metrics)

    @property
    def by_name(self) -> Int[np.ndarray, " cell"]:
        """Cell numbers in the order of their names, which random draws go by."""
        return np.argsort(np.array(self.tokens.cell_ids), kind="stable")

    @property
    def donors(self) -> Int[np.ndarray, " cell"] | None:
        """Donor number of each cell; None where the data name no donors."""
        return pd.factorize(self.obs["donor"], sort=True)[0] if "donor" in self.obs else None

    @property
    def donors_by_name(self) -> Int[np.ndarray, " cell"] | None:
        """Donors in the order of `by_name`."""
        return None if self.donors is None else self.donors[self.by_name]

    def batch(
        self, rows: Int[np.ndarray, " row"], ablations: Sequence[Ablation], *, masked: bool
    ) -> tuple[Tokens, Tensor | None, Tensor | None, Edits]:
        """Some cells as one batch, and what ablations put in the place of what they switch off.

        Parameters
        ----------
        rows
            Numbers of the cells, in the order wanted.
        ablations
            Ablations that the batch is for.
        masked
            Whether some values are hidden, as the metrics of hidden values need it.

        Returns
        -------
        tokens, target, mask, edits
            Without hidden values target and mask are None.
        """
        tokens, place = self.tokens.take(rows.tolist()), (self.model.device, self.model.dtype)
        if not masked:
            tokens = tokens.to(*place)
            return tokens, None, None, Edits(self.model, tokens, ablations, self.reference)
        shown, target, mask = mask_values(tokens, self.model.config, self.mask_share, self.seed)
        shown = shown.to(*place)
        edits = Edits(self.model, shown, ablations, self.masked_reference)
        return shown, target.to(place[0]), mask.to(place[0]), edits


def evaluate(study: Study, ablations: Sequence[Ablation], rows: Sequence[int]) -> pd.DataFrame:
    """Per-cell values of every metric for some cells, under every ablation and in the intact model.

    Parameters
    ----------
    study
        Study that the rows are of.
    ablations
        Ablations to judge, one after the other.
    rows
        Numbers of the cells, each once.

    Returns
    -------
    pandas.DataFrame
        One row per ablation and cell: ``ablation`` (`Ablation.key`, or ``intact``), ``row``, ``cell_id``, one column per
        metric of single cells, ``fallbacks`` and ``fallbacks_masked`` (see `Edits.fallbacks`), and ``cell``, the
        embedding, when a metric needs all cells together.
    """
    if not len(rows) or len(set(rows)) < len(rows):
        raise CellsError(f"Cells to evaluate must be given by number, each once; found {len(rows)} numbers.")
    together = any(metric.together for metric in study.metrics)
    plain = [m for m in study.metrics if not m.masked and not m.together]
    hidden = [m for m in study.metrics if m.masked]

    def work(start: int, stop: int) -> pd.DataFrame:
        part, frames = np.asarray(rows[start:stop]), []
        if plain or together:
            frames.append(_pass(study, ablations, part, plain, masked=False, keep_cell=together))
        if hidden:
            frames.append(_pass(study, ablations, part, hidden, masked=True, keep_cell=False))
        return frames[0] if len(frames) == 1 else frames[0].merge(frames[1], on=["ablation", "row", "cell_id"])

    return pd.concat(study.fitting.parts(len(rows), work), ignore_index=True)


def _pass(
    study: Study,
    ablations: Sequence[Ablation],
    rows: np.ndarray,
    metrics: Sequence[Metric],
    *,
    masked: bool,
    keep_cell: bool,
) -> pd.DataFrame:
    tokens, target, mask, edits = study.batch(rows, ablations, masked=masked)
    outputs = tuple(dict.fromkeys((*(name for m in metrics for name in m.needs), *(("cell",) if keep_cell else ()))))
    # Every result has its place beforehand. A small array that stays, made between large ones that go, keeps the memory of the
    # large one from being used again: 1,464 ablations of 16 cells once took 8 GB.
    shape, device = (len(ablations) + 1, len(rows)), study.model.device
    values = {m.name: torch.empty(shape, device=device) for m in metrics}
    cells = torch.empty(*shape, study.model.config.d_model if keep_cell else 0, device=device)
    lost = torch.zeros(shape, dtype=torch.long, device=device)
    intact: Outputs | None = None
    for which, out in exact_sweep(study.model, tokens, ablations, edits, outputs):
        intact, at = intact or out, 0 if which is None else which + 1
        run = Run(out, intact, rows, tokens, target, mask)
        for m in metrics:
            values[m.name][at] = m.function(run).float()
        if keep_cell:
            assert out.cell is not None
            cells[at] = out.cell.float()
        if which is not None:
            lost[at] = edits.fallbacks(ablations[which])
    columns: dict[str, Any] = {name: found.cpu().numpy().ravel() for name, found in values.items()}
    if keep_cell:
        columns["cell"] = list(cells.flatten(0, 1).cpu().numpy())
    names = np.array([INTACT, *(one.key for one in ablations)], dtype=object)
    return pd.DataFrame(
        {
            "ablation": names.repeat(len(rows)),
            "row": np.tile(rows, len(names)),
            "cell_id": list(tokens.cell_ids) * len(names),
            "fallbacks_masked" if masked else "fallbacks": lost.cpu().numpy().ravel(),
            **columns,
        }
    )


def differences(
    study: Study, table: pd.DataFrame, ablations: Sequence[Ablation]
) -> dict[str, Float[np.ndarray, "ablation cell"]]:
    """Value under each ablation minus the intact value, by metric.

    Parameters
    ----------
    study
        Study that the rows are of.
    table
        Rows of `evaluate` for all cells.
    ablations
        The ablations, in the order wanted.

    Raises
    ------
    EvaluationError
        If a metric needs all cells of the study together, and some were not evaluated.
    """
    keys = [INTACT, *(a.key for a in ablations)]
    rows = np.unique(table["row"].to_numpy())
    ordered = table.set_index(["ablation", "row"])
    out = {}
    # Cells of the study that were evaluated, in their order: metrics over all cells see them all.
    for metric in study.metrics:
        if metric.together:
            if len(rows) < len(study.tokens):
                raise EvaluationError(
                    f"'{metric.name}' needs all {len(study.tokens)} cells of the study together, and {len(rows)} were "
                    "evaluated. Evaluate the others too, or make a study of these cells."
                )
            stacks = [np.stack(ordered.loc[key].loc[rows, "cell"].to_list()) for key in keys]
            values = np.array([_together(metric, stack, stacks[0], rows) for stack in stacks])
        else:
            values = np.array([ordered.loc[key].loc[rows, metric.name].to_numpy(np.float64) for key in keys])
        out[metric.name] = values[1:] - values[0]
    return out


def _together(metric: Metric, cell: np.ndarray, intact: np.ndarray, rows: np.ndarray) -> np.ndarray:
    x, y = torch.as_tensor(cell), torch.as_tensor(intact)
    run = Run(Outputs(residual=x[:, None], cell=x), Outputs(residual=y[:, None], cell=y), rows)
    return metric.function(run).double().numpy()


def intact_cells(model: CellModel, tokens: Tokens, batch_size: int = 16) -> Float[np.ndarray, "cell d_model"]:
    """Cell embeddings of the intact model.

    Parameters
    ----------
    model, tokens, batch_size
        Model, cells, and cells per pass.
    """

    def work(batch: Tokens) -> Tensor:
        cell = model(batch).cell
        assert cell is not None
        return cell.float()

    with torch.no_grad():
        found = list(Fitting(batch_size).batches(tokens, work))
    return torch.cat(found).cpu().numpy().astype(np.float64)
