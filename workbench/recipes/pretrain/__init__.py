"""``workbench pretrain``: train a checkpoint, compare it with baselines on held-out cells, and write its card."""
