"""Threads for many small fits."""

from __future__ import annotations

import torch

from workbench.threads import threaded


def test_fits_come_in_order_and_torch_keeps_its_number_of_threads():
    assert torch.get_num_threads() == 1
    assert threaded(lambda x: 2 * x, range(20)) == list(range(0, 40, 2))
    assert torch.get_num_threads() == 1
