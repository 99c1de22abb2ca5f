"""The explorer as a page: nothing escapes, nothing is fetched, and it can be used with a mouse and with keys."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from browser import wait_until

from explorer.conftest import EVIL, HEADS, LAYERS
from workbench.errors import OutputError
from workbench.explorer.live import answer
from workbench.explorer.page import explorer_fragment, script, write_explorer

# The policy of a run's report.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; img-src data: blob:; "
    "connect-src 'none'"
)
ASKING = """
<script type="module">
const module = new Blob([JSON.parse(document.getElementById("module").textContent)], { type: "text/javascript" });
const { render } = (await import(URL.createObjectURL(module))).default;
const data = JSON.parse(document.getElementById("data").textContent);
const handlers = [];
const model = {
  get: () => data,
  on: (name, handler) => handlers.push(handler),
  off() {},
  send: async (message) => { const reply = await window.ask(message); handlers.forEach((handler) => handler(reply)); },
};
render({ model, el: document.getElementById("root") });
window.again = (id) => render({ model, el: document.body.appendChild(Object.assign(document.createElement("div"), { id })) }) && null;
</script>
"""


@pytest.fixture(scope="module")
def path(data, tmp_path_factory):
    return write_explorer(data, tmp_path_factory.mktemp("page") / "explorer.html")


def test_no_label_ends_the_script(data):
    fragment = explorer_fragment(replace(data, title=EVIL))
    inline = re.search(r'<script type="application/json" id="explorer-data">(.*?)</script>', fragment, re.S).group(1)
    assert fragment.count("</script>") == 2 and "<!--" not in fragment
    read = json.loads(inline)
    assert read["title"] == EVIL and EVIL in [group["label"] for group in read["maps"][0]["groups"]]
    assert read == json.loads(json.dumps(replace(data, title=EVIL).to_dict()))


def test_a_page_is_not_live(data, session):
    live = replace(data, live=session.settings())
    assert '"live":null' in explorer_fragment(live)


def test_a_page_replaces_an_explorer_and_nothing_else(data, path, tmp_path):
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>")
    with pytest.raises(OutputError, match="is no explorer; it is not overwritten"):
        write_explorer(data, mine)
    assert mine.read_text() == "<p>mine</p>" and write_explorer(data, path) == path


def test_the_script_names_no_address_and_writes_no_markup():
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|innerHTML|insertAdjacentHTML|\bfetch\(|eval\(", script())
    assert "</script" not in script() and "<!--" not in script()


def test_the_page_says_its_policy_and_loads_nothing(path):
    text = path.read_text()
    assert "default-src 'none'" in text and not re.search(r'(src|href)="(?!data:)', text)


def test_it_opens_without_an_error_and_asks_for_nothing(browser_page, path):
    shown = browser_page(path)
    assert shown.page.locator("[data-head]").count() == LAYERS * HEADS
    assert shown.page.title() == "Explorer: planted"
    assert shown.errors == [] and shown.requests == [path.resolve().as_uri()]


def test_it_works_inside_a_report_s_policy(browser_page, data, tmp_path):
    text = f'<!DOCTYPE html><html><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>report</title></head><body>{explorer_fragment(data)}</body></html>'
    (tmp_path / "report.html").write_text(text)
    shown = browser_page(tmp_path / "report.html")
    shown.page.click('[data-head="L0H1"]')
    assert shown.page.inner_text(".wbx-title").startswith("L0H1") and shown.errors == []
    assert shown.page.title() == "report"


def test_a_click_on_a_head_shows_its_genes(browser_page, path, data):
    shown = browser_page(path)
    for at in (3, 0):
        head = data.heads[at]
        shown.page.click(f'[data-head="{head["name"]}"]')
        assert shown.page.inner_text(".wbx-title") == f"{head['name']}: layer {head['layer']}, head {head['head']}"
        for kind in ("raw", "specific"):
            rows = shown.page.locator(f".wbx-{kind} tbody tr").all_inner_texts()
            assert len(rows) == len(head["pairs"][kind])
            query, key, _, n = head["pairs"][kind][0]
            assert rows[0].split("\t")[:2] == [data.genes[query], f"→ {data.genes[key]}"] and rows[0].endswith(str(n))
        first = shown.page.locator(".wbx-factor").first.inner_text()
        assert all(data.genes[gene] in first for gene, _ in head["factors"][0]["read"])
    assert shown.page.locator("[aria-selected=true]").get_attribute("data-head") == "L0H0"
    shown.page.click('[data-head="L1H1"]')
    assert "cytotoxic T cell" in shown.page.locator(".wbx-factor").first.inner_text()
    assert shown.errors == []


def test_scores_and_effects_of_the_head_are_in_its_table(browser_page, path, data):
    shown = browser_page(path)
    shown.page.click('[data-head="L2H0"]')
    rows = shown.page.locator(".wbx-scores tbody tr").all_inner_texts()
    assert len(rows) == len(data.measures) - 1
    ruler = data.measures[0]["rows"][4]
    assert float(rows[0].split("\t")[1]) == pytest.approx(ruler["value"], rel=6e-3) and "sd" in rows[0]


def test_the_keys_move_and_choose(browser_page, path):
    shown = browser_page(path)
    shown.page.click('[data-head="L0H0"]')
    for keys, head in (
        ("ArrowUp ArrowRight", "L1H1"),
        ("ArrowDown ArrowDown", "L0H1"),
        ("ArrowUp Home", "L1H0"),
        ("End", "L1H1"),
    ):
        for key in keys.split():
            shown.page.keyboard.press(key)
        assert shown.page.evaluate("document.activeElement.dataset.head") == head
    assert shown.page.inner_text(".wbx-title").startswith("L0H0"), "moving alone chooses nothing"
    shown.page.keyboard.press("Enter")
    assert shown.page.inner_text(".wbx-title").startswith("L1H1")
    assert shown.page.locator('[data-head][tabindex="0"]').count() == 1
    assert "layer 1 head 1" in shown.page.locator('[data-head="L1H1"]').get_attribute("aria-label")


def test_the_colours_follow_the_measure(browser_page, path, data):
    shown = browser_page(path)
    cell = shown.page.locator('[data-head="L1H1"]')
    before = cell.inner_text()
    shown.page.select_option("select >> nth=0", label=data.measures[1]["name"])
    assert cell.inner_text() != before and "q" in cell.get_attribute("aria-label")
    shown.page.select_option("select >> nth=0", label=data.measures[-1]["name"])
    assert float(cell.inner_text()) == pytest.approx(data.measures[-1]["rows"][3]["value"], rel=0.01)


def test_choosing_labels_changes_n_and_greys_the_others(browser_page, path, data):
    shown, cells = browser_page(path), data.maps[0]
    n = {group["label"]: cells["group"].count(i) for i, group in enumerate(cells["groups"])}
    assert shown.page.locator("svg circle").count() == len(cells["x"])
    assert shown.page.inner_text(".wbx-n").startswith(f"n = {len(cells['x'])} of {len(cells['x'])} cells chosen")
    shown.page.get_by_role("button", name="none").click()
    assert shown.page.inner_text(".wbx-n").startswith(f"n = 0 of {len(cells['x'])} cells")
    for label in ("B cell (synthetic)", EVIL):
        shown.page.get_by_role("checkbox", name=label).check()
    wanted = n["B cell (synthetic)"] + n[EVIL]
    assert shown.page.inner_text(".wbx-n").startswith(f"n = {wanted} of")
    assert shown.page.locator("svg g.wbx-off circle").count() == len(cells["x"]) - wanted
    assert f"n = {wanted} of" in shown.page.locator("svg").get_attribute("aria-label")
    assert shown.page.title() == "Explorer: planted" and shown.errors == []


def test_what_is_missing_is_said(browser_page, data, tmp_path):
    bare = replace(
        data, measures=data.measures[-1:], maps=(), missing=(("score", "no screen."), ("cells", "none given."))
    )
    shown = browser_page(write_explorer(bare, tmp_path / "bare.html"))
    text = shown.page.inner_text("main")
    assert "No score: no screen." in text and "No cells are shown: none given." in text and "needs Python" in text
    assert shown.page.locator("svg").count() == 0 and shown.errors == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_stands_outside_the_cards_is_read_on_a_page_of_the_other_theme(browser_page, path, theme):
    shown = browser_page(path, color_scheme=theme)
    shown.page.evaluate(f"document.body.style.background = '{'white' if theme == 'dark' else 'black'}'")

    def light(selector, what):
        rgb = shown.page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{what}")
        assert rgb.startswith("rgb(")
        return sum(map(int, re.findall(r"\d+", rgb)[:3])) / 3

    assert abs(light(".wbx", "backgroundColor") - light(".wbx > dl dd", "color")) > 150


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_is_the_system_s_or_the_notebook_s(browser_page, path, theme):
    shown = browser_page(path, color_scheme=theme)
    other = {"light": "dark", "dark": "light"}[theme]

    def card():
        rgb = shown.page.evaluate("getComputedStyle(document.querySelector('.wbx-card')).backgroundColor")
        return "light" if sum(map(int, re.findall(r"\d+", rgb)[:3])) > 384 else "dark"

    assert card() == theme
    said = str(other == "light").lower()
    for setter in (f"document.body.dataset.jpThemeLight = '{said}'", f"document.body.className = 'vscode-{other}'"):
        shown.page.evaluate(setter)
        assert card() == other
        shown.page.evaluate("delete document.body.dataset.jpThemeLight; document.body.className = ''")


def test_nothing_is_wider_than_a_narrow_page(browser_page, path):
    shown = browser_page(path, viewport={"width": 400, "height": 800})
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= 400


# As anywidget does, the module comes from a blob; the second page is as strict as the one in which VS Code shows a notebook's outputs.
NOTEBOOKS = {
    "JupyterLab": '<body data-jp-theme-light="true">',
    "VS Code": "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline' blob:; "
    'style-src \'unsafe-inline\'; img-src data:"><body class="vscode-dark">',
}


@pytest.fixture(params=list(NOTEBOOKS))
def live_page(request, browser_page, data, session, tmp_path):
    shown = replace(data, maps=(*data.maps, session.to_map()), live=session.settings())
    held = "".join(
        f'<script type="application/json" id="{name}">{json.dumps(what).replace("<", chr(92) + "u003c")}</script>'
        for name, what in (("data", shown.to_dict()), ("module", script()))
    )
    page = f'<meta charset="utf-8">{NOTEBOOKS[request.param]}<div id="root"></div>{held}{ASKING}'
    (tmp_path / "live.html").write_text(page)
    asked = []

    def ask(message):
        asked.append((message, answer(session, message)))
        return asked[-1][1]

    found = browser_page(tmp_path / "live.html", {"ask": ask})
    # The module awaits an import, which no event of the page waits for.
    wait_until(found.page, "window.again !== undefined")
    found.asked = asked
    return found


def test_python_is_asked_and_its_answer_drawn(live_page, session):
    page = live_page.page
    page.click('[data-head="L1H1"]')
    page.get_by_role("radio", name="mean").check()
    page.get_by_role("button", name="ablate", exact=True).click()
    page.wait_for_selector(".wbx-arrow")
    message, reply = live_page.asked[0]
    assert message["heads"] == ["L1H1"] and message["how"] == "mean" and sorted(message["labels"]) == ["B", "T"]
    assert page.locator(".wbx-arrow").count() == reply["n"] == session.max_cells
    text = page.inner_text(".wbx-result")
    assert f"In {reply['n']} of the {reply['n_chosen']} chosen cells, drawn by seed {session.seed}" in text
    assert f"over {session.null_draws} draws" in text and "times as long" in text
    page.get_by_role("checkbox", name="the first random direction too").check()
    assert page.locator(".wbx-arrow.wbx-null").count() == reply["n"]
    assert page.locator("svg circle").count() == 20 and live_page.errors == []


def test_several_heads_and_chosen_labels_are_asked_for(live_page):
    page = live_page.page
    page.click('[data-head="L1H1"]')
    page.get_by_role("button", name="keep L1H1").click()
    page.click('[data-head="L0H0"]')
    page.get_by_role("button", name="add L0H0").click()
    page.select_option("select >> nth=1", index=1)
    page.get_by_role("checkbox", name=re.compile("^B ")).uncheck()
    page.get_by_role("button", name="ablate", exact=True).click()
    page.wait_for_selector(".wbx-arrow")
    message, reply = live_page.asked[0]
    assert message["heads"] == ["L1H1", "L0H0"] and message["labels"] == ["T"] and reply["heads"] == ["L0H0", "L1H1"]
    page.get_by_role("button", name="leave out L1H1").click()
    page.get_by_role("button", name="ablate", exact=True).click()
    wait_until(page, "document.querySelector('.wbx-result h4').textContent === 'L0H0 ablated (zero)'")


def test_two_views_of_one_widget_take_their_own_answers(live_page):
    page = live_page.page
    page.evaluate("window.again('second')")
    views = {"L1H1": page.locator("#root"), "L0H0": page.locator("#second")}
    # Each asks once: the answer to the second view's first question goes to the first as well.
    for head, view in views.items():
        view.locator(f'[data-head="{head}"]').click()
        view.get_by_role("button", name="ablate", exact=True).click()
        view.locator(".wbx-arrow").first.wait_for()
    for head, view in views.items():
        assert view.locator(".wbx-result h4").inner_text() == f"{head} ablated (zero)"
    assert len(live_page.asked) == 2 and live_page.errors == []


def test_an_error_of_python_is_shown_and_one_can_ask_again(live_page):
    page = live_page.page
    page.select_option("select >> nth=1", index=1)
    page.get_by_role("button", name="none").click()
    page.get_by_role("button", name="ablate", exact=True).click()
    page.wait_for_selector(".wbx-error")
    assert "tick a label" in page.inner_text(".wbx-error")
    page.get_by_role("button", name="all", exact=True).click()
    page.get_by_role("button", name="ablate", exact=True).click()
    page.wait_for_selector(".wbx-arrow")
    assert page.locator(".wbx-error").count() == 0
