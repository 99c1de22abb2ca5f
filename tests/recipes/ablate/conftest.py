"""A small planted checkpoint for ablations."""

from fixtures_ablation import evaluations, made  # noqa: F401
