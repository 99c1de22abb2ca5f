"""The command line: quick help, one line for what is wrong, and machine-readable answers."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from helpers import D_MODEL, N_GENES, N_HEADS, N_LAYERS

from workbench.cli import build_parser, main, parsers
from workbench.engine.config import read_config
from workbench.files import write_json
from workbench.models.scgpt.checkpoint import load_checkpoint
from workbench.recipes.benchmark.config import BenchmarkConfig
from workbench.settings import AblationConfig, GatesConfig, PretrainConfig, RunConfig

COMMANDS = tuple(parsers()[1])
ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "anndata",
    "scanpy",
    "sklearn",
    "numba",
    "plotly",
    "umap",
    "pydantic",
    "shtab",
)
SETTINGS = {"pretrain": PretrainConfig, "run": RunConfig, "extract": RunConfig, "factors": RunConfig, "ablate": AblationConfig, "gates": GatesConfig, "benchmark": BenchmarkConfig}  # fmt: skip


@pytest.fixture(scope="module")
def helps():
    """What each --help prints, and which heavy modules one fresh process holds after printing all of them."""
    code = f"""
import contextlib, io, json, sys
from workbench.cli import main
said = {{}}
for command in ([], *([name] for name in {COMMANDS}), ["--version"]):
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
    return json.loads(done.stdout)


def examples(said):
    return [line.strip() for line in said.splitlines() if line.strip().startswith("workbench ")]


def test_help_names_every_command(helps):
    said, _ = helps
    assert {"doctor", "inspect", "pretrain", "run", "extract", "factors", "ablate", "gates", "apply", "completion"} <= {
        *COMMANDS
    }
    assert all(f"\n    {command}" in said[""] for command in COMMANDS) and said["--version"].startswith("workbench ")


def test_no_help_imports_anything_heavy(helps):
    assert helps[1] == []


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_example_is_a_command_as_it_stands(helps, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    said = helps[0][command]
    assert said.startswith(f"usage: workbench {command}") and examples(said)
    for example in examples(said):
        # What follows is the shell's.
        words = shlex.split(example.split(">")[0])[1:]
        arguments = build_parser().parse_args(words)
        assert command in ("", arguments.command)
        if hasattr(arguments, "config"):
            assert Path(arguments.config).is_file() and arguments.config.startswith("experiments/")
            read_config(arguments.config, SETTINGS[arguments.command], arguments.set)
        if arguments.command == "inspect":
            assert Path(arguments.path).is_dir()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "No command was given; workbench --help lists them"),
        (["rnu"], "Unknown command 'rnu': did you mean 'run'?"),
        (["gate", "a.yaml", "--json"], "Unknown command 'gate': did you mean 'gates'"),
        (["--josn"], "Unknown option '--josn'"),
        (["run", "a.yaml", "--otu", "x"], "Unknown option '--otu': did you mean '--out'"),
        (["inspect", "a", "--jsno=1"], "Unknown option '--jsno': did you mean '--json'"),
        (["--json", "doctor"], "'--json' stands before the command; options come after it: workbench doctor --json"),
        (["run", "a.yaml", "b.yaml"], "'b.yaml' is one argument too many; workbench run --help says what it takes"),
    ],
)
def test_a_mistyped_command_or_option_is_one_sentence_and_status_2(arguments, said, capsys):
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and error.startswith("workbench: ") and said in error


@pytest.mark.parametrize("arguments", [["run"], ["inspect"], ["completion", "csh"], ["run", "a.yaml", "--jobs", "two"]])
def test_arguments_that_do_not_parse_end_with_status_2_and_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and f"usage: workbench {arguments[0]}" in capsys.readouterr().err


def test_the_package_is_a_command():
    done = subprocess.run([sys.executable, "-m", "workbench", "gaets"], capture_output=True, text=True)
    assert done.returncode == 2 and "did you mean 'gates'" in done.stderr
    done = subprocess.run([sys.executable, "-m", "workbench", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("workbench ")


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


# One JSON value on stdout, with --json; the work itself is stood in for


def stood_in(out, *stages):
    """Files that the work would leave, and a word on stderr as progress has it."""
    print("progress", file=sys.stderr)
    write_json(out / "manifest.json", {"stages": {name: {"seconds": 1.5, "kept": False} for name in stages}})
    return out


def json_of(capsys, *arguments, status=0):
    assert main([*arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("command", "stages"),
    [("run", ["cells", "algorithm"]), ("extract", ["cells", "algorithm"]), ("factors", ["cells", "factors"])],
)
def test_a_run_as_json(tmp_path, tiny_checkpoint, capsys, monkeypatch, command, stages):
    from workbench.recipes.run import run

    monkeypatch.setattr(run, "run", lambda config, out, **more: stood_in(out, *stages))
    out = tmp_path / "out"
    said = json_of(capsys, command, config(tmp_path, tiny_checkpoint, "factors: {}"), "--out", str(out))
    algorithm = str(out / "algorithm") if "algorithm" in stages else None
    files = {"report": str(out / "report.html"), "metrics": str(out / "metrics.json"), "algorithm": algorithm}
    assert said == {**files, "seconds": dict.fromkeys(stages, 1.5)}


def test_a_sweep_as_json(tmp_path, tiny_checkpoint, capsys, monkeypatch):
    from workbench.ablation import report

    monkeypatch.setattr(report, "dry_run", lambda config, out: "so much")
    monkeypatch.setattr(
        report, "ablate_and_report", lambda config, out, backend: stood_in(out, "sweep") / "report.html"
    )
    start = ["ablate", config(tmp_path, tiny_checkpoint), "--out", str(tmp_path / "out")]
    said = json_of(capsys, *start)
    assert said["report"] == str(tmp_path / "out" / "report.html") and said["seconds"] == {"sweep": 1.5}
    assert json_of(capsys, *start, "--dry-run") == {"dry_run": "so much"}


def test_a_training_as_json(tmp_path, capsys, monkeypatch):
    from workbench.recipes import pretrain

    monkeypatch.setattr(pretrain, "pretrain", lambda config, out: out)
    (tmp_path / "train.yaml").write_text("out: made\n")
    said = json_of(capsys, "pretrain", str(tmp_path / "train.yaml"), "--out", str(tmp_path / "x"))
    assert said["checkpoint"] == str(tmp_path / "x") and said["card"] == str(tmp_path / "x" / "README.md")


def test_gates_as_json_have_null_for_what_is_undefined(tmp_path, tiny_checkpoint, capsys, monkeypatch):
    from workbench.recipes.gates import run

    table = pd.DataFrame({"gate": ["branch holdout"], "value": [float("nan")], "status": ["not applicable"]})
    result = SimpleNamespace(gates=table, unmet=("branch holdout",), out=tmp_path)
    monkeypatch.setattr(run, "run_gates", lambda config, out, backend: result)
    text = "panels: {internal: {role: internal}}"
    said = json_of(capsys, "gates", config(tmp_path, tiny_checkpoint, text), "--out", str(tmp_path / "out"), status=1)
    assert said == [{"gate": "branch holdout", "value": None, "status": "not applicable"}]


def test_an_error_leaves_stdout_empty_with_json_too(tmp_path, capsys):
    assert main(["run", str(tmp_path / "absent.yaml"), "--json"]) == 2
    one_line(capsys, "ConfigError")


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
    from workbench.recipes.run import run

    def interrupted(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupted)
    assert main(["run", config(tmp_path, tiny_checkpoint)]) == 130
    assert capsys.readouterr().err == "Interrupted; the same command goes on from the last save.\n"
    monkeypatch.setattr("workbench.models.scgpt.inspection.describe", interrupted)
    assert main(["inspect", str(tiny_checkpoint)]) == 130
    assert capsys.readouterr().err == "Interrupted; the same command starts again, and nothing was left half-written.\n"


def test_a_mistake_of_ours_is_not_hidden(tmp_path, tiny_checkpoint, monkeypatch):
    from workbench.recipes.run import run

    def broken(*args, **more):
        raise ZeroDivisionError

    monkeypatch.setattr(run, "run", broken)
    with pytest.raises(ZeroDivisionError):
        main(["run", config(tmp_path, tiny_checkpoint)])


def test_the_folder_of_a_run_is_named_after_its_configuration(tmp_path, tiny_checkpoint, capsys, monkeypatch):
    from workbench.recipes.run import run

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
