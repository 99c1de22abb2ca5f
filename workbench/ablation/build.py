"""From cells and settings to a study: which cells, which metrics, which references."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from jaxtyping import Float

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
from workbench.ablation.settings import StudyConfig
from workbench.ablation.sites import Ablation
from workbench.ablation.study import Study, intact_cells
from workbench.cells.datasets import STANDARD
from workbench.cells.expression import expression_on
from workbench.cells.genes import MIN_SHARE, GeneMatch
from workbench.cells.groups import make_folds, make_groups
from workbench.errors import CellsError, EvaluationError, unknown_name
from workbench.evidence.ruler import load_ruler
from workbench.models import CellModel
from workbench.models.outputs import need_cell
from workbench.seeds import order_of

METRICS = ("cell_shift", "masked_error", "mvc_error", "label_loss", "label_error", "trustworthiness", "ruler")
NEED_LABELS = ("label_loss", "label_error", "ruler")
_COMPONENTS = 50


def prepare(
    model: CellModel,
    cells: AnnData,
    settings: StudyConfig,
    ablations: Sequence[Ablation],
    *,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
    extra: Sequence[Metric] = (),
) -> Study:
    """Choose cells, tokenise them, fit probes, and average references.

    Parameters
    ----------
    model
        The intact model, without hooks of its own.
    cells
        As `datasets.load` returns them; never changed.
    settings
        Which cells, and which metrics.
    ablations
        What will be ablated; decides which references are needed.
    seed
        The one seed of everything that is drawn.
    min_gene_share
        Smallest share of the cells' genes that must be in the vocabulary.
    extra
        A user's own metrics, after those of `settings`.

    Returns
    -------
    Study
        Metrics that the cells or the checkpoint do not allow are left out and stand in its ``notes``.

    Raises
    ------
    CheckpointError
        If the model has no cell embedding.
    EvaluationError
        If a metric or gene is unknown, or no metric is left.
    GeneMatchError
        If too few genes are in the vocabulary, or the reference shares too few with the cells.
    """
    need_cell(model.outputs)
    for ablation in ablations:
        ablation.check(model.config, model.vocabulary)
    chosen = choose_cells(cells, settings.cells, seed)
    tokenizer = model.tokenizer(chosen, seed=seed, max_tokens=settings.max_tokens, min_gene_share=min_gene_share)
    tokens, size = tokenizer.tokens(), settings.batch_size
    cell = intact_cells(model, tokens, size)
    obs, notes = chosen.obs[[c for c in STANDARD if c in chosen.obs]].copy(), dict[str, str]()
    metrics: list[Metric] = []
    for name in settings.metrics:
        if name in NEED_LABELS and "cell_type" not in obs:
            notes[name] = "the cells have no cell type column"
        elif name in ("label_loss", "label_error"):
            if "fold" not in obs:
                donors = obs["donor"].to_numpy() if "donor" in obs else None
                groups = make_groups(obs.index.to_numpy(), donors, None, seed)
                obs["fold"] = make_folds(groups, obs["cell_type"].to_numpy(), settings.folds, seed)
            probe = fit_probes(cell, obs["cell_type"].astype(str).tolist(), obs["fold"].to_numpy())
            metrics.append(readout(probe, loss=name == "label_loss"))
            if name == "label_error" and settings.per_label:
                metrics += [readout(probe, False, only=label) for label in probe.classes]
        elif name == "ruler":
            ruler = load_ruler(settings.ruler)
            obs["stage"], unknown = ruler.place(obs["cell_type"], settings.stages)
            metrics.append(ruler_correlation(obs["stage"].to_numpy(), ruler.distances))
            if unknown:
                notes["ruler"] = f"labels that are on no stage of it were left out: {', '.join(unknown)}"
        elif name == "trustworthiness":
            space = expression_components(chosen, tokenizer.match)
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
    return Study(
        model, tokens, tuple(metrics), reference, masked_reference, settings.mask_share, seed, size, obs, notes
    )


def _plain(name: str, model: CellModel, notes: dict[str, str]) -> list[Metric]:
    """Metric of a name that needs the model alone; none, and a note, where the checkpoint lacks the decoder."""
    if name == "cell_shift":
        return [cell_shift()]
    if name in ("masked_error", "mvc_error"):
        output = "expression" if name == "masked_error" else "mvc"
        if output not in model.outputs:
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
        All cells, of which some are drawn.
    n
        Number of cells; all of them when None or when there are no more.
    seed
        Seed of the draw, which goes by names.

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
    names
        Names of all cells, each once.
    n, seed
        As in `choose_cells`.
    """
    if n is None or n >= len(names):
        return list(range(len(names)))
    return np.sort(order_of(seed, names, "choose")[:n]).tolist()


def expression_components(cells: AnnData, match: GeneMatch) -> Float[np.ndarray, "cell component"]:
    """Principal components of expression, which trustworthiness compares embeddings with.

    Parameters
    ----------
    cells
        As `datasets.load` returns them; totals are over all their genes.
    match
        Which of these genes the vocabulary knows; the others are no part of the components.

    Returns
    -------
    ndarray, shape (cell, component)
        Of log-normalised expression, 50 or as many as there are.
    """
    from sklearn.decomposition import PCA

    x = expression_on(cells, match, match.genes)[0].astype(np.float64)
    # By the covariance of the genes: exact, of sparse values too, and the order of the cells decides nothing.
    return PCA(min(_COMPONENTS, *x.shape), svd_solver="covariance_eigh").fit_transform(x)
