"""An output folder belongs to one process at a time."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time

import psutil
import pytest
from processes import needs_processes, start

from workbench.cli import main
from workbench.engine import folder
from workbench.engine.folder import LOCK, hold
from workbench.errors import OutputError

STRANGER = f"filelock/2\npid={2**22}\nhost=elsewhere\nmode=lease\ntoken={'a' * 32}\nduration={{}}\nstart=1\n"


def keep(out, ready):
    with hold(out):
        ready.touch()
        time.sleep(60)


@pytest.fixture
def owner(tmp_path):
    """A process that holds a folder."""
    process = start(keep, tmp_path / "out", tmp_path / "ready")
    while not (tmp_path / "ready").exists():
        assert process.is_alive()
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()


def take(out):
    with hold(out):
        return (out / LOCK).is_file()


def test_a_folder_is_held_and_let_go(tmp_path):
    assert take(tmp_path / "a" / "out") and list((tmp_path / "a" / "out").iterdir()) == []


@needs_processes
def test_a_folder_that_another_process_works_in_is_refused(tmp_path, owner):
    for _ in range(2):
        with pytest.raises(OutputError, match=f"Process {owner.pid} on this machine, begun at .*, works in .* --out"):
            take(tmp_path / "out")
        os.kill(owner.pid, signal.SIGSTOP)  # a process that is stopped is not gone
    os.kill(owner.pid, signal.SIGCONT)
    assert psutil.pid_exists(owner.pid)


@needs_processes
def test_the_folder_of_a_killed_process_is_taken_over_at_once(tmp_path, owner, capsys):
    owner.kill()
    owner.join()
    assert take(tmp_path / "out") and "waiting" not in capsys.readouterr().err


def test_the_folder_of_a_machine_that_is_gone_is_taken_over(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folder, "_LEASE", 1)
    (tmp_path / LOCK).write_text(STRANGER.format(1.0))
    # Whatever the clock of that machine said.
    os.utime(tmp_path / LOCK, (time.time() + 10**6,) * 2)
    assert take(tmp_path)
    assert f"is held by process {2**22} of 'elsewhere'; waiting up to 1 s" in capsys.readouterr().err


def test_a_lock_of_other_rules_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_LEASE", 1)
    (tmp_path / LOCK).write_text(STRANGER.format(3600.0))
    with pytest.raises(OutputError, match=f"held by process .* of 'elsewhere'.* remove '.*{LOCK}'"):
        take(tmp_path)


def test_who_loses_the_folder_stops(tmp_path, monkeypatch, capsys, request):
    monkeypatch.setattr(folder, "_LEASE", 1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt), hold(tmp_path):
        (tmp_path / LOCK).unlink()
        for _ in range(2000):
            time.sleep(0.01)
    assert "has taken the folder over" in capsys.readouterr().err


def test_who_ignores_interrupts_is_ended(tmp_path):
    """As in the background of a script, where shells ignore SIGINT."""
    code = (
        "import signal, sys, time; from pathlib import Path; from workbench.engine import folder; folder._LEASE = 1\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "with folder.hold(Path(sys.argv[1])):\n"
        "    (Path(sys.argv[1]) / folder.LOCK).unlink(); time.sleep(60)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGTERM and "has taken the folder over" in ended.stderr


def test_halves_of_killed_processes_are_removed_wherever_a_command_writes(tmp_path):
    gone = f"{platform.node()}-{2**22}-0123abcd.part"
    ours = [
        f".report.html.{gone}",
        f"tables/.heads.csv.{gone}",
        f"stages/one/.x.safetensors.{gone}",
        f"stages/one/sweep/rows/.a.b.parquet.{gone}",
    ]
    alive = f"tables/.cells.csv.{platform.node()}-{os.getpid()}-0123abcd.part"
    users = [f"mine/.notes.txt.{gone}", ".part", "stages/one/x.part", alive]
    for name in (*ours, *users):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    take(tmp_path)
    assert {name for name in (*ours, *users) if (tmp_path / name).exists()} == set(users)


# What killed processes left, cleaned by hand


def part_of(folder, process, name="table.csv", machine=None):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name}.{machine or platform.node()}-{process}-0a1b2c3d.part"
    path.write_bytes(b"half")
    return path


@pytest.mark.parametrize("ours", [True, False])
def test_clean_removes_halves_of_processes_that_are_gone_and_nothing_else(tmp_path, capsys, ours):
    gone, alive = 2**22 - 1, os.getpid()
    assert not psutil.pid_exists(gone)
    stays = [part_of(tmp_path, alive), part_of(tmp_path, gone, machine="elsewhere"), tmp_path / ".mine.part"]
    stays += [tmp_path / "table.csv", tmp_path / "table.csv.changed"]
    for path in stays[2:]:
        path.write_text("mine")
    goes = [part_of(tmp_path, gone, "big.h5ad")]
    if ours:
        (tmp_path / folder.MARKER).write_text("{}")
        goes += [part_of(tmp_path / "tables", gone), part_of(tmp_path / "stages" / "cells", gone)]
    assert main(["clean", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert all(path.exists() for path in stays) and not any(path.exists() for path in goes)
    assert said.startswith(f"{len(goes)} halves") and all(str(path) in said for path in goes)
    assert ("table.csv.changed" in said) == ours
    assert main(["clean", str(tmp_path), "--json"]) == 0 and json.loads(capsys.readouterr().out)["removed"] == []


def test_clean_leaves_a_folder_that_a_process_works_in_and_one_that_is_not_there(owner, tmp_path, capsys):
    (tmp_path / "out" / folder.MARKER).write_text("{}")
    assert main(["clean", str(tmp_path / "out")]) == 2 and f"Process {owner.pid}" in capsys.readouterr().err
    assert main(["clean", str(tmp_path / "absent")]) == 2 and "There is no folder" in capsys.readouterr().err
