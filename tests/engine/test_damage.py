"""What lies in a finished folder is looked at before it is used."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from damage import DAMAGES, content, damaged, files_of

from workbench.engine.context import Context
from workbench.engine.folder import MARKER, check_folder, claim, hold
from workbench.engine.record import damaged_tables
from workbench.engine.stages import Stage, StageRunner, run_all
from workbench.engine.sweep import Backend, Task, run_sweep
from workbench.errors import WorkbenchError
from workbench.files import read_arrays, read_json, write_arrays, write_text
from workbench.settings import CommandConfig

CALLS: list[str] = []


class SmallContext(Context):
    settings = CommandConfig
    content = "hash of the cells"
    data_name = "no cells"


def draw(seed: int, i: int) -> pd.DataFrame:
    CALLS.append(f"task {i}")
    return pd.DataFrame({"i": [i], "x": np.random.default_rng([seed, i]).normal(size=1)})


def made(context, folder, results):
    CALLS.append("made")
    x = np.random.default_rng(context.config.seed).normal(size=(40, 3))
    write_arrays(folder / "x.safetensors", {"x": x})
    write_text(folder / "names.txt", "\n".join(f"g{i}" for i in range(40)) + "\n")
    write_text(context.out / "algorithm" / "card.md", f"A mean of {x.mean()}.\n")
    return {"mean": x.mean()}


def swept(context, folder, results):
    tasks = [Task(str(i), (context.config.seed, i)) for i in range(4)]
    rows = run_sweep(folder / "sweep", {"seed": context.config.seed}, tasks, draw, Backend(progress=False))
    context.write({"draws": rows})
    return {"n": len(rows)}


def later(context, folder, results):
    CALLS.append("later")
    x = read_arrays(context.folder("made") / "x.safetensors")[0]["x"]
    names = (context.folder("made") / "names.txt").read_text().split()
    rows = pd.DataFrame({"name": names, "x": x.sum(1) + context.read("draws")["x"].sum() + results["made"]["mean"]})
    context.write({"sums": rows})
    return {"n": len(rows)}


def stages(context):
    seed = {"seed": context.config.seed}
    return [
        Stage("made", partial(made, context), seed, files=("algorithm/card.md",)),
        Stage("swept", partial(swept, context), seed, tables=("draws",)),
        Stage("later", partial(later, context), seed, ("made", "swept"), ("sums",)),
    ]


def go(config, out, trust=False):
    """What `execute` does with the folder and the stages; the report is written from the tables in any case."""
    check_folder(out, "small")
    with hold(out):
        claim(out, "small")
        run_all(StageRunner(out, trust), stages(SmallContext(config, out)))


@pytest.fixture(scope="module")
def config(tiny_checkpoint):
    return CommandConfig(name="small", checkpoint=tiny_checkpoint, seed=1)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("small") / "out"
    go(config, out)
    go(config.model_copy(update={"seed": 2}), out.with_name("other"))
    return out


FILES = [
    *("stages/made/x.safetensors", "stages/made/names.txt", "algorithm/card.md", "tables/draws.csv"),
    *("tables/draws.types.json", "tables/sums.csv", "tables/sums.types.json", "stages/swept/sweep/sweep.json"),
    *(f"stages/{stage}/{name}.json" for stage in ("made", "swept", "later") for name in ("begun", "done")),
]


def test_every_kind_of_file_has_its_case(finished):
    rows = {path for path in files_of(finished) if path.suffix == ".parquet"}
    assert {str(path) for path in files_of(finished)} - set(map(str, rows)) == set(FILES) and len(rows) == 4


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, "a row"])
def test_a_damaged_file_leads_to_the_undamaged_result(finished, config, tmp_path, capsys, name, how):
    row = next(path for path in files_of(finished) if path.suffix == ".parquet")
    file = Path(name) if name != "a row" else row
    other = finished.with_name("other") / file
    rows = sorted((finished.with_name("other") / row.parent).iterdir())
    copy = damaged(finished, tmp_path / "out", file, how, other if name != "a row" else rows[0])
    same = how != "deleted" and (copy / file).read_bytes() == (finished / file).read_bytes()
    CALLS.clear()
    go(config, copy)
    assert content(copy) == content(finished)
    said = capsys.readouterr().err
    # A file that is only looked at when the work is done again may be as it likes while it is not.
    if name.endswith("begun.json") or same:
        assert CALLS == []
    elif not name.endswith("done.json"):
        assert f"{file} was {'removed' if how == 'deleted' else 'changed'} since this stage wrote it" in said
    # Only what is gone or damaged is made again; of a sweep, only that task.
    assert set(CALLS) <= {"made"} if "made" in name or "card" in name else "made" not in CALLS
    assert sum(call.startswith("task") for call in CALLS) == (name == "a row")


@pytest.mark.parametrize("how", DAMAGES)
def test_the_marker_of_the_folder_is_not_written_over(finished, config, tmp_path, how):
    copy = damaged(finished, tmp_path / "out", Path(MARKER), how, finished / "tables" / "sums.csv")
    if how in ("one bit", "one number"):  # may only have touched the version that wrote it
        return
    with pytest.raises(WorkbenchError):
        go(config, copy)


def test_what_somebody_wrote_into_a_result_is_kept_beside_it(finished, config, tmp_path, capsys):
    out = damaged(finished, tmp_path / "out", Path("tables/sums.csv"), "deleted")
    (out / "algorithm" / "card.md").write_text("My notes.\n")
    go(config, out)
    assert content(out) == content(finished)
    assert (out / "algorithm" / "card.md.changed").read_text() == "My notes.\n"
    assert "what algorithm/card.md holds now is kept as card.md.changed" in capsys.readouterr().err


def test_what_was_put_aside_before_stays_so(finished, config, tmp_path, capsys):
    out = damaged(finished, tmp_path / "out", Path("tables/sums.csv"), "deleted")
    for n in (1, 2, 3):
        (out / "algorithm" / "card.md").write_text(f"Notes {n}.\n")
        go(config, out)
    found = [out / "algorithm" / f"card.md.{more}changed" for more in ("", "2.", "3.")]
    assert [path.read_text() for path in found] == ["Notes 1.\n", "Notes 2.\n", "Notes 3.\n"]
    assert "is kept as card.md.3.changed" in capsys.readouterr().err


def test_several_files_at_once(finished, config, tmp_path, capsys):
    out = damaged(finished, tmp_path / "out", Path("tables/sums.csv"), "one number")
    for name in ("stages/made/x.safetensors", "stages/swept/done.json", "stages/later/begun.json"):
        (out / name).write_bytes(b"")
    go(config, out)
    assert content(out) == content(finished)


def test_trust_looks_at_sizes_alone(finished, config, tmp_path):
    for how, found in (("one bit", False), ("cut", True)):
        out = damaged(finished, tmp_path / "out", Path("stages/made/x.safetensors"), how)
        CALLS.clear()
        go(config, out, trust=True)
        assert ("made" in CALLS) == found


def test_one_line_says_what_is_kept_before_anything_is_done(finished, config, tmp_path, capsys):
    out = damaged(finished, tmp_path / "out", Path("tables/sums.csv"), "deleted")
    (out / "stages" / "swept" / "done.json").unlink()
    go(config, out)
    lines = capsys.readouterr().err.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("[stages]"))
    assert lines[first] == "[stages] kept: made; goes on: swept; to make: later"
    assert not any(line.startswith(("[made]", "[swept]", "[later]")) for line in lines[:first])
    go(config, tmp_path / "new")
    assert "[stages]" not in capsys.readouterr().err


def test_a_record_of_an_older_workbench_makes_the_stage_again(finished, config, tmp_path):
    out = damaged(finished, tmp_path / "out", Path("tables/sums.csv"), "cut")
    done = read_json(out / "stages" / "made" / "done.json")
    del done["hash"]
    write_text(out / "stages" / "made" / "done.json", str(done).replace("'", '"'))
    go(config, out)
    assert content(out) == content(finished)


def test_tables_that_were_changed_are_told_to_who_reads_them(finished, tmp_path):
    out = damaged(finished, tmp_path / "out", Path("tables/sums.csv"), "one number")
    (out / "tables" / "draws.csv").unlink()
    assert damaged_tables(out) == {"sums": "changed", "draws": "removed"}
    assert damaged_tables(finished) == {} and damaged_tables(tmp_path) == {}
