"""The page of campaigns says what their tables say, and names no folder; a campaign of planted counts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import load_script

from workbench.errors import ArtifactError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def page():
    return load_script("benchmark_page").page


@pytest.fixture(scope="module")
def made(page, campaign):
    return page([campaign.out])


def tables_of(text):
    """Rows of the tables of values, by kind: method to cells."""
    found = {}
    for kind, part in re.findall(r"### (Donor holdout|Transfer): (.*?)(?=\n###)", text, re.S):
        rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
        found[kind.lower()] = {row[0]: row[1:] for row in rows[1:]}
    return found


def read(out, name):
    return pd.read_csv(out / "tables" / f"{name}.csv", keep_default_na=False, na_values=[""])


def test_every_value_is_that_of_the_summary(made, campaign):
    summary = read(campaign.out, "summary")
    for kind, rows in tables_of(made).items():
        own = summary[summary["kind"] == kind]
        assert set(rows) == set(own["method"])
        for method, cells in rows.items():
            values = own[own["method"] == method].set_index(["endpoint", "metric"])["value"]
            somewhere = own.groupby(["endpoint", "metric"])["value"].count() > 0
            values = values[somewhere[values.index].to_numpy()]
            said = [np.nan if cell.startswith("–") else float(cell.split()[0]) for cell in cells[: len(values)]]
            np.testing.assert_allclose(said, values, atol=0.00501)


def test_marks_are_outcomes(made, campaign):
    comparisons = read(campaign.out, "comparisons")
    for kind, rows in tables_of(made).items():
        own = comparisons[comparisons["kind"] == kind]
        for method, part in own.groupby("method"):
            won, lost = ((part["outcome"] == what).sum() for what in ("win", "loss"))
            text = " | ".join(rows[method])
            assert (text.count(" +"), text.count(" −")) == (won, lost)
            assert re.search(rf"\b{won} / \d+ / {lost}\b", text) or not part["n_splits"].any()


def test_no_folder_is_named(made, campaign):
    assert str(campaign.out.parent) not in made and "cells.h5ad" in made


def test_a_campaign_that_has_not_ended_is_said(page, campaign, tmp_path):
    shutil.copytree(campaign.out / "tables", tmp_path / "tables")
    (tmp_path / "tables" / "tally.csv").unlink()
    with pytest.raises(ArtifactError, match=r"no tables/tally.csv; run `workbench benchmark`"):
        page([tmp_path])


def test_the_page_in_the_docs_has_every_set_and_names_no_folder():
    text = (ROOT / "docs" / "benchmark.md").read_text()
    kinds = re.findall(r"^### (Stratified|Donor holdout|Transfer): (\S+)$", text, re.M)
    assert len(kinds) == 4 and not re.search(r"[ ,]/\w+/\w+", text)
