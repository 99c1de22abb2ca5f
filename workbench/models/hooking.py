"""What hooked models share: hook points by name and wildcard, fingerprint, and the model before training."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities import Slice

from workbench.errors import HookError, ShapeError, unknown_name
from workbench.files import digest
from workbench.models.familiar import Familiar
from workbench.models.names import full_name, spellings
from workbench.models.places import HookPlace
from workbench.models.protocol import ModelShape
from workbench.models.tokens import Tokens
from workbench.models.vocabulary import Vocabulary
from workbench.seeds import key

if TYPE_CHECKING:
    from anndata import AnnData

    from workbench.dictionaries.dictionary import Dictionary
    from workbench.models.cache import CellCache
    from workbench.models.load import LoadReport

# Not `typing.Self`, which the shape checks of the tests do not take on single methods.
Model = TypeVar("Model", bound="HookedModel")


class _Whole(Slice):
    """A slice that takes all; the one of transformer-lens 3.9 fails on tensors without positions."""

    def apply(self, tensor: torch.Tensor, dim: int = 0) -> torch.Tensor:
        return tensor


class HookedModel(Familiar):
    """Base of a `CellModel`; a subclass calls ``self.setup()`` when its parts are made.

    Parameters
    ----------
    config
        Shape of the model; a frozen dataclass, whose content is part of the fingerprint.
    vocabulary
        Gene symbols and special tokens with their rows of the embedding.
    report
        How it was read, when it was read from a checkpoint.
    """

    def __init__(self, config: ModelShape, vocabulary: Vocabulary, report: LoadReport | None = None) -> None:
        super().__init__()
        self.config, self.vocabulary, self.report = config, vocabulary, report

    def setup(self) -> None:
        """Put hook points where parts have places for them, and name every one; again after a part was added."""
        for part in list(self.modules()):
            for name, child in list(part.named_children()):
                if isinstance(child, HookPlace):
                    setattr(part, name, HookPoint())
        super().setup()

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run the model; options as of `forward`. While dictionaries are spliced into it, it knows the batch that it runs on."""
        if "running" not in vars(self):
            return super().__call__(*args, **options)
        tokens, *rest = args if args else (options.pop("tokens"),)
        running, tokens = vars(self)["running"], self.to_tokens(tokens)
        before, running.tokens = running.tokens, tokens
        running.depth += 1
        try:
            return super().__call__(tokens, *rest, **options)
        finally:
            running.depth -= 1
            # That of the outermost call stays, for whoever goes on with the layers one by one.
            if running.depth:
                running.tokens = before

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Float type of the weights."""
        return next(self.parameters()).dtype

    def fingerprint(self) -> str:
        """Hash of the shape and of every weight, in the float type that they have.

        Returns
        -------
        str
            32 hex digits; the same on every machine and device.
        """
        weights = {name: value.detach().float().cpu().numpy() for name, value in self.state_dict().items()}
        half = () if self.dtype == torch.float32 else (str(self.dtype),)  # of weights that are the same rounded, too
        return digest(asdict(self.config), *half, *(part for name in sorted(weights) for part in (name, weights[name])))

    def untrained(self: Model, seed: int) -> Model:
        """A model of the same shape and vocabulary with weights as before training, PyTorch's own initial draw.

        What an architecture is worth without what it learned.

        Parameters
        ----------
        seed
            Of the weights. The caller's random numbers stay as they were.

        Returns
        -------
        HookedModel
            In evaluation mode, without gradients, on the same device and of the same float type.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(key(seed, "untrained control") % 2**63)
            fresh = type(self)(self.config, self.vocabulary)
        return fresh.requires_grad_(False).eval().to(device=self.device, dtype=self.dtype)

    def resolve_hooks(self, names: str | Sequence[str]) -> tuple[str, ...]:
        """Names of hook points, with shell wildcards expanded.

        Parameters
        ----------
        names
            Exact names or patterns such as ``"blocks.*.attn.hook_pattern"``; names that transformer-lens has for the same, such as
            ``hook_embed`` and ``hook_attn_scores``, work, too.

        Returns
        -------
        tuple of str
            In the order in which the model computes them, each once.

        Raises
        ------
        HookError
            If a name or pattern matches nothing; near matches are listed.
        """
        names = [names] if isinstance(names, str) else list(names)
        if not names:
            raise HookError("No hook was named; name at least one, for example 'blocks.*.hook_resid_post'.")
        wanted: set[str] = set()
        for name in names:
            hits = [known for known in self.hook_dict if fnmatchcase(known, full_name(name))]
            if not hits:
                raise HookError(unknown_name("hook", name, self.hook_dict))
            wanted.update(hits)
        return tuple(known for known in self.hook_dict if known in wanted)

    def spliced(
        self: Model, dictionaries: Mapping[str, Dictionary], *, error: bool = False
    ) -> AbstractContextManager[Model]:
        """The model with activations replaced by what sparse dictionaries make of them, see `workbench.dictionaries.splicing.spliced`.

        Parameters
        ----------
        dictionaries
            Dictionary of each hook that is replaced.
        error
            Add what the dictionary leaves out; features can be changed then without any other change.

        Examples
        --------
        >>> with model.spliced({dictionary.hook: dictionary}):  # doctest: +SKIP
        ...     model(cells[:8]).cell
        """
        # By name: what a model can be made to do is no part of it. An import would let every stage with a model depend on the code of dictionaries.
        splicing = importlib.import_module("workbench.dictionaries.splicing")
        return splicing.spliced(self, dictionaries, error=error)

    def _names(self, names: Any) -> list[str]:
        """Names that a filter, a pattern or a predicate of transformer-lens stands for; an error when there are none."""
        if names is None:
            return list(self.hook_dict)
        if not callable(names):
            return list(self.resolve_hooks(names))
        hits = [known for known in self.hook_dict if any(map(names, spellings(known)))]
        if not hits:
            raise HookError("The names filter matches none of the model's hooks; see model.hook_dict for their names.")
        return hits

    def add_hook(self, name: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformer-lens, for a name, a wildcard or a predicate; a name that does not exist is an error.

        Parameters
        ----------
        name
            Name, wildcard or predicate of hook points.
        *args, **kwargs
            The function and its options, as transformer-lens takes them.
        """
        for known in self._names(name):
            super().add_hook(known, *args, **kwargs)

    @contextmanager
    def hooks(
        self: Model,
        fwd_hooks: list[tuple[str | Callable, Callable]] | None = None,
        bwd_hooks: list[tuple[str | Callable, Callable]] | None = None,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator[Model]:
        """Attach hooks for the length of a ``with`` block, also when it ends by an exception.

        Parameters
        ----------
        fwd_hooks, bwd_hooks
            Pairs of a hook name, wildcard or predicate on names, and ``function(tensor, hook=...)``.
        reset_hooks_end, clear_contexts
            Whether hooks are removed at the end (yes), and contexts cleared (no), as in transformer-lens.

        Raises
        ------
        HookError
            If a name does not exist.
        """
        forward: list[tuple[str | Callable, Callable]] = [
            (known, function) for name, function in fwd_hooks or () for known in self._names(name)
        ]
        backward: list[tuple[str | Callable, Callable]] = [
            (known, function) for name, function in bwd_hooks or () for known in self._names(name)
        ]
        with super().hooks(forward, backward, reset_hooks_end, clear_contexts):
            yield self

    def add_caching_hooks(self, names_filter: Any = None, *args: Any, **kwargs: Any) -> dict:
        """As in transformer-lens, but wildcards work, and names that match nothing are an error.

        Parameters
        ----------
        names_filter
            Names, wildcards or a predicate; all hooks when None.
        *args, **kwargs
            Device, cache and further options, as transformer-lens takes them.
        """
        return super().add_caching_hooks(self._names(names_filter), *args, **kwargs)

    def get_caching_hooks(
        self, names_filter: Any = None, *args: Any, cache: dict | None = None, pos_slice: Any = None, **kwargs: Any
    ) -> tuple[dict, list, list]:
        """What `run_with_cache` calls; names as in `add_caching_hooks`.

        Parameters
        ----------
        names_filter
            Names, wildcards or a predicate; all hooks when None.
        *args, **kwargs
            Device and further options, as transformer-lens takes them.
        cache
            Dictionary that is filled; a new one when None.
        pos_slice
            Positions that are kept, as transformer-lens takes them: 0 is ``<cls>``. Of scores and pattern these are the
            queries. What has no positions, as ``hook_cell``, is kept whole.
        """
        names, cache = self._names(names_filter), {} if cache is None else cache
        _, *whole = super().get_caching_hooks(names, *args, cache=cache, pos_slice=_Whole(), **kwargs)  # type: ignore[misc]
        _, *cut = super().get_caching_hooks(names, *args, cache=cache, pos_slice=pos_slice, **kwargs)  # type: ignore[misc]

        def either(all_of_it: Callable, some: Callable) -> Callable:
            return lambda x, hook: (some if x.ndim > 2 else all_of_it)(x, hook=hook)

        forward, backward = (
            [(name, either(a, b)) for (name, a), (_, b) in zip(*pair, strict=True)]
            for pair in zip(whole, cut, strict=True)
        )
        return cache, forward, backward

    def run_with_cache(  # type: ignore[override]
        self,
        tokens: Tokens | AnnData,
        *args: Any,
        incl_bwd: bool = False,
        loss: Callable[[Any], torch.Tensor] | None = None,
        return_cache_object: bool = True,
        **kwargs: Any,
    ) -> tuple[Any, CellCache | dict]:
        """Outputs and activations, and gradients of a loss where they are asked for.

        Parameters
        ----------
        tokens
            Batch of cells that is run: tokens, or an AnnData of a few cells.
        incl_bwd
            Keep the gradient of the loss at each hook, too, under the hook's name with ``_grad``. Frozen weights get none.
        loss
            From the outputs to the one number whose gradient is wanted; needed with `incl_bwd`.
        return_cache_object
            Give a `CellCache`, whose cells and genes have names; else a plain dictionary.
        *args, **kwargs
            ``names_filter`` (names, wildcards or a predicate), ``pos_slice`` and other options of transformer-lens, and those
            of `forward`.

        Returns
        -------
        outputs, cache

        Raises
        ------
        HookError
            If a name matches nothing, or a gradient is asked for without a loss.
        ShapeError
            If ``remove_batch_dim`` is asked for with more cells than one.
        """
        tokens = self.to_tokens(tokens)
        if kwargs.get("remove_batch_dim") and len(tokens) != 1:
            raise ShapeError(f"remove_batch_dim is for a batch of one cell; this one has {len(tokens)}. Leave it out.")
        batched, cut = not kwargs.get("remove_batch_dim"), kwargs.get("pos_slice")
        if incl_bwd:
            outputs, cache = self._run_back(tokens, loss, *args, **kwargs)
        else:
            outputs, cache = super().run_with_cache(tokens, *args, **kwargs)
        if not return_cache_object:
            return outputs, cache
        from workbench.models.cache import CellCache

        return outputs, CellCache(cache, self, tokens, batched, cut)

    def _run_back(
        self, tokens: Tokens, loss: Callable[[Any], torch.Tensor] | None, *args: Any, **kwargs: Any
    ) -> tuple[Any, dict]:
        """Outputs, activations, and the gradient of a loss at each."""
        if loss is None:
            raise HookError(
                "A model of cells has several outputs and no loss of its own: pass the one whose gradient is wanted, for example "
                "run_with_cache(tokens, incl_bwd=True, loss=lambda outputs: outputs.cell.square().sum())."
            )
        own = {name: kwargs.pop(name) for name in ("device", "remove_batch_dim", "pos_slice") if name in kwargs}
        ends = {name: kwargs.pop(name) for name in ("reset_hooks_end", "clear_contexts") if name in kwargs}
        names = self._names(kwargs.pop("names_filter", None))
        cache, forward, backward = self.get_caching_hooks(names, True, **own)
        first = dict.fromkeys((*names, *self.resolve_hooks("blocks.*.hook_resid_pre")))
        handles = [self.hook_dict[name].register_forward_pre_hook(_with_gradient) for name in first]
        try:
            with torch.enable_grad(), self.hooks(forward, backward, **ends):
                outputs = self(tokens, *args, **kwargs)
                value = loss(outputs)
                if value.numel() != 1:
                    raise HookError(
                        f"The loss has shape {tuple(value.shape)}; make one number of it, for example by .sum()."
                    )
                value.backward()
        finally:
            for handle in handles:
                handle.remove()
        return outputs, cache


def _with_gradient(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
    """Where the weights are frozen, gradients begin at the first activation that is asked for."""
    return None if inputs[0].requires_grad else (inputs[0].detach().requires_grad_(),)
