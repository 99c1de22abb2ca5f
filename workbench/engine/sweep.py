"""Long work as a grid of tasks: each finished task is on the disk, and no task is done twice.

One Parquet file per finished task, moved into place in one step and named by the hash of its bytes, so that one that was
damaged since is known and made again. Killing a sweep at any moment loses the tasks in flight and nothing else;
processes that share a folder share the work, because a task is locked while it is computed and the system frees the lock
of a process that died.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from tqdm import tqdm

from workbench.errors import ArtifactError, CellsError, ConfigError, OutputError, unknown_name
from workbench.files import atomically, digest, hash_bytes, plain, read_json, write_json

BACKENDS = ("sequential", "loky", "threading", "dask")
IDENTITY = "sweep.json"
_ABSENT, _LOOK_EVERY = object(), 2.0
_TRIES = 3  # of tasks whose worker is killed each time


@dataclass(frozen=True)
class Task:
    """One cell of the grid.

    Attributes
    ----------
    key
        Its name, unique in the grid; names the file of its rows.
    arguments
        What the work function is given, in order.
    """

    key: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Backend:
    """How tasks are run, as in `run_sweep`."""

    name: str = "sequential"
    jobs: int = 1
    address: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.name not in BACKENDS:
            raise ConfigError(unknown_name("backend", self.name, BACKENDS))


def run_sweep(
    folder: Path,
    identity: Mapping[str, Any],
    tasks: Sequence[Task],
    work: Callable[..., pd.DataFrame],
    backend: Backend | None = None,
) -> pd.DataFrame:
    """Do the tasks that are not done yet, and return the rows of all.

    Parameters
    ----------
    folder
        Of the sweep: ``sweep.json`` and ``rows/``.
    identity
        Everything the rows depend on, JSON-ready. A folder of another identity is refused.
    tasks
        The grid, each task with a key of its own.
    work
        From a task's arguments to its rows. With other backends than ``sequential`` it must be importable by the workers.
    backend
        Who does the tasks: one after the other in this process by default.

    Returns
    -------
    pandas.DataFrame
        In the order of the tasks, whatever order they were done in.

    Raises
    ------
    OutputError
        If the folder belongs to another sweep; the difference is said.
    ConfigError
        If Dask is asked for and is not installed, or no scheduler answers.
    CellsError
        If worker processes are killed again and again, as where memory runs out.
    """
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    backend = backend or Backend()
    claim_folder(folder, identity)
    found = finished(folder, identity, tasks)
    if damaged := [task.key for task in tasks if task.key in found and not _sound(found[task.key])]:
        for key in damaged:
            found.pop(key).unlink()
        names = f"'{damaged[0]}'{f' and {len(damaged) - 1} others' if len(damaged) > 1 else ''}"
        print(f"[sweep] the rows of task {names} were changed since they were written; made again", file=sys.stderr)
    waiting = [task for task in tasks if task.key not in found]
    done, again = len(tasks) - len(waiting), _TRIES
    with tqdm(total=len(tasks), initial=done, unit="task", disable=not backend.progress, desc="sweep") as bar:
        while waiting:
            busy: list[Task] = []
            try:
                for _ in _done(folder, identity, waiting, work, busy, backend):
                    bar.update()
                    again = _TRIES
            except TerminatedWorkerError as error:
                again -= 1
                if not again:
                    raise CellsError(
                        f"Worker processes were killed {_TRIES} times and no task was finished, most often for want of memory. Give the "
                        "same command with fewer --jobs; finished tasks are kept."
                    ) from error
                print("[sweep] a worker was killed; what it did is done again", file=sys.stderr)
                found = finished(folder, identity, tasks)
                waiting = [task for task in waiting if task.key not in found]
                continue
            # What another process held: done by now, or its lock is free because it died.
            found = finished(folder, identity, busy)
            waiting = [task for task in busy if task.key not in found]
            bar.update(len(busy) - len(waiting))
            if waiting and len(waiting) == len(busy):
                time.sleep(0.5)
    return read_sweep(folder, identity, tasks)


def count_workers(backend: Backend) -> int:
    """How many tasks are done at a time.

    Parameters
    ----------
    backend
        Who does the tasks; of a cluster the scheduler is asked.

    Raises
    ------
    ConfigError
        If Dask is asked for and is not installed, or no scheduler answers.
    """
    from joblib import effective_n_jobs

    with _joblib(backend):
        return effective_n_jobs(None)


def check_backend(backend: Backend) -> None:
    """Refuse a backend that cannot be used, before any work.

    Parameters
    ----------
    backend
        Who would do the tasks; a scheduler of Dask is asked whether it answers.

    Raises
    ------
    ConfigError
        If Dask is asked for and is not installed, or no scheduler answers.
    """
    if backend.name == "dask":
        with _joblib(backend):
            pass


def claim_folder(folder: Path, identity: Mapping[str, Any]) -> None:
    """Make a sweep's folder, or make sure that it is this sweep's.

    Parameters
    ----------
    folder, identity
        As in `run_sweep`.

    Raises
    ------
    OutputError
        If it belongs to another sweep.
    """
    wanted, file = plain(identity), folder / IDENTITY
    # Of several that start at once, one describes the folder, and the others find its description.
    lock = _lock(folder, IDENTITY, timeout=-1)
    try:
        found = read_json(file)
    except ArtifactError:
        # Absent or cut. Rows are named by what they depend on, so none of another sweep is taken for one of this.
        found = wanted
        write_json(file, wanted)
    finally:
        lock.release()
    if found != wanted:
        raise OutputError(
            f"'{folder}' holds another sweep: {'; '.join(_differences(found, wanted))}. Choose another folder, or "
            "remove this one to start afresh."
        )


def _differences(found: Any, wanted: Any, where: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted({*found, *wanted})
        parts = [
            _differences(found.get(k, _ABSENT), wanted.get(k, _ABSENT), f"{where}.{k}" if where else k) for k in keys
        ]
        return [line for part in parts for line in part][:6]
    if found == wanted:
        return []
    texts = ["not there" if value is _ABSENT else repr(value) for value in (found, wanted)]
    short = [text if len(text) <= 60 else text[:57] + "..." for text in texts]
    return [f"{where} was {short[0]} and is {short[1]} now"]


def finished(folder: Path, identity: Mapping[str, Any], tasks: Sequence[Task]) -> dict[str, Path]:
    """Files of the rows of finished tasks, by the tasks' keys; a task that is not finished has none.

    Parameters
    ----------
    folder, identity, tasks
        As in `run_sweep`.
    """
    files = {path.name.split(".")[0]: path for path in (folder / "rows").glob("[!.]*.parquet")}
    names = _names(identity, tasks)
    return {key: files[name] for key, name in names.items() if name in files}


def _names(identity: Mapping[str, Any], tasks: Sequence[Task]) -> dict[str, str]:
    """By the keys of tasks, how the names of their files begin."""
    same = digest(plain(identity))
    return {task.key: digest(same, task.key) for task in tasks}


def _sound(file: Path, data: bytes | None = None) -> bool:
    return hash_bytes(file.read_bytes() if data is None else data) == file.name.split(".")[1]


def read_sweep(folder: Path, identity: Mapping[str, Any], tasks: Sequence[Task]) -> pd.DataFrame:
    """Rows of finished tasks, in the order of the tasks; unfinished ones are left out.

    Parameters
    ----------
    folder, identity, tasks
        As in `run_sweep`.

    Raises
    ------
    ArtifactError
        If a file was changed since it was written.
    """
    parts = []
    for file in finished(folder, identity, tasks).values():
        if not _sound(file, data := file.read_bytes()):
            raise ArtifactError(f"'{file}' was changed since it was written; give the same command again.")
        parts.append(pd.read_parquet(io.BytesIO(data)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _write_rows(folder: Path, name: str, rows: pd.DataFrame) -> None:
    data = rows.to_parquet(index=False)
    atomically(folder / "rows" / f"{name}.{hash_bytes(data)}.parquet", lambda part: part.write_bytes(data))


def _done(
    folder: Path,
    identity: Mapping[str, Any],
    tasks: Sequence[Task],
    work: Callable[..., pd.DataFrame],
    busy: list[Task],
    backend: Backend,
) -> Iterator[str]:
    """Do tasks, write their rows, and yield their keys; tasks that another process holds go to `busy`."""
    from joblib import Parallel, delayed

    locks: dict[str, Any] = {}
    names = _names(identity, tasks)

    def claimed() -> Iterator[Any]:
        for task in tasks:
            lock = _lock(folder, task.key)
            if lock is None:
                busy.append(task)
            elif finished(folder, identity, [task]):
                lock.release()
                busy.append(task)
            else:
                locks[task.key] = lock
                yield delayed(_keyed)(work, task)

    with ExitStack() as stack:
        stack.callback(lambda: [lock.release() for lock in locks.values()])
        stack.enter_context(_joblib(backend))
        # Tasks are claimed when they are handed out, one by one, so that a second process finds the others free, and a
        # kill loses no bundle of short tasks.
        results = Parallel(return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1)(claimed())
        for key, rows in results:
            _write_rows(folder, names[key], rows)
            locks.pop(key).release()
            yield key


def _keyed(work: Callable[..., pd.DataFrame], task: Task) -> tuple[str, pd.DataFrame]:
    if "Loky" in current_process().name:
        _end_with_parent()
    return task.key, work(*task.arguments)


@cache
def _end_with_parent() -> None:
    """Let this worker end when the process that started it is gone, which cannot tell it so after a kill."""
    parent = psutil.Process(os.getppid())

    def watch() -> None:
        while parent.is_running() and os.getppid() == parent.pid:
            time.sleep(_LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _lock(folder: Path, key: str, timeout: float = 0) -> Any:
    """Lock of a task, taken; None where another process holds it for longer than the seconds given (-1: wait)."""
    from filelock import FileLock, Timeout

    place = folder / "locks"
    try:
        place.mkdir(parents=True, exist_ok=True)
        # joblib may ask for the next task from a thread of its own.
        lock = FileLock(place / f"{digest(key)}.lock", thread_local=False)
        lock.acquire(timeout=timeout)
    except Timeout:
        return None
    except OSError as error:
        raise OutputError(f"'{folder}' cannot be written ({error}); choose another output folder.") from error
    return lock


@contextmanager
def _joblib(backend: Backend) -> Iterator[None]:
    from joblib import parallel_config

    address = backend.address
    if backend.name != "dask":
        with parallel_config(backend=backend.name, n_jobs=backend.jobs):
            yield
        return
    if address is None:
        raise ConfigError("The dask backend needs the address of a scheduler; pass --address tcp://HOST:8786.")
    try:
        from distributed import Client, Security
        from distributed.comm import connect
    except ImportError as error:
        raise ConfigError(
            "The dask backend needs the package distributed: pip install 'scgpt-workbench[dask]'."
        ) from error

    async def answers() -> None:
        comm = await connect(address, **Security().get_connection_args("client"))
        await comm.close()

    try:
        # A client starts a thread before it connects, and fails without a reason where a busy machine is slow to run
        # it; whether anybody answers is asked first, in a thread that is waited for: a notebook has a loop of its own.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(answers())).result()
        client = Client(address, set_as_default=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"No Dask scheduler answers at '{address}' ({error}); pass the address of one that runs, as in --address "
            "tcp://HOST:8786."
        ) from error
    with client, parallel_config(backend="dask", n_jobs=-1):
        yield
