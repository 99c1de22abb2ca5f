"""Threads for many small fits."""

from __future__ import annotations

import time

import pytest
import torch

from workbench.threads import ahead, threaded


def test_fits_come_in_order_and_torch_keeps_its_number_of_threads():
    assert torch.get_num_threads() == 1
    assert threaded(lambda x: 2 * x, range(20)) == list(range(0, 40, 2))
    assert torch.get_num_threads() == 1


def test_the_next_part_is_made_while_one_is_worked_on_and_its_error_is_raised():
    made = []

    def parts():
        for i in range(4):
            made.append(i)
            yield i
        raise ValueError("no more")

    seen = []
    with pytest.raises(ValueError, match="no more"):
        for part in ahead(parts()):
            time.sleep(0.02)
            seen.append((part, len(made)))
    assert [part for part, _ in seen] == [0, 1, 2, 3] and [so_far for _, so_far in seen[:3]] == [2, 3, 4]
    assert next(iter(ahead([None]))) is None, "any part is a part"
