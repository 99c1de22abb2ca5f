"""The gallery: figures again from the tables of a run, what is missing is said, and the dark theme."""

from __future__ import annotations

import json

import plotly.graph_objects as go
import pytest

from figures import synthetic
from workbench.cli import main
from workbench.engine.folder import MARKER, claim
from workbench.engine.report import report_run
from workbench.engine.stages import Stage, StageRunner
from workbench.engine.tables import read_tables, table_path, write_table
from workbench.errors import OutputError
from workbench.figures.again import draw_again, listing
from workbench.figures.gallery import GALLERY
from workbench.figures.requests import Request, drawn, regenerated, requests_of, write_index
from workbench.figures.style import DARK, INK, assign_colors, in_dark

TABLES = {"heads": synthetic.heads, "holdouts": synthetic.holdouts, "latent": synthetic.latent}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tables").mkdir()
    for name, make in TABLES.items():
        make().to_csv(tmp_path / "tables" / f"{name}.csv", index=False)
    return tmp_path


def test_every_entry_says_what_it_shows_and_has_a_table():
    for name, entry in GALLERY.items():
        assert name.isidentifier() and entry.shows and entry.tables and callable(entry.draw)


def test_figures_are_drawn_from_tables_alone(folder):
    written, missing = draw_again(folder)
    assert not missing
    assert {path.stem for path in written} == {"heads", "holdouts", "latent", "latent_3d"}
    for path in written:
        assert path.is_file() and json.loads(path.with_suffix(".json").read_text())["data"]


def test_what_a_run_asked_for_is_drawn_as_it_was(folder):
    requests = [Request("mine", "said", "holdouts", {"own": "identity"}), Request("heads", "said")]
    tables = read_tables(folder, list(TABLES))
    summary = {**synthetic.summary(), "command": "workbench run x"}
    report_run(folder, summary, tables, requests)
    before = (folder / "figures" / "mine.json").read_text()
    (folder / "figures" / "mine.json").unlink()
    written, missing = draw_again(folder, ["holdouts"])
    assert [path.name for path in written] == ["mine.html"] and not missing
    assert (folder / "figures" / "mine.json").read_text() == before
    report = (folder / "report.html").read_text()
    assert f"workbench figures {folder} --only mine" in report and "workbench run x" in report


def test_the_run_s_own_operator_is_no_control_of_the_head_map(folder):
    for own, request in (("attention, best head", {}), ("identity", {"own": "identity"})):
        write_index(folder, [Request("heads", "said", options=request)], "workbench run x")
        figures, _ = regenerated(folder, requests_of(folder))
        said = figures["heads"].layout.title.text.partition("ontrols")[2]
        names = {"attention, best head", "attention, all heads", "identity", "gaussian"}
        assert {name for name in names if name in said} == names - {own}


def test_branches_keep_their_colors_when_a_figure_is_drawn_again(folder):
    colors = assign_colors(["NK", "T", "dendritic"], {"T": "#117733"})
    requests = [Request(name, "said", options={"colors": colors}) for name in ("latent", "latent_3d")]
    write_index(folder, requests, "workbench run x")
    tables = {"latent": synthetic.latent()}
    first, again = drawn(requests, tables)[0], regenerated(folder, requests_of(folder))[0]
    for name in ("latent", "latent_3d"):
        hues = [{(t.name, t.marker.color) for t in made[name].data} for made in (first, again)]
        assert hues[0] == hues[1] and {color for _, color in hues[0]} >= set(colors.values())
    order = [t.legendgroup for t in sorted(again["latent"].data, key=lambda t: t.legendrank)]
    assert list(dict.fromkeys(order))[:3] == list(colors) == ["T", "NK", "dendritic"]


def test_figures_of_the_users_are_not_overwritten(folder):
    (folder / "figures").mkdir()
    (folder / "figures" / "heads.html").write_text("mine")
    with pytest.raises(OutputError, match="figures' is there, and nothing in it says that the workbench made it"):
        draw_again(folder)
    assert [path.read_text() for path in (folder / "figures").iterdir()] == ["mine"]
    (folder / "figures" / "heads.html").unlink()
    (folder / "figures").rmdir()
    assert draw_again(folder)[0] == draw_again(folder)[0]


def test_no_figure_is_drawn_of_a_table_that_was_changed_since_the_run_wrote_it(folder):
    def work(place, results):
        write_table(table_path(folder, "heads"), synthetic.heads())
        return {}

    claim(folder / "new", "run")
    (folder / "new" / MARKER).rename(folder / MARKER)
    StageRunner(folder).run(Stage("heads", work, tables=("heads",)))
    write_index(folder, [Request("heads", "said"), Request("latent", "said")], "workbench run x")
    assert not draw_again(folder)[1]
    table = table_path(folder, "heads")
    table.write_text(table.read_text().replace("0.", "0.9", 1))
    written, missing = draw_again(folder)
    assert [path.stem for path in written] == ["latent"]
    assert missing == {"heads": "tables/heads.csv was changed since the run wrote it; give the run's command again"}


def test_a_figure_whose_table_is_gone_is_missing_and_never_empty(folder):
    write_index(folder, [Request("heads", "said"), Request("gates", "said")], "workbench run x")
    written, missing = draw_again(folder)
    assert [path.stem for path in written] == ["heads"] and missing == {"gates": "tables/gates.csv is not there"}
    rows = {row["figure"]: row for row in listing(folder)}
    assert rows["heads"]["drawn"] == ["heads"] and rows["gates"]["missing"] and rows["latent"]["missing"]
    assert list(rows) == list(GALLERY)
    (folder / "tables" / "heads.csv").write_text("layer,head\n0,0\n")
    assert "lacks the column" in draw_again(folder)[1]["heads"]


def test_the_command_lists_draws_and_says_what_is_missing(folder, capsys):
    assert main(["figures", str(folder), "--list", "--json"]) == 0
    assert {row["figure"] for row in json.loads(capsys.readouterr().out)} == set(GALLERY)
    assert main(["figures", str(folder), "--only", "heads,latent"]) == 0
    assert capsys.readouterr().out.split() == [str(folder / "figures" / f"{name}.html") for name in ("latent", "heads")]
    write_index(folder, [Request("gates", "said")], "workbench run x")
    assert main(["figures", str(folder)]) == 1
    assert "missing: gates: tables/gates.csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("only", "formats", "said"),
    [
        (["head"], ("html",), "heads"),
        (["gates"], ("html",), "from gates.csv"),
        ([], ("tiff",), "format 'tiff'"),
    ],
)
def test_names_that_are_not_known_are_one_sentence(folder, only, formats, said):
    with pytest.raises(OutputError, match=said):
        draw_again(folder, only, formats)


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(OutputError, match="holds no tables"):
        draw_again(tmp_path)


def test_images_that_cannot_be_made_say_what_they_need(folder, monkeypatch):
    def fail(*given, **more):
        raise RuntimeError("no browser")

    monkeypatch.setattr(go.Figure, "write_image", fail)
    with pytest.raises(OutputError, match="no browser.*kaleido"):
        draw_again(folder, ["heads"], ["svg"])
    assert not list((folder / "figures").glob(".*.part"))


def test_the_dark_theme_changes_ink_and_paper_and_no_colour_scale():
    figure = GALLERY["heads"].draw({"heads": synthetic.heads()})
    before = figure.to_json()
    dark = in_dark(figure)
    assert figure.to_json() == before
    assert dark.layout.template.layout.paper_bgcolor == DARK["white"]
    assert dark.layout.template.layout.font.color == DARK[INK] and INK not in dark.layout.title.text
    assert dark.data[0].colorscale == figure.data[0].colorscale
    assert json.loads(dark.to_json())["data"][0]["z"] == json.loads(before)["data"][0]["z"]
