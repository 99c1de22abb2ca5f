"""Which implementation reads a checkpoint folder, and what it says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from workbench.errors import CheckpointError
from workbench.models.devices import find_device
from workbench.models.protocol import CellModel, ModelShape
from workbench.models.vocabulary import Vocabulary


@dataclass(frozen=True)
class LoadReport:
    """How a checkpoint was read.

    Attributes
    ----------
    source
        Path of the folder, or ``"live model"``.
    layout
        Key layout of the attention weights, in the implementation's own words.
    wrapper, prefix
        Dictionary key and name prefix that were peeled off (empty when none).
    loaded
        Tensors read, by their upstream name.
    missing
        Tensors of optional decoders that are absent; missing encoder tensors are an error instead.
    unexpected
        Tensors that no part of the model takes.
    ignored
        Known training-only tensors that inference does not use.
    mismatched
        Optional decoder tensors whose shape does not fit, with both shapes; that decoder is left out.
    sha256
        Of the files that were read, by file name, the weights first (empty for a live model).
    release
        Published release that the weights' hash is known of; None for others.
    n_parameters
        Numbers in the loaded tensors.
    input
        Settings of the checkpoint that change what cells are fed as: name, value, and what is done about it.
    """

    source: str
    layout: str
    wrapper: str
    prefix: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    ignored: tuple[str, ...]
    mismatched: tuple[str, ...]
    sha256: Mapping[str, str]
    release: str | None
    n_parameters: int
    input: tuple[tuple[str, str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for JSON."""
        return asdict(replace(self, sha256=dict(self.sha256)))


@dataclass(frozen=True)
class Contents:
    """A checkpoint that was read and is no model yet; each architecture has a class of its own.

    Attributes
    ----------
    config, vocabulary, report
        As the model will have them.
    tensors
        Its weights by the names of the model, on the processor and in the float type of the file.
    n_hooks
        Number of hook points that the model will have.
    architecture
        Name of the architecture, as `workbench inspect` shows it.
    """

    config: ModelShape
    vocabulary: Vocabulary
    report: LoadReport
    tensors: Mapping[str, Tensor]
    n_hooks: int
    architecture: ClassVar[str]

    def model(self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> CellModel:
        """The model, in evaluation mode, without gradients.

        Parameters
        ----------
        device, dtype
            Where the weights go, and their float type.

        Raises
        ------
        CheckpointError
            If a weight is NaN or infinite in that type.
        """
        raise NotImplementedError


def as_model(model: Any) -> CellModel:
    """A model, or that of a checkpoint folder, on the first device that there is.

    Parameters
    ----------
    model
        Model that was loaded, or the path of its folder.

    Raises
    ------
    CheckpointError
        If it is neither, such as cells in the model's place; or as `load_model`.
    """
    if isinstance(model, str | Path):
        return load_model(model, device="auto")
    if not hasattr(model, "tokenizer"):
        places = ": the model and the cells have changed places" if hasattr(model, "obs") else ""
        raise CheckpointError(
            f"A model is asked for, as workbench.load_model gives it, or the path of its folder; found {type(model).__name__}{places}."
        )
    found: CellModel = model
    return found


def load_model(
    path: str | Path, *, device: str | torch.device | Sequence[str] = "cpu", dtype: torch.dtype = torch.float32
) -> CellModel:
    """Read a checkpoint folder; which implementation reads it follows from the files in it.

    Parameters
    ----------
    path
        Folder. scGPT: ``args.json``, ``vocab.json`` and ``best_model.pt`` (or one other file of weights: .pt, .pth, .ckpt,
        .bin or .safetensors), as its authors and `save_checkpoint` write them; needs no scgpt, torchtext or flash-attn.
    device
        Where the weights go, as `find_device` takes it: ``"cuda"``, ``"auto"`` and so on; batches follow them.
    dtype
        Float type of the weights; half precision halves the memory and has three digits.

    Returns
    -------
    CellModel
        In evaluation mode, without gradients; ``model.report`` says what was read and what was not.

    Raises
    ------
    CheckpointError
        If the folder is not there or holds no model that can be read, or a file is corrupt, holds code, or lacks a
        tensor of the encoder.
    VocabularyError
        If the vocabulary lacks ``<pad>`` or does not fit the embedding.
    ConfigError
        If the device is not there.
    """
    device = find_device(device)
    return read_model(path).model(device, dtype)


def read_model(path: str | Path) -> Contents:
    """Read a checkpoint folder without making its model, which needs neither transformer-lens nor a device.

    Parameters
    ----------
    path
        As in `load_model`.

    Raises
    ------
    CheckpointError, VocabularyError
        As `load_model` does.
    """
    # Here, because the architectures import from this package.
    from workbench.models.scgpt.reading import FILES, read_checkpoint
    from workbench.models.scgpt.weights import WEIGHTS, weights_file

    readers = {"scGPT": ((*FILES, WEIGHTS), weights_file, read_checkpoint)}
    folder = Path(path).expanduser()
    if not folder.is_dir():
        wanted = "; ".join(f"{name}: {_listed(files)}" for name, (files, *_) in readers.items())
        instead = f" It is a file; its folder is '{folder.parent}'." if folder.is_file() else ""
        raise CheckpointError(
            f"There is no checkpoint folder '{folder}'; give the folder of a model ({wanted}).{instead}"
        )
    there = {file.name for file in folder.iterdir() if file.is_file()}
    lacking = []
    for name, (files, weights, read) in readers.items():
        lacks = [file for file in files if file not in there]
        if lacks == [WEIGHTS] and weights(folder) is not None:
            lacks = []
        if not lacks:
            return read(folder)
        lacking.append(f"{name} needs {_listed(files)} and lacks {_listed(lacks)}")
    held = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) or "nothing"
    adapter = " It holds adapters (PEFT): merge them into the model first." if "adapter_config.json" in there else ""
    raise CheckpointError(
        f"The checkpoint folder '{folder}' is of no model that can be read: {'; '.join(lacking)} (it holds {held}).{adapter}"
    )


def _listed(names: Sequence[str]) -> str:
    """Names as part of a sentence."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
