"""``workbench conventions``: what the conventions by which operators are made change on a model."""
