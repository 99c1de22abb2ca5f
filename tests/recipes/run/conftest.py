"""What the tests of runs share."""

from fixtures_run import cells, checkpoint, few_levels, no_umap  # noqa: F401
