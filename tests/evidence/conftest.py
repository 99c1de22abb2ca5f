"""A small planted world, and a small campaign."""

from fixtures_benchmark import campaign, cells, checkpoint  # noqa: F401
from fixtures_gates import adaptor, doomed, external, internal, operators, planted_matrix, world  # noqa: F401
