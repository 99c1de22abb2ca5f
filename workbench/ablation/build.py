"""From cells and settings to a study: which cells, which metrics, which references, which grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float, Int

from workbench.ablation.metrics import (
    Metric,
    cell_shift,
    fit_probes,
    gene_prediction,
    mask_values,
    masked_error,
    readout,
    ruler_correlation,
    trustworthiness,
)
from workbench.ablation.reference import build_reference, needed_hooks, needs_reference
from workbench.ablation.sites import Ablation
from workbench.ablation.study import Study, intact_cells
from workbench.cells.datasets import STANDARD
from workbench.cells.genes import MIN_SHARE, with_matched_names
from workbench.cells.splits import make_folds
from workbench.errors import CellsError, EvaluationError, unknown_name
from workbench.evidence.ruler import load_ruler
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.scgpt.tokenizer import Tokenizer
from workbench.operators.algorithm import panel_expression
from workbench.seeds import key
from workbench.settings import StudyConfig

METRICS = ("cell_shift", "masked_error", "mvc_error", "label_loss", "label_error", "trustworthiness", "ruler")
NEED_LABELS = ("label_loss", "label_error", "ruler")
_COMPONENTS = 50


@dataclass(frozen=True)
class Prepared:
    """A study and what surrounds it.

    Attributes
    ----------
    study
        The study.
    obs
        Standard columns of its cells, with ``stage`` and ``fold`` where there are labels.
    donors
        Donor number of each cell; None without donors.
    per_label
        Label error of every class, as metrics of their own.
    notes
        What was left out and why, by name.
    space
        Principal components of expression that trustworthiness compares with; None when nobody asked.
    """

    study: Study
    obs: pd.DataFrame
    donors: Int[np.ndarray, " cell"] | None
    per_label: tuple[str, ...]
    notes: dict[str, str]
    space: Float[np.ndarray, "cell component"] | None = None

    @property
    def by_name(self) -> Int[np.ndarray, " cell"]:
        """Cell numbers in the order of their names."""
        return np.argsort(np.array(self.study.tokens.cell_ids), kind="stable")

    @property
    def donors_by_name(self) -> Int[np.ndarray, " cell"] | None:
        """Donors in the order of `by_name`."""
        return None if self.donors is None else self.donors[self.by_name]

    @property
    def metrics(self) -> dict[str, Metric]:
        """Metrics by name."""
        return {metric.name: metric for metric in self.study.metrics}


def prepare(
    model: HookedScGPT,
    cells: AnnData,
    settings: StudyConfig,
    ablations: Sequence[Ablation],
    *,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
    extra: Sequence[Metric] = (),
) -> Prepared:
    """Choose cells, tokenise them, fit probes, and average references.

    Parameters
    ----------
    model
        The intact model.
    cells
        As `datasets.load` returns them.
    settings
        Of the study.
    ablations
        What will be ablated; decides which references are needed.
    seed
        The one seed.
    min_gene_share
        Smallest share of the cells' genes that must be in the vocabulary.
    extra
        A user's own metrics.

    Returns
    -------
    Prepared
    """
    for ablation in ablations:
        ablation.check(model.config, model.vocabulary)
    chosen = choose_cells(cells, settings.cells, seed)
    tokenizer = Tokenizer(
        chosen,
        model.config,
        model.vocabulary,
        seed=seed,
        max_tokens=settings.max_tokens,
        batch_column="batch" if "batch" in chosen.obs else None,
        min_share=min_gene_share,
    )
    tokens, size = tokenizer.tokens(), settings.batch_size
    cell = intact_cells(model, tokens, size)
    obs, notes = chosen.obs[[c for c in STANDARD if c in chosen.obs]].copy(), dict[str, str]()
    metrics: list[Metric] = []
    per_label: list[str] = []
    space = None
    for name in settings.metrics:
        if name in NEED_LABELS and "cell_type" not in obs:
            notes[name] = "the cells have no cell type column"
        elif name in ("label_loss", "label_error"):
            if "fold" not in obs:
                obs["fold"], _ = make_folds(obs, settings.folds, seed)
            probe = fit_probes(cell, obs["cell_type"].astype(str).tolist(), obs["fold"].to_numpy())
            metrics.append(readout(probe, loss=name == "label_loss"))
            if name == "label_error" and settings.per_label:
                single = [readout(probe, False, only=label) for label in probe.classes]
                per_label += [metric.name for metric in single]
                metrics += single
        elif name == "ruler":
            ruler = load_ruler(settings.ruler)
            obs["stage"], unknown = ruler.place(obs["cell_type"], settings.stages)
            metrics.append(ruler_correlation(obs["stage"].to_numpy(), ruler.distances))
            if unknown:
                notes["ruler"] = f"labels that are on no stage of it were left out: {', '.join(unknown)}"
        elif name == "trustworthiness":
            space = _components(chosen, tokenizer, seed)
            metrics.append(trustworthiness(space, settings.neighbours))
        else:
            metrics += _plain(name, model, notes)
    metrics += extra
    reference = masked_reference = None
    if needs_reference(ablations):
        plain = tokens.take(choose_rows(chosen.obs_names.to_list(), settings.reference, seed))
        hooks = needed_hooks(ablations)
        reference = build_reference(model, plain, hooks, size)
        if any(metric.masked for metric in metrics):
            shown, _, _ = mask_values(plain, model.config, settings.mask_share, seed)
            masked_reference = build_reference(model, shown, hooks, size)
    donors = pd.factorize(obs["donor"], sort=True)[0] if "donor" in obs else None
    study = Study(
        model,
        tokens,
        tuple(metrics),
        reference,
        masked_reference,
        settings.mask_share,
        seed,
        size,
    )
    return Prepared(study, obs, donors, tuple(per_label), notes, space)


def _plain(name: str, model: HookedScGPT, notes: dict[str, str]) -> list[Metric]:
    """Metric of a name that needs the model alone; none, and a note, where the checkpoint lacks the decoder."""
    if name == "cell_shift":
        return [cell_shift()]
    if name in ("masked_error", "mvc_error"):
        output = "expression" if name == "masked_error" else "mvc"
        if (model.decoder if output == "expression" else model.mvc_decoder) is None:
            notes[name] = f"the checkpoint has no {output} decoder"
            return []
        return [masked_error(output)]
    if name.startswith("gene:"):
        gene = name.removeprefix("gene:")
        if gene not in model.vocabulary.ids:
            raise EvaluationError(unknown_name("gene", gene, model.vocabulary.genes))
        return [gene_prediction(model.vocabulary.ids[gene], gene)]
    raise EvaluationError(unknown_name("metric", name, (*METRICS, "gene:SYMBOL")))


def choose_cells(cells: AnnData, n: int | None, seed: int) -> AnnData:
    """A copy of some cells, in their order: drawn by seed and name, so that the order of the file does not matter.

    Parameters
    ----------
    cells
        All cells.
    n
        How many; None for all.
    seed
        Seed.

    Raises
    ------
    CellsError
        If there is no cell.
    """
    if cells.shape[0] == 0:
        raise CellsError("The selection holds no cell; check the filter that made it.")
    return cells[choose_rows(cells.obs_names.to_list(), n, seed)].copy()


def choose_rows(names: Sequence[str], n: int | None, seed: int) -> list[int]:
    """Numbers of some cells, ascending.

    Parameters
    ----------
    names, n, seed
        As in `choose_cells`.
    """
    if n is None or n >= len(names):
        return list(range(len(names)))
    return sorted(sorted(range(len(names)), key=lambda i: key(seed, "choose", names[i]))[:n])


def _components(cells: AnnData, tokenizer: Tokenizer, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    match = tokenizer.match
    named = with_matched_names(cells, match)
    dense = np.asarray(panel_expression(named, tuple(match.genes)).todense(), dtype=np.float64)
    n = min(_COMPONENTS, *dense.shape)
    return PCA(
        n, svd_solver="full" if min(dense.shape) < 1000 else "randomized", random_state=key(seed, "pca") % 2**32
    ).fit_transform(dense)
