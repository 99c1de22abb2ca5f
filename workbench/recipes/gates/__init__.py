"""``workbench gates``: cohorts of cells through the seven gates, and the screen of heads (method: arXiv:2603.10261)."""
