"""The figures that a run can have: what each shows, the tables it is drawn from, and its counterpart in the paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench import figures as draw

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Entry:
    """A figure of the gallery.

    Attributes
    ----------
    shows
        What one sees in the figure, for lists.
    tables
        Names of the tables that it is drawn from.
    draw
        From these tables, and options, to the figure.
    paper
        Its counterpart in the paper; empty where there is none.
    optional
        Tables that it uses where they are there.
    """

    shows: str
    tables: tuple[str, ...]
    draw: Callable[..., go.Figure]
    paper: str = ""
    optional: tuple[str, ...] = ()


def _heads(tables: Tables, own: str = "") -> go.Figure:
    """With the same score of the controls, where the holdouts are there."""
    controls = {}
    if "holdouts" in tables:
        own = own or str(tables["holdouts"]["operator"].iloc[0])
        rows = tables["holdouts"].query("holdout == 'random' and status == 'ok' and operator != @own")
        controls = dict(zip(rows["operator"].astype(str), rows["spearman"].astype(float), strict=True))
    return draw.head_map(tables["heads"], controls)


def _holdouts(tables: Tables, own: str = "") -> go.Figure:
    table = tables["holdouts"]
    own = own or str(table["operator"].iloc[0])
    return draw.holdouts(table, baselines=[name for name in table["operator"].unique() if name != own])


def _readouts(tables: Tables, own: str = "") -> go.Figure:
    table = tables["readouts"]
    own = own or str(table["representation"].iloc[0])
    names = table["representation"].unique()
    return draw.readouts(table, baselines=[name for name in names if name != own and " head" not in name])


def _screen(tables: Tables) -> go.Figure:
    controls = {}
    if "screen_controls" in tables:
        rows = tables["screen_controls"].dropna(subset=["residualised"])
        controls = dict(zip(rows["operator"], rows["residualised"], strict=True))
    return draw.head_screen(tables["screen"], controls=controls)


def _subsets(tables: Tables) -> go.Figure:
    return draw.subset_interactions(tables["factor_subsets"].query("kind == 'alone'"))


def _factor_genes(tables: Tables) -> go.Figure:
    """The most needed factor first."""
    order = tables["factors"].query("how == 'mean'").set_index("factor")["place"]
    genes = tables["factor_genes"]
    ranked = genes.iloc[genes["factor"].map(order).argsort(kind="stable")]
    return draw.factor_genes(ranked, tables["programs"])


def _first(table: pd.DataFrame, column: str, given: str) -> str:
    return given or str(table[column].iloc[0])


def _effect(tables: Tables, metric: str = "", how: str = "") -> go.Figure:
    table = tables["effects"]
    return draw.effect_map(table, _first(table, "metric", metric), _first(table, "how", how))


def _intervals(tables: Tables, metric: str = "", how: str = "") -> go.Figure:
    table = tables["effects"]
    return draw.head_intervals(table, _first(table, "metric", metric), _first(table, "how", how))


def _labels(tables: Tables, how: str = "") -> go.Figure:
    return draw.label_effects(tables["effects"], _first(tables["effects"], "how", how))


def _interactions(tables: Tables, by: str = "") -> go.Figure:
    return draw.interaction_matrix(tables["interactions"], _first(tables["interactions"], "metric", by))


def _transfer(tables: Tables, target: str = "", source: str = "") -> go.Figure:
    table = tables["transfer"]
    target, source = _first(table, "target", target), _first(table, "source", source)
    return draw.transfer_map(table[(table["target"] == target) & (table["source"] == source)])


def _benchmark(make: Callable[..., go.Figure], *names: str) -> Callable[..., go.Figure]:
    """Of one kind of split and the data that it judges; the first where none is named."""

    def drawn(tables: Tables, kind: str = "", data: str = "") -> go.Figure:
        parts = []
        for name in names:
            table = tables[name]
            for column, given in (("kind", kind), ("data", data)):
                table = table[table[column] == _first(table, column, given)] if len(table) else table
            parts.append(table)
        # The comparisons are drawn for their own sake, or say which method is ours.
        if "comparisons" in names or not len(tables.get("comparisons", ())):
            return make(*parts)
        return make(*parts, ours=_first(tables["comparisons"], "ours", ""))

    return drawn


def _plain(make: Callable[..., go.Figure], table: str) -> Callable[..., go.Figure]:
    def drawn(tables: Tables, **options: Any) -> go.Figure:
        return make(tables[table], **options)

    return drawn


GALLERY: dict[str, Entry] = {
    "latent": Entry("the latent in two dimensions, by branch and stage", ("latent",), _plain(draw.latent_map, "latent"), "manifold map"),
    "latent_3d": Entry(
        "three principal axes of the latent, by branch, stage or donor",
        ("latent",),
        _plain(draw.latent_space, "latent"),
        "manifold map, in three dimensions",
    ),
    "distances": Entry(
        "ruler distance against latent distance, per pair of stages",
        ("distances",),
        _plain(draw.ruler_against_latent, "distances"),
        "geodesic correlation with the ruler",
    ),
    "gates": Entry("the seven gates, cohort by cohort", ("gates",), _plain(draw.gate_table, "gates"), "gate table of the internal cohort"),
    "cohorts": Entry(
        "gates 1 to 4 on every cohort, beside the controls",
        ("gates", "controls"),
        lambda tables: draw.cohort_gates(tables["gates"], tables["controls"]),
        "external and zero-shot cohorts; the lung cohort that is expected to fail",
    ),
    "heads": Entry("held-out correlation of every head alone", ("heads",), _heads, "head screen", optional=("holdouts",)),
    "screen": Entry(
        "every head judged on an external cohort, donor and tissue regressed out",
        ("screen",),
        _screen,
        "head screen on the external cohort",
        optional=("screen_controls",),
    ),
    "holdouts": Entry("the configured feature map beside controls on held-out anchors", ("holdouts",), _holdouts, "random, donor and branch holdouts"),
    "readouts": Entry("readouts of held-out cells, every representation", ("readouts",), _readouts, "endpoints of the extracted algorithm"),
    "added": Entry("what the operator adds to each control, per endpoint", ("added",), _plain(draw.added_value, "added")),
    "sensitivity": Entry(
        "holdouts under other widths and weights of the adaptor",
        ("sensitivity",),
        _plain(draw.sensitivity, "sensitivity"),
        "LET objective and trustworthiness at k = 3, 6, 10",
    ),
    "elbow": Entry("objective and trustworthiness by the latent's width", ("elbow",), _plain(draw.let_elbow, "elbow"), "LET objective and trustworthiness at k = 3, 6, 10"),
    "trust": Entry("trustworthiness and continuity by neighbourhood", ("quality",), _plain(draw.trust_curve, "quality"), "trustworthiness"),
    "dimension": Entry("intrinsic dimension by every estimator", ("dimension",), _plain(draw.dimension_agreement, "dimension"), "8 to 10 dimensions"),
    "shape": Entry("flatness, and structure off the plane", ("shape",), _plain(draw.flat_and_ripple, "shape"), "flatness and ripple of the sheet"),
    "trajectories": Entry(
        "progress along each lineage against depth",
        ("trajectories",),
        lambda tables: draw.trajectories(tables["trajectories"].query("status == 'ok'")),
        "erythroid trajectory",
    ),
    "drift": Entry(
        "how alike the operators of the layers are, and the genes that change most between blocks",
        ("drift_layers", "drift_genes"),
        lambda tables: draw.drift(tables["drift_layers"], tables["drift_genes"]),
        "drift between early, middle and late layers",
    ),
    "compaction": Entry("size against loss of ever smaller forms", ("compaction",), _plain(draw.compaction_pareto, "compaction"), "compaction, endpoints lost"),
    "factor_drops": Entry(
        "what readouts lose without each factor, and the cumulative share",
        ("factors",),
        _plain(draw.factor_drops, "factors"),
        "four-factor core, concentration of the impact",
    ),
    "factor_effects": Entry("the same drop per endpoint metric", ("factor_effects",), _plain(draw.factor_effects, "factor_effects"), "factor by endpoint"),
    "factor_subsets": Entry("all subsets of the top factors, kept alone", ("factor_subsets",), _subsets, "all 15 subsets of the top four factors"),
    "factor_genes": Entry("genes that each factor reads and writes, and their programs", ("factors", "factor_genes", "programs"), _factor_genes, "gene programs of the factors"),
    "effect": Entry("effect of ablating each head, per metric", ("effects",), _effect, "head map"),
    "intervals": Entry("the heads that matter most, with intervals and null", ("effects",), _intervals, "top heads"),
    "labels": Entry("wrongly read cells of each label by ablated head", ("effects",), _labels),
    "attribution": Entry("gradient estimates against exact effects", ("attribution",), _plain(draw.attribution_scatter, "attribution")),
    "interactions": Entry("two heads together less the sum of both", ("interactions",), _interactions),
    "transfer": Entry("how far a head carries one cell type to another", ("transfer",), _transfer),
    "benchmark_endpoints": Entry(
        "every method on every endpoint metric, mean and single splits",
        ("summary", "scores"),
        _benchmark(draw.benchmark_endpoints, "summary", "scores"),
        "benchmark per endpoint",
        optional=("comparisons",),
    ),
    "benchmark_differences": Entry(
        "what ours is better or worse by than each method, per endpoint metric",
        ("comparisons",),
        _benchmark(draw.benchmark_differences, "comparisons"),
        "paired tests per endpoint",
    ),
    "benchmark_tally": Entry(
        "wins, ties and losses, method by endpoint metric",
        ("comparisons",),
        _benchmark(draw.benchmark_tally, "comparisons"),
        "endpoints on which it beats each comparator",
    ),
    "benchmark_ranks": Entry(
        "mean ranks with critical differences",
        ("ranks",),
        _benchmark(draw.benchmark_ranks, "ranks"),
        optional=("comparisons",),
    ),
    "benchmark_costs": Entry(
        "seconds of a split against trained numbers",
        ("costs", "methods"),
        lambda tables: draw.benchmark_costs(tables["costs"], tables["methods"]),
        "campaign time and parameters against scGPT with an MLP",
    ),
    "runtime": Entry("seconds and peak memory by stage", ("runtime",), _plain(draw.runtime, "runtime"), "runtime of the campaign"),
}  # fmt: skip
