"""The report in a real browser: it loads, every plot is drawn in both themes, tables sort and are searched, links work."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
from figures import synthetic

from workbench.engine.report import report_run, write_figures
from workbench.figures.requests import Request
from workbench.figures.style import dressed

ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts" / "test"
TABLES = {
    "heads": synthetic.heads,
    "holdouts": synthetic.holdouts,
    "latent": synthetic.latent,
    "readouts": synthetic.readouts,
    "distances": synthetic.distances,
}
FIGURES = ("latent", "heads", "holdouts", "readouts", "distances")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    (out / "tables").mkdir()
    tables = {name: make() for name, make in TABLES.items()}
    for name, table in tables.items():
        table.to_csv(out / "tables" / f"{name}.csv", index=False)
    summary = {**synthetic.summary(), "command": "workbench run tiny.yaml --out here"}
    return report_run(out, summary, tables, [Request(name, f"Synthetic {name}.") for name in FIGURES])


@pytest.fixture(scope="module")
def page(report, chromium):
    """The report, opened once for tests that leave it as it was."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(90_000)
    page.goto(f"{report.resolve().as_uri()}#tables")
    yield page
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_loads_with_every_plot_and_without_complaint(report, browser_page, theme):
    opened = browser_page(report, color_scheme=theme, viewport={"width": 1200, "height": 1000})
    page = opened.page
    page.wait_for_selector(".js-plotly-plot .main-svg")
    page.locator("#figures > summary").click()
    for name in FIGURES:
        page.locator(f"#plot-{name}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#plot-{name} .main-svg")
    for name in FIGURES:
        assert page.locator(f"#plot-{name} .main-svg").count() > 0, name
    paper = page.evaluate("getComputedStyle(document.querySelector('#plot-heads .main-svg')).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(32, 34, 40)"}[theme]
    assert not opened.errors
    assert all(url.startswith(("file:", "data:", "blob:")) for url in opened.requests)
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"report_{theme}.png", full_page=True)


def test_figures_are_drawn_when_their_part_is_opened_and_they_come_into_view(report, browser_page):
    page = browser_page(report, viewport={"width": 1000, "height": 400}).page
    page.wait_for_selector("#plot-holdouts .main-svg")
    last = page.locator(f"#plot-{FIGURES[-1]} .main-svg")
    page.mouse.wheel(0, 5000)
    page.wait_for_timeout(300)
    assert page.locator("#plot-latent .main-svg").count() == last.count() == 0
    page.locator("#figures > summary").press("Enter")
    page.wait_for_selector("#plot-latent .main-svg")
    assert last.count() == 0
    page.locator(f"#plot-{FIGURES[-1]}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#plot-{FIGURES[-1]} .main-svg")
    assert page.locator("#plot-latent").bounding_box()["width"] > 600
    assert report.stat().st_size < 3e6


def test_a_link_into_a_closed_part_opens_it(report, browser_page):
    page = browser_page(report).page
    link = page.get_by_role("link", name="Distances")
    for _ in range(2):
        link.click()
        page.wait_for_selector("#plot-distances .main-svg")
        assert page.locator("#figure-distances").is_visible()
        page.locator("#figures > summary").click()
        assert not page.locator("#figure-distances").is_visible()
    page.goto("about:blank")
    page.goto(f"{report.resolve().as_uri()}#table-heads")
    assert page.locator("#table-heads").is_visible() and not page.locator("#figure-latent").is_visible()


@pytest.mark.parametrize(("width", "height", "screens"), [(1280, 900, 4), (390, 844, 8)])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_without_opening_anything_it_is_short_and_no_wider_than_the_window(
    report, browser_page, width, height, screens, theme
):
    opened = browser_page(report, viewport={"width": width, "height": height}, color_scheme=theme)
    opened.page.wait_for_selector("#plot-holdouts .main-svg")
    size = opened.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert size[0] <= width and size[1] <= screens * height
    box = opened.page.locator("#summary").bounding_box()
    assert box["y"] + box["height"] <= height and not opened.errors
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    opened.page.screenshot(path=ARTIFACTS / f"report_{width}_{theme}.png", full_page=True)


@pytest.mark.parametrize("words", [3, 60, 240])
def test_no_title_reaches_into_its_plot(tmp_path, browser_page, words):
    figure = dressed(go.Figure(go.Scatter(x=[0, 1], y=[0, 1])), "A title", "several " * words, 200)
    write_figures(tmp_path, {"long": figure}, {"long": "Synthetic."})
    opened = browser_page(tmp_path / "figures" / "long.html")
    opened.page.wait_for_selector("#plot-long .g-gtitle")
    title = opened.page.locator("#plot-long .g-gtitle").bounding_box()
    assert title["y"] + title["height"] <= opened.page.locator("#plot-long .nsewdrag").bounding_box()["y"]


def test_tables_sort_by_mouse_and_by_keyboard(report, page):
    column = list(pd.read_csv(report.parent / "tables" / "heads.csv").columns).index("spearman")
    button = page.locator("#table-heads thead th").nth(column).locator("button")

    def values():
        return page.eval_on_selector_all(
            "#table-heads tbody tr", f"rows => rows.map(row => parseFloat(row.cells[{column}].dataset.value))"
        )

    button.click()
    assert values() == sorted(values())
    button.press("Enter")
    assert values() == sorted(values(), reverse=True)
    assert page.locator("#table-heads thead th").nth(column).get_attribute("aria-sort") == "descending"


def test_tables_are_searched(page):
    search = page.get_by_label("Search in these rows").nth(list(TABLES).index("holdouts"))
    rows = page.locator("#table-holdouts tbody tr:visible")
    every = rows.count()
    search.fill("branch identity")
    assert 0 < rows.count() < every
    assert all("branch" in text and "identity" in text for text in rows.all_inner_texts())
    assert f"{rows.count()} of {every} rows" in page.locator("#tables").inner_text()
    search.fill("")
    assert rows.count() == every


def test_links_lead_somewhere(report, page):
    targets = page.eval_on_selector_all("a[href^='#']", "links => links.map(link => link.getAttribute('href'))")
    assert len(targets) >= 5
    for target in targets:
        assert page.locator(target).count() == 1, target
    files = page.eval_on_selector_all(
        "a[href]:not([href^='#'])", "links => links.map(link => link.getAttribute('href'))"
    )
    assert all((report.parent / name).is_file() for name in files)


def test_it_prints_light(report, browser_page, tmp_path):
    opened = browser_page(report, color_scheme="dark")
    opened.page.wait_for_selector(".js-plotly-plot .main-svg")
    opened.page.pdf(path=tmp_path / "report.pdf")
    assert opened.page.locator("details:not([open])").count() > 0, "what was closed is closed again"
    assert opened.page.locator("div.js-plotly-plot").count() == len(FIGURES), "all are drawn for paper"
    assert (tmp_path / "report.pdf").stat().st_size > 50_000 and not opened.errors


@pytest.mark.slow
def test_the_latent_turns_in_three_dimensions(tmp_path, browser_page):
    (tmp_path / "tables").mkdir()
    synthetic.latent().to_csv(tmp_path / "tables" / "latent.csv", index=False)
    report_run(tmp_path, {**synthetic.summary(), "command": "none"}, {}, [Request("latent_3d", "Synthetic.")])
    opened = browser_page(tmp_path / "figures" / "latent_3d.html")
    opened.page.wait_for_selector("#plot-latent_3d canvas")
    opened.page.get_by_text("by stage").click()
    opened.page.wait_for_function(
        "document.getElementById('plot-latent_3d').data.some(t => t.visible && t.name.startsWith('HSC'))"
    )
    assert not opened.errors
