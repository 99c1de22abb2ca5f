"""Random numbers keyed by what they are for."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from workbench.seeds import generator, key, order_of


def test_a_key_is_the_hash_of_its_parts_with_their_lengths():
    parts = b"".join(len(part).to_bytes(4, "little") + part for part in (b"7", b"tokens", "é".encode()))
    assert key(7, "tokens", "é") == int.from_bytes(hashlib.blake2b(parts, digest_size=8).digest(), "little")


def test_keys_tell_their_parts_apart():
    keys = [key(0), key(1), key(0, "a"), key(0, "a", "b"), key(0, "ab"), key(0, "b", "a"), key(0, "", "ab"), key(-1)]
    assert len(set(keys)) == len(keys)
    assert all(0 <= k < 2**64 for k in keys)


def test_keys_are_spread_evenly():
    keys = np.array([key(0, "held-out", f"cell{i}") for i in range(4000)], dtype=np.uint64)
    assert stats.kstest(keys / 2**64, "uniform").pvalue > 0.001
    assert stats.chisquare(np.bincount((keys & np.uint64(15)).astype(int), minlength=16)).pvalue > 0.001


def test_generators_repeat_and_differ():
    assert np.array_equal(generator(3, "a").random(5), generator(3, "a").random(5))
    assert not np.array_equal(generator(3, "a").random(5), generator(3, "b").random(5))
    assert not np.array_equal(generator(3, "a").random(5), generator(4, "a").random(5))


def test_the_order_of_the_work_means_nothing():
    first = [generator(0, name).random() for name in "abc"]
    np.random.seed(9)
    assert [generator(0, name).random() for name in "cba"][::-1] == first


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_keys_do_not_depend_on_the_process(hash_seed):
    code = "from workbench.seeds import key; print(key(5, 'x', 'y'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == key(5, "x", "y")


def test_an_order_is_that_of_the_keys_of_its_names():
    names = [f"cell{i}" for i in range(50)]
    assert order_of(3, names, "shift").tolist() == sorted(range(50), key=lambda i: key(3, "shift", names[i]))
