"""A mechanistic-interpretability research workbench for scGPT."""

__version__ = "0.1.0"
