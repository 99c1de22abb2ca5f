"""A world whose truth is known because it was put there: cells, a checkpoint, and proof that the instruments find it.

Everything made here is planted; nothing is trained and nothing is biology.
"""

from workbench.lazy import lazily

__getattr__, __dir__ = lazily(
    __name__,
    cells="WorldShape make_world planted_cells",
    checkpoint="plant_world",
    dictionary="plant_dictionary",
    folder="write_world",
    proof="placed_cells",
)
