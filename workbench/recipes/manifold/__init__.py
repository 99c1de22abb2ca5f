"""``workbench manifold``: rulers over genes, and groups of cells by who can signal to whom."""
