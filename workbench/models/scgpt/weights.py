"""A checkpoint's weights file: which one it is, reading it without running code, and refusing what are no weights."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from workbench.errors import CheckpointError
from workbench.models.scgpt.layout import PARTS, upstream_name

WEIGHTS = "best_model.pt"
_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
# What PyTorch's restricted unpickler says about objects that are no tensors, as against bytes that are no pickle.
_CODE = ("GLOBAL ", "unrecognized function", "Can only create new object", "Can only build")


def weights_file(folder: Path) -> Path | None:
    """The weights of a checkpoint folder; None where there are none.

    Parameters
    ----------
    folder
        Folder that is there. ``best_model.pt`` is taken where it is there, else the only file of weights.

    Raises
    ------
    CheckpointError
        If several files could be meant.
    """
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    found = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in _SUFFIXES)
    if len(found) > 1:
        raise CheckpointError(
            f"'{folder}' holds several files of weights ({', '.join(file.name for file in found[:6])}); rename the one that you mean "
            f"{WEIGHTS}, or keep it alone beside args.json."
        )
    return found[0] if found else None


def read_weights(path: Path) -> object:
    """What a weights file holds; nothing in it is run.

    Parameters
    ----------
    path
        File of `torch.save`, of any age, or of safetensors.

    Raises
    ------
    CheckpointError
        If it is damaged, is no such file, or holds objects other than tensors and plain data.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch puts a paragraph of advice before what went wrong.
        detail = str(error).rpartition("WeightsUnpickler error: ")[2].partition("\n")[0][:160] or type(error).__name__
        if any(sign in detail for sign in _CODE):
            raise CheckpointError(
                f"'{path}' holds pickled Python objects beside tensors, which could run code when read, so it was refused "
                f"({detail}). Save model.state_dict() alone."
            ) from error
        raise CheckpointError(f"'{path}' is corrupt or no PyTorch file ({detail}); fetch it again.") from error
    except CheckpointError:
        raise
    except Exception as error:  # damaged bytes can fail anywhere in the readers
        first = (str(error).splitlines() or [""])[0][:160]
        if isinstance(error, OSError) and error.filename is None:
            first = "it ends before its tensors do"
        kind = "safetensors" if path.suffix == ".safetensors" else "PyTorch"
        raise CheckpointError(
            f"'{path}' is corrupt or no {kind} file ({first or type(error).__name__}); fetch it again."
        ) from error


def _check_sums(path: Path) -> None:
    """Compare the checksums that a zip file has of its own parts, which PyTorch does not do."""
    if not zipfile.is_zipfile(path):
        return  # a file in PyTorch's older format, which has none, or no PyTorch file
    with zipfile.ZipFile(path) as archive:
        # torch.serialization.set_crc32_options(False) writes zeros.
        if any(part.CRC for part in archive.infolist()) and (broken := archive.testzip()):
            raise CheckpointError(
                f"'{path}' is corrupt or no PyTorch file (the checksum of its part {broken} is another than when it was saved). Fetch it "
                "again."
            )


def check_tensors(state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are no plain numbers, before anything is computed from them.

    Parameters
    ----------
    state
        Tensors by upstream name; those that belong to no part of the model are left alone.

    Raises
    ------
    CheckpointError
        If a tensor is complex, whole numbers, sparse, quantised, without its numbers, or larger than what the file holds.
    """
    for name, tensor in state.items():
        if not name.startswith(PARTS) or name.endswith(".num_batches_tracked"):
            continue
        if tensor.is_meta:
            found = "has a shape but no numbers (a 'meta' tensor)"
        elif tensor.layout is not torch.strided:
            found = f"is sparse ({str(tensor.layout).removeprefix('torch.')})"
        elif not tensor.dtype.is_floating_point:
            found = f"holds {str(tensor.dtype).removeprefix('torch.')} numbers"
        elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            found = f"claims {tensor.numel():,} numbers, of which the file holds {tensor.untyped_storage().nbytes() // tensor.element_size():,}"
        else:
            continue
        raise CheckpointError(
            f"The weight {name} {found}; a model needs dense floating-point weights. Save model.float().state_dict() of the whole "
            "model, as it was trained."
        )


def check_numbers(weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are NaN or infinite, of which every result would be NaN.

    Parameters
    ----------
    weights
        Weights by the names of `HookedScGPT`, in the float type that they will be computed with.

    Raises
    ------
    CheckpointError
        If there are any; tensor and count are named.
    """
    for name, value in weights.items():
        # Both ends are finite where all is: one pass, and no copy.
        if value.numel() and not all(end.isfinite() for end in value.aminmax()):
            bad = value.numel() - int(value.isfinite().sum())
            raise CheckpointError(
                f"The weight {upstream_name(name)} holds {bad:,} numbers of {value.numel():,} that are NaN or infinite"
                f"{'' if value.dtype == torch.float32 else f' as {value.dtype}'.replace('torch.', '')}: every result would be NaN. "
                "The training failed, or the file is damaged; use an earlier checkpoint."
            )
        if name.endswith("running_var") and bool((value < 0).any()):
            raise CheckpointError(f"The {upstream_name(name)} holds negative variances; the checkpoint is damaged.")
