"""The command line: quick help, one line for what is wrong, and machine-readable answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from helpers import D_MODEL, N_GENES, N_HEADS, N_LAYERS

from workbench.cli import build_parser, main
from workbench.model.checkpoint import load_checkpoint

COMMANDS = ("inspect", "pretrain", "run", "ablate", "gates", "apply")
HEAVY = ("torch", "numpy", "scipy", "pandas", "anndata", "scanpy", "sklearn", "numba", "plotly", "umap")


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert all(f"    {command}" in said for command in COMMANDS)


def test_every_command_has_help_with_an_example_and_no_help_imports_anything_heavy():
    code = f"""
import contextlib, io, json, sys
from workbench.cli import main
said = {{}}
for command in ([], ["inspect"], ["pretrain"], ["run"], ["ablate"], ["gates"], ["apply"], ["--version"]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main([*command, "--help"] if command != ["--version"] else command)
        except SystemExit as stop:
            assert stop.code == 0
    said[" ".join(command)] = out.getvalue()
print(json.dumps([said, [name for name in {HEAVY} if name in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, heavy = json.loads(done.stdout)
    assert heavy == []
    for command in COMMANDS:
        assert f"usage: workbench {command}" in said[command] and f"Example: workbench {command} " in " ".join(
            said[command].split()
        )
    assert said["--version"].startswith("workbench ")


@pytest.mark.parametrize("arguments", [[], ["rnu"], ["run"], ["inspect"], ["run", "a.yaml", "--otu", "x"]])
def test_arguments_that_do_not_parse_end_with_status_2_and_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "usage: workbench" in capsys.readouterr().err


def test_options_of_the_parser():
    arguments = build_parser().parse_args(["run", "a.yaml", "--set", "a=1", "--set", "b.c=2", "--out", "there"])
    assert arguments.set == ["a=1", "b.c=2"] and str(arguments.out) == "there"
    assert (
        build_parser().parse_args(["run", "a.yaml"]).set == []
        and build_parser().parse_args(["run", "a.yaml"]).out is None
    )


# inspect


def test_inspect_as_json(tiny_checkpoint, capsys):
    assert main(["inspect", str(tiny_checkpoint), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["heads"] == {"layers": N_LAYERS, "per_layer": N_HEADS, "total": N_LAYERS * N_HEADS}
    assert said["config"]["d_model"] == D_MODEL and said["vocabulary"]["genes"] == N_GENES
    assert said["vocabulary"]["special"] == ["<pad>", "<cls>", "<eoc>"] and said["release"] is None
    assert said["hooks"] == len(load_checkpoint(tiny_checkpoint).hook_dict)
    assert said["report"]["layout"] == "in_proj_" and not said["report"]["mismatched"]


def test_inspect_as_text(tiny_checkpoint, capsys):
    assert main(["inspect", str(tiny_checkpoint)]) == 0
    said = capsys.readouterr().out
    for part in (
        f"{N_LAYERS} layers x {N_HEADS} heads = {N_LAYERS * N_HEADS}",
        f"{N_GENES} genes",
        "not a known release",
    ):
        assert part in said


# What is wrong


def one_line(capsys, kind):
    said = capsys.readouterr()
    assert said.err.startswith(f"{kind}: ") and said.err.count("\n") == 1 and "Traceback" not in said.err
    assert said.out == ""
    return said.err


def config(tmp_path, tiny_checkpoint, text=""):
    path = tmp_path / "run.yaml"
    path.write_text(f"checkpoint: {tiny_checkpoint}\n{text}")
    return str(path)


def test_a_checkpoint_that_is_not_there(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "absent")]) == 2
    assert "There is no checkpoint folder" in one_line(capsys, "CheckpointError")


def test_a_configuration_that_is_not_there(tmp_path, capsys):
    for command in ("run", "pretrain"):
        assert main([command, str(tmp_path / "absent.yaml")]) == 2
        assert "cannot be read (No such file or directory)" in one_line(capsys, "ConfigError")


@pytest.mark.parametrize(
    ("text", "options", "kind", "said"),
    [
        ("sed: 3", [], "ConfigError", "Unknown key 'sed': did you mean 'seed'"),
        ("", ["--set", "seed"], "ConfigError", "is not of the form key=value"),
        ("", ["--set", "data.name=pbmc86k"], "CellsError", "Unknown dataset 'pbmc86k': did you mean 'pbmc68k'"),
        ("", ["--set", "data.cell_type=bulk", "--set", "data.values=raw"], "CellsError", "no obs column 'bulk'"),
        ("", ["--set", "ruler=hematopoesis"], "EvaluationError", "did you mean 'hematopoiesis'"),
        ("", ["--set", "checkpoint=nowhere"], "CheckpointError", "There is no checkpoint folder 'nowhere'"),
        ("", [], "GeneMatchError", "Only 0.0% of 765 genes are in the vocabulary"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_run_is_one_line(
    tmp_path, tiny_checkpoint, capsys, monkeypatch, text, options, kind, said
):
    monkeypatch.chdir(tmp_path)
    assert main(["run", config(tmp_path, tiny_checkpoint, text), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    # The stage that was begun is named before.
    lines = [line for line in error.splitlines() if not line.startswith("[")]
    assert len(lines) == 1 and lines[0].startswith(f"{kind}: ") and said in lines[0]


def test_an_out_folder_that_cannot_be_written(tmp_path, tiny_checkpoint, capsys):
    (tmp_path / "file").touch()
    for out in ("file", "file/below"):
        assert main(["run", config(tmp_path, tiny_checkpoint), "--out", str(tmp_path / out)]) == 2
        assert "cannot be written" in (said := one_line(capsys, "OutputError")) and "--out" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_out_folder_without_permission(tmp_path, tiny_checkpoint, capsys):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert main(["run", config(tmp_path, tiny_checkpoint), "--out", str(tmp_path / "closed" / "out")]) == 2
    one_line(capsys, "OutputError")


def test_an_interruption_is_said_without_a_traceback(tmp_path, tiny_checkpoint, capsys, monkeypatch):
    from workbench.runs import run

    def interrupted(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupted)
    assert main(["run", config(tmp_path, tiny_checkpoint)]) == 130
    assert capsys.readouterr().err == "Interrupted; the same command goes on from the last save.\n"


def test_a_mistake_of_ours_is_not_hidden(tmp_path, tiny_checkpoint, monkeypatch):
    from workbench.runs import run

    def broken(*args, **more):
        raise ZeroDivisionError

    monkeypatch.setattr(run, "run", broken)
    with pytest.raises(ZeroDivisionError):
        main(["run", config(tmp_path, tiny_checkpoint)])


def test_the_folder_of_a_run_is_named_after_its_configuration(tmp_path, tiny_checkpoint, capsys, monkeypatch):
    from workbench.runs import run

    outs = []
    monkeypatch.setattr(run, "run", lambda config, out, **more: outs.append(str(out)) or out)
    path = config(tmp_path, tiny_checkpoint, "name: mine")
    assert main(["run", path]) == 0 and main(["run", path, "--out", "elsewhere", "--set", "name=other"]) == 0
    assert outs == [os.path.join("artifacts", "mine"), "elsewhere"]
    assert f"Report: {os.path.join('artifacts', 'mine', 'report.html')}" in capsys.readouterr().out


def test_the_installed_command_ends_with_the_status(tmp_path):
    code = "import sys; from workbench.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(tmp_path / "absent.yaml")], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
