"""What a running sum in half precision loses: counted as by hand, and measured on the shipped checkpoint and cells."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import load_script


@pytest.fixture(scope="module")
def script():
    return load_script("float16_sums")


def test_ones_are_lost_beyond_2048(script):
    sums = script._Sums(np.array([0]), 1)
    sums.open(SimpleNamespace(shapes={"hook": SimpleNamespace(inner=(1,))}))
    tokens = SimpleNamespace(
        gene_ids=torch.zeros(2100, 1, dtype=torch.long), genes=torch.ones(2100, 1, dtype=torch.bool)
    )
    sums.update("hook", torch.ones(2100, 1, 1, 1), tokens)
    # 2048 + 1 is 2048 in half precision.
    assert (sums.half.item(), sums.double.item(), sums.lost, sums.terms) == (2048, 2100, 52, 2100)


@pytest.mark.slow  # maps of all heads between all genes of the shipped checkpoint, twice
def test_both_inputs_are_measured_on_what_ships(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "CELLS", 3)
    script.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["scGPT's own input", "the paper's input"]
    assert all("n = 3 cells" in line and "nan" not in line for line in lines)
