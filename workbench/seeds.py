"""Random numbers that depend on what they are for, never on the order of the work."""

from __future__ import annotations

import hashlib

import numpy as np


def key(seed: int, *names: str) -> int:
    """64-bit key of a seed and names.

    Parameters
    ----------
    seed
        The run's one seed.
    *names
        What the numbers are for, for example ``("tokens", cell_id)``.

    Returns
    -------
    int
        From 0 to 2**64 - 1; the same on every machine.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (str(seed), *names):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    return int.from_bytes(digest.digest(), "little")


def generator(seed: int, *names: str) -> np.random.Generator:
    """NumPy generator of a seed and names.

    Parameters
    ----------
    seed, *names
        As in `key`.
    """
    return np.random.Generator(np.random.Philox(key(seed, *names)))
