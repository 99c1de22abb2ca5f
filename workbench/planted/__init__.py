"""A world whose truth is known because it was put there: cells, a checkpoint, and proof that the instruments find it.

Everything made here is planted; nothing is trained and nothing is biology.
"""
