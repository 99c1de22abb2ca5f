"""Writing files so that a reader never sees half of one, and hashing what a result depends on."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import platform
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from workbench.errors import ArtifactError, OutputError

PART = ".part"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def atomically(path: Path, write: Callable[[Path], object], new: bool = False) -> Path:
    """Write a file beside its place, then move it there, so that an interruption leaves the old one or the new one.

    What processes that were killed have left beside it is removed.

    Parameters
    ----------
    path
        Where the file belongs; its folder is made.
    write
        Writes to the path it is given.
    new
        Whether a file that appeared there meanwhile is left as it is, which is an error then.

    Raises
    ------
    OutputError
        If the folder cannot be written, the disk is full, or a file that has to be new is there already.
    """
    # Named before it is there: an interruption at any moment finds what to remove.
    part = path.parent / f".{path.name}.{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}{PART}"
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_parts(path.parent, path.name)
            part.touch()
        except OSError as error:
            raise OutputError(f"'{path.parent}' cannot be written ({error}); choose another output folder.") from error
        write(part)
        with open(part, "rb") as written:
            os.fsync(written.fileno())  # else a power cut may leave the new name on an empty file
        os.chmod(part, 0o644)
        if new:
            _link(part, path)
        else:
            os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if is_full(error):
            raise OutputError(
                f"The disk is full: '{path}' cannot be written. Make room, and give the same command again."
            ) from error
        raise
    return path


def _link(part: Path, path: Path) -> None:
    """Give a file a name that must not be taken, in one step where the file system can."""
    try:
        os.link(part, path)
    except FileExistsError as error:
        raise OutputError(
            f"'{path}' was written by another process meanwhile and is not overwritten; choose another with --out."
        ) from error
    except OSError:  # no hard links here
        os.rename(part, path)
    else:
        part.unlink()


def remove_parts(folder: Path, name: str = "*") -> list[Path]:
    """Remove halves of files whose writers on this machine are no more.

    Parameters
    ----------
    folder
        Folder of the files; folders in it are not looked at.
    name
        Name of the file that the halves were to become; those of any file by default.

    Returns
    -------
    list of Path
        What was removed. Halves of other machines stay, for their writers may be at work.
    """
    removed = []
    shown, matched = ("*", ".+") if name == "*" else (glob.escape(name), re.escape(name))
    writer = rf"\.{matched}\.{re.escape(platform.node())}-([0-9]+)-[^-]*{re.escape(PART)}"
    for part in folder.glob(f".{shown}.*{PART}"):
        found = re.fullmatch(writer, part.name)
        if found and part.is_file() and not _runs(int(found[1])):
            part.unlink(missing_ok=True)
            removed.append(part)
    return removed


def _runs(process: int) -> bool:
    import psutil

    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk, a quota that is used up or a limit on the size of files is what an error comes from.

    Parameters
    ----------
    error
        What was raised, by whatever library; those that it comes from are looked at, too.
    """
    while error is not None:
        # Writers in other languages give the text alone.
        known = isinstance(error, OSError) and error.errno in _FULL
        if known or any(text in str(error) for text in map(os.strerror, _FULL)):
            return True
        error = error.__cause__ or error.__context__
    return False


def keep_others(folder: Path, names: Iterable[str], mark: Path, *keys: str) -> None:
    """Refuse to write over files that the workbench did not make, before any is written.

    Parameters
    ----------
    folder
        Where files would be written; it need not exist.
    names
        Names of the files that would be written.
    mark
        JSON file that the workbench writes there first, by which it knows its own.
    *keys
        Keys that tell this file from one of another origin.

    Raises
    ------
    OutputError
        If there is a file of one of the names, and no such mark.
    """
    taken = [name for name in names if (folder / name).exists()]
    try:
        found = json.loads(mark.read_text(encoding="utf-8")) if taken else {}
    except (OSError, ValueError):
        found = None
    if taken and not (isinstance(found, dict) and set(keys) <= set(found)):
        raise OutputError(
            f"'{folder}' holds {', '.join(taken)}, which the workbench did not make and would overwrite; choose another folder."
        )


def write_text(path: Path, text: str) -> Path:
    """Write text atomically.

    Parameters
    ----------
    path
        File to write; its folder is made, an old file is replaced.
    text
        Whole content of the file, written in UTF-8.
    """

    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    return atomically(path, write)


def write_json(path: Path, value: Any) -> Path:
    """Write JSON atomically; NumPy numbers become plain ones, NaN becomes null.

    Parameters
    ----------
    path
        File to write, as in `write_text`.
    value
        Dicts, lists, NumPy arrays and numbers, paths, strings, see `plain`.
    """
    return write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON that the workbench wrote.

    Parameters
    ----------
    path
        JSON file in UTF-8; missing or broken ones are an `ArtifactError`.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"'{path}' cannot be read as JSON ({error}); make it again.") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> Path:
    """Write named arrays as safetensors, atomically.

    Parameters
    ----------
    path
        File to write, by custom with the ending ``.safetensors``.
    arrays
        Arrays by name, of any shape and order; stored in C order.
    metadata
        Strings kept in the header, in alphabetical order; none when None.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    strings = dict(sorted((metadata or {}).items()))

    def write(part: Path) -> None:
        save_file(contiguous, part, strings)
        # The library writes strings in an order of chance. Sorted they take as many bytes, and the same content has the same ones.
        with open(part, "r+b") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) | ({"__metadata__": strings} if strings else {})
            file.seek(8)
            file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))

    return atomically(path, write)


def read_arrays(path: Path, names: Sequence[str] | None = None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read named arrays and the header strings of a safetensors file.

    Parameters
    ----------
    path
        File that `write_arrays` or another writer of safetensors made.
    names
        Only these arrays are read; all when None. An unknown name is an error.

    Raises
    ------
    ArtifactError
        If the file is missing, truncated or no safetensors file.
    """
    try:
        with safe_open(path, framework="numpy") as handle:
            wanted = list(handle.keys()) if names is None else names
            return {name: handle.get_tensor(name) for name in wanted}, dict(handle.metadata() or {})
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtifactError(
            f"'{path}' is missing, truncated or no safetensors file ({str(error)[:120]}); make it again."
        ) from error


def write_state(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> Path:
    """Write what interrupted work goes on from as one file: a kill leaves the old state or the new one.

    Parameters
    ----------
    path
        File to write, by custom with the ending ``.safetensors``.
    arrays
        Arrays by name, of any shape and order.
    about
        What else belongs to the state, JSON-ready.
    """
    text = json.dumps(plain(about))
    return write_arrays(path, arrays, {"about": text, "hash": _seal(text, arrays)})


def read_state(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """What `write_state` wrote; None where there is none, or one that was damaged since, which is said.

    Parameters
    ----------
    path
        File that `write_state` wrote, or a place where there is none yet.
    """
    if not path.is_file():
        return None
    try:
        arrays, header = read_arrays(path)
    except ArtifactError:
        arrays, header = {}, {}
    if header.get("hash") == _seal(header.get("about", ""), arrays):
        return arrays, json.loads(header["about"])
    print(f"'{path}' was changed since it was saved; what it was a state of starts again", file=sys.stderr)
    return None


def _seal(about: str, arrays: Mapping[str, np.ndarray]) -> str:
    return digest(about, *(part for name in sorted(arrays) for part in (name, arrays[name])))


def plain(value: Any) -> Any:
    """JSON-ready copy of nested data.

    Parameters
    ----------
    value
        Dicts, lists, NumPy arrays and numbers, paths, strings.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.files import plain
    >>> plain({"n": np.int64(3), "loss": np.array([0.5, np.nan])})
    {'n': 3, 'loss': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def digest(*parts: Any) -> str:
    """Hash of nested data and arrays.

    Parameters
    ----------
    *parts
        JSON-ready data or arrays; their order, dtypes and shapes count, the order of keys does not.

    Returns
    -------
    str
        32 hex digits.

    Examples
    --------
    >>> from workbench.files import digest
    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    out = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            out.update(f"\n{part.dtype}{part.shape}\n".encode())
            # Bytes where they lie: a copy of sums of some gigabytes would double the memory of a save.
            out.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        else:
            out.update(f"\n{json.dumps(plain(part), sort_keys=True)}\n".encode())
    return out.hexdigest()


def hash_bytes(data: bytes) -> str:
    """Hash of bytes, the same as `hash_file` gives for a file that holds them.

    Parameters
    ----------
    data
        Any bytes; none at all have a hash, too.

    Returns
    -------
    str
        32 hex digits.
    """
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def hash_file(path: Path) -> str:
    """Hash of a file's content, read in blocks.

    Parameters
    ----------
    path
        An existing file of any size; only its bytes count.

    Returns
    -------
    str
        32 hex digits.
    """
    out = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            out.update(block)
    return out.hexdigest()
