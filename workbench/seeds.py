"""Random numbers that depend on what they are for, never on the order of the work."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def key(seed: int, *names: str) -> int:
    """64-bit key of a seed and names.

    Parameters
    ----------
    seed
        The run's one seed, any whole number.
    *names
        What the numbers are for, for example ``("tokens", cell_id)``.

    Returns
    -------
    int
        From 0 to 2**64 - 1; the same on every machine.

    Examples
    --------
    >>> from workbench.seeds import key
    >>> key(0, "tokens", "cell-1")
    17930431520776489695
    """
    return int.from_bytes(_hashed(hashlib.blake2b(digest_size=8), str(seed), *names).digest(), "little")


def _hashed(digest: hashlib.blake2b, *names: str) -> hashlib.blake2b:
    """A hash with names added, each with its length before it."""
    for part in names:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    return digest


def order_of(seed: int, names: Sequence[str] | np.ndarray, *what: str) -> np.ndarray:
    """Order of named things that their own order does not change: numbers of them, by a key of seed and name.

    Parameters
    ----------
    seed
        The run's one seed, any whole number.
    names
        Name of each thing, such as a cell.
    *what
        What the order is for, as in `key`.

    Returns
    -------
    ndarray
        Place of each of them among the names, whole numbers.
    """
    common = _hashed(hashlib.blake2b(digest_size=8), str(seed), *what)
    digests = b"".join(_hashed(common.copy(), str(name)).digest() for name in names)
    return np.argsort(np.frombuffer(digests, "<u8"), kind="stable")


def generator(seed: int, *names: str) -> np.random.Generator:
    """NumPy generator of a seed and names.

    Parameters
    ----------
    seed
        The run's one seed, any whole number.
    *names
        What the numbers are for, as in `key`: other names give an independent stream.

    Examples
    --------
    >>> from workbench.seeds import generator
    >>> generator(0, "shuffle").permutation(5).tolist()
    [4, 1, 0, 2, 3]
    """
    return np.random.Generator(np.random.Philox(key(seed, *names)))
