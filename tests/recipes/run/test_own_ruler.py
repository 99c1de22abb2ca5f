"""``workbench run`` on a ruler of one's own: nothing of blood is asked, and every branch has a colour of its own."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import yaml
from fixtures_run import write

from workbench.cli import main
from workbench.files import read_json

pytestmark = pytest.mark.slow  # one more run

BRANCHES = ["stem", "TA", "enterocyte", "goblet", "Paneth", "tuft", "enteroendocrine", "M cell"]


@pytest.fixture(scope="module")
def out(cells, checkpoint, tmp_path_factory):
    """A gut with eight cell types, which the labels of these cells are mapped to."""
    folder = tmp_path_factory.mktemp("gut")
    parents = {"stem": [], "TA": ["stem"], **dict.fromkeys(BRANCHES[2:], ["TA"])}
    stages = {name: {"from": parents[name], "branch": name} for name in BRANCHES}
    known = sorted(set(cells.obs["label"]) - {"NA"})
    for i, label in enumerate(known):
        stages[BRANCHES[i % 8]].setdefault("labels", []).append(label)
    endpoint = {"yes": ["enterocyte", "M cell"], "no": ["goblet", "Paneth"], "metrics": ["balanced accuracy"]}
    unasked = {"yes": ["stem"], "no": ["TA"], "only_if": "stem"}
    ruler = {"name": "gut", "stages": stages, "colors": {"goblet": "#117733"}}
    ruler["endpoints"] = {"absorbing / secreting": endpoint, "of the benchmark": unasked}
    path = write(folder, checkpoint, cells, ruler="./gut.yaml")
    (folder / "gut.yaml").write_text(yaml.safe_dump(ruler, sort_keys=False))
    assert main(["run", str(path), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_only_what_the_ruler_names_is_asked(out):
    metrics = read_json(out / "metrics.json")
    asked = list(dict.fromkeys((row["endpoint"], row["metric"]) for row in metrics["readouts"]))
    assert asked == [
        ("stage", "balanced accuracy"),
        ("stage", "macro-F1"),
        ("branch", "balanced accuracy"),
        ("branch", "macro-F1"),
        ("depth", "|Spearman|"),
        ("absorbing / secreting", "AUROC"),
    ]


def hues(figure):
    """Colour of each branch on the map of the latent."""
    return {trace["legendgroup"]: trace["marker"]["color"] for trace in figure["data"]}


def test_every_branch_has_its_own_color_in_figures_and_explorer_and_keeps_it(out, tmp_path):
    first = hues(read_json(out / "figures" / "latent.json"))
    assert {*first} == {*BRANCHES, "not on the ruler"} and len(set(first.values())) == 9
    assert first["goblet"] == "#117733"
    space = read_json(out / "figures" / "latent_3d.json")
    by_branch = {trace["name"].split(" (n = ")[0]: trace["marker"]["color"] for trace in space["data"][:9]}
    assert by_branch == first
    text = re.search(r'id="explorer-data">(.*?)</script>', (out / "report.html").read_text(), re.DOTALL)[1]
    groups = json.loads(text)["maps"][0]["groups"]
    assert {one["branch"]: one["light"] for one in groups} == first and {one["mark"] for one in groups} == {"circle"}
    again = shutil.copytree(out, tmp_path / "out")
    (again / "figures" / "latent.json").unlink()
    assert main(["figures", str(again), "--only", "latent"]) == 0
    assert hues(read_json(again / "figures" / "latent.json")) == first
