"""What the tests of runs share."""

from fixtures_run import cells, checkpoint, no_umap  # noqa: F401
