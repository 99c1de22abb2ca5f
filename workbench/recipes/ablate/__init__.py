"""``workbench ablate``: a sweep of ablations, and what it says of the heads."""
