"""The command line: quick help, one line for what is wrong, and machine-readable answers."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from helpers import D_MODEL, N_GENES, N_HEADS, N_LAYERS

from workbench import cli, commands
from workbench.arguments import Command, Work, make_parser
from workbench.cli import main
from workbench.engine import recipe as engine
from workbench.engine.config import read_config
from workbench.engine.context import Context
from workbench.engine.keys import keys_of
from workbench.engine.sweep import Backend
from workbench.errors import ConfigError
from workbench.files import write_json
from workbench.models import load_model
from workbench.settings import CommandConfig, Strict
from workbench.table import COMMANDS

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


@pytest.fixture(scope="module")
def helps():
    """What each --help prints, and which heavy modules one fresh process holds after printing all of them."""
    code = f"""
import contextlib, io, json, sys
from workbench.cli import main
said = {{}}
for command in ([], *([name] for name in {tuple(COMMANDS)}), ["--version"]):
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
    assert {
        "doctor",
        "inspect",
        "pretrain",
        "run",
        "extract",
        "factors",
        "ablate",
        "gates",
        "apply",
        "completion",
        "config",
    } <= {*COMMANDS}
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
        arguments = make_parser(COMMANDS)[0].parse_args(words)
        assert command in ("", arguments.command)
        if hasattr(arguments, "config"):
            assert Path(arguments.config).is_file() and arguments.config.startswith("experiments/")
            read_config(arguments.config, COMMANDS[arguments.command].work.load_config(), arguments.set)
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
    arguments = make_parser(COMMANDS)[0].parse_args(
        ["run", "a.yaml", "--set", "a=1", "--set", "b.c=2", "--out", "there"]
    )
    assert arguments.set == ["a=1", "b.c=2"] and str(arguments.out) == "there"
    assert (
        make_parser(COMMANDS)[0].parse_args(["run", "a.yaml"]).set == []
        and make_parser(COMMANDS)[0].parse_args(["run", "a.yaml"]).out is None
    )


# inspect


def test_inspect_as_json(tiny_checkpoint, capsys):
    assert main(["inspect", str(tiny_checkpoint), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["heads"] == {"layers": N_LAYERS, "per_layer": N_HEADS, "total": N_LAYERS * N_HEADS}
    assert said["config"]["d_model"] == D_MODEL and said["vocabulary"]["genes"] == N_GENES
    assert said["vocabulary"]["special"] == ["<pad>", "<cls>", "<eoc>"] and said["release"] is None
    assert said["hooks"] == len(load_model(tiny_checkpoint).hook_dict)
    assert said["report"]["layout"] == "in_proj_" and not said["report"]["mismatched"]


def test_inspect_says_what_is_done_about_settings_of_the_input(tiny_checkpoint, tmp_path, capsys):
    said = {"trunc_by_sample": True, "no_cls": True, "include_zero_gene": False, "append_cls": False, "n_hvg": 3000}
    for file in tiny_checkpoint.iterdir():
        shutil.copy(file, tmp_path)
    args = {**json.loads((tmp_path / "args.json").read_text()), **said}
    (tmp_path / "args.json").write_text(json.dumps(args))
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    found = {name: (value, done) for name, value, done in json.loads(capsys.readouterr().out)["report"]["input"]}
    assert {"input_style", "n_bins", "max_seq_len", *said} <= set(found)
    assert all(json.loads(found[name][0]) == value for name, value in said.items())
    assert (
        "a sample is read, by seed and name" in found["trunc_by_sample"][1]
        and "<cls> has the value 0" in found["include_zero_gene"][1]
    )
    assert "all the same" in found["append_cls"][1] and "not followed" in found["n_hvg"][1]
    assert main(["inspect", str(tmp_path)]) == 0
    assert "no_cls: true - no input" in " ".join(capsys.readouterr().out.split())


def test_what_needs_no_model_imports_nothing_for_it(tiny_checkpoint):
    code = f"""
import contextlib, io, json, sys
from workbench.cli import main
held = lambda: [name for name in {(*HEAVY, "transformer_lens", "sympy", "einops")} if name in sys.modules]
with contextlib.redirect_stdout(io.StringIO()):
    assert not any(main(["config", name]) for name in {[name for name, one in COMMANDS.items() if one.work]})
    configured = held()
    assert not main(["inspect", {str(tiny_checkpoint)!r}])
print(json.dumps([configured, held()]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    configured, inspected = json.loads(done.stdout)
    assert configured == ["numpy", "pydantic"]
    # torch before 2.7 imports sympy itself.
    assert [name for name in inspected if name != "sympy"] == ["torch", "numpy", "pydantic", "einops"]


@pytest.mark.parametrize("command", ["doctor", *(name for name, one in COMMANDS.items() if one.work)])
def test_the_first_line_is_printed_before_anything_heavy_is_imported(command, tmp_path, tiny_checkpoint):
    more = {"gates": "cohorts: {a: {role: internal}}", "factors": "factors: {}"}
    path = config(tmp_path, tiny_checkpoint, more.get(command, ""))
    if command == "pretrain":
        Path(path).write_text("out: made\n")
    code = f"""
import sys
from workbench.cli import main
class Stop(BaseException): pass
class First:
    def write(self, text):
        print(text, [name for name in ("torch", "pandas", "anndata", "scanpy", "transformer_lens") if name in sys.modules])
        raise Stop
    def flush(self): pass
    def isatty(self): return True
sys.stderr = First()
try:
    main({[command] if command == "doctor" else [command, path]})
except Stop:
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"[{command}] ") and done.stdout.endswith("... []\n")


def test_a_command_says_that_it_loads_its_model(tiny_checkpoint, tmp_path, capsys):
    config = SimpleNamespace(checkpoint=tiny_checkpoint, device="cpu", dtype="float32")
    assert Context(config, tmp_path).model.config.n_layers == N_LAYERS
    assert capsys.readouterr().err == f"[model] loading {tiny_checkpoint} ...\n"


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


def stood_in(monkeypatch, *stages, **more):
    """In place of carrying out a recipe: what it would answer, and a word on stderr as progress has it."""
    asked = []

    def execute(recipe, config, out, backend, parts, trust):
        print("progress", file=sys.stderr)
        asked.append((recipe.name, str(out), backend, parts))
        return SimpleNamespace(out=out, seconds=dict.fromkeys(stages, 1.5), opening=("Found.",), **more)

    monkeypatch.setattr(engine, "execute", execute)
    return asked


def json_of(capsys, *arguments, status=0):
    assert main([*arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("command", "stages", "parts"),
    [
        ("run", ["cells", "algorithm"], ("extract", "factors")),
        ("extract", ["cells", "algorithm"], ("extract",)),
        ("factors", ["cells", "factors"], ("factors",)),
    ],
)
def test_a_run_as_json(tmp_path, tiny_checkpoint, capsys, monkeypatch, command, stages, parts):
    asked = stood_in(monkeypatch, *stages)
    out = tmp_path / "out"
    said = json_of(capsys, command, config(tmp_path, tiny_checkpoint, "factors: {}"), "--out", str(out))
    algorithm = str(out / "algorithm") if "algorithm" in stages else None
    files = {"report": str(out / "report.html"), "metrics": str(out / "metrics.json"), "algorithm": algorithm}
    assert said == {**files, "seconds": dict.fromkeys(stages, 1.5)}
    assert asked == [("run", str(out), Backend(), parts)]


def test_a_sweep_as_json(tmp_path, tiny_checkpoint, capsys, monkeypatch):
    stood_in(monkeypatch, "sweep")
    start = ["ablate", config(tmp_path, tiny_checkpoint), "--out", str(tmp_path / "out")]
    said = json_of(capsys, *start)
    assert said["report"] == str(tmp_path / "out" / "report.html") and said["seconds"] == {"sweep": 1.5}
    assert said["tables"] == str(tmp_path / "out" / "tables")


def test_a_campaign_as_json(tmp_path, tiny_checkpoint, capsys, monkeypatch):
    stood_in(monkeypatch, "cells", "campaign")
    write_json(tmp_path / "out" / "metrics.json", {"tally": [{"wins": 3}]})
    said = json_of(capsys, "benchmark", config(tmp_path, tiny_checkpoint), "--out", str(tmp_path / "out"))
    files = {name: str(tmp_path / "out" / file) for name, file in (("report", "report.html"), ("tables", "tables"))}
    seconds = {"cells": 1.5, "campaign": 1.5}
    assert said == {**files, "ours": "anchor head", "tally": [{"wins": 3}], "seconds": seconds}


def test_a_training_as_json(tmp_path, capsys, monkeypatch):
    asked = stood_in(monkeypatch)
    (tmp_path / "train.yaml").write_text("out: made\n")
    said = json_of(capsys, "pretrain", str(tmp_path / "train.yaml"), "--out", str(tmp_path / "x"))
    assert said["checkpoint"] == str(tmp_path / "x") and said["card"] == str(tmp_path / "x" / "README.md")
    assert main(["pretrain", str(tmp_path / "train.yaml")]) == 0
    assert capsys.readouterr().out == f"Found.\nCheckpoint and model card: {tmp_path / 'made'}\n"
    assert [out for _, out, _, _ in asked] == [str(tmp_path / "x"), str(tmp_path / "made")]


def test_a_further_command_is_an_entry_of_the_table(tmp_path, tiny_checkpoint, capsys, monkeypatch):
    module = SimpleNamespace(RECIPE=SimpleNamespace(name="count"), CountConfig=CommandConfig)
    monkeypatch.setitem(sys.modules, "a_recipe", module)
    work = Work("a_recipe:CountConfig", "a_recipe:RECIPE")
    takes = COMMANDS["run"].arguments
    one = Command("count", "count", "Count.", commands.carry_out, takes, ("workbench count a.yaml",), work)
    monkeypatch.setattr(cli, "COMMANDS", {**COMMANDS, "count": one})
    asked = stood_in(monkeypatch, "cells")
    said = json_of(capsys, "count", config(tmp_path, tiny_checkpoint, "name: many"), "--jobs", "2")
    folder = os.path.join("artifacts", "many")
    files = {"report": os.path.join(folder, "report.html"), "tables": os.path.join(folder, "tables")}
    assert said == {**files, "seconds": {"cells": 1.5}} and asked == [("count", folder, Backend(jobs=2), ())]
    assert main(["count", config(tmp_path, tiny_checkpoint, "audit: true")]) == 2
    assert "Key 'audit' is one of 'workbench benchmark'" in capsys.readouterr().err
    assert main(["config", "run"]) == 0 and main(["completion", "bash"]) == 0
    assert "count" in capsys.readouterr().out


def test_gates_as_json_have_null_for_what_is_undefined(tmp_path, tiny_checkpoint, capsys, monkeypatch):
    table = pd.DataFrame({"gate": ["branch holdout"], "value": [float("nan")], "status": ["not applicable"]})
    results = {"verdict": {"unmet": ["branch holdout"]}}
    stood_in(monkeypatch, "gates", results=results, context=SimpleNamespace(read={"gates": table}.get))
    text = "cohorts: {internal: {role: internal}}"
    said = json_of(capsys, "gates", config(tmp_path, tiny_checkpoint, text), "--out", str(tmp_path / "out"), status=1)
    assert said == [{"gate": "branch holdout", "value": None, "status": "not applicable"}]


def test_the_backend_of_a_command_is_the_one_that_is_asked_for(tmp_path, tiny_checkpoint, monkeypatch, capsys):
    asked = stood_in(monkeypatch, "cells")
    start = ["run", config(tmp_path, tiny_checkpoint), "--out", str(tmp_path / "out")]
    assert main([*start, "--backend", "dask", "--jobs", "3", "--address", "tcp://a:1"]) == 0
    assert asked[0][2] == Backend("dask", 3, "tcp://a:1")
    for jobs in ("0", "-2"):
        assert main([*start, "--jobs", jobs]) == 2 and len(asked) == 1
        assert f"--jobs is {jobs}" in capsys.readouterr().err


# workbench config


@pytest.mark.parametrize("command", [name for name, command in COMMANDS.items() if command.work])
def test_a_commented_configuration_reads_back_to_the_defaults(tmp_path, capsys, command):
    assert main(["config", command]) == 0
    said, path = capsys.readouterr().out, tmp_path / "mine.yaml"
    path.write_text(said)
    kind = COMMANDS[command].work.load_config()
    required = [key for key in keys_of(kind) if key.required]
    with pytest.raises(ConfigError, match=f"Key '{required[0].name}' is missing"):
        read_config(path, kind)
    filled = {"checkpoint": "model", "out": "model", "cohorts": {"mine": {"role": "internal"}}}
    given = {key.name: filled[key.name] for key in required}
    own = kind.model_validate(given)
    given = [f"{name}={json.dumps(value)}" for name, value in given.items()]
    assert read_config(path, kind, given) == own
    # With every mark taken away, sections that are absent by default are there, with their defaults.
    path.write_text(re.sub(r"^( *)#(?! )", r"\1", said, flags=re.M))
    whole = read_config(path, kind)
    for key in keys_of(kind):
        value = getattr(whole, key.name)
        if key.required and key.name in ("checkpoint", "out"):
            assert value == tmp_path / "PATH"
        elif key.form == "section":
            # Sections by a name of the user's own are there, too.
            named = {one.name for one in key.keys if one.keys and one.form != "section"}
            assert value.model_dump(exclude=named) == type(value)().model_dump(exclude=named)
        elif not key.keys:
            assert value == getattr(own, key.name)


@pytest.mark.parametrize("command", [name for name, command in COMMANDS.items() if command.work])
def test_every_key_stands_in_the_commented_configuration_with_its_meaning(capsys, command):
    assert main(["config", command]) == 0
    lines = capsys.readouterr().out.splitlines()
    unfolded = " ".join(line.strip(" #") for line in lines)

    def check(keys, indent=""):
        for key in keys:
            assert any(re.match(rf"{indent}(#?(- )?){key.name}:", line) for line in lines), key.name
            assert key.meaning.endswith(".") and key.meaning in unfolded
            # Keys of a list hang on its dashes.
            check(
                key.keys,
                r"\s*" if key.form == "list of sections" else indent + ("  " if key.form == "section" else "    "),
            )

    for key in keys_of(COMMANDS[command].work.load_config()):
        if key.form != "list of sections":
            check([key])
    assert max(map(len, lines)) < 130 and not any(line != line.rstrip() for line in lines)


def test_every_field_of_every_configuration_says_what_it_means():
    for command in COMMANDS.values():
        if command.work:
            command.work.load_config()

    def below(kind):
        return [found for one in kind.__subclasses__() for found in (one, *below(one))]

    kinds = [kind for kind in below(Strict) if kind.__module__.startswith("workbench.")]
    assert len(kinds) > 20
    for kind in kinds:
        assert kind.__doc__ and kind.__doc__.count("\n") <= 1, (
            f"the docstring of {kind.__name__} is longer than two lines"
        )
        for name, field in kind.model_fields.items():
            said = field.description or ""
            assert len(said.split()) > 2 and said.endswith("."), f"{kind.__name__}.{name} says '{said}'"


@pytest.mark.parametrize("command", [name for name, command in COMMANDS.items() if command.work])
def test_the_schema_of_a_configuration_is_for_editors(capsys, command):
    assert main(["config", command, "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    kind = COMMANDS[command].work.load_config()
    assert list(schema["properties"]) == list(kind.model_fields) and schema["additionalProperties"] is False
    assert schema["$schema"].startswith("https://json-schema.org/") and schema["title"].endswith(command)
    assert all(part.get("description") or "$ref" in part for part in schema["properties"].values())


def test_the_configuration_of_a_command_without_one_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["config", "inspect"])
    assert stop.value.code == 2 and "invalid choice: 'inspect'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        ("run", "sweep: {heads: true}", "Key 'sweep' is one of 'workbench ablate and dictionary', not of this command"),
        ("gates", "splits: {n: 3}\ncohorts: {a: {role: internal}}", "Key 'splits' is one of 'workbench benchmark'"),
        ("ablate", "factors: {}", "Key 'factors' is one of 'workbench run, extract and factors', not of this command"),
        ("benchmark", "cohorts: {a: {role: internal}}", "Key 'cohorts' is one of 'workbench gates'"),
        ("extract", "audit: true", "Key 'audit' is one of 'workbench benchmark'"),
    ],
)
def test_a_key_of_another_command_is_said_to_be_its(tmp_path, tiny_checkpoint, capsys, command, text, said):
    assert main([command, config(tmp_path, tiny_checkpoint, text)]) == 2
    assert said in one_line(capsys, "ConfigError")


def test_an_error_leaves_stdout_empty_with_json_too(tmp_path, capsys):
    assert main(["run", str(tmp_path / "absent.yaml"), "--json"]) == 2
    one_line(capsys, "ConfigError")


# What is wrong


def one_line(capsys, kind):
    said = capsys.readouterr()
    # What is said before libraries are imported is progress.
    error = "".join(line for line in said.err.splitlines(keepends=True) if not line.startswith("["))
    assert error.startswith(f"{kind}: ") and error.count("\n") == 1
    assert said.out == ""
    return error


def config(tmp_path, tiny_checkpoint, text=""):
    path = tmp_path / "run.yaml"
    path.write_text(f"checkpoint: {tiny_checkpoint}\n{text}")
    return str(path)


def test_a_checkpoint_that_is_not_there(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "absent")]) == 2
    assert "There is no checkpoint folder" in one_line(capsys, "CheckpointError")


@pytest.mark.parametrize("command", ["run", "extract", "ablate", "benchmark", "pretrain"])
def test_a_device_that_is_not_there_is_said_before_any_work(command, tmp_path, tiny_checkpoint, capsys):
    path, out = config(tmp_path, tiny_checkpoint), tmp_path / "out"
    if command == "pretrain":
        (tmp_path / "run.yaml").write_text("out: somewhere\n")
    for device in (["--device", "cuda:93"], ["--set", "device=cuda:93"], ["--device", "cpu,cuda:93"]):
        assert main([command, path, "--out", str(out), *device]) == 2
        said = one_line(capsys, "ConfigError")
        assert "The device 'cuda:93' cannot be used" in said and "torch sees cpu (" in said and not out.exists()


def test_every_command_with_a_checkpoint_takes_device_and_float_type(tmp_path, tiny_checkpoint):
    path = config(tmp_path, tiny_checkpoint)
    for name, command in COMMANDS.items():
        if command.work:
            taken = {one.names[0] for one in command.arguments}
            assert {"--device", "--dtype"} <= taken, name
    parser, _ = make_parser(COMMANDS)
    given = parser.parse_args(
        ["run", path, "--device", "cuda:0,cuda:1", "--dtype", "float16", "--set", "dtype=bfloat16"]
    )
    read = commands._configured(given)
    assert (read.device, read.dtype) == (("cuda:0", "cuda:1"), "float16")
    assert commands._configured(parser.parse_args(["run", path, "--set", "device=cuda:1"])).device == "cuda:1"


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
        ("", ["--set", "data.cell_type=bulk", "--set", "data.layer=raw"], "CellsError", "no obs column 'bulk'"),
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
    def interrupted(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "execute", interrupted)
    assert main(["run", config(tmp_path, tiny_checkpoint)]) == 130
    assert capsys.readouterr().err.endswith("...\nInterrupted; the same command goes on from the last save.\n")
    monkeypatch.setattr("workbench.models.inspection.describe", interrupted)
    assert main(["inspect", str(tiny_checkpoint)]) == 130
    assert capsys.readouterr().err == "Interrupted; the same command starts again, and nothing was left half-written.\n"


def test_a_terminated_command_ends_as_an_interrupted_one_with_a_status_of_its_own(
    tmp_path, tiny_checkpoint, capsys, monkeypatch
):
    monkeypatch.setattr(engine, "execute", lambda *args, **more: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(sys, "argv", ["workbench", "run", config(tmp_path, tiny_checkpoint)])
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main() == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err.endswith("...\nTerminated; the same command goes on from the last save.\n")


def test_a_mistake_of_ours_is_not_hidden(tmp_path, tiny_checkpoint, monkeypatch):
    def broken(*args, **more):
        raise ZeroDivisionError

    monkeypatch.setattr(engine, "execute", broken)
    with pytest.raises(ZeroDivisionError):
        main(["run", config(tmp_path, tiny_checkpoint)])


def test_a_fault_of_ours_has_a_status_of_its_own_and_is_no_gate_that_did_not_pass(
    tmp_path, tiny_checkpoint, capsys, monkeypatch
):
    def broken(*args, **more):
        raise ZeroDivisionError

    monkeypatch.setattr(engine, "execute", broken)
    monkeypatch.setattr(
        sys, "argv", ["workbench", "gates", config(tmp_path, tiny_checkpoint, "cohorts: {a: {role: internal}}")]
    )
    assert main() == 3
    said = capsys.readouterr().err
    assert "Traceback" in said and said.endswith("not of your input: please report the lines above.\n")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
    ids=["full", "quota", "h5py", "safetensors"],
)
def test_a_full_disk_is_one_line(tmp_path, tiny_checkpoint, capsys, monkeypatch, error):
    def full(*args, **more):
        raise error

    monkeypatch.setattr(engine, "execute", full)
    assert main(["run", config(tmp_path, tiny_checkpoint)]) == 2
    assert "The disk is full" in (said := one_line(capsys, "OutputError")) and "same command again" in said


def test_a_pipe_that_is_closed_is_no_fault(tmp_path):
    command = [sys.executable, "-m", "workbench.cli", "config", "run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.wait() == 0 and process.stderr.read() == b""


def test_the_folder_of_a_run_is_named_after_its_configuration(tmp_path, tiny_checkpoint, capsys, monkeypatch):
    asked = stood_in(monkeypatch)
    path = config(tmp_path, tiny_checkpoint, "name: mine")
    assert main(["run", path]) == 0 and main(["run", path, "--out", "elsewhere", "--set", "name=other"]) == 0
    assert [out for _, out, _, _ in asked] == [os.path.join("artifacts", "mine"), "elsewhere"]
    assert f"Found.\nReport: {os.path.join('artifacts', 'mine', 'report.html')}" in capsys.readouterr().out


def test_the_installed_command_ends_with_the_status(tmp_path):
    code = "import sys; from workbench.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(tmp_path / "absent.yaml")], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
