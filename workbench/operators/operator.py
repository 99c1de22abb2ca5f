"""Gene-space operators of heads, and the linear feature maps made of them.

``A[i, j]`` says what query gene i (row) takes from key gene j (column). A cell's expression x (a row vector over the
panel) goes through a head as ``x @ A``. Where the operators lie, and whether they were averaged over cells or come from
the checkpoint alone, is the business of an `OperatorSource`; a feature map only asks it for heads and means of heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import EvaluationError, ShapeError

Head = tuple[int, int]


@runtime_checkable
class OperatorSource(Protocol):
    """Operators of all heads of one model on one panel."""

    @property
    def shape(self) -> Head:
        """Layers and heads per layer."""

    def head(self, layer: int, head: int) -> Float[np.ndarray, "gene gene"]:
        """Operator of one head.

        Parameters
        ----------
        layer, head
            Place of the head, both counted from 0.
        """

    def mean(self, layers: Sequence[int]) -> Float[np.ndarray, "gene gene"]:
        """Mean operator over all heads of some layers.

        Parameters
        ----------
        layers
            Numbers of the layers, from 0, one or more.
        """


@dataclass(frozen=True)
class DenseOperators:
    """Operators that are held in memory.

    Attributes
    ----------
    array
        Operators of all heads, one matrix each.
    """

    array: Float[np.ndarray, "layer head gene gene"]

    @property
    def shape(self) -> Head:
        """See `OperatorSource`."""
        return self.array.shape[0], self.array.shape[1]

    def head(self, layer: int, head: int) -> Float[np.ndarray, "gene gene"]:
        """See `OperatorSource`."""
        check_head(self.shape, layer, head)
        return self.array[layer, head]

    def mean(self, layers: Sequence[int]) -> Float[np.ndarray, "gene gene"]:
        """See `OperatorSource`."""
        return self.array[list(layers)].mean((0, 1))


@dataclass(frozen=True)
class OnPanel:
    """Operators on some of their genes, as an `OperatorSource`.

    Attributes
    ----------
    source
        Operators on these genes and others.
    columns
        Places of the wanted genes among those of the source, in the order wanted.
    """

    source: OperatorSource
    columns: Int[np.ndarray, " gene"]

    @property
    def shape(self) -> Head:
        """See `OperatorSource`."""
        return self.source.shape

    def head(self, layer: int, head: int) -> Float[np.ndarray, "gene gene"]:
        """See `OperatorSource`."""
        return self.source.head(layer, head)[np.ix_(self.columns, self.columns)]

    def mean(self, layers: Sequence[int]) -> Float[np.ndarray, "gene gene"]:
        """See `OperatorSource`."""
        return self.source.mean(layers)[np.ix_(self.columns, self.columns)]


@dataclass(frozen=True)
class FeatureMapSpec:
    """Which linear feature map f(x) = x F is made of the operators.

    Attributes
    ----------
    kind
        ``single``: F = A of one head. ``topk``: F = sum_i alpha_i A_i over weighted heads. ``drift`` (the reference of
        arXiv:2603.10261): with blocks of layers pooled by the mean over their heads, F = [B_1 - B_2, B_2 - B_3, ...].
    head
        For ``single``: layer and head.
    weights
        For ``topk``: alpha by (layer, head), as `screen_weights` gives them.
    blocks
        For ``drift``: layers of each block; thirds of the model when empty.
    """

    kind: Literal["drift", "single", "topk"] = "drift"
    head: Head = (0, 0)
    weights: Mapping[Head, float] | None = None
    blocks: tuple[tuple[int, ...], ...] = ()

    @property
    def name(self) -> str:
        """For tables and captions."""
        if self.kind == "single":
            return head_name(*self.head)
        return "drift" if self.kind == "drift" else f"top {len(self.weights or ())} heads"


def head_name(layer: int, head: int) -> str:
    """``L2H5`` for layer 2, head 5, both from 0.

    Parameters
    ----------
    layer, head
        Place of the head, both counted from 0.

    Examples
    --------
    >>> from workbench.operators.operator import head_name
    >>> head_name(2, 5)
    'L2H5'
    """
    return f"L{layer}H{head}"


def thirds(n_layers: int) -> tuple[tuple[int, ...], ...]:
    """Early, middle and late layers; with twelve layers the paper's 1-4, 5-8 and 9-12, counted from 0.

    Parameters
    ----------
    n_layers
        Depth of the model, at least 3.

    Raises
    ------
    ShapeError
        If the model is shallower.
    """
    if n_layers < 3:
        raise ShapeError(f"The drift feature map needs at least 3 layers, the model has {n_layers}; use 'single'.")
    a, b = round(n_layers / 3), round(2 * n_layers / 3)
    return tuple(range(a)), tuple(range(a, b)), tuple(range(b, n_layers))


def check_head(shape: Sequence[int], layer: int, head: int) -> None:
    """Make sure that a head exists.

    Parameters
    ----------
    shape
        Layers, heads, and whatever follows.
    layer, head
        Place of the head, both counted from 0.

    Raises
    ------
    ShapeError
        If it does not.
    """
    n_layers, n_heads = shape[:2]
    if not (0 <= layer < n_layers and 0 <= head < n_heads):
        raise ShapeError(
            f"There is no head {head} in layer {layer}: the model has layers 0 to {n_layers - 1} with heads 0 to "
            f"{n_heads - 1}."
        )


def feature_map(operators: OperatorSource, spec: FeatureMapSpec) -> Float[np.ndarray, "gene feature"]:
    """Matrix F of a linear feature map f(x) = x F.

    Parameters
    ----------
    operators
        Operators of all heads; asked for the heads and means of layers that the map takes, and for no other.
    spec
        Feature map to make, as in a configuration's ``adaptor``.

    Returns
    -------
    ndarray, shape (gene, feature)
        As many features as genes, times the number of blocks less one for ``drift``.

    Raises
    ------
    ShapeError
        If a head or layer does not exist, a block is empty, there are fewer than two blocks, or no head has weight.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.operator import DenseOperators, FeatureMapSpec, feature_map
    >>> operators = DenseOperators(np.arange(3.0)[:, None, None, None] * np.ones((3, 1, 2, 2)))  # three layers of a head
    >>> feature_map(operators, FeatureMapSpec("drift"))  # early less middle, middle less late
    array([[-1., -1., -1., -1.],
           [-1., -1., -1., -1.]])
    """
    check_spec(spec, operators.shape)
    if spec.kind == "single":
        return operators.head(*spec.head)
    if spec.kind == "topk":
        return _weighted(operators, spec.weights or {})
    pooled = [operators.mean(block) for block in spec.blocks or thirds(operators.shape[0])]
    return np.concatenate([one - other for one, other in zip(pooled, pooled[1:], strict=False)], axis=1)


def check_spec(spec: FeatureMapSpec, shape: Head) -> None:
    """Refuse a feature map that a model cannot have, before its operators are captured.

    Parameters
    ----------
    spec
        Feature map that is wanted; heads of ``topk`` are not looked at.
    shape
        Layers and heads per layer.

    Raises
    ------
    ShapeError
        If a head or layer does not exist, a block is empty, or there are fewer than two blocks.
    """
    if spec.kind == "single":
        check_head(shape, *spec.head)
    if spec.kind != "drift":
        return
    n_layers = shape[0]
    blocks = spec.blocks or thirds(n_layers)
    wrong = [layer for block in blocks for layer in block if not 0 <= layer < n_layers]
    if wrong or len(blocks) < 2 or not all(blocks):
        found = (
            f"layer {wrong[0]} of a model with layers 0 to {n_layers - 1}" if wrong else f"{[list(b) for b in blocks]}"
        )
        raise ShapeError(f"The drift feature map needs two or more blocks of layers that exist; found {found}.")


def _weighted(operators: OperatorSource, weights: Mapping[Head, float]) -> Float[np.ndarray, "gene gene"]:
    kept = {head: alpha for head, alpha in sorted(weights.items()) if alpha}
    if not kept:
        raise ShapeError("The topk feature map needs a head with a weight other than 0; found none.")
    terms = (np.float32(alpha) * operators.head(*head) for head, alpha in kept.items())
    return reduce(np.add, terms)


def head_names(shape: Head) -> dict[str, Head]:
    """All heads by their names.

    Parameters
    ----------
    shape
        Number of layers, and of heads per layer.
    """
    return {head_name(layer, head): (layer, head) for layer, head in np.ndindex(*shape)}


def best_head(scores: Mapping[Head, float]) -> Head:
    """Head with the highest score, the first of those that are equal.

    Parameters
    ----------
    scores
        Score of each head by (layer, head); NaN where it has none.

    Raises
    ------
    EvaluationError
        If no head has a score.
    """
    known = {head: value for head, value in scores.items() if np.isfinite(value)}
    if not known:
        raise EvaluationError(
            "No head can be scored on held-out anchors, so none can be chosen; name one, or give more anchors."
        )
    return max(known, key=lambda head: (known[head], tuple(-part for part in head)))


def screen_weights(scores: Mapping[Head, float], top: int) -> dict[Head, float]:
    """Weights alpha of the ``topk`` feature map: the best heads of a screen, each by its score.

    The method names "alpha from the head screen" and gives no formula. Here alpha is the score, 0 where it is negative
    or undefined, and the weights sum to 1; of equal scores the head that comes first counts.

    Parameters
    ----------
    scores
        Rank correlation with the ruler by head, from cells that may be looked at.
    top
        Number of heads that get a weight, at most.

    Raises
    ------
    ShapeError
        If no head has a score above 0.

    Examples
    --------
    >>> from workbench.operators.operator import screen_weights
    >>> screen_weights({(0, 0): 0.75, (0, 1): -0.2, (1, 0): 0.25}, top=2)
    {(0, 0): 0.75, (1, 0): 0.25}
    """
    positive = {head: float(score) for head, score in scores.items() if score > 0}
    best = sorted(positive, key=lambda head: (-positive[head], head))[:top]
    if not best:
        raise ShapeError(
            "No head of the screen has a score above 0, so topk has nothing to weigh; use 'drift' or 'single'."
        )
    total = sum(positive[head] for head in best)
    return {head: positive[head] / total for head in best}
