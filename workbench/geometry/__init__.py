"""Rulers and null rulers, intrinsic dimension, holdouts, lineages, and how well a latent keeps neighbourhoods and geodesics."""
