"""What the tests of the benchmark share."""

from fixtures_benchmark import campaign, cells, checkpoint  # noqa: F401
