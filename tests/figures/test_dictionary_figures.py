"""Dictionaries as pictures. Nothing in the tables was measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench import figures
from workbench.errors import EvaluationError

KINDS, LAYERS = ("hook_resid_post", "hook_mlp_out"), range(4)


def places(kinds=KINDS):
    return [
        {"hook": f"blocks.{layer}.{kind}", "kind": kind, "layer": float(layer)} for kind in kinds for layer in LAYERS
    ]


def summary(kinds=KINDS):
    rows = []
    for place in places(kinds):
        for source, seed, within in (
            ("model", 0, 0.2),
            ("model", 1, 0.25),
            ("untrained", 0, -3.0),
            ("shuffled", 0, 0.05),
        ):
            of = {
                "variance_explained": 0.9,
                "within_genes": within,
                "within_low": within - 0.1,
                "within_high": within + 0.1,
            }
            rows.append({**place, "source": source, "seed": seed, **of, "n_rows": 5000, "n_cells": 20})
    return pd.DataFrame(rows)


def codes(kinds=KINDS):
    rows = []
    for place in places(kinds):
        for code, value, within in (
            ("dictionary", 0.9, 0.2),
            ("gene id alone", 0.8, 0.0),
            ("PCA", 0.7, -0.5),
            ("</b>own", 0.6, -2.0),
        ):
            rows.append({**place, "code": code, "l0": 8.0, "variance_explained": value, "within_genes": within})
    return pd.DataFrame(rows)


def losses():
    rows = []
    for place in places(KINDS[:1]):
        for metric in ("cell_shift", "masked_error"):
            for name, recovered in (
                ("intact", 1.0),
                ("dictionary", 0.95),
                ("gene id alone", 0.8),
                ("mean", 0.1),
                ("zero", 0.0),
            ):
                value = np.nan if metric == "cell_shift" and place["layer"] == 3 else recovered
                rows.append(
                    {
                        **place,
                        "metric": metric,
                        "replaced_by": name,
                        "loss": 1.0,
                        "recovered_zero": value,
                        "recovered_mean": value,
                    }
                )
    return pd.DataFrame(rows)


def activity(n=50):
    rng = np.random.default_rng(0)
    parts = []
    for place in places(KINDS[:1]):
        density = 10 ** rng.uniform(-4, -0.4, n)
        density[:3], density[3] = 0, 0.8
        parts.append(pd.DataFrame({**place, "feature": range(n), "density": density}))
    return pd.concat(parts, ignore_index=True)


def named(trace):
    return {one.name for one in trace if one.name}


def test_gene_identity_is_a_line_at_zero_where_it_is_the_yardstick():
    figure = figures.dictionary_variance(summary(), codes())
    assert len(figure.layout.annotations) == 4  # two kinds, two measures
    names = named(figure.data)
    assert {"dictionary", "gene id alone", "PCA", "other seeds", "dictionary, random weights"} <= names
    assert "&lt;/b&gt;own" in names and "</b>own" not in names
    assert sum(shape.y0 == 0 and shape.y1 == 0 for shape in figure.layout.shapes) == 2
    own = [trace for trace in figure.data if trace.name == "dictionary" and trace.error_y.array is not None]
    assert len(own) == 2 and own[0].error_y.array[0] == pytest.approx(0.1)


def test_what_is_far_below_is_cut_and_said():
    figure = figures.dictionary_variance(summary(), codes())
    assert min(axis.range[0] for axis in figure.select_yaxes()) == -1.5 and "nothing under" in figure.layout.title.text


def test_rows_of_cells_have_one_facet_without_layers():
    own, others = (
        table.assign(hook="hook_cell", kind="hook_cell", layer=np.nan).drop_duplicates(key)
        for table, key in ((summary(), ["source", "seed"]), (codes(), "code"))
    )
    for table in (own, others):
        table[[column for column in table if column.startswith("within")]] = np.nan
    figure = figures.dictionary_variance(own, others[others["code"] != "gene id alone"])
    assert len(figure.layout.annotations) == 1 and figure.layout.xaxis.ticktext == ("",)


def test_losses_have_a_facet_for_each_metric_and_what_they_are_held_against():
    figure = figures.dictionary_losses(losses())
    assert [note.text for note in figure.layout.annotations] == [
        f"{metric}, {against}"
        for metric in ("cell shift", "masked error")
        for against in ("against zero", "against the mean")
    ]
    with pytest.raises(EvaluationError, match="no loss could be recovered"):
        figures.dictionary_losses(losses().assign(recovered_zero=np.nan, recovered_mean=np.nan))


def test_dead_and_dense_features_are_counted():
    figure = figures.dictionary_density(activity())
    assert figure.layout.annotations[2].text == "layer 2: 3 dead, 1 dense"
    assert [sum(trace.y) for trace in figure.data] == [47] * 4


def test_boxes_are_quartiles_of_the_matches_beside_random_ones():
    rng = np.random.default_rng(0)
    matches = pd.concat(
        [pd.DataFrame({**place, "other": 1, "cosine": rng.uniform(0.2, 0.6, 101)}) for place in places(KINDS[:1])]
    )
    stability = pd.DataFrame(
        [{**place, "other": 1, "null_median": 0.3, "null_high": 0.5, "above_0.9": 0.0} for place in places(KINDS[:1])]
    )
    figure = figures.dictionary_stability(matches, stability)
    box, bar = (next(one for one in figure.data if one.type == kind) for kind in ("box", "bar"))
    first = matches.query("layer == 0")["cosine"]
    assert box.median[0] == pytest.approx(first.median()) and box.q3[0] == pytest.approx(first.quantile(0.75))
    assert list(bar.y) == [0.5] * 4 and "n = 101 pairs" in figure.layout.title.text


def test_names_stand_beside_random_lists_and_random_weights():
    rows = [
        {**place, "source": source, "method": method, "features": 200, "named": 0.04, "rule": 0.15, "rule_random": 0.05}
        for place in places(KINDS[:1])
        for source in ("model", "untrained")
        for method in ("top genes", "ranking")
    ]
    figure = figures.dictionary_naming(pd.DataFrame(rows))
    assert named(figure.data) == {
        "usual rule", "usual rule on its null", "named beyond the null (q ≤ 0.05)", "the same of random weights"
    }  # fmt: skip


def test_a_table_without_its_columns_is_refused():
    with pytest.raises(EvaluationError, match="lacks the column"):
        figures.dictionary_variance(summary().drop(columns="within_low"), codes())
