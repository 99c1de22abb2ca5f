"""A sweep does each task once, however often it is interrupted and whoever shares the folder."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from filelock import FileLock
from processes import context, needs_processes, start

from workbench.engine import sweep as engine_sweep
from workbench.engine.sweep import BACKENDS, Backend, Task, claim_folder, finished, read_sweep, run_sweep
from workbench.errors import ArtifactError, ConfigError, OutputError
from workbench.files import digest, read_json, write_text

IDENTITY = {"seed": 1, "cells": {"number": 7, "hash": "abc"}, "metrics": ["a", "b"]}
LOCAL = ["sequential", "threading", pytest.param("loky", marks=pytest.mark.slow)]


class Broken(RuntimeError):
    pass


def work(log, number, pause=0.0, breaks=None):
    """Two rows, after a line in a log for each time that it is called."""
    with Path(log).open("a") as file:
        file.write(f"{number}\n")
    time.sleep(pause)
    if breaks is not None:
        raise breaks("on purpose")
    vectors = [np.full(3, number, dtype=np.float32), np.arange(3, dtype=np.float32)]
    return pd.DataFrame({"number": number, "square": [number**2, -1], "name": [f"n{number}", ""], "vector": vectors})


def make_tasks(log, n=6, pause=0.0):
    """The first ones take longest, so that later ones end before them."""
    return [Task(f"task {i}", (str(log), i, pause * (n - i))) for i in range(n)]


def calls(log):
    return Counter(map(int, Path(log).read_text().split())) if Path(log).exists() else Counter()


def sweep(folder, tasks, backend="sequential", **settings):
    return run_sweep(folder, IDENTITY, tasks, work, Backend(backend, progress=False, **settings))


def done_of(folder, tasks):
    return {int(key.split()[1]) for key in finished(folder, IDENTITY, tasks)}


def rows_of(folder, task):
    return finished(folder, IDENTITY, [task])[task.key]


def assert_all_locks_free(folder):
    for file in (folder / "locks").iterdir():
        with FileLock(file, timeout=0):
            pass


@pytest.fixture
def expected(tmp_path):
    def table(n=6):
        return pd.concat([work(tmp_path / "expected.log", i) for i in range(n)], ignore_index=True)

    return table


@pytest.fixture
def log(tmp_path):
    return tmp_path / "calls.log"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "sweep"


# What comes back


@pytest.mark.parametrize("backend", LOCAL)
def test_rows_come_back_in_the_order_of_the_tasks(folder, log, expected, backend):
    found = sweep(folder, make_tasks(log, pause=0.02), backend=backend, jobs=2)
    pd.testing.assert_frame_equal(found, expected())
    assert calls(log) == Counter(range(6))
    assert_all_locks_free(folder)


@pytest.mark.slow
def test_dask_workers_give_the_same_rows(folder, log, expected):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        found = sweep(folder, make_tasks(log, pause=0.02), backend="dask", address=address)
        pd.testing.assert_frame_equal(found, expected())
        more = [*make_tasks(log), Task("broken", (str(log), 9, 0.0, Broken))]
        with pytest.raises(Broken):
            sweep(folder, more, backend="dask", address=address)
    assert calls(log) == Counter([*range(6), 9]), "finished tasks are sent to nobody"
    assert_all_locks_free(folder)


def test_jobs_do_their_tasks_side_by_side(folder):
    both = threading.Barrier(2, timeout=30)

    def meet():
        both.wait()
        return pd.DataFrame({"a": [1]})

    tasks = [Task("one", ()), Task("other", ())]
    assert len(run_sweep(folder, {}, tasks, meet, Backend("threading", 2, progress=False))) == 2


def test_a_task_is_named_by_its_key_whatever_characters_that_has(folder, log):
    keys = ["a/b", "../a", "", "µ" * 300, "A", "a"]
    found = sweep(folder, [Task(key, (str(log), i)) for i, key in enumerate(keys)])
    assert found["number"].tolist() == np.repeat(range(6), 2).tolist()
    names = [file.name for file in (folder / "rows").iterdir()]
    assert len(names) == 6 and all(re.fullmatch(r"[0-9a-f]{32}\.[0-9a-f]{32}\.parquet", name) for name in names)


def test_a_grid_without_tasks_has_no_rows(folder):
    assert sweep(folder, []).empty and read_json(folder / "sweep.json") == IDENTITY


def test_the_bar_starts_at_what_is_done(folder, log, capsys):
    sweep(folder, make_tasks(log)[:4])
    assert capsys.readouterr().err == ""
    run_sweep(folder, IDENTITY, make_tasks(log), work)
    bar = capsys.readouterr().err
    assert "4/6" in bar and "6/6" in bar and "0/6" not in bar


# Each task once


def test_finished_tasks_are_not_done_again(folder, log, expected):
    tasks = make_tasks(log)
    first = sweep(folder, tasks)
    pd.testing.assert_frame_equal(sweep(folder, tasks), first)
    assert calls(log) == Counter(range(6))
    for i in (1, 4):
        rows_of(folder, tasks[i]).unlink()
    pd.testing.assert_frame_equal(read_sweep(folder, IDENTITY, tasks), first.drop([2, 3, 8, 9]).reset_index(drop=True))
    pd.testing.assert_frame_equal(sweep(folder, tasks), expected())
    assert calls(log) == Counter([*range(6), 1, 4])


def test_a_grid_may_grow_shrink_and_change_its_order(folder, log, expected):
    tasks = make_tasks(log)
    sweep(folder, tasks[:3])
    whole = sweep(folder, tasks)
    pd.testing.assert_frame_equal(whole, expected())
    assert sweep(folder, [tasks[5], tasks[0]])["number"].tolist() == [5, 5, 0, 0]
    assert calls(log) == Counter(range(6))


def hold(folder, log, key, started, finishes):
    """Hold a task's lock, and do the task or wait to be killed."""
    with FileLock((folder / "locks").joinpath(f"{digest(key)}.lock")):
        write_text(started, "")
        time.sleep(0.3 if finishes else 60)
        rows, (name,) = work(log, 2), engine_sweep._names(IDENTITY, [Task(key, ())]).values()
        engine_sweep._write_rows(folder, name, rows)


def held(folder, log, tasks, *, finishes):
    claim_folder(folder, IDENTITY)
    process = start(hold, folder, log, tasks[2].key, folder / "started", finishes)
    while not (folder / "started").exists():
        assert process.is_alive()
        time.sleep(0.001)
    return process


@needs_processes
def test_a_task_that_another_process_holds_is_left_to_it(folder, log, expected):
    tasks = make_tasks(log)
    process = held(folder, log, tasks, finishes=True)
    pd.testing.assert_frame_equal(sweep(folder, tasks), expected())
    process.join()
    assert calls(log) == Counter(range(6))


@needs_processes
def test_a_task_whose_holder_dies_is_done_by_another(folder, log, expected):
    tasks = make_tasks(log)
    process = held(folder, log, tasks, finishes=False)
    killer = threading.Timer(0.2, process.kill)
    killer.start()
    pd.testing.assert_frame_equal(sweep(folder, tasks), expected())
    killer.join()
    process.join()
    assert calls(log) == Counter(range(6))


@pytest.mark.parametrize("text", ["", "12345\nanother.machine\n"])
def test_the_lock_file_of_a_dead_process_holds_up_nobody(folder, log, expected, text):
    tasks = make_tasks(log)
    for task in tasks:
        write_text(folder / "locks" / f"{digest(task.key)}.lock", text)
    pd.testing.assert_frame_equal(sweep(folder, tasks), expected())


def in_children(n, what, *args):
    """Processes that do it at the same moment; their exit codes: 0 done, 2 refused, 1 anything else."""
    together = context().Barrier(n)
    children = [start(together_with, together, what, i, *args) for i in range(n)]
    for child in children:
        child.join()
    return [child.exitcode for child in children]


def together_with(others, what, *args):
    others.wait(60)
    try:
        what(*args)
    except OutputError:
        sys.exit(2)


def share(i, folder, tasks):
    sweep(folder, tasks)


def claim(i, folder, same):
    claim_folder(folder, IDENTITY if same else {"seed": i})
    (folder / "rows").mkdir(exist_ok=same)


@needs_processes
def test_processes_that_share_a_folder_share_the_work(folder, log, expected):
    tasks = make_tasks(log, 24, pause=0.001)
    assert in_children(3, share, folder, tasks) == [0, 0, 0]
    pd.testing.assert_frame_equal(sweep(folder, tasks), expected(24))
    assert calls(log) == Counter(range(24))


@needs_processes
def test_of_several_sweeps_that_claim_a_folder_at_once_one_gets_it(tmp_path):
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        codes = in_children(4, claim, folder, False)
        assert sorted(codes) == [0, 2, 2, 2]
        assert read_json(folder / "sweep.json") == {"seed": codes.index(0)}


@needs_processes
def test_the_same_sweep_may_start_twice_at_once(tmp_path):
    for attempt in range(10):
        assert in_children(4, claim, tmp_path / str(attempt), True) == [0] * 4


# Interruptions


@pytest.mark.parametrize("backend", LOCAL)
def test_an_exception_keeps_finished_rows_and_frees_the_locks(folder, log, expected, backend):
    tasks = make_tasks(log, 20)
    broken = [*tasks[:15], Task(tasks[15].key, (str(log), 15, 1.0, Broken)), *tasks[16:]]
    with pytest.raises(Broken, match="on purpose"):
        sweep(folder, broken, backend=backend, jobs=2)
    done = done_of(folder, tasks)
    assert set(range(15)) <= done, "what ended long before the exception is kept"
    assert 15 not in done
    assert_all_locks_free(folder)
    pd.testing.assert_frame_equal(sweep(folder, tasks, backend=backend, jobs=2), expected(20))
    assert all(n == 1 for i, n in calls(log).items() if i in done)


def test_a_keyboard_interrupt_keeps_finished_rows(folder, log, expected):
    tasks = make_tasks(log)
    stopped = [*tasks[:4], Task(tasks[4].key, (str(log), 4, 0.0, KeyboardInterrupt)), tasks[5]]
    with pytest.raises(KeyboardInterrupt):
        sweep(folder, stopped)
    assert done_of(folder, tasks) == set(range(4))
    assert_all_locks_free(folder)
    pd.testing.assert_frame_equal(sweep(folder, tasks), expected())
    assert calls(log) == Counter([*range(6), 4])


def test_rows_that_cannot_be_written_leave_no_half_file(folder, log, expected, monkeypatch):
    tasks, write = make_tasks(log), Path.write_bytes

    def full(self, data):
        write(self, data[:50] if len(list((folder / "rows").glob("*"))) == 4 else data)
        if self.stat().st_size == 50:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="The disk is full"):
        sweep(folder, tasks)
    assert len(list((folder / "rows").iterdir())) == 3
    assert_all_locks_free(folder)
    monkeypatch.undo()
    pd.testing.assert_frame_equal(sweep(folder, tasks), expected())


class Attempts:
    """Counts what each attempt begins, and holds it against what was finished before."""

    def __init__(self, folder, tmp_path):
        self.folder, self.logs, self.tmp_path = folder, [], tmp_path
        self.before = []

    def log(self, tasks):
        self.before.append(done_of(self.folder, tasks))
        self.logs.append(self.tmp_path / f"attempt{len(self.logs)}.log")
        return self.logs[-1]

    def assert_nothing_is_done_twice(self, n):
        for done, log in zip(self.before, self.logs, strict=True):
            assert not done & set(calls(log)), "finished tasks are not begun again"
            assert all(count == 1 for count in calls(log).values())
        assert set().union(*map(calls, self.logs)) == set(range(n))


@needs_processes
@pytest.mark.parametrize("seed", [0, 1])
def test_a_sweep_that_is_killed_again_and_again_ends_the_same(folder, tmp_path, expected, seed):
    n, attempts, rng, cut = 30, Attempts(folder, tmp_path), random.Random(seed), []
    plain = make_tasks(tmp_path, n)
    # A bound, and progress that does not depend on how fast the machine is.
    for _ in range(12):
        log, so_far = attempts.log(plain), len(done_of(folder, plain))
        if so_far >= n - 5:
            break
        process = start(sweep, folder, [Task(task.key, (str(log), i, 0.02)) for i, task in enumerate(plain)])
        more = rng.randrange(5)
        while not calls(log) or len(done_of(folder, plain)) < so_far + more:
            assert process.is_alive()
            time.sleep(0.001)
        # Any moment of about a task.
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.join()
        cut.append(len(done_of(folder, plain)))
    assert len(cut) > 1, "killed more than once"
    log = attempts.log(plain)
    found = sweep(folder, [Task(task.key, (str(log), i)) for i, task in enumerate(plain)])
    pd.testing.assert_frame_equal(found, expected(n))
    attempts.assert_nothing_is_done_twice(n)
    assert not list(folder.rglob("*.part")), "what was cut off while it was written is removed"


def start_process(folder, log, n, backend, **settings):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen([sys.executable, __file__, folder, log, str(n), backend], env=environment, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_other_processes_that_are_killed_and_resumed_end_the_same(folder, tmp_path, expected, backend):
    n, attempts, rng = 30, Attempts(folder, tmp_path), random.Random(5)
    tasks, killed = make_tasks(tmp_path, n), 0

    def begin():
        log = attempts.log(tasks)
        return log, start_process(folder, log, n, backend)

    for _ in range(4):
        log, process = begin()
        while not calls(log) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.3))
        killed += process.poll() is None
        process.kill()
        process.wait()
    assert killed
    assert begin()[1].wait() == 0
    found = sweep(folder, tasks)
    pd.testing.assert_frame_equal(found, expected(n))
    attempts.assert_nothing_is_done_twice(n)


@pytest.mark.slow
def test_two_processes_with_jobs_of_their_own_share_the_work(folder, tmp_path, expected):
    n, log = 30, tmp_path / "calls.log"
    processes = [start_process(folder, log, n, "loky") for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert calls(log) == Counter(range(n))
    pd.testing.assert_frame_equal(sweep(folder, make_tasks(tmp_path, n)), expected(n))


@pytest.mark.slow
@pytest.mark.parametrize("backend", LOCAL)
def test_control_c_keeps_finished_rows(folder, log, expected, backend):
    tasks = make_tasks(log, 30)
    process = start_process(folder, log, 30, backend, stderr=subprocess.PIPE, text=True)
    while len(done_of(folder, tasks)) < 3 and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate()[1] and process.returncode
    time.sleep(0.5)
    done, begun = done_of(folder, tasks), calls(log)
    assert 3 <= len(done) < 30 and not list((folder / "rows").glob(".*"))
    assert_all_locks_free(folder)
    pd.testing.assert_frame_equal(sweep(folder, tasks), expected(30))
    assert calls(log) - begun == Counter(set(range(30)) - done)


# Folders and files that are not this sweep's


@pytest.mark.parametrize(
    "change, said",
    [
        ({"seed": 2}, "seed was 1 and is 2 now"),
        ({"cells": {"number": 8, "hash": "abc"}}, "cells.number was 7 and is 8 now"),
        ({"cells": {"number": 8, "hash": "x"}}, "cells.hash was 'abc' and is 'x' now; cells.number was 7 and is 8 now"),
        ({"metrics": ["b", "a"]}, r"metrics was \['a', 'b'\] and is \['b', 'a'\] now"),
        ({"new": 3}, "new was not there and is 3 now"),
        ({"new": None}, "new was not there and is None now"),
        ({"cells": None}, "cells was {'number': 7, 'hash': 'abc'} and is None now"),
        ({"seed": "x" * 200}, r"seed was 1 and is 'x{56}\.\.\. now"),
    ],
)
def test_a_folder_of_another_sweep_is_refused_with_the_difference(folder, log, change, said):
    sweep(folder, make_tasks(log))
    with pytest.raises(OutputError, match=f"sweep' holds another sweep: {said}. Choose another folder"):
        run_sweep(folder, {**IDENTITY, **change}, make_tasks(log), work, Backend(progress=False))
    assert calls(log) == Counter(range(6)) and len(sweep(folder, make_tasks(log))) == 12


def test_numbers_of_numpy_and_tuples_are_the_same_identity(folder):
    claim_folder(folder, {"a": np.float64(0.1), "b": (1, np.int64(2)), "c": float("nan"), "d": Path("x")})
    written = (folder / "sweep.json").read_bytes()
    claim_folder(folder, {"a": 0.1, "b": [1, 2], "c": None, "d": "x"})
    assert (folder / "sweep.json").read_bytes() == written
    with pytest.raises(OutputError, match="a was 0.1 and is 0.2 now"):
        claim_folder(folder, {"a": 0.2, "b": [1, 2], "c": None, "d": "x"})


@pytest.mark.parametrize("left", [None, "", '{"seed": '])
def test_a_description_that_was_lost_or_cut_is_written_again(folder, log, expected, left):
    tasks = make_tasks(log)
    sweep(folder, tasks)
    (folder / "sweep.json").unlink() if left is None else (folder / "sweep.json").write_text(left)
    pd.testing.assert_frame_equal(sweep(folder, tasks), expected())
    assert calls(log) == Counter(range(6)) and read_json(folder / "sweep.json") == IDENTITY


def test_rows_of_another_sweep_are_not_taken_where_its_description_was_lost(folder, log, expected):
    tasks = make_tasks(log)
    sweep(folder, tasks)
    (folder / "sweep.json").unlink()
    run_sweep(folder, {"seed": 2}, tasks, work, Backend(progress=False))
    assert calls(log) == Counter([*range(6), *range(6)])


def test_a_folder_that_is_a_file_is_refused(folder, log):
    write_text(folder, "")
    with pytest.raises(OutputError, match="cannot be written"):
        sweep(folder, make_tasks(log))


def cut(share):
    return lambda data: data[: int(share * len(data))]


def flip(share):
    return lambda data: data[: (at := int(share * len(data)))] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("change", [*map(cut, [0.0, 0.1, 0.99]), *map(flip, [0.0, 0.3, 0.6, 0.999])])
def test_damaged_rows_are_named_and_made_again(folder, log, expected, capsys, change):
    tasks = make_tasks(log)
    sweep(folder, tasks)
    file = rows_of(folder, tasks[3])
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ArtifactError, match=f"{file.name}' was changed since it was written"):
        read_sweep(folder, IDENTITY, tasks)
    pd.testing.assert_frame_equal(sweep(folder, tasks), expected())
    assert calls(log) == Counter([*range(6), 3])
    assert "the rows of task 'task 3' were changed since they were written; made again" in capsys.readouterr().err


def test_rows_of_another_task_under_its_name_are_made_again(folder, log, expected):
    tasks = make_tasks(log)
    sweep(folder, tasks)
    one, other = rows_of(folder, tasks[1]), rows_of(folder, tasks[2])
    one.write_bytes(other.read_bytes())
    pd.testing.assert_frame_equal(sweep(folder, tasks), expected())
    assert calls(log) == Counter([*range(6), 1])


@needs_processes
@pytest.mark.slow
def test_workers_end_when_the_process_that_started_them_is_killed(folder, log):
    process = start_process(folder, log, 3000, "loky")
    while len(calls(log)) < 20 and process.poll() is None:
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert workers and not psutil.wait_procs(workers, timeout=10)[1]


def test_nothing_but_whole_files_of_tasks_is_read(folder, log, expected):
    tasks = make_tasks(log)
    sweep(folder, tasks[:4])
    rows = folder / "rows"
    for task in tasks:
        (name,) = engine_sweep._names(IDENTITY, [task]).values()
        (rows / f".{name}.0123.parquet.abc123.part").write_bytes(b"PAR1 half a file")
        (rows / f"{name}.0123.parquet.part").write_bytes(b"PAR1")
        (rows / f"{name}.json").write_text("{}")
    work(log.with_name("other.log"), 7).to_parquet(rows / f"{digest('no task')}.parquet")
    (rows / "notes.parquet").mkdir()
    pd.testing.assert_frame_equal(sweep(folder, tasks), expected())
    assert calls(log) == Counter(range(6))


# Backends that cannot be used


def test_an_unknown_backend_is_answered_with_the_nearest(folder, log):
    with pytest.raises(ConfigError, match="Unknown backend 'lokky': did you mean 'loky'"):
        sweep(folder, make_tasks(log), backend="lokky")
    with pytest.raises(ConfigError, match=f"known: {', '.join(BACKENDS)}"):
        sweep(folder, make_tasks(log), backend="x")
    assert not folder.exists()
    with pytest.raises(ConfigError, match="Unknown backend 'lokky': did you mean 'loky'"):
        Backend("lokky")


def test_dask_without_an_address_is_said(folder, log):
    with pytest.raises(ConfigError, match="needs the address of a scheduler; pass --address tcp"):
        sweep(folder, make_tasks(log), backend="dask")
    assert not calls(log) and len(sweep(folder, make_tasks(log))) == 12, "the folder can still be used"


def test_dask_that_is_not_installed_is_said(folder, log, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"pip install 'scgpt-workbench\[dask\]'"):
        sweep(folder, make_tasks(log), backend="dask", address="tcp://127.0.0.1:1")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "no address", "http://x:1"])
def test_a_scheduler_that_does_not_answer_is_said(folder, log, address):
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    with dask.config.set({"distributed.comm.timeouts.connect": 0.1}):
        with pytest.raises(ConfigError, match=f"No Dask scheduler answers at '{address}'.*tcp://HOST:8786"):
            sweep(folder, make_tasks(log), backend="dask", address=address)


if __name__ == "__main__":
    from test_sweep import make_tasks, sweep  # by this name the workers find the work function

    # In the background of a script, as `make test-slow &` is, shells have it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder_, log_, n_, backend_ = sys.argv[1:]
    slow = [Task(t.key, (*t.arguments[:2], 0.02)) for t in make_tasks(log_, int(n_))]
    sweep(Path(folder_), slow, backend=backend_, jobs=2)
