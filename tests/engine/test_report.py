import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import pytest
from figures import synthetic

from workbench.engine.report import ROWS_SHOWN, report_run, write_report
from workbench.engine.section import STATES, Control, Opening
from workbench.errors import OutputError
from workbench.figures.requests import Request

EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Tags with attributes, all text and what is not folded, and the scripts, as a browser would split them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.text, self.open, self._in, self._folded = [], [], "", "", None, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = tag
        if tag in ("details", "summary"):
            self._folded.append((tag, "open" in dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in = None
        if tag in ("details", "summary"):
            self._folded.pop()

    def handle_data(self, data):
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.text += data
            around = self._folded[:-2] if ("summary", False) in self._folded else self._folded
            self.open += data if all(opened for _, opened in around) else ""

    def of(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    path = write_report(out, synthetic.summary(), synthetic.tables(), synthetic.figures())
    text = path.read_text(encoding="utf-8")
    return out, text, Page(text)


def test_report_loads_nothing_and_holds_plotly_once(written):
    _, text, page = written
    for tag, attrs in page.tags:
        for key in ("src", "href", "srcset", "data", "action"):
            assert not re.match(r"\s*(https?:|//)", attrs.get(key) or ""), (tag, attrs)
    assert not page.of("link") and not page.of("img")
    style = re.search(r"<style>(.*?)</style>", text, re.S).group(1)
    assert "url(" not in style and "@import" not in style
    assert sum(len(script) > 1_000_000 for script in page.scripts) == 1
    assert text.count("plotly.js v") <= 2 and len(text.encode()) < 15e6
    assert "default-src 'none'" in text


def test_report_has_all_sections_in_order(written):
    _, text, page = written
    wanted = [
        "summary",
        "shown",
        "controls",
        "findings",
        "facts",
        "figures",
        "skipped",
        "cautions",
        "tables",
        "provenance",
    ]
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id") in wanted]
    assert ids == wanted
    folded = [attrs["id"] for attrs in page.of("details") if "id" in attrs]
    assert folded == wanted[3:] and not any("open" in attrs for attrs in page.of("details") if "id" in attrs)
    assert page.of("html")[0]["lang"] == "en"
    assert len(page.of("h1")) == 1
    for part in (
        "What was skipped, and why",
        "What could be wrong with this",
        "the cells name no donors",
        "peak memory",
    ):
        assert part in page.text
    for line in synthetic.summary()["answers"]:
        assert line in page.text and line not in page.open
    for line in synthetic.summary()["opening"].lines.values():
        assert line in page.open
    assert "774 cells; 48 heads; 78 pairs of stages" in page.text


def test_what_is_not_folded_is_read_in_four_minutes(written):
    assert 100 < len(written[2].open.split()) < 900


def test_the_figure_of_the_answer_stands_above_the_folds_and_once(written):
    _, text, _ = written
    assert text.count('id="plot-holdouts"') == 1
    assert text.index('id="shown"') < text.index('id="plot-holdouts"') < text.index('id="controls"')
    assert '<a href="#figure-holdouts">' not in text and '<a href="#figure-head_map">' in text


def test_a_control_has_a_sign_and_a_word_beside_its_colour(written):
    _, text, page = written
    marks = re.findall(r'<li class="(\w+)" title="([^"]+)"><span class="mark" aria-hidden="true">(.)</span>', text)
    assert [(state, sign) for state, _, sign in marks] == [(state, STATES[state][0]) for state in STATES]
    assert all(meant == STATES[state][1] and meant in page.open for state, meant, _ in marks)
    assert "holds: x itself: beaten on 5 of 7 readouts" in page.open


@pytest.mark.parametrize(
    ("held", "of", "state"), [(0, 0, "open"), (0, 3, "falls"), (1, 3, "partly"), (2, 4, "partly"), (2, 3, "holds")]
)
def test_states_of_controls(held, of, state):
    assert Control("a", "b", held, of).state == state


def test_a_finding_that_lists_things_is_a_list(tmp_path):
    said = "Heads (sd 0.1; n 3): one 0.1; two (a; b) 0.2; three 0.3. And a sentence: with one; no list."
    summary = {**synthetic.summary(), "answers": [said], "captions": {}, "commands": {}}
    text = write_report(tmp_path, summary, {}, {}).read_text(encoding="utf-8")
    assert "<p>Heads (sd 0.1; n 3):</p>\n<ul>\n<li>one 0.1</li>\n<li>two (a; b) 0.2</li>\n<li>three 0.3.</li>" in text
    assert "<p>And a sentence: with one; no list.</p>" in text


def test_every_figure_has_caption_command_and_alternative_text(written):
    _, _, page = written
    summary = synthetic.summary()
    assert len(page.of("figure")) == len(page.of("figcaption")) == 5
    alts = [attrs["aria-label"] for attrs in page.of("div") if attrs.get("role") == "img"]
    assert len(alts) == 5 and all(summary["captions"]["head_map"] in alt for alt in alts)
    assert page.text.count(summary["commands"]["head_map"]) == 5
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_tables_are_sortable_and_say_what_is_cut(written):
    _, text, page = written
    tables = synthetic.tables()
    assert sum(attrs.get("class") == "sortable" for attrs in page.of("table")) == len(tables)
    assert len(page.of("button")) == sum(table.shape[1] for table in tables.values())
    assert f"the first {ROWS_SHOWN} of 774 rows; the whole table: tables/latent.csv" in page.text
    assert f'data-value="{float(tables["heads"]["spearman"][0])!r}"' in text
    assert 'data-value="">–' in text


def test_figures_are_written_beside_the_report(written):
    out, _, _ = written
    folder = out / "figures"
    assert (folder / "plotly.min.js").stat().st_size > 1_000_000
    for name, figure in synthetic.figures().items():
        text = (folder / f"{name}.html").read_text(encoding="utf-8")
        assert [a["src"] for a in Page(text).of("script") if "src" in a] == ["plotly.min.js"]
        assert len(text) < 1_000_000
        again = plotly.io.from_json((folder / f"{name}.json").read_text(encoding="utf-8"))
        assert again.layout.title.text == figure.layout.title.text


def test_inserted_text_is_escaped(tmp_path):
    figure = go.Figure(go.Scatter(x=[1], y=[2], name=EVIL, text=[EVIL]), layout={"title": {"text": EVIL}})
    table = pd.DataFrame({EVIL: [EVIL], "value": [np.nan]})
    summary = {key: EVIL for key in ("title", "model", "data", "algorithm", "n")} | {
        "opening": Opening(EVIL, EVIL),
        "controls": [Control(EVIL, EVIL, 1, 1)],
        "answers": [EVIL],
        "skipped": [{"what": EVIL, "why": EVIL}],
        "cautions": [EVIL],
        "captions": {"one": f'{EVIL} "quoted"'},
        "commands": {"one": f"{EVIL} $title ${{plotly}}"},
        "provenance": [(EVIL, EVIL)],
    }
    text = write_report(tmp_path, summary, {"t": table}, {"one": figure}).read_text(encoding="utf-8")
    page = Page(text)
    assert EVIL not in text
    assert len(page.scripts) == 4  # plotly, the figure, its theme, the page's own
    assert page.text.count(EVIL) == 21  # each of the texts above once; the title, and what was skipped, twice
    assert "$title ${plotly}" in page.text
    assert EVIL not in (tmp_path / "figures" / "one.html").read_text(encoding="utf-8")


def test_without_figures_and_tables_the_page_says_so(tmp_path):
    summary = {"title": "t", "opening": Opening("q", "a"), "answers": ["a"], "model": "m", "data": "d"}
    text = write_report(tmp_path, summary, {}, {}).read_text(encoding="utf-8")
    for part in (
        "No other figure was drawn.",
        "No table was made.",
        "Nothing was skipped.",
        "No provenance was recorded.",
    ):
        assert part in text


def test_writing_again_gives_the_same_bytes(written, tmp_path):
    out, text, _ = written
    path = write_report(tmp_path, synthetic.summary(), synthetic.tables(), synthetic.figures())
    assert path.read_text(encoding="utf-8") == text
    first, again = ((f / "figures" / "head_map.json").read_text() for f in (out, tmp_path))
    assert json.loads(first) == json.loads(again)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"opening": None}, "'opening'"),
        ({"answers": "yes"}, "one string"),
        ({"captions": {}}, "'captions' of its summary lacks 'one'"),
        ({"commands": {}}, "'commands' of its summary lacks 'one'"),
    ],
)
def test_what_the_summary_lacks_is_named(tmp_path, change, said):
    summary = {**synthetic.summary(), "captions": {"one": "c"}, "commands": {"one": "c"}, **change}
    with pytest.raises(OutputError, match=said):
        write_report(tmp_path, summary, {}, {"one": go.Figure()})


def test_a_name_that_is_no_file_name_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"'\.\./x' is no name"):
        write_report(tmp_path, synthetic.summary(), {"../x": pd.DataFrame()}, {})


def test_a_figure_that_cannot_be_drawn_is_skipped_and_said(tmp_path):
    (tmp_path / "tables").mkdir()
    tables = {"heads": synthetic.heads().assign(spearman=np.nan), "holdouts": synthetic.holdouts()}
    summary = {**synthetic.summary(), "command": "workbench run x"}
    path = report_run(tmp_path, summary, tables, [Request("heads", "said"), Request("holdouts", "said")])
    page = html.unescape(path.read_text(encoding="utf-8"))
    assert "Figure 'heads'" in page and "holds no finite number" in page and 'id="plot-holdouts"' in page
