"""The first sentences of a report on dictionaries and its controls, whatever was found."""

from __future__ import annotations

import pandas as pd
import pytest
from openings import told

from workbench.engine.section import FALLS, HOLDS
from workbench.recipes.dictionary.opening import controls, opening


def tables(within=(0.2, 0.5), low=(0.1, 0.4)):
    hooks = [f"blocks.{i}.hook_resid_post" for i in range(len(within))]

    def of(source, seed, values, lows):
        about = {
            "variance_explained": 0.9,
            "gene_id": 0.8,
            "n_rows": 5000,
            "n_cells": 40,
            "n_donors": 0,
            "within_high": 0.6,
        }
        return [
            {"hook": hook, "source": source, "seed": seed, "within_genes": v, "within_low": lo, **about}
            for hook, v, lo in zip(hooks, values, lows, strict=True)
        ]

    rows = [*of("model", 0, within, low), *of("model", 1, within, low)]
    rows += [*of("untrained", 0, [0.0] * len(hooks), low), *of("shuffled", 0, [-0.3] * len(hooks), low)]
    codes = [
        {"hook": hook, "code": code, "variance_explained": v}
        for hook in hooks
        for code, v in (("dictionary", 0.9), ("gene id alone", 0.8), ("PCA", 0.95))
    ]
    return {
        "dictionary_summary": pd.DataFrame(rows),
        "dictionary_codes": pd.DataFrame(codes),
        "dictionary_stability": pd.DataFrame({"hook": hooks, "above_0.9": 0.004, "n": 256}),
        "dictionary_naming": pd.DataFrame(
            {"hook": hooks, "source": "model", "method": "top genes", "features": 250, "named": 0.04}
        ),
    }


@pytest.mark.parametrize(
    ("within", "low", "said"),
    [
        ((0.2, 0.5), (0.1, 0.4), "Yes, at all of 2 hooks"),
        ((-0.2, 0.5), (-0.4, 0.4), "At 1 of 2 hooks they do"),
        ((-1.2, 0.05), (-1.4, -0.1), "No: at none of 2 hooks"),
    ],
)
def test_the_answer_goes_by_the_interval_over_cells(within, low, said):
    text = told(opening(tables(within, low), "cells"))
    assert said in text and "0.4 % of features again" in text and "cells of the same donors" in text


def test_without_genes_it_says_so():
    nothing = float("nan")
    text = told(opening(tables((nothing,), (nothing,)), "donors"))
    assert "whole cells, which have no gene" in text


def test_before_judging_it_says_what_to_do():
    assert "workbench dictionary judge" in told(opening({}, "cells"))


def test_controls_count_hooks_and_features():
    found = {one.name: one for one in controls(tables((-0.2, 0.5), (-0.4, 0.4)))}
    assert (found["gene id alone"].held, found["gene id alone"].of) == (1, 2)
    assert found["activations dealt anew within genes"].held == 1 and found["random weights"].held == 1
    assert found["PCA"].state == FALLS and "dictionary" not in found
    assert (found["another seed"].held, found["another seed"].of) == (2, 512)
    assert (found["random directions of the cells"].held, found["random directions of the cells"].of) == (20, 500)
    assert controls(tables())[0].state == HOLDS and controls({}) == []
