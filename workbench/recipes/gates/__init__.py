"""The seven gates, panels of cells, and the screen of heads (method: arXiv:2603.10261, sections on gates and screen)."""
