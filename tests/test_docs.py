"""The pages of docs/: links lead somewhere, nothing public is left out, the tutorial runs, sphinx has nothing to complain about."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import load_script

import workbench
from workbench import errors
from workbench.errors import ArtifactError

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
README, TUTORIAL, METHODS = ROOT / "README.md", DOCS / "tutorial.md", DOCS / "which_method.md"
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
# What stands behind the command line only has no page in the API.
NO_PAGE = {
    f"workbench.{name}"
    for name in ("__main__", "arguments", "cli", "commands", "doctor", "machine", "requirements", "table")
}


def without_code(text: str) -> str:
    """A page without its code, in which brackets are no links."""
    return re.sub(r"`[^`\n]*`", "code", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and myst make them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_of(page: Path) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))


def carried_out(code: str, written: Path, *names: str) -> str:
    """What a page's Python prints, in a process of its own, as a reader runs it: without the shape checks of the tests."""
    for name in names:
        assert f'"{name}' in code
        code = code.replace(f'"{name}', f'"{(written / Path(name).name).as_posix()}')
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_resolve(page):
    for link in _LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to '{link}', which is not there"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to '{link}', but no heading there is called that"


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for page in PAGES:
        for body in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            names = [line for line in body.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / f"{name}.md").resolve() for name in names}
    assert {*PAGES} - listed == {DOCS / "index.md"} and listed <= {*PAGES}


def test_every_module_has_its_place_in_the_api():
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    shown = set(re.findall(r"^\.\. automodule:: (\S+)$", text, re.M))
    files = [path for path in (ROOT / "workbench").rglob("*.py") if path.stem != "__init__"]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    wrong = shown ^ (modules - NO_PAGE)
    assert not wrong, f"add these to docs/api/, or remove them there: {', '.join(sorted(wrong))}"


def test_every_public_name_is_in_the_overview_of_the_api():
    text = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`workbench\.(\w+)`", text))
    assert set(workbench.__all__) - {"__version__"} <= named


def test_every_error_is_in_the_error_index():
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    kinds = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert kinds and all(f"| `{name}` |" in text for name in kinds)


def test_the_commands_that_pages_name_exist():
    from workbench.table import COMMANDS

    for page in PAGES:
        for command in re.findall(r"^ {4,}workbench ([a-z][\w-]+)", page.read_text(encoding="utf-8"), re.M):
            assert command in COMMANDS, f"{page.name} names 'workbench {command}', which is no command"


def test_the_configurations_that_pages_name_exist_and_can_be_read():
    from workbench.engine.config import read_config
    from workbench.table import COMMANDS

    found = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for command, config, rest in re.findall(r"^ {4,}workbench (\w+) (experiments/\S+\.yaml)(.*)$", text, re.M):
            given = [a or b for a, b in re.findall(r"--set (?:\"([^\"]+)\"|(\S+))", rest)]
            read_config(ROOT / config, COMMANDS[command].work.load_config(), given)
            found += 1
    assert found > 5


def test_the_page_of_keys_is_that_of_the_models():
    made = load_script("configuration_page").page()
    assert made == (DOCS / "configuration.md").read_text(encoding="utf-8"), (
        "make it again: python experiments/configuration_page.py --docs docs/configuration.md"
    )


@pytest.mark.parametrize("page", [README, TUTORIAL, METHODS], ids=lambda page: page.stem)
def test_pages_use_public_names(page):
    tree = ast.parse(code_of(page))
    used = {
        n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "workbench"
    }
    assert used and used <= {*workbench.__all__, "figures"}


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
    printed = carried_out(code_of(TUTORIAL), tmp_path, "artifacts/tutorial")
    assert printed.count("balanced accuracy on 350 held-out cells") == 2
    assert (tmp_path / "tutorial" / "algorithm" / "config.json").is_file()


@pytest.mark.slow
def test_the_examples_of_the_methods_run(tmp_path):
    carried_out(code_of(METHODS), tmp_path, "lens.html", "patch.html", "steer.html")
    assert len(list(tmp_path.glob("*.html"))) == 3


def test_the_lines_of_the_readme_run_as_printed(tmp_path):
    # On some of the cells and genes: what is printed and drawn does not hang on their number.
    few = "import workbench\nload = workbench.load\nworkbench.load = lambda name: load(name)[:100, ::3].copy()\n"
    printed = carried_out(few + code_of(README), tmp_path, "lens.html")
    assert "torch.Size([8, 4, " in printed and "query" in printed and (tmp_path / "lens.html").is_file()
    assert sum(bool(line) and not line.startswith("print") for line in code_of(README).splitlines()) <= 10


def test_the_readme_is_short_and_plain_before_its_reference():
    text = README.read_text(encoding="utf-8").split("\n## Reference")[0]
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    lines = [line for line in text.splitlines() if not line.startswith(("    ", "|", "#"))]
    assert len(" ".join(lines).split()) <= 700
    for paragraph in re.split(r"\n\s*\n|\n- ", "\n".join(lines)):
        for sentence in re.split(r"(?<=[.?!])\s", " ".join(paragraph.split())):
            assert len(sentence.split()) <= 30, sentence


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package, reason=f"{package} builds the pages: pip install 'scgpt-workbench[docs]'")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "-d",
        tmp_path / "doctrees",
        DOCS,
        tmp_path / "site",
    ]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    pages = {path.relative_to(tmp_path / "site").with_suffix(".md") for path in (tmp_path / "site").rglob("*.html")}
    assert {page.relative_to(DOCS) for page in PAGES} <= pages
    html = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    fetched = re.findall(r"(?:src|href)=\"(?:https?:)?//[^\"]+\"", html)
    assert not [f for f in fetched if "href" not in f], "a page fetches something from the web"


@pytest.fixture(scope="module")
def script():
    return load_script("paper_table")


def made_up_runs(folder: Path, *, controls: bool = True) -> dict[str, Path]:
    """What runs of the four commands leave, with made-up numbers."""
    names = {
        "run": "hematopoiesis",
        "gates": "gates_paper_mini",
        "benchmark": "benchmark_pbmc68k",
        "manifold": "second_manifold",
    }
    runs = {command: folder / command for command in names}
    tables: dict[str, dict[str, list]] = {command: {} for command in names}
    tables["run"]["compaction"] = [{"variant": "reference", "bytes": 4681800, "value": 0.5, "sd": 0.5, "n_splits": 20}]
    tables["gates"]["readings"] = [{"role": "internal", "value": 0.25, "sd": 0.125, "n": 8}]
    tables["gates"]["screen"] = [{"rank": 1, "name": "L1H2"}]
    if controls:
        null = {"sd": 0.1, "n_splits": 8, "null_high": 0.2, "p": 0.0243}
        tables["run"]["holdouts"] = [
            {"operator": "drift", "holdout": "random", "spearman": 0.25, "status": "ok", **null},
            {"operator": "x itself", "holdout": "random", "spearman": 0.75, "status": "ok", **null},
            {"operator": "drift", "holdout": "donor", "spearman": np.nan, "status": "not applicable: no donors"},
        ]
        tables["run"]["added"] = [
            {"control": "latent (LET on x itself)", "difference": 0.1, "q": 0.01},
            {"control": "latent (LET on x itself)", "difference": -0.1, "q": 0.5},
            {"control": "latent (LET on a random matrix)", "difference": 0.1, "q": 0.01},
        ]
    for command, place in runs.items():
        (place / "tables").mkdir(parents=True)
        for name, rows in tables[command].items():
            pd.DataFrame(rows).to_csv(place / "tables" / f"{name}.csv", index=False)
        config = {"name": names[command], "checkpoint": "models/tiny", "data": {"name": "made-up cells", "donor": None}}
        config |= {"operator": "qk", "adaptor": {"feature_map": "single"}}
        config |= {"splits": {"n": 3}} if command == "benchmark" else {}
        made = {"config": config, "seed": 3, "workbench": "0.0", "code": "abcdef0123456789"}
        (place / "manifest.json").write_text(json.dumps({**made, "checkpoint": {"release": None}}))
        (place / "metrics.json").write_text("{}")
        (place / "workbench.json").write_text(json.dumps({"recipe": command}))
    return runs


def made_up_figures(folder: Path, *more: dict) -> Path:
    figures = [
        {"claim": "p|x: random", "published": 0.4, "command": "gates", "table": "readings", "where": {"role": "internal"}, "column": "value"},
        {"claim": "size", "published": 17500000, "command": "run", "table": "compaction", "column": "bytes"},
        {"claim": "best head", "published": "L2H5", "command": "gates", "table": "screen", "column": "name"},
        {"claim": "lung", "published": 0.058, "command": "gates", "table": "readings", "where": {"role": "lung"}, "column": "value", "needs": "cells of lung"},
        *more,
    ]  # fmt: skip
    path = folder / "figures.yaml"
    path.write_text(yaml.safe_dump({"source": "a paper", "figures": figures}))
    return path


def test_the_paper_page_names_runs_settings_and_what_has_no_counterpart(script, tmp_path):
    page = script.page(made_up_runs(tmp_path), made_up_figures(tmp_path))
    assert "| gates | tiny | made-up cells, no donors | qk, single | 3 | 0.0, code abcdef01 |" in page
    assert "workbench benchmark experiments/benchmark_pbmc68k.yaml" in page and "--set splits.n=3" in page
    assert "agreement is not expected" in page and "3 of 4 have a counterpart" in page
    assert r"| p\|x: random | 0.4 | 0.25 (sd 0.125, n = 8) | gates: readings.csv, value |" in page
    assert "| best head | L2H5 | L1H2 | gates: screen.csv, name |" in page
    assert "| lung | 0.058 | needs cells of lung | gates: readings.csv |" in page
    # The sd of that row is of a metric, not of the size.
    assert "| size | 17,500,000 | 4,681,800 | run: compaction.csv, bytes |" in page


def test_a_figure_that_no_run_fills_is_a_fault(script, tmp_path):
    lost = {"claim": "a lost one", "published": 1, "command": "run", "table": "heads", "column": "spearman"}
    runs = made_up_runs(tmp_path)
    with pytest.raises(ArtifactError, match="1 published figures have no counterpart in these runs, .*: a lost one"):
        script.page(runs, made_up_figures(tmp_path, lost))
    with pytest.raises(ArtifactError, match="holds a run of workbench gates, and --run needs a finished one"):
        script.page({**runs, "run": runs["gates"]}, made_up_figures(tmp_path))


def test_the_paper_page_has_the_controls_of_the_same_run(script, tmp_path):
    page = script.page(made_up_runs(tmp_path), made_up_figures(tmp_path))
    assert "| drift | 0.25 (sd 0.10, n = 8); null up to 0.20, p 0.024 |" in page
    assert "| x itself | 0.75 (sd 0.10, n = 8); null up to 0.20, p 0.024 |" in page
    assert "above on 1 of 2 endpoint metrics (1 above and 0 below with q at most 0.05)" in page
    bare = made_up_runs(tmp_path / "bare", controls=False)
    assert "no control stands beside" in script.page(bare, made_up_figures(tmp_path))


def test_folders_without_runs_are_refused_in_a_sentence(script, tmp_path, monkeypatch, capsys):
    given = [part for command in script.COMMANDS for part in (f"--{command}", str(tmp_path))]
    monkeypatch.setattr(sys, "argv", ["paper_table.py", *given])
    assert script.main() == 2
    assert "holds no run, and --run needs a finished one of workbench run" in capsys.readouterr().err


def test_the_paper_page_is_written_where_asked(script, tmp_path, monkeypatch, capsys):
    runs, out, figures = made_up_runs(tmp_path), tmp_path / "paper.md", made_up_figures(tmp_path)
    given = [part for command, place in runs.items() for part in (f"--{command}", str(place))]
    monkeypatch.setattr(sys, "argv", ["paper_table.py", *given, "--figures", str(figures), "--docs", str(out)])
    assert script.main() == 0 and capsys.readouterr().out.strip() == str(out)
    assert out.read_text(encoding="utf-8") == script.page(runs, figures)


def test_the_paper_page_has_every_published_figure():
    from workbench.evidence.expected import read_expected

    text = (DOCS / "paper.md").read_text(encoding="utf-8")
    figures = read_expected(ROOT / "experiments" / "paper_figures.yaml")[1]
    absent = [figure["claim"] for figure in figures if f"| {figure['claim'].replace('|', chr(92) + '|')} |" not in text]
    assert not absent, f"docs/paper.md lacks {', '.join(absent)}; make it again with experiments/paper_table.py"
    assert "not in this run" not in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    needs = {row[0].removeprefix("| "): row[2] for row in rows if len(row) == 4 and row[2].startswith("needs ")}
    known = {figure["claim"].replace("|", chr(92) + "|"): f"needs {figure.get('needs')}" for figure in figures}
    assert needs and all(known[claim] == said for claim, said in needs.items())


CONCLUDING = (
    *("results", "extraction", "gates", "ablation", "geometry", "geometry_genes", "conventions", "dictionaries"),
    *("second_manifold", "transfers", "benchmark"),
)


@pytest.mark.parametrize("name", CONCLUDING)
def test_a_page_that_concludes_names_its_tables_and_a_command_writes_them(name):
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`tables/(\w+)\.csv`", text))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "workbench").rglob("*.py"))
    assert named or name == "transfers"
    assert not [table for table in named if f'"{table}"' not in sources and f'"{table}' not in sources]
