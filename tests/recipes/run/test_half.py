"""Runs in half precision: near those in single precision, sums in single precision, and all of it said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fixtures_run import write

from workbench.cli import main
from workbench.engine import recipe
from workbench.engine.stages import run_all
from workbench.files import read_json
from workbench.operators.store import StoredOperators

LITTLE = ("evaluation.holdouts=1", "evaluation.refits=1", "evaluation.permutations=2", "adaptor.tol=0.1")


@pytest.fixture(scope="module")
def ran(cells, checkpoint, tmp_path_factory):
    """By float type: the folder of a run, and what it said on stderr."""
    folder = tmp_path_factory.mktemp("half")
    config = write(folder, checkpoint, cells)

    def run(kind: str, capsys):
        if not (out := folder / kind).exists():
            sets = [part for one in LITTLE for part in ("--set", one)]
            with pytest.MonkeyPatch.context() as patch:
                if kind == "float32":  # of which the operators alone are looked at
                    patch.setattr(recipe, "run_all", lambda runner, stages, parts: run_all(runner, stages[:3], parts))
                    patch.setattr(recipe, "write_results", lambda *_: ())
                assert main(["extract", str(config), "--out", str(out), "--dtype", kind, "--device", "cpu", *sets]) == 0
        return out, capsys.readouterr().err

    return run


@pytest.mark.parametrize(("kind", "bound"), [("bfloat16", 2e-2), ("float16", 2e-3)])
def test_mean_maps_of_a_half_type_are_near_those_of_single_precision(ran, capsys, kind, bound):
    (single, _), (half, said) = ran("float32", capsys), ran(kind, capsys)
    wanted, found = (StoredOperators(out / "stages" / "operators") for out in (single, half))
    np.testing.assert_array_equal(found.counts, wanted.counts)
    for head in ((0, 0), (2, 1)):
        one, other = found.head(*head), wanted.head(*head)
        assert one.dtype == np.float32 and 0 < np.abs(one - other).max() < bound * np.abs(other).max()
    assert f"threads), {kind}" in said or f"thread), {kind}" in said


def test_device_and_type_stand_in_manifest_and_report(ran, capsys):
    out, _ = ran("bfloat16", capsys)
    manifest = read_json(out / "manifest.json")
    assert manifest["device"].startswith("cpu (") and manifest["device"].endswith("bfloat16")
    assert manifest["config"]["dtype"] == "bfloat16" and manifest["config"]["device"] == "cpu"
    assert json.dumps(manifest["device"])[1:-1] in (out / "report.html").read_text()
