"""A small planted world as the two sides of a screen."""

from fixtures_gates import adaptor, doomed, external, internal, operators, planted_matrix, world  # noqa: F401
