"""Terms of the cell head's objective, each a function of one batch of latents, and their descent.

The paper (arXiv:2603.10261) gives the terms' names and weights and no formulas; each function says how it is read here. All
are free of the latent's scale except the reconstruction, which ties it to the features', and the classification. Cells
weigh by `weight`, which sums to 1 over the batch. Gradients are torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

# arccos has no slope at 1 and -1; inside these bounds, which are 0.001 rad off, it is at most 1000.
_COSINE = 1 - 5e-7
_TINY = 1e-12
_DECAY, _SQUARE_DECAY = 0.9, 0.999

Latent: TypeAlias = Float[Tensor, "cell k"]
Stages: TypeAlias = Int[Tensor, " cell"]
Shares: TypeAlias = Float[Tensor, " cell"]
Between: TypeAlias = Float[Tensor, "stage stage"]
Scalar: TypeAlias = Float[Tensor, ""]


@dataclass(frozen=True)
class Batch:
    """What is known of some cells.

    Attributes
    ----------
    expression
        Log-normalised expression on the panel, dense.
    square
        Squared length of each cell's features in `Space` coordinates, y.
    near
        Leading coordinates of y, in which neighbours are looked for.
    stage
        Stage number of each cell, from 0 without gaps.
    weight
        Weight of each cell; their sum is 1.
    """

    expression: Float[Tensor, "cell gene"]
    square: Float[Tensor, " cell"]
    near: Float[Tensor, "cell axis"]
    stage: Int[Tensor, " cell"]
    weight: Float[Tensor, " cell"]


@dataclass(frozen=True)
class Space:
    """The frozen feature map, in the coordinates that the training cells span: y = x basis - centre.

    Attributes
    ----------
    basis, centre
        Gene by coordinate, and coordinate; y has mean 0 and total variance 1 over the training cells.
    distances
        Ruler distances between stages; negative where unknown.
    beta
        Ruler units per radian of the latent.
    gain
        The classifier reads ``gain * z``, so that its weights are of the size of its steps.
    neighbours
        Neighbours of each cell that the local term looks at.
    """

    basis: Float[Tensor, "gene coordinate"]
    centre: Float[Tensor, " coordinate"]
    distances: Float[Tensor, "stage stage"]
    beta: float
    gain: float
    neighbours: int


class Weights(NamedTuple):
    """What is trained.

    Attributes
    ----------
    encoder, bias
        W and b in coordinates: z = W (y - b).
    classifier, offset
        Of the stage classifier: logits = gain * z classifier + offset.
    """

    encoder: Float[Tensor, "k coordinate"]
    bias: Float[Tensor, " coordinate"]
    classifier: Float[Tensor, "k stage"]
    offset: Float[Tensor, " stage"]


@dataclass(frozen=True)
class Descent:
    """What a descent came to.

    Attributes
    ----------
    weights
        Of the best epoch on the inner holdout; of the last without one.
    best_epoch
        Epoch whose weights were kept, from 1; 0 where none came to a finite number.
    history
        One row per epoch: its number, the mean of each term over its batches, and the objective on the holdout.
    """

    weights: Weights
    best_epoch: int
    history: list[dict[str, float]]


def descend(
    start: Weights,
    space: Space,
    batches: Callable[[int], Iterable[Batch]],
    holdout: Batch | None,
    shares: Mapping[str, float],
    *,
    epochs: int,
    learning_rate: float,
    patience: int | None,
    progress: bool,
) -> Descent:
    """Minimise the weighted sum of the terms by Adam (Kingma & Ba, ICLR 2015); nothing but `start`'s numbers is trained.

    Adam is written out because torch.optim loads torch's compiler, which takes longer than many a fit.

    Parameters
    ----------
    start, space
        Where to start (it is not changed), and what is frozen.
    batches
        Function from the number of an epoch, from 1, to its batches.
    holdout
        Cells that are judged after each epoch, or None.
    shares
        Weight of each term in the objective, by name.
    epochs, learning_rate, patience, progress
        Settings of the same names in `CellAdaptor`.
    """
    weights = Weights(*(part.detach().clone().requires_grad_() for part in start))
    moments = [(torch.zeros_like(part), torch.zeros_like(part)) for part in weights]
    best, best_epoch, kept, step = torch.inf, 0, start, 0
    history: list[dict[str, float]] = []
    for epoch in tqdm(range(1, epochs + 1), unit="epoch", desc="cell head", disable=not progress):
        rows = []
        for batch in batches(epoch):
            with torch.enable_grad():
                found = terms(weights, space, batch)
                loss = torch.stack([share * found[name] for name, share in shares.items()]).sum()
            slopes = torch.autograd.grad(loss, weights)
            step += 1
            with torch.no_grad():
                for part, slope, (first, second) in zip(weights, slopes, moments, strict=True):
                    first.lerp_(slope, 1 - _DECAY)
                    second.lerp_(slope**2, 1 - _SQUARE_DECAY)
                    size = (second / (1 - _SQUARE_DECAY**step)).sqrt() + 1e-8
                    part -= learning_rate / (1 - _DECAY**step) * first / size
            rows.append({name: float(value.detach()) for name, value in found.items()})
        means = {name: sum(row[name] for row in rows) / len(rows) for name in shares}
        score = float("nan")
        if holdout is not None:
            with torch.no_grad():
                found = terms(weights, space, holdout)
            score = sum(share * float(found[name]) for name, share in shares.items())
        history.append({"epoch": epoch, **means, "holdout": score})
        if holdout is None or score < best:
            best, best_epoch, kept = score, epoch, Weights(*(part.detach().clone() for part in weights))
        elif patience is not None and epoch - best_epoch >= patience:
            break
    return Descent(kept, best_epoch, history)


def terms(weights: Weights, space: Space, batch: Batch) -> dict[str, Scalar]:
    """Every term on one batch, by name.

    Parameters
    ----------
    weights, space, batch
        What is trained, what is frozen, and the cells.

    Notes
    -----
    The encoder is folded with the feature map once, so that no features are made: z = x (basis W^T) - W (centre + b).
    """
    read = torch.cat([space.basis @ weights.encoder.T, (space.basis @ weights.bias)[:, None]], dim=1)
    shift = torch.cat([weights.encoder @ (space.centre + weights.bias), (space.centre @ weights.bias)[None]])
    z, along_bias = (batch.expression @ read - shift).split([len(weights.encoder), 1], dim=1)
    logits = space.gain * z @ weights.classifier + weights.offset
    near = neighbours(batch.near, space.neighbours)
    # In this order: gradients are added up in the reverse of it, and rounding would differ in another.
    return {
        "stage": stage_stress(z, batch.stage, batch.weight, space.distances, space.beta),
        "local": locality(z, near, batch.weight),
        "reconstruction": reconstruction(
            z, along_bias[:, 0], batch.square, weights.encoder, weights.bias, batch.weight
        ),
        "classification": classification(logits, batch.stage, batch.weight),
        "topology": topology(z, batch.stage, batch.weight, space.distances, space.beta),
        "compactness": compactness(z, batch.stage, batch.weight),
    }


def angle(z: Float[Tensor, "row k"]) -> Float[Tensor, "row row"]:
    """Angle between every two rows, in radians, from 0.001 to pi - 0.001.

    Parameters
    ----------
    z
        Latent, one row each; only directions matter.
    """
    unit = z / torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_min(_TINY)
    return torch.arccos((unit @ unit.T).clamp(-_COSINE, _COSINE))


def stage_stress(z: Latent, stage: Stages, weight: Shares, distances: Between, beta: float) -> Scalar:
    """LET's stress over pairs of cells: mean of (beta * angle(z_i, z_j) - d(stage_i, stage_j))^2.

    Two cells of a stage are at distance 0. A pair weighs as the product of its cells; one whose distance is unknown, nothing.

    Parameters
    ----------
    z, stage, weight
        Latent, stage number and weight of each cell, as in `Batch`.
    distances, beta
        Ruler distances, negative where unknown, and ruler units per radian.
    """
    target = distances[stage][:, stage]
    return _stress(z, target, torch.outer(weight, weight).fill_diagonal_(0) * (target >= 0), beta)


def neighbours(near: Float[Tensor, "cell axis"], k: int) -> Int[Tensor, "cell neighbour"]:
    """Nearest other cells of the batch, by Euclidean distance.

    Parameters
    ----------
    near
        Coordinates in which cells are compared, one row each.
    k
        Neighbours of each cell; all others where there are fewer.
    """
    square = (near**2).sum(1)
    apart = (square[:, None] + square - 2 * near @ near.T).fill_diagonal_(torch.inf)
    return apart.topk(min(k, len(near) - 1), dim=1, largest=False).indices


def locality(z: Latent, near: Int[Tensor, "cell neighbour"], weight: Shares) -> Scalar:
    """Mean squared distance in z between neighbours in f, over that between any two cells.

    The quotient of locality preserving projections (He & Niyogi, NIPS 16, 2003) with a 0/1 graph: 1 where neighbours are as
    far apart as chance has it.

    Parameters
    ----------
    z, weight
        Latent and weight of each cell, as in `Batch`.
    near
        Numbers of each cell's neighbours in the features, from `neighbours`.
    """
    apart = ((z[:, None] - z[near]) ** 2).sum(2).mean(1)
    return (weight @ apart) / (2 * _variance(z, weight)).clamp_min(_TINY)


def reconstruction(
    z: Latent,
    along_bias: Shares,
    square: Shares,
    encoder: Float[Tensor, "k coordinate"],
    bias: Float[Tensor, " coordinate"],
    weight: Shares,
) -> Scalar:
    """Mean of |W^T z + b - y|^2, relative to the total variance as in the anchor head (y has total variance 1).

    With z = W (y - b) it is z W W^T z - 2 |z|^2 + |y|^2 - 2 y b + |b|^2, which needs no y.

    Parameters
    ----------
    z, weight
        Latent and weight of each cell, as in `Batch`.
    along_bias, square
        y b and |y|^2 of each cell.
    encoder, bias
        W and b in coordinates, as in `Weights`.
    """
    rebuilt = ((z @ (encoder @ encoder.T)) * z).sum(1) - 2 * (z**2).sum(1)
    return weight @ (rebuilt + square - 2 * along_bias) + (bias**2).sum()


def classification(logits: Float[Tensor, "cell stage"], stage: Stages, weight: Shares) -> Scalar:
    """Cross-entropy of the linear stage classifier, in nats.

    Parameters
    ----------
    logits
        What the classifier says of each cell, before any softmax.
    stage, weight
        Stage number and weight of each cell, as in `Batch`.
    """
    return -(weight @ torch.log_softmax(logits, 1).gather(1, stage[:, None])[:, 0])


def topology(z: Latent, stage: Stages, weight: Shares, distances: Between, beta: float) -> Scalar:
    """Mean over pairs of stages of (beta * angle(mean z of one, of the other) - their distance)^2.

    Parameters
    ----------
    z, stage, weight
        Latent, stage number and weight of each cell; a stage without a cell in the batch is left out.
    distances, beta
        Ruler distances and ruler units per radian, as in `stage_stress`.
    """
    share, present = _shares(stage, weight, len(distances))
    target = distances[present][:, present]
    return _stress(share @ z, target, (target >= 0).to(z.dtype).fill_diagonal_(0), beta)


def compactness(z: Latent, stage: Stages, weight: Shares) -> Scalar:
    """Variance of z within stages over its total variance: 0 where stages are points, 1 where their means coincide.

    Parameters
    ----------
    z, stage, weight
        Latent, stage number and weight of each cell, as in `Batch`.
    """
    share, present = _shares(stage, weight, int(stage.max()) + 1)
    place = torch.cumsum(present, 0) - 1
    within = weight @ ((z - (share @ z)[place[stage]]) ** 2).sum(1)
    return within / _variance(z, weight).clamp_min(_TINY)


def _stress(z: Tensor, target: Tensor, share: Tensor, beta: float) -> Tensor:
    return (share * (beta * angle(z) - target) ** 2).sum() / share.sum().clamp_min(_TINY)


def _variance(z: Tensor, weight: Tensor) -> Tensor:
    return weight @ ((z - weight @ z) ** 2).sum(1)


def _shares(stage: Tensor, weight: Tensor, n_stages: int) -> tuple[Tensor, Tensor]:
    """Shares of the cells in the mean of each stage that is present, and which are."""
    held = torch.nn.functional.one_hot(stage, n_stages).T * weight
    total = held.sum(1, keepdim=True)
    present = total[:, 0] > 0
    return held[present] / total[present], present
