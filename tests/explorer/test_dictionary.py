"""The page of a dictionary: what it holds, that it stays small, that no label is markup, and that it works from a file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from browser import wait_until

from workbench.explorer.dictionary import EACH, Browsed, page_data, page_files, write_dictionary_page

EVIL = "</script><script>document.title = 'owned'</script><b>x</b>"


def made_up(n=40, n_genes=30, n_types=3, n_programs=4, width=16, seed=0, tested=(0, 4, 7)):
    """A dictionary that was made up: feature i has genes i, i + 1, ... of the list, and every third one a name."""
    rng = np.random.default_rng(seed)
    genes = [f"GENE{i}" for i in range(n_genes - 1)] + [EVIL]
    at = np.arange(n)
    density = 10 ** rng.uniform(-4, -0.5, n)
    density[1] = 0
    features = pd.DataFrame(
        {
            **{"feature": at, "density": density, "mean": rng.gamma(2, 1, n), "top_share": rng.uniform(0.05, 1, n)},
            **{"n_genes": rng.uniform(1, 80, n), "level_r": rng.uniform(-1, 1, n), "found_again": rng.uniform(0, 1, n)},
            **{"program": [f"program {i % n_programs}" if i % 3 == 0 else "" for i in at], "odds": rng.gamma(3, 2, n)},
            **{"overlap": rng.integers(1, 9, n), "n_list": 20, "p": rng.uniform(0, 1, n), "q": rng.uniform(0, 1, n)},
            **{
                "named": at % 3 == 0,
                "cell_type": [f"type {i % n_types}" for i in at],
                "cell_type_lift": rng.uniform(1, 5, n),
            },
            **{
                "ranked_program": "program 1",
                "ranked_score": 2.0,
                "ranked_p": 0.01,
                "ranked_q": 0.2,
                "regulator": "GENE3",
            },
            **{"regulator_overlap": 2, "regulator_p": 0.5, "regulator_q": 0.9},
            **{"donor": "donor1", "donor_share": rng.uniform(0, 1, n), "one_donor": at == 5},
        }
    )
    top = np.repeat(at, 12)
    rank = np.tile(np.arange(12), n)
    table = pd.DataFrame(
        {
            **{
                "feature": top,
                "rank": rank + 1,
                "gene": [genes[(i * 7 + r) % n_genes] for i, r in zip(top, rank, strict=True)],
            },
            **{
                "mean": rng.gamma(2, 1, len(top)),
                "firings": rng.integers(3, 900, len(top)),
                "lift": rng.gamma(2, 4, len(top)),
            },
        }
    )
    table = table[table["feature"] != 1]
    types = pd.DataFrame(
        {
            **{"feature": np.tile(at, n_types), "label": np.repeat([f"type {i}" for i in range(n_types)], n)},
            **{"mean": rng.gamma(0.5, 0.1, n * n_types), "density": rng.uniform(0, 0.3, n * n_types)},
        }
    )
    return Browsed(
        f"Features of {EVIL}",
        {"Data": EVIL},
        features,
        table,
        pd.DataFrame(
            {"feature": [0, 0], "cell": ["cell 7", EVIL], "mean": [0.2, 0.1], "firings": [9, 4], "cell_type": "type 1"}
        ),
        types,
        rng.normal(size=(n, width)),
        rng.normal(size=(n, 2)),
        effects_of(at if tested is None else tested, rng),
    )


def effects_of(features, rng):
    """Effects that were made up, on two metrics; the first feature does more than its like, the last has none."""
    n = len(features)
    one = pd.DataFrame(
        {"feature": features, "how": "clamp", "amount": 2.0, "n_cells": 30, "effect": rng.normal(0, 0.1, n)}
    )
    one["low"], one["high"] = one["effect"] - rng.uniform(0, 0.1, n), one["effect"] + rng.uniform(0, 0.1, n)
    one["null_low"], one["null_high"] = -rng.uniform(0, 0.1, n), rng.uniform(0, 0.1, n)
    one["n_null"] = rng.integers(5, 100, n)
    one["smallest_p"], one["q"], one["beyond"] = 1 / (1 + one["n_null"]), rng.uniform(0.1, 1, n), False
    known = ["effect", "low", "high", "null_low", "null_high", "n_null", "smallest_p", "q", "beyond"]
    one.loc[0, known] = 0.5, 0.4, 0.6, -0.05, 0.004, 40, 1 / 41, 0.03, True
    if n > 1:
        one.loc[n - 1, ["null_low", "null_high", "smallest_p", "q"]] = np.nan
        one.loc[n - 1, "n_null"] = 0
    small = one.assign(effect=rng.normal(0, 1e-5, n), low=np.nan, high=np.nan, q=0.4, beyond=False)
    small.loc[[0, n - 1], "effect"] = -3.2e-6
    small.loc[n - 1, "q"] = np.nan
    return pd.concat([one.assign(metric="cell_shift"), small.assign(metric="label_loss")], ignore_index=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browse") / "hook"
    write_dictionary_page(made_up(), folder)
    return folder


def test_cards_hold_the_tables_and_the_nearest_directions():
    shown = made_up()
    listed, cards = page_data(shown)
    assert listed["genes"][listed["tops"][0][0]] == "GENE0" and len(cards[0]["g"]) == 10 and cards[1]["g"] == []
    assert listed["words"]["program"] == [f"program {i}" for i in range(4)] and listed["numbers"]["program"][1] == -1
    x = shown.directions / np.linalg.norm(shown.directions, axis=1, keepdims=True)
    cosine = x @ x[7]
    best = np.argsort(-cosine)[1]
    assert cards[7]["n"][0] == [best, round(100 * cosine[best])]
    assert listed["values"]["q"][3] == pytest.approx(shown.features["q"][3], rel=5e-3)


def test_a_page_without_names_or_types_is_made():
    shown = made_up()
    bare = Browsed(
        "x",
        {},
        shown.features[["feature", "density"]],
        shown.genes[:0],
        shown.cells[:0],
        shown.types[:0],
        shown.directions,
        shown.map,
    )
    listed, cards = page_data(bare)
    assert listed["words"] == {} and listed["types"] == [] and cards[0]["g"] == [] and cards[0]["t"] == {}


def test_effects_stand_in_the_cards_of_the_features_that_were_changed():
    listed, cards = page_data(made_up())
    assert listed["effects"]["how"] == "clamp" and listed["effects"]["metrics"] == ["cell shift", "label loss"]
    assert [i for i, one in enumerate(listed["flags"]["tested"]) if one] == [0, 4, 7] and [
        i for i, card in enumerate(cards) if "e" in card
    ] == [0, 4, 7]
    assert listed["flags"]["beyond"] == [1] + [0] * 39
    columns = ["metric", *listed["effects"]["columns"]]
    first = dict(zip(columns, cards[0]["e"][0], strict=True))
    assert first["effect"] == 0.5 and first["null_low"] == -0.05 and first["q"] == 0.03 and first["beyond"] == 1
    last = dict(zip(columns, cards[7]["e"][1], strict=True))
    assert last["q"] is None and last["null_high"] is None and last["n_null"] == 0 and last["effect"] == -3.2e-6


@pytest.mark.slow
def test_twelve_dictionaries_of_the_released_size_stay_under_ten_megabytes(tmp_path):
    written = write_dictionary_page(made_up(2048, 3000, 12, 60, 512, tested=None), tmp_path)
    assert [path.name for path in written] == page_files(2048) and len(written) == 1 + 2048 // EACH
    assert 12 * sum(path.stat().st_size for path in written) < 10e6


def test_no_label_ends_the_script(folder):
    page = (folder / "index.html").read_text()
    assert page.count("</script>") == 2 and "<b>x</b>" not in page and "default-src 'none'" in page


def test_it_works_from_a_file_and_loads_its_own_files_alone(browser_page, folder):
    shown = browser_page(folder / "index.html")
    wait_until(shown.page, "document.body.dataset.ready === 'true'")
    assert shown.page.inner_text("#feature") == "Feature 0" and shown.page.inner_text("#count") == "39 of 40 features"
    assert shown.errors == [] and shown.page.title() == f"Features of {EVIL}"
    own = folder.resolve().as_uri()
    assert [one for one in shown.requests if not one.startswith(own)] == [] and any(
        "features-0.js" in one for one in shown.requests
    )
    rows = shown.page.locator("#card table").first.locator("tbody tr").all_inner_texts()
    assert rows[0].split("\t")[0] == "GENE0" and len(rows) == 10
    assert "named beyond random directions" in shown.page.inner_text("#program")
    assert "Of random directions of the cells 50 % do as well" in shown.page.inner_text("#regulator")
    assert shown.page.locator("#card").inner_text().count("type ") >= 3


def test_a_search_finds_genes_types_programs_and_numbers(browser_page, folder):
    shown = browser_page(folder / "index.html")
    page = shown.page
    wait_until(page, "document.body.dataset.ready === 'true'")
    shown_first = "document.querySelector('#list button')?.dataset.feature"
    page.fill("#search", "gene7")
    found = [int(one.get_attribute("data-feature")) for one in page.locator("#list button").all()]
    data = made_up()
    with_gene = {i for i in range(40) if "GENE7" in set(data.genes[(data.genes["feature"] == i)].head(10)["gene"])}
    assert set(found) == with_gene
    page.fill("#search", "program 2")
    assert page.locator("#list button").count() == len(data.features.query("program == 'program 2'"))
    page.fill("#search", "type 1")
    assert page.locator("#list button").count() == len(data.features.query("cell_type == 'type 1' and density > 0"))
    page.fill("#search", "17")
    assert page.evaluate(shown_first) == "17"
    page.fill("#search", "")
    page.check("#only-named")
    assert page.inner_text("#count").startswith("14 of 40")
    page.check("#only-one_donor")
    assert page.inner_text("#count").startswith("0 of 40")
    assert shown.errors == []


def test_a_card_goes_to_its_neighbours_and_has_an_address(browser_page, folder):
    shown = browser_page(folder / "index.html")
    page = shown.page
    wait_until(page, "document.body.dataset.ready === 'true'")
    page.click("#list button[data-feature='5']")
    wait_until(page, "document.querySelector('#feature').textContent === 'Feature 5'")
    assert "a feature of one donor" in page.inner_text("#card") and page.evaluate("location.hash") == "#5"
    near = page.locator(".near button").first
    name = near.inner_text().split()[0]
    near.click()
    wait_until(page, f"document.querySelector('#feature').textContent === 'Feature {name}'")
    assert page.locator("circle.here").count() == 1 and page.locator("circle.near").count() == 6
    page.focus("#list button")
    page.keyboard.press("Enter")
    wait_until(page, "document.querySelector('#feature').textContent === 'Feature 0'")
    assert shown.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_card_says_what_a_feature_does_beside_its_like(browser_page, folder, scheme):
    shown = browser_page(folder / "index.html", color_scheme=scheme)
    page = shown.page
    wait_until(page, "document.body.dataset.ready === 'true'")
    said = page.inner_text("#effects")
    assert (
        "Held at 2 at every gene" in said
        and "cell shift changes by 0.5 (95 % 0.4 to 0.6) over 30 cells; q 0.03, more than its like." in said
    )
    assert "Of 40 features that fire as often and are as strong: −0.05 to 0.004; p can be 0.0244 at the least." in said
    assert "label loss changes by −3.2e−6 over 30 cells" in said and page.locator("#effects svg").count() == 2
    # The feature's effect lies outside the range of its like, and in sight.
    dot, like, strip = (
        page.locator(f"#effects svg {name}").first.bounding_box() for name in (".effect", ".like", ".zero")
    )
    assert dot["x"] > like["x"] + like["width"] and like["x"] <= strip["x"] <= dot["x"]
    page.check("#only-tested")
    assert page.inner_text("#count").startswith("3 of 40")
    page.click("#list button[data-feature='7']")
    wait_until(page, "document.querySelector('#feature').textContent === 'Feature 7'")
    assert "nothing to be compared with" in page.inner_text("#effects") and "q " not in page.inner_text("#effects")
    page.check("#only-beyond")
    assert page.inner_text("#count").startswith("1 of 40")
    page.uncheck("#only-tested")
    page.uncheck("#only-beyond")
    page.click("#list button[data-feature='5']")
    wait_until(page, "document.querySelector('#feature').textContent === 'Feature 5'")
    assert page.inner_text("#effects") == "Not among the 3 features that were changed."
    assert shown.errors == []


def test_a_page_without_effects_does_not_speak_of_them(browser_page, tmp_path):
    write_dictionary_page(dataclasses.replace(made_up(), effects=pd.DataFrame()), tmp_path)
    shown = browser_page(tmp_path / "index.html")
    wait_until(shown.page, "document.body.dataset.ready === 'true'")
    assert shown.page.locator("#effects, #only-tested, #only-beyond").count() == 0 and shown.errors == []


def test_a_page_without_its_files_says_so(browser_page, folder, tmp_path):
    (tmp_path / "alone.html").write_text((folder / "index.html").read_text())
    shown = browser_page(tmp_path / "alone.html")
    wait_until(shown.page, "document.body.dataset.ready === 'true'")
    assert "features-0.js is not beside this page" in shown.page.inner_text("#card")


def test_it_fits_a_phone(browser_page, folder):
    shown = browser_page(folder / "index.html", viewport={"width": 390, "height": 844})
    wait_until(shown.page, "document.body.dataset.ready === 'true'")
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= 390
