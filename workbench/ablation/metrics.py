"""What an ablation is judged by: functions from outputs to one number per cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

from workbench.errors import CellsError, EvaluationError, unknown_name
from workbench.geometry import quality
from workbench.models import ModelShape
from workbench.models.outputs import Outputs
from workbench.models.tokens import Tokens
from workbench.operators.readout import logistic
from workbench.seeds import generator


@dataclass(frozen=True)
class Run:
    """What a metric sees.

    Attributes
    ----------
    outputs
        Of the model that is judged.
    intact
        Of the intact model, for the same cells.
    rows
        Number of each cell in the study, for labels.
    tokens
        What the model read; None for a metric over all cells at once.
    target, masked
        True bins, and where they were masked, when the metric asks for masked input.
    """

    outputs: Outputs
    intact: Outputs
    rows: Int[np.ndarray, " cell"]
    tokens: Tokens | None = None
    target: Float[Tensor, "cell gene"] | None = None
    masked: Bool[Tensor, "cell gene"] | None = None

    def output(self, name: str = "cell", intact: bool = False) -> Tensor:
        """One output of the model, in single precision where the model computes with less.

        Parameters
        ----------
        name
            As in `CellModel.forward`; the metric must name it in ``needs``.
        intact
            Of the intact model instead.

        Raises
        ------
        EvaluationError
            If it was not computed.
        """
        value = getattr(self.intact if intact else self.outputs, name)
        if value is None:
            raise EvaluationError(f"The metric reads '{name}', which was not computed; add it to the metric's `needs`.")
        return at_least_single(value)


def at_least_single(x: Tensor) -> Tensor:
    """A tensor in single precision where it has less, because bfloat16 has no number between 1 and 0.996.

    Parameters
    ----------
    x
        Tensor that a model returned, of any float type.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class Metric:
    """One number per cell; the effect of an ablation is its value there minus its value in the intact model.

    Attributes
    ----------
    name, unit
        Its name as it is asked for, and in every table (`metric_title` is what figures and reports say), and its unit.
    worse
        1 when a larger value is worse, -1 when a smaller one is, 0 when neither.
    function
        From a `Run` to one value per cell, NaN where the cell has none. A user's own function has the same signature.
    needs
        Outputs of the model that it reads, as in `CellModel.forward`.
    masked
        Whether the model is to read masked values.
    together
        Whether it needs all cells at once (then it gets their cell embeddings and no tokens).
    differentiable
        Whether attribution may use it: a torch function whose gradient at the intact model says something.
    label
        The label whose cells alone it is of; None for a metric of all cells.
    """

    name: str
    unit: str
    worse: int
    function: Callable[[Run], Tensor]
    needs: tuple[str, ...] = ("cell",)
    masked: bool = False
    together: bool = False
    differentiable: bool = False
    label: str | None = None


def cell_shift() -> Metric:
    """How far the cell embedding turns: 1 - cosine to the intact one. Not for attribution: its gradient there is 0."""

    def function(run: Run) -> Tensor:
        return 1 - torch.cosine_similarity(run.output(), run.output(intact=True), dim=1)

    return Metric("cell_shift", "1 - cosine", 0, function)


def masked_error(output: str = "expression") -> Metric:
    """Mean squared error of masked values.

    Parameters
    ----------
    output
        ``expression`` (from each gene's own stream) or ``mvc`` (from the cell embedding).
    """

    def function(run: Run) -> Tensor:
        assert run.masked is not None and run.target is not None
        error = (run.output(output) - run.target) ** 2
        n = run.masked.sum(1)
        total = torch.where(run.masked, error, torch.zeros_like(error)).sum(1)
        return torch.where(n > 0, total / n.clamp(min=1), torch.nan)

    name = {"expression": "masked_error", "mvc": "mvc_error"}[output]
    return Metric(name, "bins squared", 1, function, needs=(output,), masked=True, differentiable=True)


def gene_prediction(gene_id: int, gene: str, output: str = "expression") -> Metric:
    """Predicted value of one gene, in cells that express it.

    Parameters
    ----------
    gene_id, gene
        Token id of the gene, and its symbol.
    output
        As in `masked_error`.
    """

    def function(run: Run) -> Tensor:
        assert run.tokens is not None
        here = (run.tokens.gene_ids == gene_id) & ~run.tokens.padding
        value = torch.where(here, run.output(output), 0).sum(1)
        return torch.where(here.any(1), value, torch.nan)

    return Metric(f"gene:{gene}", "bins", 0, function, needs=(output,), differentiable=True)


@dataclass(frozen=True)
class FixedProbe:
    """Linear probes of the intact cell embedding, each cell read by one that was fitted without it.

    Attributes
    ----------
    classes
        Names of the labels, in the order of columns.
    label
        Class number of each cell; -1 where it has no label.
    fold
        Fold of each cell, whose probe never saw it.
    weights, offset
        Per held-out fold, (fold, d_model, class) and (fold, class).
    """

    classes: tuple[str, ...]
    label: Int[np.ndarray, " cell"]
    fold: Int[np.ndarray, " cell"]
    weights: Float[np.ndarray, "fold d_model n_classes"]
    offset: Float[np.ndarray, "fold n_classes"]


def fit_probes(
    cell: Float[np.ndarray, "cell d_model"], labels: Sequence[str], fold: Int[np.ndarray, " cell"], least: int = 10
) -> FixedProbe:
    """Fit multinomial logistic readouts of a label, one per held-out fold, classes weighted equally.

    Embeddings are centred and divided by one number, the root mean variance of their features.

    Parameters
    ----------
    cell
        Embeddings of the cells by the intact model.
    labels
        Label of each cell; empty where unknown.
    fold
        Fold of each cell (whole donors, where there are donors).
    least
        Classes with fewer cells are left out.

    Raises
    ------
    EvaluationError
        If fewer than two classes remain, or a fold leaves a class without training cells.
    """
    names, counts = np.unique([label for label in labels if label], return_counts=True)
    classes = tuple(str(name) for name, n in zip(names, counts, strict=True) if n >= least)
    if len(classes) < 2:
        raise EvaluationError(
            f"{len(classes)} label{' has' if len(classes) == 1 else 's have'} at least {least} cells; a readout needs two. Take more of the "
            f"cells (study.cells, {len(labels)} here), or map labels to fewer, larger classes."
        )
    number = {name: i for i, name in enumerate(classes)}
    label = np.array([number.get(name, -1) for name in labels])
    folds = sorted(set(fold.tolist()))
    weights, offset = [], []
    for k in folds:
        train = (fold != k) & (label >= 0)
        if len(set(label[train].tolist())) < len(classes):
            lost = next(name for i, name in enumerate(classes) if i not in label[train])
            raise EvaluationError(f"All cells of '{lost}' lie in one fold; use fewer folds, or leave this label out.")
        # One scale for all features: a scale for each would blow up directions in which cells hardly differ, and then any
        # change of the embedding, whatever it means, disturbs the probe.
        mean, scale = cell[train].mean(0), np.sqrt(cell[train].var(0).mean()) + 1e-12
        model = logistic().fit((cell[train].astype(np.float64) - mean) / scale, label[train])
        # Two classes have one column in scikit-learn; two opposite halves say the same by softmax.
        w, b = model.coef_, model.intercept_
        if len(classes) == 2:
            w, b = (np.concatenate([-one, one]) / 2 for one in (w, b))
        weights.append((w / scale).T)
        offset.append(b - w @ (mean / scale))
    at = {k: i for i, k in enumerate(folds)}
    return FixedProbe(classes, label, np.array([at[k] for k in fold.tolist()]), np.array(weights), np.array(offset))


def readout(probe: FixedProbe, loss: bool, only: str | None = None) -> Metric:
    """How badly a fixed probe reads the label of a cell.

    Parameters
    ----------
    probe
        From `fit_probes`, of the intact model; it is not fitted again.
    loss
        True: -log probability of the right class (nats, differentiable). False: 1 where the most probable class is
        wrong, 0 where it is right.
    only
        Cells of this class only.

    Raises
    ------
    EvaluationError
        If `only` is no class of the probe.
    """
    if only is not None and only not in probe.classes:
        raise EvaluationError(unknown_name("class", only, probe.classes))
    # Not in the function: cloudpickle takes an attribute named classes for torch.classes, which no worker can be sent.
    chosen = None if only is None else probe.classes.index(only)

    def function(run: Run) -> Tensor:
        x = run.output()
        w, b = (
            torch.as_tensor(a[probe.fold[run.rows]], dtype=x.dtype, device=x.device)
            for a in (probe.weights, probe.offset)
        )
        logits = torch.einsum("nd,ndc->nc", x, w) + b
        label = torch.as_tensor(probe.label[run.rows], device=x.device)
        wanted = label >= 0 if chosen is None else label == chosen
        if loss:
            value = -logits.log_softmax(1).gather(1, label.clamp(min=0)[:, None])[:, 0]
        else:
            value = (logits.argmax(1) != label).to(x.dtype)
        return torch.where(wanted, value, torch.nan)

    what = "label_loss" if loss else "label_error"
    name = what if only is None else f"{what}: {only}"
    return Metric(name, "nats" if loss else "share of cells", 1, function, differentiable=loss, label=only)


def trustworthiness(x: Float[np.ndarray, "cell feature"], k: int = 15) -> Metric:
    """Trustworthiness of the cell embeddings against a reference space, as one term per cell.

    T = 1 - 2 / (n k (2n - 3k - 1)) sum_i sum_{j in U_k(i)} (r(i, j) - k) (Venna & Kaski 2001). The term of cell i is
    the same with n times its own sum, so that the mean over cells is T.

    Parameters
    ----------
    x
        Reference space, for example principal components of log-normalised expression.
    k
        Neighbours, fewer than half of the cells.

    Raises
    ------
    EvaluationError
        If k is too large.
    """
    n = len(x)
    if not 1 <= k < n / 2:
        raise EvaluationError(f"Trustworthiness needs 1 <= k < n / 2; found k = {k} for n = {n} cells.")

    def function(run: Run) -> Tensor:
        cell = run.output().double().cpu().numpy()
        try:
            return torch.as_tensor(quality.trustworthiness(x, cell, k))
        except EvaluationError:  # all cells in one point have no neighbourhood to trust
            return torch.full((n,), torch.nan, dtype=torch.float64)

    return Metric("trustworthiness", "share", -1, function, together=True)


def ruler_correlation(stage: Int[np.ndarray, " cell"], distances: Float[np.ndarray, "stage stage"]) -> Metric:
    """How well a cell's distances to the stages follow the ruler, as one rank correlation per cell.

    For each cell: Spearman, over the stages present, of its Euclidean distance to the stage's centroid (without the cell
    itself) with the ruler distance from its own stage.

    Parameters
    ----------
    stage
        Stage number of each cell, negative where unknown.
    distances
        Ruler distances between stages, from 0 to 1.

    Raises
    ------
    EvaluationError
        If fewer than three stages have two cells.
    """
    present = [s for s in range(len(distances)) if (stage == s).sum() >= 2]
    if len(present) < 3:
        raise EvaluationError(
            f"{len(present)} stages have two cells or more; a ruler correlation needs three. Map more labels to stages "
            "(study.stages), or leave 'ruler' out of study.metrics."
        )

    def function(run: Run) -> Tensor:
        cell = run.output().double().cpu().numpy()
        sums = np.stack([cell[stage == s].sum(0) for s in present])
        counts = np.array([(stage == s).sum() for s in present])
        own = stage[:, None] == np.array(present)
        # Leaving the cell out of its own stage's centroid: else its own stage would be near by construction.
        centroid = (sums[None] - own[..., None] * cell[:, None]) / (counts - own)[..., None]
        latent = rankdata(np.linalg.norm(centroid - cell[:, None], axis=2), axis=1)
        ruler = rankdata(distances[np.maximum(stage, 0)][:, present], axis=1)
        a, b = latent - latent.mean(1, keepdims=True), ruler - ruler.mean(1, keepdims=True)
        value = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
        return torch.as_tensor(np.where(np.isin(stage, present), value, np.nan))

    return Metric("ruler", "Spearman", -1, function, together=True)


def mask_values(tokens: Tokens, config: ModelShape, share: float, seed: int) -> tuple[Tokens, Tensor, Tensor]:
    """Tokens with some values masked, by a hash of seed and cell name.

    Parameters
    ----------
    tokens
        Tokens of cells with names, which key the mask.
    config
        The model's: its mask value is what pretraining put there.
    share
        Share of a cell's genes.
    seed
        Seed of the draw, keyed by cell names.

    Returns
    -------
    tokens, target, masked
        Masked input, true values, and where the mask is.

    Raises
    ------
    CellsError
        If the cells have no names.
    """
    if len(tokens.cell_ids) < len(tokens):
        raise CellsError("Values are masked by cell name, but the tokens carry none; set Tokens.cell_ids.")
    masked = torch.zeros_like(tokens.padding)
    for i, name in enumerate(tokens.cell_ids):
        n = int((~tokens.padding[i]).sum())
        # One draw per gene id, in order of the ids: what is masked does not depend on the order of the genes.
        ids = tokens.gene_ids[i, 1:n].cpu().numpy()
        draw = generator(seed, "mask", name).random(len(ids))
        masked[i, 1:n] = torch.as_tensor(draw[np.argsort(np.argsort(ids))] < share)
    values = tokens.values.masked_fill(masked, float(config.mask_value))
    shown = Tokens(tokens.gene_ids, values, tokens.padding, tokens.cell_ids, tokens.batch_labels)
    return shown, tokens.values, masked
