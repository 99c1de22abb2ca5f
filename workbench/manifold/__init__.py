"""Rulers, anchors, intrinsic dimension, and how well a latent space keeps neighbourhoods, geodesics and rulers.

Gates and the planted world of cells are not here yet.
"""
