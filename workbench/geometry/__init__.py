"""Rulers and null rulers, intrinsic dimension, holdouts, lineages, and how well a latent keeps neighbourhoods and geodesics."""

from workbench.lazy import lazily

__getattr__, __dir__ = lazily(
    __name__, dimension_tables="dimension_table", quality="embedding_quality", shape="stage_distances"
)
