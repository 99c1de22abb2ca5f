"""A capture that was interrupted, by an exception or by a kill, ends as if it had not been."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from helpers import genes, tiny_cells, tiny_model
from processes import needs_processes, start

from workbench.ablation import Ablation, ablated
from workbench.capture import GenePairSink, HookFilter, MemorySink, MomentsSink, ShardSink, capture, read_shards
from workbench.errors import ArtifactError, HookError
from workbench.files import read_json

GENE, PATTERNS, CELL = "blocks.1.hook_resid_post", "blocks.*.attn.hook_pattern", "hook_cell"
HOOKS = [GENE, PATTERNS, CELL]
PANEL = genes()[5:25]
N_CELLS, SAVE = 30, 4


class Broken(RuntimeError):
    pass


class Watch:
    """Counts the batches of the cell hook, and breaks in the middle of one of them."""

    def __init__(self, at=None, pause=0.0):
        self.at, self.pause, self.seen = at, pause, []

    def open(self, plan):
        pass

    def memory(self, plan):
        return 0

    def update(self, hook, activation, tokens):
        time.sleep(self.pause)
        if hook == "blocks.2.attn.hook_pattern":
            self.seen.append(tokens.cell_ids)
            if len(self.seen) == self.at:
                raise Broken

    def flush(self, n_cells):
        pass

    def state(self):
        return {}

    def restore(self, arrays, n_cells):
        pass


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=1)


@pytest.fixture(scope="module")
def cells():
    return tiny_cells(N_CELLS, seed=7)


def groups_of(cells):
    return {cell: i % 3 for i, cell in enumerate(cells.obs_names)}


@pytest.fixture(scope="module")
def groups(cells):
    return groups_of(cells)


class Run:
    """A capture into all kinds of sinks at once, in one folder."""

    def __init__(self, model, cells, groups, folder):
        self.model, self.cells, self.groups, self.folder = model, cells, groups, folder

    def go(self, at=None, pause=0.0):
        self.watch = Watch(at, pause)
        self.memory, self.gene, self.cell = MemorySink(), MomentsSink(), MomentsSink()
        self.pairs = GenePairSink(PANEL, self.model.vocabulary, self.groups)
        self.shards = ShardSink(self.folder / "shards")
        sinks = [
            self.memory,
            HookFilter(GENE, self.gene),
            HookFilter(CELL, self.cell),
            HookFilter(PATTERNS, self.pairs),
            self.shards,
        ]
        return capture(
            self.model, self.cells, HOOKS, [*sinks, self.watch], save_every=SAVE, batch_size=3, progress=False
        )

    def results(self):
        found = {"manifest": read_json(self.shards.folder / "manifest.json")}
        for name, activations in (("memory", self.memory.result()), ("shards", read_shards(self.shards.folder))):
            found |= {f"{name} cells": list(activations.cell_ids), f"{name} indptr": activations.indptr}
            found[f"{name} gene ids"] = activations.gene_ids
            found |= {f"{name} {hook}": values for hook, values in activations.values.items()}
        for name, sink in ((GENE, self.gene), (CELL, self.cell)):
            found |= {f"moments {name} {i}": part for i, part in enumerate(sink.result(name))}
        for without in (None, 0, 1, 2):
            pairs = self.pairs.result(without)
            found |= {f"sums {without}": pairs.sums, f"counts {without}": pairs.counts}
        return found


@pytest.fixture
def run(model, cells, groups, tmp_path):
    return Run(model, cells, groups, tmp_path / "resumed")


@pytest.fixture(scope="module")
def whole(model, cells, groups, tmp_path_factory):
    """What a capture without interruption gives."""
    run = Run(model, cells, groups, tmp_path_factory.mktemp("whole"))
    run.go()
    assert len(run.watch.seen) == 15, "eight saves, batches of three and one"
    return run.results()


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        else:
            assert found[name] == value, name


@pytest.mark.parametrize("at", [1, 2, 3, 4, 9, 15])
def test_an_interrupted_capture_ends_the_same(run, whole, at):
    with pytest.raises(Broken):
        run.go(at)
    report = run.go()
    assert report.resumed_at == (at - 1) // 2 * SAVE
    assert len(run.watch.seen) == 15 - (at - 1) // 2 * 2, "finished cells are not run again"
    assert report.n_cells == N_CELLS
    assert_same(run.results(), whole)


def test_one_that_is_interrupted_again_and_again(run, whole):
    for at in (3, 2, 1, 5, 4):
        with pytest.raises(Broken):
            run.go(at)
    run.go()
    assert_same(run.results(), whole)


def test_the_same_sinks_may_be_used_again(model, cells, tmp_path):
    memory, pairs = MemorySink(), GenePairSink(PANEL, model.vocabulary)
    once = MemorySink(), GenePairSink(PANEL, model.vocabulary)

    def go(memory, pairs, watch, state):
        sinks = [memory, HookFilter(PATTERNS, pairs), watch]
        capture(model, cells, HOOKS, sinks, state=state, save_every=SAVE, batch_size=3, progress=False)

    go(*once, Watch(), tmp_path / "once")
    with pytest.raises(Broken):
        go(memory, pairs, Watch(6), tmp_path / "twice")
    go(memory, pairs, Watch(), tmp_path / "twice")
    np.testing.assert_array_equal(memory.result().values[GENE], once[0].result().values[GENE])
    np.testing.assert_array_equal(pairs.result().sums, once[1].result().sums)


def test_saving_more_often_goes_on_with_the_same_state(model, cells, tmp_path):
    once, again = MemorySink(), MemorySink()
    capture(model, cells, HOOKS, once, batch_size=3, progress=False)
    with pytest.raises(Broken):
        capture(model, cells, HOOKS, [again, Watch(6)], state=tmp_path, save_every=SAVE, batch_size=3, progress=False)
    watch = Watch()
    report = capture(
        model, cells, HOOKS, [again, watch], state=tmp_path, save_every=SAVE + 3, batch_size=3, progress=False
    )
    assert report.resumed_at > 0
    np.testing.assert_array_equal(again.result().values[GENE], once.result().values[GENE])
    shards = ShardSink(tmp_path / "shards")
    with pytest.raises(Broken):
        capture(model, cells, HOOKS, [shards, Watch(6)], save_every=SAVE, batch_size=3, progress=False)
    with pytest.raises(ArtifactError, match="another capture|of a capture of other"):
        capture(model, cells, HOOKS, [shards, Watch()], save_every=SAVE + 3, batch_size=3, progress=False)


def test_a_break_between_a_shard_and_the_state(run, whole, monkeypatch):
    from workbench.capture import record

    write, calls = record.write_state, []

    def breaks(*args):
        calls.append(args)
        if len(calls) == 3:
            raise Broken
        return write(*args)

    monkeypatch.setattr(record, "write_state", breaks)
    with pytest.raises(Broken):
        run.go()
    shards = read_json(run.shards.folder / "manifest.json")["shards"]
    assert shards[-1]["stop"] == 12, "the shard is ahead of the state, which knows of 8 cells"
    monkeypatch.undo()
    assert run.go().resumed_at == 8
    assert_same(run.results(), whole)


def test_a_finished_capture_is_not_run_again(run, whole):
    run.go()
    assert run.go().resumed_at == N_CELLS and not run.watch.seen
    assert_same(run.results(), whole)


def go_slowly(folder):
    cells = tiny_cells(N_CELLS, seed=7)
    Run(tiny_model(seed=1), cells, groups_of(cells), folder).go(pause=0.01)


@needs_processes
def test_a_killed_capture_ends_the_same(run, whole):
    process = start(go_slowly, run.folder)
    state = run.folder / "shards" / "capture-state.safetensors"
    while not state.exists():
        assert process.is_alive(), "the capture ended before it saved anything"
        time.sleep(0.001)
    # 15 batches x 5 hooks x 10 ms: any moment of what is left.
    delay = random.uniform(0, 0.6)
    time.sleep(delay)
    process.kill()
    process.join()
    report = run.go()
    assert report.resumed_at >= SAVE and report.resumed_at % SAVE in (0, N_CELLS % SAVE)
    assert_same(run.results(), whole)


def test_a_shard_sink_behind_only_is_resumable_too(model, cells, tmp_path):
    def go(folder, watch):
        sinks = [HookFilter(GENE, ShardSink(tmp_path / folder)), watch]
        return capture(model, cells, HOOKS, sinks, save_every=SAVE, batch_size=3, progress=False)

    go("whole", Watch())
    with pytest.raises(Broken):
        go("resumed", Watch(6))
    assert go("resumed", Watch()).resumed_at == 8
    found, expected = read_shards(tmp_path / "resumed"), read_shards(tmp_path / "whole")
    assert found.cell_ids == expected.cell_ids and set(found.values) == {GENE}
    np.testing.assert_array_equal(found.values[GENE], expected.values[GENE])


# A state that is not this capture's


def other_cells(cells):
    changed = cells.copy()
    changed.X[0] = changed.X[0] * 3
    changed.X[0, changed.X[0].indices[0]] = 90
    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda cells: {"cells": other_cells(cells)},
        lambda cells: {"cells": cells[::-1].copy()},
        lambda cells: {"cells": cells[:-1].copy()},
        lambda cells: {"hooks": [PATTERNS]},
        lambda cells: {"model": tiny_model(seed=2)},
        lambda cells: {"seed": 1},
        lambda cells: {"max_tokens": 9},
        lambda cells: {"more": [HookFilter(GENE, MemorySink())]},
        lambda cells: {"panel": PANEL[::-1]},
        lambda cells: {"panel": PANEL[:-1]},
        lambda cells: {"groups": {cell: i % 2 for i, cell in enumerate(cells.obs_names)}},
        lambda cells: {"pattern": "blocks.0.attn.hook_pattern"},
    ],
    ids=[
        "values", "order", "cells", "hooks", "weights", "seed", "length", "sinks", "panel order", "panel",
        "groups", "pattern",
    ],
)  # fmt: skip
def test_the_state_of_another_capture_is_refused(model, cells, tmp_path, change):
    usual = {"model": model, "cells": cells, "hooks": HOOKS, "more": [], "panel": PANEL, "groups": None}
    usual |= {"pattern": PATTERNS}

    def go(watch=None, **changes):
        all_ = {**usual, **changes}
        pairs = GenePairSink(all_.pop("panel"), model.vocabulary, all_.pop("groups"))
        sinks = [HookFilter(all_.pop("pattern"), pairs), *all_.pop("more"), watch or Watch()]
        return capture(**all_, sinks=sinks, state=tmp_path, save_every=SAVE, progress=False)

    with pytest.raises(Broken):
        go(Watch(2), batch_size=3)
    with pytest.raises(Broken):
        go(Watch(3), batch_size=3)
    with pytest.raises(ArtifactError, match="(?s)holds the state of a capture of other cells.*hoose another folder"):
        go(**change(cells))
    assert go().resumed_at == SAVE


def changed_at(cells, row):
    """A copy in which one value of one cell is another one."""
    changed = cells.copy()
    changed.X.data[changed.X.indptr[row]] += 1
    return changed


@pytest.mark.parametrize("row", [0, 99, 150, 299])
def test_the_values_of_every_cell_tell_a_capture_from_others(model, tmp_path, row):
    cells = tiny_cells(300, seed=7)

    def go(cells, watch):
        capture(model, cells, GENE, [MomentsSink(), watch], state=tmp_path, save_every=128, progress=False)

    go(cells, Watch())
    go(cells.copy(), Watch())
    with pytest.raises(ArtifactError, match="holds the state of a capture of other cells"):
        go(changed_at(cells, row), Watch())


def test_a_value_that_moves_to_another_cell_changes_the_fingerprint(model):
    cells = tiny_cells(4, seed=7)
    moved = cells.copy()
    moved.X.indptr[1] -= 1  # the last value of the first cell is the first one of the second now
    assert model.tokenizer(moved).fingerprint() != model.tokenizer(cells).fingerprint()


def changes(model):
    return {
        "ablated": ablated(model, Ablation("L0H0", "zero")),
        "hooked": model.hooks([("blocks.0.hook_attn_out", lambda x, hook: 2 * x)]),
    }


@pytest.mark.parametrize("change", ["ablated", "hooked"])
def test_no_state_is_kept_of_a_model_that_is_ablated_or_hooked(model, cells, tmp_path, change):
    def go(sink, **more):
        return capture(model, cells, GENE, sink, progress=False, **more)

    intact, moved = MomentsSink(), MomentsSink()
    go(intact, state=tmp_path / "state")
    with changes(model)[change]:
        for sink, more in (
            (MomentsSink(), {"state": tmp_path / "state"}),
            (ShardSink(tmp_path / "shards"), {}),
            ([HookFilter(GENE, ShardSink(tmp_path / "shards"))], {}),
        ):
            with pytest.raises(HookError, match="is ablated or hooked.* Capture without `state` and ShardSink"):
                go(sink, **more)
        go(moved)
    assert not (tmp_path / "shards").exists()
    again = MomentsSink()
    assert go(again, state=tmp_path / "state").resumed_at == N_CELLS
    assert np.array_equal(again.result(GENE)[1], intact.result(GENE)[1])
    assert not np.allclose(moved.result(GENE)[1], intact.result(GENE)[1], atol=1e-3)


@pytest.mark.parametrize("change", [lambda d: b"", lambda d: d[:500], lambda d: d[:-9] + bytes([d[-9] ^ 1]) + d[-8:]])
def test_a_damaged_state_is_said_and_the_capture_starts_again(run, whole, capsys, change):
    with pytest.raises(Broken):
        run.go(5)
    state = run.folder / "shards" / "capture-state.safetensors"
    state.write_bytes(change(state.read_bytes()))
    assert run.go().resumed_at == 0
    assert_same(run.results(), whole)
    assert "capture-state.safetensors' was changed since it was saved" in capsys.readouterr().err


def test_a_damaged_shard_is_said(run):
    run.go()
    shard = sorted(run.shards.folder.glob("cells-*"))[1]
    data = shard.read_bytes()
    shard.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(ArtifactError, match=f"{shard.name}' was changed since it was written; capture again"):
        read_shards(run.shards.folder)


def test_shards_that_were_removed_below_a_state_are_refused(model, cells, tmp_path):
    def go(watch):
        sinks = [ShardSink(tmp_path / "shards"), watch]
        capture(model, cells, HOOKS, sinks, state=tmp_path / "state", save_every=SAVE, batch_size=3, progress=False)

    with pytest.raises(Broken):
        go(Watch(5))
    (tmp_path / "shards" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="manifest.json' cannot be read"):
        go(Watch())


def test_tokens_of_a_resumed_capture_are_the_same(model, cells):
    tokenizer = model.tokenizer(cells)
    whole = [t.cell_ids for t in tokenizer.batches(3, 0, 12)]
    assert sum(whole, ()) == tuple(cells.obs_names[:12])
    parts = [t.cell_ids for start in (0, 4, 8) for t in tokenizer.batches(3, start, start + 4)]
    assert sum(parts, ()) == sum(whole, ())
