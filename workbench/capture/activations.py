"""What an activation is made of: its axes by hook name, and its real part without padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.tokens import Tokens

CELL, GENE, PAIR = "cell", "gene", "pair"


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


def hook_shape(name: str, config: ModelConfig) -> HookShape:
    """Axes of a hook by its name.

    Parameters
    ----------
    name
        A hook point of `HookedScGPT`.
    config
        Shape of the model.
    """
    part = name.rsplit(".", 1)[-1]
    if name == "hook_cell":
        return HookShape(CELL, (config.d_model,))
    if part in ("hook_scores", "hook_pattern"):
        return HookShape(PAIR, (config.n_heads,))
    if part in ("hook_q", "hook_k", "hook_v", "hook_z"):
        return HookShape(GENE, (config.n_heads, config.d_head))
    if part == "hook_result":
        return HookShape(GENE, (config.n_heads, config.d_model))
    if name.endswith("mlp.hook_post"):
        return HookShape(GENE, (config.d_mlp,))
    if name == "embed.hook_value" and config.value_style == "scaling":
        return HookShape(GENE, (1,))
    return HookShape(GENE, (config.d_model,))


def last_layer(names: tuple[str, ...], n_layers: int) -> int | None:
    """Number of blocks that must run for some hooks; None when the cell embedding is among them.

    Parameters
    ----------
    names
        Hook names.
    n_layers
        Blocks of the model.
    """
    if "hook_cell" in names:
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
