"""Completion by real shells: each loads its script and offers commands, options, files and folders."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import shlex
import shutil
import subprocess
import sys
import threading
import time

import pytest
from test_cli import one_line

from workbench.arguments import BACKENDS, SHELLS
from workbench.cli import main
from workbench.table import COMMANDS

FILES = ("exported.h5ad", "experiment.yaml", "example.yml", "extra.txt", "experiments/demo.yaml", "experiments/a.txt")
OFFERED = [
    ("workbench ga", ["gates"]),
    ("workbench ab", ["ablate"]),
    ("workbench nothing", []),
    ("workbench --v", ["--version"]),
    ("workbench run exp", ["experiment.yaml", "experiments"]),
    ("workbench run ex", ["example.yml", "experiment.yaml", "experiments"]),
    ("workbench run experiments/", ["experiments/demo.yaml", "experiments/performance"]),
    ("workbench run experiment.yaml --out ex", ["experiments"]),
    ("workbench run experiment.yaml --backend lo", ["loky"]),
    ("workbench run experiment.yaml --backend ", sorted(BACKENDS)),
    ("workbench run experiment.yaml --js", ["--json"]),
    ("workbench inspect ex", ["experiments"]),
    ("workbench doctor --checkpoint ex", ["experiments"]),
    ("workbench apply ex", ["experiments"]),
    ("workbench apply experiments ex", ["experiments", "exported.h5ad"]),
    ("workbench completion z", ["zsh"]),
    ("workbench config f", ["factors"]),
]
# Installed as a user would: compinit finds it in a folder of $fpath. What is offered goes to a file, nothing is inserted.
ZSH = """
PS1=; fpath=($PWD/functions $fpath)
autoload -U compinit; compinit -u -D
asked () {
  compadd () {
    if [[ ${@[1,(i)(-|--)]} == *-[OAD]\\ * ]]; then builtin compadd "$@"; return; fi
    local -a found; builtin compadd -A found "$@"; (( $#found )) && print -rl -- $found >> offered
    builtin compadd "$@"
  }
  _main_complete; print -r -- END >> offered; compstate[insert]=; compstate[list]=
}
zle -C asked complete-word asked; bindkey '^I' asked; bindkey '^U' kill-whole-line
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of several kinds, and the script of every shell."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "experiments" / "performance").mkdir(parents=True)
    (folder / "functions").mkdir()
    for name in FILES:
        (folder / name).touch()
    for shell, name in {"bash": "completion.bash", "fish": "completion.fish", "zsh": "functions/_workbench"}.items():
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert main(["completion", shell]) == 0
        (folder / name).write_text(said.getvalue())
    return folder


def path_of(shell):
    return shutil.which(shell) or pytest.skip(f"needs {shell} on the PATH")


@pytest.mark.parametrize(("line", "offered"), OFFERED)
def test_bash_completes(folder, line, offered):
    words = line.split(" ")
    shell = f"""
source ./completion.bash
function=$(complete -p workbench | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
COMP_WORDS=({" ".join(words[:-1])} {shlex.quote(words[-1])}); COMP_CWORD={len(words) - 1}
$function
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        [path_of("bash"), "--norc", "-c", shell], capture_output=True, text=True, cwd=folder, check=True
    )
    assert sorted(done.stdout.split()) == offered


def test_fish_completes(folder):
    asked = "\n".join(f"complete -C {shlex.quote(line)}; echo END" for line, _ in OFFERED)
    command = [path_of("fish"), "--no-config", "-c", f"source completion.fish\n{asked}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    assert done.stderr == ""
    for (line, offered), said in zip(OFFERED, done.stdout.split("END\n"), strict=False):
        # A candidate, a tab, and its help. Fish also offers what holds the letters elsewhere than at the start.
        found = {one.split("\t")[0].rstrip("/"): one for one in said.splitlines()}
        assert {one for one in found if one.startswith(line.split(" ")[-1])} == {*offered}, line
    assert "ablate\tsweep ablations" in done.stdout


def test_zsh_completes(folder):
    """In a terminal of its own, since zsh completes nowhere else."""
    zsh, (ours, theirs) = path_of("zsh"), pty.openpty()
    (folder / "setup.zsh").write_text(ZSH)
    environment = {**os.environ, "TERM": "dumb"}
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    running = subprocess.Popen([zsh, "-f", "-i"], cwd=folder, env=environment, start_new_session=True, **streams)
    threading.Thread(target=_drain, args=(ours,), daemon=True).start()
    try:
        os.write(ours, b"source ./setup.zsh\n")
        for n, (line, _) in enumerate(OFFERED):
            os.write(ours, f"\x15{line}\t".encode())
            _wait(lambda n=n: _zsh_answers(folder)[n + 1 :])
    finally:
        running.kill()
        running.wait()
        os.close(theirs)
    for (line, offered), said in zip(OFFERED, _zsh_answers(folder), strict=False):
        # Without the part of a path that stands already.
        assert {one.rstrip("/") for one in said.split()} == {one.removeprefix("experiments/") for one in offered}, line


def _drain(terminal):
    with contextlib.suppress(OSError):
        while os.read(terminal, 4096):
            pass


def _zsh_answers(folder):
    path = folder / "offered"
    return path.read_text().split("END\n") if path.exists() else [""]


def _wait(done, seconds=60):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "the shell did not answer"
        time.sleep(0.02)


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script_with_every_command(shell, capsys):
    assert main(["completion", shell]) == 0
    said = capsys.readouterr().out
    assert all(command in said for command in COMMANDS)


def test_completion_offers_the_backends_there_are():
    from workbench.engine.sweep import BACKENDS as known

    assert BACKENDS == known


def test_completion_without_its_package_is_said(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install shtab" in one_line(capsys, "ConfigError")
