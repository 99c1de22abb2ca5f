"""A pass in parts gives what one pass gives, whoever does the parts and whoever of them is killed."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers import genes, tiny_cells, tiny_model

from workbench.capture import GenePairSink, HookFilter, MemorySink, MomentsSink, ShardSink, capture
from workbench.capture import parts as module
from workbench.capture.activations import hook_shapes
from workbench.capture.parts import Pass, capture_in_parts, goes_in_parts
from workbench.capture.pooled import RESIDUALS, Clock, PooledSink
from workbench.capture.record import STATE
from workbench.capture.sinks import Plan
from workbench.engine.sweep import Backend
from workbench.errors import ArtifactError, CellsError, CheckpointError, HookError
from workbench.files import read_state, write_state

GENE, PATTERNS, CELL = "blocks.1.hook_resid_post", "blocks.*.attn.hook_pattern", "hook_cell"
PANEL, N, SAVE = genes()[5:25], 23, 3
TWO = Backend("loky", 2, progress=False)


def passing(seed=1):
    model, cells = tiny_model(seed=seed), tiny_cells(N, seed=7)
    groups = {cell: i % 3 for i, cell in enumerate(cells.obs_names)}
    sinks = [
        HookFilter(PATTERNS, GenePairSink(PANEL, model.vocabulary, groups, "float64")),
        HookFilter(GENE, MomentsSink()),
        HookFilter(CELL, MemorySink()),
        HookFilter(RESIDUALS, PooledSink()),
    ]
    return Pass(model, model.tokenizer(cells), [PATTERNS, RESIDUALS, CELL], sinks, 2)


@dataclass(frozen=True)
class Dies:
    """Makes the pass; the first worker that comes to these cells is killed in the middle of them."""

    mark: Path
    cell: str = "cell15"

    def __call__(self):
        made = passing()
        return Pass(
            made.model,
            made.tokens,
            made.hooks,
            [HookFilter(PATTERNS, Killed(self, made.sinks[0].sink)), *made.sinks[1:]],
            2,
        )


class Killed:
    def __init__(self, by, sink):
        self.by, self.sink, self.identity = by, sink, sink.identity

    def __getattr__(self, name):
        return getattr(self.sink, name)

    def update(self, hook, activation, tokens):
        if self.by.cell in tokens.cell_ids and not self.by.mark.exists():
            self.by.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self.sink.update(hook, activation, tokens)


@pytest.fixture(scope="module")
def whole():
    made = passing()
    report = capture(made.model, made.tokens, made.hooks, made.sinks, batch_size=2, progress=False)
    return made.sinks, report.n_tokens


def assert_same(sinks, whole):
    (pairs, moments, memory, pooled), (pairs_, moments_, memory_, pooled_) = (
        [s.sink for s in x] for x in (sinks, whole[0])
    )
    for group in range(3):
        one, other = pairs.group(group), pairs_.group(group)
        np.testing.assert_allclose(one.sums, other.sums, rtol=1e-12, atol=1e-12)
        assert (one.counts == other.counts).all() and one.hooks == other.hooks
    for a, b in zip(moments.result(GENE), moments_.result(GENE), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert memory.result().cell_ids == memory_.result().cell_ids
    np.testing.assert_allclose(memory.result().values[CELL], memory_.result().values[CELL], atol=1e-6)
    for name, vectors in pooled_.result().items():
        np.testing.assert_allclose(pooled.result()[name], vectors, atol=1e-6)


@pytest.mark.parametrize("workers", [2, 7, pytest.param(40, marks=pytest.mark.slow)])
def test_parts_add_up_to_one_pass_whatever_their_number(tmp_path, whole, monkeypatch, workers):
    monkeypatch.setattr(module, "count_workers", lambda backend: workers)
    own = passing()
    n = capture_in_parts(own, passing, tmp_path, Backend(progress=False), SAVE)
    assert n == whole[1] and len(list(tmp_path.glob("cells-*"))) == min(workers, N)
    assert_same(own.sinks, whole)


@pytest.mark.slow
def test_workers_give_what_one_pass_gives(tmp_path, whole):
    own = passing()
    assert goes_in_parts(tmp_path, TWO) and not goes_in_parts(tmp_path, Backend("loky", 1))
    assert not goes_in_parts(tmp_path, Backend("threading", 2)) and not goes_in_parts(
        tmp_path, Backend("sequential", 2)
    )
    assert capture_in_parts(own, passing, tmp_path, TWO, SAVE) == whole[1]
    assert_same(own.sinks, whole)
    assert goes_in_parts(tmp_path, Backend()), "it goes on in the parts that it was begun in"


@pytest.mark.slow
def test_the_part_of_a_worker_that_is_killed_goes_on_at_its_last_save(tmp_path, whole, capfd):
    own, mark = passing(), tmp_path / "killed"
    dies = Dies(mark)
    # Its sinks have another name, by which states are told apart; so it is asked for here as well.
    own = dies()
    assert capture_in_parts(own, dies, tmp_path / "state", TWO, SAVE) == whole[1]
    assert mark.exists() and "a worker was killed" in capfd.readouterr().err
    assert_same([HookFilter(PATTERNS, own.sinks[0].sink.sink), *own.sinks[1:]], whole)


@pytest.mark.slow
def test_a_dask_cluster_of_three_workers_one_of_which_is_killed(tmp_path, whole):
    distributed = pytest.importorskip("distributed")
    dies = Dies(tmp_path / "killed")
    own = dies()
    with distributed.LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as cluster:
        backend = Backend("dask", address=cluster.scheduler_address, progress=False)
        assert capture_in_parts(own, dies, tmp_path / "state", backend, SAVE) == whole[1]
    assert dies.mark.exists() and len(list((tmp_path / "state").glob("cells-*"))) == 3
    assert_same([HookFilter(PATTERNS, own.sinks[0].sink.sink), *own.sinks[1:]], whole)


def begun(tmp_path, monkeypatch, again=passing):
    monkeypatch.setattr(module, "count_workers", lambda backend: 4)
    return capture_in_parts(passing(), again, tmp_path, Backend(progress=False), SAVE)


def test_finished_parts_are_kept_and_a_lost_one_is_done_again_alone(tmp_path, whole, monkeypatch):
    begun(tmp_path, monkeypatch)
    files = sorted(tmp_path.glob(f"cells-*/{STATE}"))
    files[1].unlink()
    before = [file.stat().st_mtime_ns for file in files if file.exists()]
    monkeypatch.setattr(module, "count_workers", lambda backend: 9)
    own = passing()
    assert capture_in_parts(own, passing, tmp_path, Backend(progress=False), SAVE) == whole[1]
    assert [file.stat().st_mtime_ns for file in files if file != files[1]] == before, (
        "boundaries stay as they were begun"
    )
    assert_same(own.sinks, whole)
    write_state(files[0], {}, {"identity": "another", "done": 1})
    files[0].write_bytes(files[0].read_bytes()[:-3])
    with pytest.raises(ArtifactError, match="was changed; remove it"):
        begun(tmp_path, monkeypatch)


def test_a_worker_with_another_checkpoint_or_version_is_refused(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"another checkpoint .*: \w+, not \w+\. Give workers"):
        begun(tmp_path / "checkpoint", monkeypatch, lambda: passing(seed=2))
    monkeypatch.setattr(module, "capture_part", lambda *given: REAL(*given[:4], ("0.0", given[4][1])))
    with pytest.raises(CheckpointError, match=r"another version .*, not 0\.0"):
        begun(tmp_path / "version", monkeypatch)


REAL = module.capture_part


def test_a_sink_that_cannot_be_joined_and_too_little_memory_are_refused_before_any_work(tmp_path, monkeypatch):
    made = passing()
    for sink in (ShardSink(tmp_path / "shards"), HookFilter(CELL, ShardSink(tmp_path / "shards"))):
        with pytest.raises(HookError, match="A ShardSink cannot be filled in parts"):
            capture_in_parts(Pass(made.model, made.tokens, [CELL], [sink]), passing, tmp_path / "a", TWO)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10_000})())
    with pytest.raises(CellsError, match="2 workers would take about .* fewer --jobs"):
        capture_in_parts(made, passing, tmp_path / "b", TWO)
    assert not (tmp_path / "b").exists()


def test_times_of_workers_are_added_up():
    clock = Clock()
    clock.restore({"seconds": np.array([5.0])}, 1)
    clock.join({"seconds": np.array([2.5])})
    assert clock.seconds() == pytest.approx(7.5, abs=0.2)


def test_a_part_holds_the_sums_of_the_groups_of_its_cells_alone(tmp_path, monkeypatch):
    def sorted_passing():
        made = passing()
        names = tiny_cells(N, seed=7).obs_names
        groups = {cell: min(i // 8, 2) for i, cell in enumerate(names)}  # as in a file that is sorted by donor
        pairs = GenePairSink(PANEL, made.model.vocabulary, groups, "float64")
        return Pass(made.model, made.tokens, [PATTERNS], [HookFilter(PATTERNS, pairs)], 2)

    once, parts = sorted_passing(), sorted_passing()
    capture(once.model, once.tokens, once.hooks, once.sinks, batch_size=2, progress=False)
    monkeypatch.setattr(module, "count_workers", lambda backend: 3)
    capture_in_parts(parts, sorted_passing, tmp_path, Backend("sequential", progress=False), SAVE)
    for group in range(3):
        one, other = (made.sinks[0].sink.group(group) for made in (once, parts))
        np.testing.assert_allclose(other.sums, one.sums, rtol=1e-6)
        assert np.array_equal(other.counts, one.counts)
    held = [
        sorted({name.rsplit("/", 1)[1] for name in read_state(path)[0]}) for path in sorted(tmp_path.glob(f"*/{STATE}"))
    ]
    assert held == [["0"], ["1"], ["1", "2"]], "cells 0 to 7, 8 to 14, 15 to 22"
    plan = Plan(hook_shapes(once.model, once.tokens, once.model.resolve_hooks([PATTERNS])), once.tokens.lengths())
    part = Plan(plan.shapes, plan.lengths[:8], 0)
    assert 3 * once.sinks[0].memory(part) == once.sinks[0].memory(plan)
