"""A sparse dictionary of one hook: features and back, on the disk in SAELens's format, and whose it is.

What is computed is SAELens's arithmetic (`topk`, `standard`, `jumprelu` and their transcoders), written out here so that a dictionary
can be read, judged and spliced into a model without that package; training takes it, see `workbench.dictionaries.training`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from anndata import AnnData
from jaxtyping import Float
from torch import Tensor

from workbench.errors import ArtifactError, HookError, unknown_name
from workbench.files import digest
from workbench.models import CellModel

if TYPE_CHECKING:
    from workbench.dictionaries.judge import Judgement

TOPK, STANDARD, JUMPRELU, TRANSCODER, JUMPRELU_TRANSCODER = KNOWN = (
    "topk", "standard", "jumprelu", "transcoder", "jumprelu_transcoder",
)  # fmt: skip
_THRESHOLDED = (JUMPRELU, JUMPRELU_TRANSCODER)
_ACROSS = (TRANSCODER, JUMPRELU_TRANSCODER)


@dataclass(frozen=True)
class Origin:
    """What a dictionary was made of.

    Attributes
    ----------
    hook
        Full name of the hook whose activations are encoded.
    target
        Hook that is decoded to; the same, but for a transcoder.
    checkpoint, vocabulary
        Hash of the model and of its tokens; empty where the file does not say.
    inner
        Axes of an activation of a gene (of a cell at ``hook_cell``), such as (head, d_head) of ``hook_z``.
    scale
        Number by which activations were multiplied in training so that their mean norm was the root of their width; it is folded into the
        weights.
    seed, steps, reason
        Seed of the training, its steps, and why it stopped.
    trained_as
        Architecture in training; that of the weights may differ, as a `batchtopk` becomes a `jumprelu`.
    """

    hook: str
    target: str
    checkpoint: str = ""
    vocabulary: str = ""
    inner: tuple[int, ...] = ()
    scale: float = 1.0
    seed: int = 0
    steps: int = 0
    reason: str = ""
    trained_as: str = ""


class Dictionary:
    """Features of one hook's activations, few of which are active at once, and the way back.

    Make one with `Dictionary.train` or `Dictionary.from_pretrained`.

    Parameters
    ----------
    architecture
        What is computed, one of the names in `KNOWN`.
    weights
        ``W_enc`` (d_in, width), ``b_enc`` (width), ``W_dec`` (width, d_out), ``b_dec`` (d_out) and, with a threshold, ``threshold`` (width).
    origin
        What it was made of.
    k
        Active features of an activation, at most; of `topk` alone.
    centred
        Whether ``b_dec`` is taken off an activation before it is encoded.

    Raises
    ------
    ArtifactError
        If the architecture is unknown, or weights are absent or do not fit each other.
    """

    def __init__(
        self, architecture: str, weights: Mapping[str, Tensor], origin: Origin, *, k: int = 0, centred: bool = True
    ) -> None:
        if architecture not in KNOWN:
            raise ArtifactError(unknown_name("architecture of a dictionary", architecture, KNOWN))
        wanted = ["W_enc", "b_enc", "W_dec", "b_dec", *(["threshold"] if architecture in _THRESHOLDED else [])]
        if lacking := [name for name in wanted if name not in weights]:
            raise ArtifactError(
                f"A dictionary of architecture '{architecture}' lacks {', '.join(lacking)}; save it again."
            )
        (d_in, width), (_, d_out) = weights["W_enc"].shape, weights["W_dec"].shape
        shapes = {"b_enc": (width,), "W_dec": (width, d_out), "b_dec": (d_out,), "threshold": (width,)}
        for name in wanted[1:]:
            if tuple(weights[name].shape) != shapes[name]:
                raise ArtifactError(
                    f"{name} has shape {tuple(weights[name].shape)}, but W_enc is {d_in} by {width}; the file is of no dictionary."
                )
        if architecture == TOPK and not 1 <= k <= width:
            raise ArtifactError(f"A dictionary of {width} features has k {k}; k has to be from 1 to {width}.")
        if origin.inner and int(np.prod(origin.inner)) != d_in:
            raise ArtifactError(
                f"A dictionary of activations {origin.inner} has an input of {d_in}; the file is damaged."
            )
        self.weights = {name: weights[name].detach() for name in wanted}
        self.W_enc, self.b_enc, self.W_dec, self.b_dec = (self.weights[name] for name in wanted[:4])
        self.architecture, self.origin, self.k, self.centred = architecture, origin, k, centred
        self.transcodes = architecture in _ACROSS

    @property
    def hook(self) -> str:
        """Full name of the hook whose activations are encoded."""
        return self.origin.hook

    @property
    def width(self) -> int:
        """Number of features."""
        return self.W_enc.shape[1]

    @property
    def directions(self) -> Float[Tensor, "feature d_out"]:
        """What each feature writes, a row of length 1 each; the bias apart."""
        return self.W_dec

    def __repr__(self) -> str:
        return f"Dictionary({self.architecture}, {self.W_enc.shape[0]} -> {self.width}, {self.hook})"

    def to(self, device: torch.device | str) -> Dictionary:
        """The same dictionary on another device.

        Parameters
        ----------
        device
            As in `torch.Tensor.to`.
        """
        moved = {name: value.to(device) for name, value in self.weights.items()}
        return Dictionary(self.architecture, moved, self.origin, k=self.k, centred=self.centred)

    def encode(self, x: Tensor) -> Tensor:
        """Features of activations.

        Parameters
        ----------
        x
            Activations as the hook gives them: any axes in front, then those of ``origin.inner``.

        Returns
        -------
        Tensor
            The axes in front, then features; 0 where a feature is silent.
        """
        axes = max(len(self.origin.inner), 1)
        pre = x.to(self.W_enc.dtype).flatten(-axes)
        if self.centred and not self.transcodes:
            pre = pre - self.b_dec
        pre = pre @ self.W_enc + self.b_enc
        if self.architecture == TOPK:
            top = pre.topk(self.k, dim=-1, sorted=False)
            return torch.zeros_like(pre).scatter_(-1, top.indices, top.values.relu())
        acts = pre.relu()
        return acts * (pre > self.weights["threshold"]) if self.architecture in _THRESHOLDED else acts

    def decode(self, features: Tensor) -> Tensor:
        """Activations that features stand for.

        Parameters
        ----------
        features
            Any axes in front, then features.

        Returns
        -------
        Tensor
            The axes in front, then those of the hook that is decoded to.
        """
        flat = features @ self.W_dec + self.b_dec
        inner = self.origin.inner
        return flat if self.transcodes or len(inner) < 2 else flat.unflatten(-1, inner)

    def __call__(self, x: Tensor) -> Tensor:
        """The reconstruction of activations, ``decode(encode(x))``.

        Parameters
        ----------
        x
            As in `encode`.
        """
        return self.decode(self.encode(x))

    def check(self, model: CellModel, hook: str | None = None) -> None:
        """Refuse a model or a hook that it is not a dictionary of.

        Parameters
        ----------
        model
            The model whose activations are to be encoded.
        hook
            Full name of the hook; the dictionary's own when None.

        Raises
        ------
        HookError
            If hook, checkpoint or vocabulary is another; both are named.
        """
        if hook is not None and hook != self.hook:
            raise HookError(
                f"The dictionary is of '{self.hook}', but is asked for at '{hook}'; take one that was trained there."
            )
        if self.hook not in model.hook_dict:
            raise HookError(f"The dictionary is of '{self.hook}'. {unknown_name('hook', self.hook, model.hook_dict)}")
        found = {"checkpoint": model.fingerprint(), "vocabulary": vocabulary_hash(model)}
        for what, other in found.items():
            own = getattr(self.origin, what)
            if own and own != other:
                raise HookError(
                    f"The dictionary of '{self.hook}' was trained on the {what} {own[:8]}, but this model has {other[:8]}; take the model that "
                    "it was trained on, or train it anew."
                )

    @classmethod
    def train(
        cls,
        model: CellModel,
        cells: AnnData,
        hook: str,
        *,
        target: str | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        progress: bool = True,
        **settings: Any,
    ) -> Dictionary:
        """Train a dictionary of one hook; of several in one pass, see `train_dictionaries`.

        Parameters
        ----------
        model
            Model in evaluation mode; never changed.
        cells
            Cells as `workbench.load` returns them; hold some out beforehand, by `split_cells`.
        hook
            Name of a hook with a row per gene, or of ``hook_cell``.
        target
            Hook that is decoded to, for a transcoder such as from ``hook_resid_mid`` to ``hook_mlp_out``.
        seed, folder, progress
            As in `train_dictionaries`.
        **settings
            Settings of `DictionaryConfig`, by their keys there, such as ``width=2048, k=32``.
        """
        from workbench.dictionaries.settings import DictionaryConfig
        from workbench.dictionaries.training import train_dictionaries
        from workbench.engine.config import make_config

        config = make_config(DictionaryConfig, **settings)
        targets = None if target is None else {hook: target}
        found = train_dictionaries(
            model, cells, [hook], config, targets=targets, seed=seed, folder=folder, progress=progress
        )
        if len(found) > 1:
            raise HookError(f"'{hook}' names {len(found)} hooks; name one, or use train_dictionaries for all of them.")
        return next(iter(found.values()))

    def judge(self, model: CellModel, cells: AnnData, train: AnnData, **options: Any) -> Judgement:
        """What it is worth on held-out cells, beside simpler codes; see `workbench.dictionaries.judge.judge`.

        Parameters
        ----------
        model, cells, train
            The model, cells that were held out, and those that it was trained on.
        **options
            Further arguments of that function, by their names.
        """
        from workbench.dictionaries.judge import judge

        return judge(model, cells, self, train, **options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write it in SAELens's format: ``cfg.json`` and ``sae_weights.safetensors``.

        Parameters
        ----------
        folder
            Where the two files go; it is made.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        OutputError
            If other files of these names are there.
        """
        from workbench.dictionaries.pretrained import write_dictionary

        return write_dictionary(self, Path(folder).expanduser())

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, hook: str | None = None, device: torch.device | str = "cpu"
    ) -> Dictionary:
        """Read a dictionary that `save_pretrained` or SAELens has written.

        Parameters
        ----------
        folder
            Folder with ``cfg.json`` and ``sae_weights.safetensors``; nothing in it is executed.
        hook
            Hook that it is of, where a file of SAELens does not say so.
        device
            Where the weights are to lie.

        Raises
        ------
        ArtifactError
            If a file is absent or damaged, the architecture unknown, or activations were to be normalised at run time.
        HookError
            If the file says that it is of another hook, or of none and no hook is given.
        """
        from workbench.dictionaries.pretrained import read_dictionary

        return read_dictionary(Path(folder).expanduser(), hook).to(device)


def vocabulary_hash(model: CellModel) -> str:
    """Hash of a model's tokens and their ids.

    Parameters
    ----------
    model
        Model whose vocabulary is meant.
    """
    return digest(dict(model.vocabulary.ids))
