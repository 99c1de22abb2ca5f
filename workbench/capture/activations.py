"""What an activation is made of: its axes, by the hook's name or as a small pass shows them, and its real part without padding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import HookError
from workbench.models import CellModel, CellTokenizer, ModelShape
from workbench.models.tokens import Tokens

CELL, GENE, PAIR = "cell", "gene", "pair"
# Kind and inner axes of the hooks that every model has; layers stand without their number.
_AXES: dict[str, tuple[str, tuple[str, ...]]] = {
    "hook_cell": (CELL, ("d_model",)),
    "blocks.attn.hook_scores": (PAIR, ("n_heads",)),
    "blocks.attn.hook_pattern": (PAIR, ("n_heads",)),
    "blocks.attn.hook_result": (GENE, ("n_heads", "d_model")),
    **{f"blocks.attn.hook_{part}": (GENE, ("n_heads", "d_head")) for part in "qkvz"},
    **{
        f"blocks.hook_{part}": (GENE, ("d_model",))
        for part in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    },
}


@dataclass(frozen=True)
class HookShape:
    """Axes of a hook.

    Attributes
    ----------
    kind
        ``cell`` (one row per cell), ``gene`` (one row per gene of a cell) or ``pair`` (query by key of a cell).
    inner
        Axes that do not depend on the cell: width, head and so on.
    """

    kind: str
    inner: tuple[int, ...]

    def elements(self, lengths: np.ndarray) -> int:
        """Numbers in this activation over cells of given lengths, without padding.

        Parameters
        ----------
        lengths
            Tokens per cell, with ``<cls>``.
        """
        power = {CELL: 0, GENE: 1, PAIR: 2}[self.kind]
        return int((lengths.astype(np.float64) ** power).sum() * np.prod(self.inner))


def hook_shape(name: str, config: ModelShape) -> HookShape | None:
    """Axes of a hook that every model has, by its name.

    Parameters
    ----------
    name
        Name of a hook point, with its layer.
    config
        Shape of the model: width, heads.

    Returns
    -------
    HookShape or None
        None for the hooks of one architecture and of modules that a user placed; `hook_shapes` looks at these.
    """
    found = _AXES.get(re.sub(r"^blocks\.\d+\.", "blocks.", name))
    return None if found is None else HookShape(found[0], tuple(int(getattr(config, axis)) for axis in found[1]))


def hook_shapes(model: CellModel, tokens: CellTokenizer, names: Sequence[str]) -> dict[str, HookShape]:
    """Axes of hooks: by name where every model has them, the others as two small passes show them.

    The passes are over one cell and over two, with different numbers of tokens: an axis that is as long as there are cells
    or tokens in one of them by accident is not so in the other.

    Parameters
    ----------
    model
        Model with the hook points, those of a user's modules among them.
    tokens
        The cells that are to be captured; the longest of them is used, cut to a few tokens.
    names
        Names of hook points, in any order.

    Returns
    -------
    dict
        Name -> axes, in the order of `names`.

    Raises
    ------
    HookError
        If nothing or more than one thing passes a hook in a pass, or its axes are not those of cells, genes or pairs.
    """
    known = {name: hook_shape(name, model.config) for name in names}
    unknown = [name for name, shape in known.items() if shape is None]
    seen = _observed(model, tokens, unknown, last_layer(names, model.config.n_layers)) if unknown else {}
    return {name: shape or seen[name] for name, shape in known.items()}


def _observed(
    model: CellModel, cells: CellTokenizer, names: Sequence[str], stop_at: int | None
) -> dict[str, HookShape]:
    """Axes of hooks by what passes them where the capture stops."""
    longest = int(cells.lengths().argmax())
    whole = cells.tokens(longest, longest + 1)
    n = min(4, whole.gene_ids.shape[1])
    if n < 2:
        raise HookError(f"What passes '{names[0]}' cannot be told: no cell has a gene of the vocabulary.")
    passed: dict[str, list[tuple[int, ...]]] = {name: [] for name in names}

    def note(activation: Any, hook: Any) -> None:
        passed[hook.name].append(tuple(getattr(activation, "shape", ())))

    with torch.no_grad(), model.hooks([(name, note) for name in names]):
        for rows, length in ((1, n), (2, n - 1)):
            few = whole.take([0] * rows)
            parts = (few.gene_ids[:, :length], few.values[:, :length], few.padding[:, :length])
            flags = None if few.flags is None else few.flags[:, :length]
            few = Tokens(*parts, few.cell_ids, few.batch_labels, flags, few.without_cls)
            run_to(model, few.to(model.device, model.dtype), stop_at)
    return {name: _shape_of(name, shapes, n) for name, shapes in passed.items()}


def _shape_of(name: str, shapes: list[tuple[int, ...]], n: int) -> HookShape:
    """Axes by what passed in a pass over a cell of n tokens, and in one over two cells of n - 1."""
    if len(shapes) != 2:
        raise HookError(
            f"{len(shapes)} tensors passed the hook '{name}' in two passes of the model, and one in each is needed. Place "
            "the hook where the pass to the cell embedding comes by, and give each place a module of its own."
        )
    marks = {(1, 2): CELL, (n, n - 1): GENE}
    axes = [marks.get(pair, pair[0] if pair[0] == pair[1] else "?") for pair in zip(*shapes, strict=False)]
    text = [axis for axis in axes if isinstance(axis, str)]
    fixed = tuple(axis for axis in axes if isinstance(axis, int))
    if len(shapes[0]) == len(shapes[1]) and axes[:1] == [CELL]:
        if text == [CELL]:
            return HookShape(CELL, fixed)
        if text == [CELL, GENE] and axes[1] == GENE:
            return HookShape(GENE, fixed)
        if len(axes) == 4 and axes[2:] == [GENE, GENE] and text == [CELL, GENE, GENE]:
            return HookShape(PAIR, fixed)
    raise HookError(
        f"The hook '{name}' is passed {shapes[0]} for one cell of {n} tokens and {shapes[1]} for two of {n - 1}. A capture "
        "needs the axes cell x ..., cell x gene x ..., or cell x head x gene x gene: hook another place."
    )


def run_to(model: CellModel, tokens: Tokens, stop_at: int | None) -> None:
    """Pass that does no more than the hooks need.

    Parameters
    ----------
    model
        Model with the hooks attached that are looked at.
    tokens
        A batch on the model's device.
    stop_at
        From `last_layer`: blocks that run; None for all of them and the cell embedding.
    """
    model(tokens, outputs=("cell",) if stop_at is None else (), stop_at_layer=stop_at)


def last_layer(names: Sequence[str], n_layers: int) -> int | None:
    """Number of blocks that must run for some hooks.

    Parameters
    ----------
    names
        Names of hooks, as the model spells them.
    n_layers
        Number of blocks that the model has.

    Returns
    -------
    int or None
        0 for hooks of the embedding alone; None when a hook lies neither in the embedding nor in a block.
    """
    if any(not name.startswith(("embed.", "blocks.")) for name in names):
        return None
    return max((int(name.split(".")[1]) + 1 for name in names if name.startswith("blocks.")), default=0)


def real_rows(activation: Float[Tensor, "cell gene *inner"], tokens: Tokens) -> Float[np.ndarray, "token *inner"]:  # noqa: F821
    """Rows of a ``gene`` activation at real tokens, cell after cell.

    Parameters
    ----------
    activation
        As the hook gives it.
    tokens
        The batch it belongs to.
    """
    return activation[~tokens.padding].float().cpu().numpy()
