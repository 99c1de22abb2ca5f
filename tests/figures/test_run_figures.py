"""Latent in 3D, cohorts, shape, drift and runtime: what is drawn is what the table says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from figures import synthetic
from workbench.errors import EvaluationError
from workbench.figures import (
    cohort_gates,
    dimension_curves,
    drift,
    flat_and_ripple,
    gene_layers,
    held_levels,
    latent_space,
    masked_errors,
    runtime,
    space_maps,
    study_transfers,
    training_course,
)

EVIL = "<b>evil</b>"


def gates(cohort, role, operator=None, value=0.5):
    table = pd.DataFrame(
        {
            "cohort": cohort,
            "role": role,
            "gate": ["trustworthiness", "random holdout", "donor holdout", "branch holdout", "null ruler"],
            "status": ["pass", "pass", "not applicable", "fail", "fail"],
            "unit": ["anchors", "splits", "", "branches", "rulers"],
            "value": [0.9, value, np.nan, 0.1, 0.4],
            "threshold": [0.8, 0.2, np.nan, 0.2, 0.01],
            "sd": [0.1, 0.1, np.nan, 0.2, np.nan],
            "n": [30, 20, 0, 4, 99],
            "null_mean": [0.5, 0.0, np.nan, np.nan, 0.0],
            "null_high": [0.6, 0.1, np.nan, np.nan, 0.1],
            "p": [0.05, 0.01, np.nan, np.nan, 0.4],
        }
    )
    return table if operator is None else table.assign(operator=operator)


def text_of(figure):
    return figure.to_json()


def test_cohorts_stand_side_by_side_with_their_controls():
    own = pd.concat([gates("inside", "internal"), gates(EVIL, "external", value=0.3)])
    controls = pd.concat([gates("inside", "internal", "identity", 0.4), gates(EVIL, "external", "identity", 0.2)])
    figure = cohort_gates(own, controls)
    points = [
        trace for trace in figure.data if trace.type == "scatter" and trace.text is not None and len(trace.y) == 4
    ]
    assert len(points) == 3  # a plot per gate that has a value
    random = next(trace for trace in points if list(trace.x) == [0.5, 0.3, 0.4, 0.2])
    assert [name.split(":")[1].strip() for name in random.y] == ["model", "model", "identity", "identity"]
    assert EVIL not in text_of(figure)
    with pytest.raises(EvaluationError, match="has a value"):
        cohort_gates(own.assign(value=np.nan), controls.assign(value=np.nan))


def test_the_latent_turns_and_is_coloured_by_what_there_is():
    table = synthetic.latent().assign(donor=lambda t: np.where(np.arange(len(t)) % 2, "d1", EVIL))
    figure = latent_space(table)
    shown = [trace for trace in figure.data if trace.visible]
    assert sum(len(trace.x) for trace in shown) == len(table)
    assert len(shown) == table["branch"].nunique()
    assert [button.label for button in figure.layout.updatemenus[0].buttons] == ["by branch", "by stage", "by donor"]
    assert EVIL not in text_of(figure)
    assert not latent_space(table.drop(columns=["donor"]).assign(stage="one")).layout.updatemenus
    by_stage = [trace for trace in figure.data if not trace.visible and "stage " in trace.hovertemplate]
    assert len(by_stage) == table["stage"].nunique()
    assert len({(trace.marker.color, trace.marker.symbol) for trace in by_stage}) == len(by_stage)
    z = table[[f"z_{i}" for i in range(1, 11)]].to_numpy()
    drawn = np.concatenate([np.column_stack([t.x, t.y, t.z]) for t in shown])
    values = np.linalg.svd(z - z.mean(0), compute_uv=False)
    assert np.allclose((drawn**2).sum(0), values[:3] ** 2)
    with pytest.raises(EvaluationError, match="it has 2"):
        latent_space(table.drop(columns=[f"z_{i}" for i in range(3, 11)]))


def test_shape_has_a_plot_per_measure_and_a_null_where_there_is_one():
    table = pd.DataFrame(
        {
            "space": ["f(x)", "z"] * 2,
            "measure": ["geodesic against ruler, all pairs (Spearman)"] * 2
            + ["structure off the plane (Moran's I)"] * 2,
            "note": ["", "", "199 permutations", EVIL],
            "value": [0.8, 0.7, 0.1, -0.2],
            "null_mean": [np.nan, np.nan, -0.3, -0.1],
            "null_high": [np.nan, np.nan, 0.0, 0.05],
            "p": [np.nan, np.nan, 0.01, 0.6],
            "n": 30,
        }
    )
    figure = flat_and_ripple(table)
    titles = [note.text for note in figure.layout.annotations]
    assert any("geodesic against ruler" in t and "all pairs, Spearman; n = 30" in t for t in titles)
    assert figure.layout.xaxis2.range[0] < -0.3 and EVIL not in text_of(figure)


def test_drift_draws_every_pair_of_layers_and_the_first_genes():
    first, second = np.indices((3, 3))
    layers = pd.DataFrame({"first": first.ravel(), "second": second.ravel(), "cosine": np.eye(3).ravel()})
    layers = layers.assign(n_heads=2, n_genes=20)
    genes = pd.DataFrame(
        [
            ("block 1 - block 2", side, f"{EVIL}{i}", i + 1, 1 / (i + 2))
            for side in ("read", "write")
            for i in range(20)
        ],
        columns=["step", "side", "gene", "rank", "share"],
    )
    figure = drift(layers, genes)
    assert figure.data[0].z.tolist() == np.eye(3).tolist()
    assert [len(trace.y) for trace in figure.data[1:]] == [12, 12] and EVIL not in text_of(figure)
    assert np.allclose(figure.data[1].x[0], 50) and "would hold 5 %" in figure.layout.title.text.replace("<br>", " ")


def test_transfers_have_a_mark_per_method_and_a_ring_where_the_algorithm_is_not_fit():
    methods = ["algorithm", "logistic regression", EVIL]
    table = pd.DataFrame(
        [
            {"study": study, "method": name, "accuracy": 0.5 + 0.1 * i, "balanced_accuracy": 0.4, "n_cells": 90, "coverage": 0.6,
             "unassigned": 0.2, "fit": (study == "A") if name == "algorithm" else None}
            for study in ("A", "B")
            for i, name in enumerate(methods)
        ]
    )  # fmt: skip
    figure = study_transfers(table)
    points = [trace for trace in figure.data if trace.x[0] is not None]
    assert [trace.x[0] for trace in points] == [0.5, 0.6, 0.7, 0.5, 0.6, 0.7]
    symbols = [trace.marker.symbol for trace in points]
    assert symbols[0] == "circle" and symbols[3] == "circle-open" and not any("open" in one for one in symbols[1:3])
    assert len({trace.marker.symbol for trace in figure.data if trace.x[0] is None}) == 3 and EVIL not in text_of(
        figure
    )


def test_levels_have_a_line_for_genes_and_one_for_counts_from_the_whole_cells_on():
    rows = [("share of genes", share, 0.7 * share) for share in (1.0, 0.5)] + [("share of counts", 0.25, 0.4)]
    table = pd.DataFrame(
        [
            {"kind": k, "share": s, "accuracy": a, "sd": 0.05, "probability": a + 0.1, "plain_accuracy": a + 0.2}
            for k, s, a in rows
        ]
    )
    figure = held_levels(table)
    genes, _, plain, counts, _, _ = figure.data
    assert list(plain.y) == pytest.approx([0.55, 0.9]) and plain.line.dash == "dash"
    assert list(genes.x) == [50, 100] and list(genes.y) == [0.35, 0.7]
    assert list(counts.x) == [25, 100] and list(counts.y) == [0.4, 0.7]


def test_runtime_has_a_bar_per_stage():
    table = pd.DataFrame({"stage": ["cells", EVIL], "seconds": [1.0, 3.0], "peak_bytes": [2**30, 2**31]})
    figure = runtime(table)
    assert list(figure.data[0].x) == [1, 3] and list(figure.data[1].x) == [1, 2]
    assert "4 s in all" in figure.layout.title.text and EVIL not in text_of(figure)


def test_masked_errors_draws_every_predictor_at_every_share_of_masked_values():
    names = ["expression decoder", EVIL, "regression on 10 components of bins (ridge 3)", "gene mean"]

    def rows(cells, ratio):
        names[2] = f"regression on {10 * ratio:.0f} components of bins (ridge {ratio:g})"
        about = {"cells": cells, "mask_ratio": ratio, "gain": 0.1, "n_cells": 40}
        return [
            {**about, "predictor": name, "mse": 10.0 + i, "low": 9.0 + i, "high": 12.0 + i}
            for i, name in enumerate(names)
        ]

    def drawn(groups):
        figure = masked_errors(
            pd.DataFrame([r for group in groups for ratio in (0.25, 0.5) for r in rows(group, ratio)])
        )
        assert len(figure.data) == 2 * len(groups) and EVIL not in text_of(figure)
        for trace in figure.data:
            assert list(trace.x) == [10, 11, 12, 13]
            assert list(trace.marker.symbol) == ["circle", *["circle-open"] * 3]
            assert list(trace.error_x.array) == [2] * 4 and list(trace.error_x.arrayminus) == [1] * 4
            assert trace.y[2].replace("<br>", " ") == "regression on components of bins", "one row in every facet"
        assert "n = 40 held-out cells" in figure.layout.title.text.replace("<br>", " ")
        return [note.text for note in figure.layout.annotations]

    assert drawn(["cells"]) == ["25% masked", "50% masked"]
    assert drawn(["donors of a", "study b"])[::2] == ["donors of a, 25% masked", "study b, 25% masked"]


def test_maps_of_layers_have_a_dot_per_cell_and_say_their_trustworthiness():
    about = {"hook": "resid_post mean", "k": 15, "trustworthiness": 0.9}
    rows = [
        {**about, "layer": layer, "cell_id": f"c{i}", "cell_type": ["B", EVIL][i % 2], "umap_1": i, "umap_2": layer}
        for layer in (-1, 0)
        for i in range(6)
    ]
    figure = space_maps(pd.DataFrame(rows))
    assert len(figure.data) == 4 and sum(len(trace.x) for trace in figure.data) == 12 and EVIL not in text_of(figure)
    assert [note.text for note in figure.layout.annotations] == ["in front of layer 0: 0.9", "after layer 0: 0.9"]


def test_dimension_by_cells_has_a_line_per_layer_and_baseline_from_few_cells_to_all():
    places = [("model", 0.0, "resid_post mean"), ("model", 1.0, "resid_post mean"), ("model", 1.0, "attn_out mean")]
    rows = [
        {"source": source, "layer": layer, "hook": hook, "measure": "TwoNN", "scope": scope, "value": n / 10, "n": n}
        for source, layer, hook in [*places, ("baseline", np.nan, EVIL)]
        for scope, n in (("raw", 400), ("standardised", 400), ("1/2 of the cells", 200), ("1/4 of the cells", 100))
    ]
    figure = dimension_curves(pd.DataFrame(rows))
    assert len(figure.data) == 3 and EVIL not in text_of(figure)
    assert all(list(trace.x) == [100, 200, 400] and list(trace.y) == [10, 20, 40] for trace in figure.data)
    with pytest.raises(EvaluationError, match="no dimension of a part of the cells"):
        dimension_curves(pd.DataFrame(rows).query("scope == 'raw'"))


def test_genes_by_layer_count_each_set_once_and_draw_the_gene_table_as_a_line():
    places = [("model", -1), ("model", 0), ("gene table", np.nan), ("random weights", -1), ("random weights", 0)]
    about = {"group": "all cells", "axis": 1, "participation_ratio": 5.0, "level_r2": 0.8, "n": 90}
    spectrum = pd.DataFrame([{**about, "source": source, "layer": layer} for source, layer in places])
    found = [
        (0, 1, "a", "beyond level"),
        (0, 2, "a", "beyond level"),
        (0, 2, "b", "beyond level"),
        (-1, 1, "a", "not beyond level"),
    ]
    axes = pd.DataFrame(found, columns=["layer", "axis", "set", "called"]).assign(source="model")
    figure = gene_layers(spectrum, axes)
    assert list(figure.data[4].y) == [0, 2] and list(figure.data[5].y) == [0, 0]
    assert len(figure.layout.shapes) == 3


def test_training_course_has_a_line_per_decoder_and_kind_of_cells():
    columns = ["train_expression", "held_out_expression", "train_mvc", "held_out_mvc"]
    table = pd.DataFrame({"step": [200, 100], **{name: [float(i), 10.0 + i] for i, name in enumerate(columns)}})
    figure = training_course(table)
    assert len(figure.data) == 4 and all(list(trace.x) == [100, 200] for trace in figure.data)
    assert {trace.name for trace in figure.data} == {
        f"{d} decoder, {c} cells" for d in ("expression", "MVC") for c in ("training", "held-out")
    }
