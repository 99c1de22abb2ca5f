"""The activations of a pass: transformer-lens's own cache, whose cells and genes have names."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformer_lens import ActivationCache

from workbench.errors import HookError, ShapeError, unknown_name
from workbench.models.names import hook_of
from workbench.models.tokens import Tokens

if TYPE_CHECKING:
    from anndata import AnnData

    from workbench.models.hooking import HookedModel

_MAPS = ("hook_pattern", "hook_scores")
_PER_HEAD = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_result")
# Rows of a table of maps: with its names such a table takes some 2 GB.
_MOST_ROWS = 50_000_000
_NORMS = (
    "scGPT normalises after every sum, so that what layers and heads add does not sum to the residual stream, and {what} would be "
    "wrong. Ask for what a part does by workbench.ablate or workbench.patch, and for what each layer knows by workbench.lens."
)


class CellCache(ActivationCache):
    """What `run_with_cache` gives: transformer-lens's `ActivationCache`, with names of cells and genes.

    Short names work as there: ``cache["pattern", 0]``, ``cache["resid_post", -1]``, ``cache["q0"]``, ``cache["cell"]``. Methods that
    add up contributions along the residual stream are refused, because in a post-norm model they do not add up.

    Parameters
    ----------
    cache_dict
        Activations by the names of their hook points.
    model
        Hooked model that made the activations; its names and weights are used.
    tokens
        Batch that it was run on.
    has_batch_dim
        Whether the first axis is that of cells.
    pos_slice
        What was cut out of the positions; None where nothing was.

    Examples
    --------
    >>> outputs, cache = model.run_with_cache(cells[:2])  # doctest: +SKIP
    >>> cache["pattern", 0].shape  # doctest: +SKIP
    torch.Size([2, 4, 266, 266])
    >>> cache.to_dataframe("pattern", 0, head=3)  # doctest: +SKIP
    """

    model: Any  # of transformer-lens's own kind there

    def __init__(
        self,
        cache_dict: dict[str, Tensor],
        model: HookedModel,
        tokens: Tokens,
        has_batch_dim: bool = True,
        pos_slice: Any = None,
    ) -> None:
        super().__init__(cache_dict, model, has_batch_dim)
        self.tokens, self._pos_slice = tokens, pos_slice

    def name(self, *key: Any) -> str:
        """Full name of an activation.

        Parameters
        ----------
        *key
            Full name, or a short one with its layer, which counts from the end where it is negative.

        Raises
        ------
        HookError
            If the model has no such hook, or this cache does not hold it.
        """
        n_layers = self.model.cfg.n_layers
        if len(key) > 1 and isinstance(key[1], int):
            if not -n_layers <= key[1] < n_layers:
                raise HookError(f"There is no layer {key[1]}: this model has layers 0 to {n_layers - 1}.")
            key = (key[0], key[1] % n_layers, *key[2:])
        hook_dict = self.model.hook_dict
        name = hook_of(hook_dict, *key)
        if name in self.cache_dict:
            return name
        if name.removesuffix("_grad") in hook_dict:
            raise HookError(f"'{name}' was not cached; run again with it in names_filter, or without a names_filter.")
        raise HookError(unknown_name("activation", name, self.cache_dict))

    def __getitem__(self, key: Any) -> Tensor:
        """An activation by its full or short name; see `name`."""
        if isinstance(key, str) and key in self.cache_dict:
            return self.cache_dict[key]
        return self.cache_dict[self.name(*(key if isinstance(key, tuple) else (key,)))]

    def __contains__(self, key: object) -> bool:
        """Whether an activation is held, by its full or short name."""
        try:
            self[key]
        except HookError:
            return False
        return True

    def __repr__(self) -> str:
        """Say what is held, without the numbers."""
        kinds = dict.fromkeys(re.sub(r"^blocks\.\d+", "blocks.*", name) for name in self.cache_dict)
        return f"CellCache of {len(self.tokens)} cells x {self.tokens.gene_ids.shape[1]} tokens: {', '.join(kinds)}"

    @property
    def cells(self) -> tuple[str, ...]:
        """Names of the cells."""
        return self.tokens.cell_ids

    @cached_property
    def genes(self) -> np.ndarray:
        """Gene symbol of each position, (cell, gene); ``<cls>`` at position 0, and empty at padding."""
        if self._pos_slice is not None:
            raise ShapeError("Positions were cut by pos_slice; run without it to have the names of genes.")
        return np.array(self.model.to_str_tokens(self.tokens, padding=""), dtype=object)

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> CellCache:
        """Some of the cells.

        Parameters
        ----------
        batch_slice
            Slice or number of a cell, as transformer-lens takes it.
        """
        cut = super().apply_slice_to_batch_dim(batch_slice)
        rows = np.arange(len(self.tokens))[getattr(batch_slice, "slice", batch_slice)]
        tokens = self.tokens.take(np.atleast_1d(rows).tolist())
        length = self.tokens.gene_ids.shape[1]
        if tokens.gene_ids.shape[1] < length:  # the activations keep the longer padding
            tokens = self.tokens.rows(np.atleast_1d(rows).tolist())
        return CellCache(cut.cache_dict, self.model, tokens, cut.has_batch_dim, self._pos_slice)

    def compute_head_results(self) -> None:
        """Compute what each head writes, without the output bias, where it was not cached: from ``hook_z`` of the same layer."""
        for layer in range(self.model.cfg.n_layers):
            name = f"blocks.{layer}.attn.hook_result"
            if name not in self.cache_dict:
                weight = self.model.block(layer).weight("W_O")
                self.cache_dict[name] = torch.einsum("...hd,hdm->...hm", self["z", layer].to(weight), weight)

    def _ensure_head_results(self) -> bool:
        """What transformer-lens 4 calls in place of `compute_head_results`."""
        self.compute_head_results()
        return True

    def stack_head_results(  # type: ignore[override]
        self, layer: int = -1, return_labels: bool = False, pos_slice: Any = None, **more: Any
    ) -> Any:
        """What every head writes, (layer x head, cell, gene, d_model).

        Parameters
        ----------
        layer
            Heads of the layers before this one; all by default.
        return_labels
            Give the heads' names, such as ``L2H1``, too.
        pos_slice
            Positions, as transformer-lens takes them; all by default.
        **more
            ``incl_remainder`` and ``apply_ln`` of transformer-lens, which are refused.
        """
        if any(more.values()):
            raise HookError(_NORMS.format(what=f"stack_head_results({', '.join(sorted(more))})"))
        self.compute_head_results()
        return super().stack_head_results(layer, return_labels, pos_slice=pos_slice)

    def accumulated_resid(self, layer: int | None = None, *args: Any, apply_ln: bool = False, **kwargs: Any) -> Any:
        """Residual stream in front of each layer and after the last, each already normalised, (layer + 1, cell, gene, d_model).

        Parameters
        ----------
        layer
            Last layer whose input is wanted; all, and the end, by default.
        *args, **kwargs
            ``incl_mid``, ``pos_slice``, ``return_labels`` and so on, as transformer-lens takes them.
        apply_ln
            Refused, because there is no LayerNorm after the last layer.
        """
        if apply_ln:
            raise HookError(
                "There is no final LayerNorm in scGPT: every stream is normalised already; leave out apply_ln."
            )
        return super().accumulated_resid(layer, *args, **kwargs)

    def to_dataframe(self, *key: Any, head: int | None = None) -> pd.DataFrame:
        """An activation as a table whose rows have the names of cells and genes; padding is left out.

        Parameters
        ----------
        *key
            Name, and layer where the name is a short one: ``("pattern", 0)``.
        head
            This head only; all by default.

        Returns
        -------
        pandas.DataFrame
            Of a pattern or scores one row per pair: ``cell``, ``head``, ``query``, ``key`` and the value under the name of the hook.
            Of others one row per cell, or per cell, gene (``<cls>`` included) and head, as the index, with the width as columns.

        Raises
        ------
        HookError
            If the cache does not hold it, or has no such head.
        ShapeError
            If the table of a map would have more than 50 million rows.
        """
        name = self.name(*key)
        x, heads = self._batched(name, head)
        part = name.rsplit(".", 1)[-1]
        cells = np.array(self.cells or range(len(self.tokens)), dtype=object)
        if x.ndim == 2:
            return pd.DataFrame(x, index=pd.Index(cells, name="cell"))
        real = ~self.tokens.padding.cpu().numpy()
        genes = self.genes.reshape(real.shape)
        if part in _MAPS:
            lengths = real.sum(1)
            if (n := int((lengths.astype(float) ** 2).sum()) * len(heads)) > _MOST_ROWS:
                raise ShapeError(f"The table would have {n:,} rows; name one head (head=3), or run fewer cells.")
            cell, at, query, key_ = np.nonzero((real[:, None, :, None] & real[:, None, None, :]).repeat(len(heads), 1))
            columns = {
                "cell": cells[cell],
                "head": np.array(heads)[at],
                "query": genes[cell, query],
                "key": genes[cell, key_],
            }
            return pd.DataFrame({**columns, part.removeprefix("hook_"): x[cell, at, query, key_]})
        cell, position = np.nonzero(real)
        names: dict[str, Any] = {"cell": cells[cell], "gene": genes[cell, position]}
        rows = x[cell, position]
        if rows.ndim == 3:
            names = {of: np.repeat(values, len(heads)) for of, values in names.items()}
            names["head"] = np.tile(heads, len(cell))
            rows = rows.reshape(-1, rows.shape[-1])
        return pd.DataFrame(rows, index=pd.MultiIndex.from_arrays(list(names.values()), names=list(names)))

    def to_anndata(self, *key: Any, head: int | None = None) -> AnnData:
        """An activation as an AnnData: a row per cell or per gene of a cell, the width as variables, for scanpy.

        Parameters
        ----------
        *key
            As in `to_dataframe`; not of a pattern or scores.
        head
            As in `to_dataframe`.

        Returns
        -------
        anndata.AnnData
            ``obs`` holds ``cell`` and, where there are such, ``gene``, ``head`` and ``value`` (what the model read of the gene).
        """
        from anndata import AnnData

        if (name := self.name(*key)).rsplit(".", 1)[-1] in _MAPS:
            raise HookError(f"'{name}' has two genes a row; take it by cache.to_dataframe.")
        table = self.to_dataframe(*key, head=head)
        obs = table.index.to_frame(index=False)
        obs.index = pd.Index(obs.astype(str).agg(":".join, axis=1).to_numpy(dtype=object))
        if "gene" in obs:
            values = self.tokens.values[~self.tokens.padding].float().cpu().numpy()
            obs["value"] = np.repeat(values, len(obs) // len(values))
        return AnnData(table.to_numpy(), obs=obs, var=pd.DataFrame(index=[str(i) for i in range(table.shape[1])]))

    def _batched(self, name: str, head: int | None) -> tuple[np.ndarray, list[int]]:
        """An activation with its axis of cells, and the heads that it has."""
        x = self.cache_dict[name].detach().float().cpu().numpy()
        x = x if self.has_batch_dim else x[None]
        part = name.rsplit(".", 1)[-1]
        axis = 1 if part in _MAPS else 2 if part in _PER_HEAD else None
        if axis is None:
            if head is not None:
                raise HookError(f"'{name}' has no heads; leave out head={head}.")
            return x, []
        n = x.shape[axis]
        if head is None:
            return x, list(range(n))
        if not 0 <= head < n:
            raise HookError(f"There is no head {head}: '{name}' has heads 0 to {n - 1}.")
        return x.take([head], axis), [head]


def _refused(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise HookError(_NORMS.format(what=f"cache.{name}"))

    method.__doc__ = "Refused: contributions do not sum in a model that normalises after each sum."
    method.__name__ = name
    return method


for _name in (
    "decompose_resid",
    "get_full_resid_decomposition",
    "logit_attrs",
    "logit_lens",
    "apply_ln_to_stack",
    "get_neuron_results",
    "stack_neuron_results",
):
    setattr(CellCache, _name, _refused(_name))
