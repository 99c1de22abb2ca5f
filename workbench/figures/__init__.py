"""Pure functions from a tidy table to a plotly figure; notebooks, reports and experiments call the same ones."""

from workbench.figures.ablation import effect_map, head_intervals, label_effects
from workbench.figures.agreement import rulers_agreement
from workbench.figures.benchmark import benchmark_differences, benchmark_endpoints
from workbench.figures.benchmark_costs import benchmark_costs
from workbench.figures.benchmark_maps import benchmark_ranks, benchmark_tally
from workbench.figures.circuits import attribution_scatter, interaction_matrix, transfer_map
from workbench.figures.compaction import compaction_pareto
from workbench.figures.conventions import conventions
from workbench.figures.dictionaries import (
    dictionary_density,
    dictionary_losses,
    dictionary_naming,
    dictionary_stability,
    dictionary_variance,
)
from workbench.figures.drift import drift
from workbench.figures.evidence import added_value, cohort_gates, flat_and_ripple, holdouts, readouts, trajectories
from workbench.figures.factors import factor_drops, factor_effects, factor_genes
from workbench.figures.features import feature_estimates, feature_graph, feature_intervals
from workbench.figures.gates import gate_table, head_screen, p_uniform, recovery
from workbench.figures.gene_ruler import genes_on_ruler
from workbench.figures.geometry import dimension_curves, geometry_layers, space_likeness
from workbench.figures.heatmap import head_map
from workbench.figures.latent import latent_map, latent_space
from workbench.figures.layer_maps import gene_layers, space_maps
from workbench.figures.manifold import dimension_agreement, let_elbow, ruler_against_latent, trust_curve
from workbench.figures.pretrain import masked_errors, training_course
from workbench.figures.runtime import runtime
from workbench.figures.sensitivity import sensitivity
from workbench.figures.style import assign_colors
from workbench.figures.subsets import subset_interactions
from workbench.figures.tools import attention_map, dose_curves, layer_probes
from workbench.figures.transfers import held_levels, study_transfers
from workbench.figures.writing import write_map

__all__ = [
    "added_value", "assign_colors", "attention_map", "attribution_scatter", "benchmark_costs", "benchmark_differences",
    "benchmark_endpoints", "benchmark_ranks", "benchmark_tally", "cohort_gates", "compaction_pareto", "conventions",
    "dictionary_density", "dictionary_losses", "dictionary_naming", "dictionary_stability", "dictionary_variance",
    "dimension_agreement", "dimension_curves", "dose_curves", "drift", "effect_map", "factor_drops", "factor_effects", "factor_genes",
    "feature_estimates", "feature_graph", "feature_intervals", "flat_and_ripple", "gate_table", "gene_layers", "genes_on_ruler", "geometry_layers",
    "head_intervals", "head_map", "head_screen", "held_levels", "holdouts", "interaction_matrix", "label_effects",
    "latent_map", "latent_space", "layer_probes", "let_elbow", "masked_errors", "p_uniform", "readouts", "recovery", "ruler_against_latent", "rulers_agreement", "runtime",
    "sensitivity", "space_likeness", "space_maps", "study_transfers", "subset_interactions", "trajectories", "training_course", "transfer_map", "trust_curve",
    "write_map",
]  # fmt: skip
