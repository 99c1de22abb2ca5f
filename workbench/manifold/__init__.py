"""Rulers, anchors, and how well a latent space keeps them.

Later work furnishes this room: intrinsic dimension, continuity, gates, the planted world.
"""
