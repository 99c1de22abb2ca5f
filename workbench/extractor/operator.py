"""Gene-space operators of heads, and the linear feature maps made of them.

``A[i, j]`` is the mean attention that query gene i pays to key gene j, over the cells in which both are tokens. A cell's
expression x (a row vector over the panel) goes through a head as ``x @ A``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from workbench.errors import ShapeError


def thirds(n_layers: int) -> tuple[slice, slice, slice]:
    """Early, middle and late layers; with twelve layers 1-4, 5-8 and 9-12.

    Parameters
    ----------
    n_layers
        Depth of the model, at least 3.
    """
    if n_layers < 3:
        raise ShapeError(f"The drift feature map needs at least 3 layers, the model has {n_layers}; use 'single'.")
    a, b = round(n_layers / 3), round(2 * n_layers / 3)
    return slice(0, a), slice(a, b), slice(b, n_layers)


def single(
    operators: Float[np.ndarray, "layer head gene gene"], layer: int, head: int
) -> Float[np.ndarray, "gene gene"]:
    """Feature map of one head: f(x) = x A.

    Parameters
    ----------
    operators
        Operators of all heads.
    layer, head
        Which, from 0.
    """
    check_head(operators.shape, layer, head)
    return operators[layer, head]


def check_head(shape: Sequence[int], layer: int, head: int) -> None:
    """Make sure that a head exists.

    Parameters
    ----------
    shape
        Layers, heads, and whatever follows.
    layer, head
        From 0.

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


def drift(operators: Float[np.ndarray, "layer head gene gene"]) -> Float[np.ndarray, "gene feature"]:
    """Feature map of the paper's reference: f(x) = [x (A_early - A_mid), x (A_mid - A_late)].

    Each block is the mean over its layers and heads (method: arXiv:2603.10261).

    Parameters
    ----------
    operators
        Operators of all heads.

    Returns
    -------
    ndarray, shape (gene, 2 * gene)
    """
    early, mid, late = (operators[part].mean((0, 1)) for part in thirds(operators.shape[0]))
    return np.concatenate([early - mid, mid - late], axis=1)


def feature_map(
    operators: Float[np.ndarray, "layer head gene gene"], kind: str, layer: int = 0, head: int = 0
) -> Float[np.ndarray, "gene feature"]:
    """Matrix F of a linear feature map f(x) = x F.

    Parameters
    ----------
    operators
        Operators of all heads.
    kind
        ``drift`` or ``single``.
    layer, head
        For ``single``.
    """
    return drift(operators) if kind == "drift" else single(operators, layer, head)
