"""Dictionaries put in the place of activations for the length of a ``with`` block, with hook points on their features.

What is replaced at one layer is computed anew at the next: a feature that is set at layer 1 is not set at layer 2, whose dictionary
encodes what the model has made of it by then. Whoever wants to hold it sets it again at every layer whose features are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from workbench.dictionaries.dictionary import Dictionary
from workbench.errors import HookError, ShapeError
from workbench.models.tokens import Tokens

Model = TypeVar("Model", bound=Any)


@dataclass
class Running:
    """The batch that a spliced model runs on, and how many calls of the model are under way, one in the other."""

    tokens: Tokens | None = None
    depth: int = 0


class Spliced(HookPoint):
    """A hook point behind which a dictionary's reconstruction stands; it has the name that the plain hook point had.

    In it are ``hook_in`` (what came, with the hooks that were there before), ``hook_features`` and, where the error term is kept,
    ``hook_error``.
    """

    def __init__(
        self, before: HookPoint, dictionary: Dictionary, error: bool, running: Running, source: list[Tensor] | None
    ) -> None:
        super().__init__()
        self.hook_in, self.hook_features = before, HookPoint()
        self.hook_error = HookPoint() if error else None
        # They make the model's fingerprint another one, because it computes something else.
        for name, value in dictionary.weights.items():
            self.register_buffer(name, value)
        self.dictionary = dictionary
        vars(self).update(_running=running, _source=source)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction at genes (of a hook with a row per cell: of cells); ``<cls>`` and padding as they came.

        Parameters
        ----------
        x
            Activation of the batch that the model runs on.
        """
        x = self.hook_in(x)
        source: list[Tensor] | None = vars(self)["_source"]
        features = self.dictionary.encode(x if source is None else source[0])
        if self.hook_error is None:
            out = self.dictionary.decode(self.hook_features(features))
        else:
            error = self.hook_error(x.to(features.dtype) - self.dictionary.decode(features))
            out = self.dictionary.decode(self.hook_features(features)) + error
        genes = self._genes(x)
        return out.to(x.dtype) if genes is None else torch.where(genes, out.to(x.dtype), x)

    def _genes(self, x: Tensor) -> Tensor | None:
        inner = 1 if vars(self)["_source"] is not None else max(len(self.dictionary.origin.inner), 1)
        if x.ndim == 1 + inner:
            return None
        tokens = vars(self)["_running"].tokens
        if tokens is None or len(tokens) != len(x) or tokens.gene_ids.shape[1] < x.shape[1]:
            raise ShapeError(
                f"What passes '{self.name}' has shape {tuple(x.shape)}, which is no batch that the model was called with. Call the model with "
                "the tokens; its layers alone do not know where genes are."
            )
        return tokens.genes[:, : x.shape[1]].to(x.device).reshape(*x.shape[:2], *(1,) * inner)


class _Tap(HookPoint):
    """A hook point that keeps what passes, which a transcoder further up reads."""

    def __init__(self, before: HookPoint, kept: list[Tensor]) -> None:
        super().__init__()
        self.hook_in, self._kept = before, kept

    def forward(self, x: Tensor) -> Tensor:
        x = self.hook_in(x)
        self._kept[:] = [x]
        return x


@contextmanager
def spliced(model: Model, dictionaries: Mapping[str, Dictionary], *, error: bool = False) -> Iterator[Model]:
    """The model with activations replaced by their reconstructions for the length of a ``with`` block.

    Weights are not touched, and the hook points are back afterwards, also when the block ends by an exception. Inside, features can be
    captured, patched and ablated at ``HOOK.hook_features``, such as ``blocks.1.hook_resid_post.hook_features``. The model has another
    fingerprint while it is spliced.

    Parameters
    ----------
    model
        The intact model, without dictionaries in it.
    dictionaries
        Dictionary of each hook, which must be one of that hook and of this model. A transcoder stands under the hook that it reads; its
        features are at the hook that it writes.
    error
        Add what the dictionary leaves out, so that the model computes the same as long as nobody changes a feature.

    Raises
    ------
    HookError
        If a dictionary is of another hook, checkpoint or vocabulary, or the model is spliced already.

    Examples
    --------
    >>> with spliced(model, {dictionary.hook: dictionary}, error=True):  # doctest: +SKIP
    ...     with model.hooks([(f"{dictionary.hook}.hook_features", edit_features([17], scale=0))]):
    ...         model(cells[:8]).cell
    """
    if "running" in vars(model):
        raise HookError("The model is spliced already; name all hooks in one call, or leave the `with` block first.")
    wanted: dict[str, Dictionary] = {}
    for name, dictionary in dictionaries.items():
        hook = model.resolve_hooks(name)[0]
        dictionary.check(model, hook)
        wanted[hook] = dictionary.to(model.device)
    with in_place(model, wanted, error=error):
        yield model


@contextmanager
def in_place(model: Any, dictionaries: Mapping[str, Dictionary], *, error: bool) -> Iterator[None]:
    """The same with dictionaries that are known to be of these hooks and this model, whose weights are not hashed again.

    Parameters
    ----------
    model, dictionaries, error
        Model, dictionaries on its device by full names of hooks, and whether the error term is kept.
    """
    targets = [one.origin.target for one in dictionaries.values()]
    if len(set(targets)) < len(targets) or any(
        one.transcodes and hook in targets for hook, one in dictionaries.items()
    ):
        raise HookError(
            "Two dictionaries stand at one hook, or a transcoder reads where another writes; splice them one after the other."
        )
    before: dict[str, HookPoint] = {}

    def place(hook: str, make: Callable[[HookPoint], HookPoint]) -> None:
        parent, _, name = hook.rpartition(".")
        owner = model.get_submodule(parent)
        before[hook] = getattr(owner, name)
        setattr(owner, name, make(before[hook]))

    running = vars(model)["running"] = Running()
    try:
        for hook, dictionary in dictionaries.items():
            source: list[Tensor] | None = None
            if dictionary.transcodes:
                source = []
                place(hook, lambda point, kept=source: _Tap(point, kept))  # type: ignore[misc]
            place(
                dictionary.origin.target,
                lambda point, one=dictionary, kept=source: Spliced(point, one, error, running, kept),  # type: ignore[misc]
            )
        model.setup()
        yield
    finally:
        for hook, point in before.items():
            parent, _, name = hook.rpartition(".")
            setattr(model.get_submodule(parent), name, point)
        del vars(model)["running"]
        model.setup()


def edit_features(
    features: Sequence[int], *, scale: float | None = None, value: float | None = None
) -> Callable[..., Tensor]:
    """A hook function that scales features (0 ablates them) or sets them to a value, wherever they are looked at.

    Parameters
    ----------
    features
        Numbers of the features that are changed.
    scale
        Factor of each feature's activation.
    value
        What each feature is set to at every gene, whether it fires there or not.

    Raises
    ------
    HookError
        If neither or both are given, or a feature does not exist once the model runs.
    """
    if (scale is None) == (value is None):
        raise HookError("A feature is scaled or set to a value; give one of scale and value.")
    numbers = list(features)

    def edit(x: Tensor, hook: Any) -> Tensor:
        if not all(0 <= number < x.shape[-1] for number in numbers):
            raise HookError(f"'{hook.name}' has features 0 to {x.shape[-1] - 1}, but {numbers} were asked for.")
        new = x.clone()
        new[..., numbers] = (
            x[..., numbers] * scale if scale is not None else torch.full_like(x[..., numbers], float(value or 0))
        )
        return new

    return edit
