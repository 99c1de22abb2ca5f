"""Rulers and null rulers, intrinsic dimension, spaces of cells, holdouts, lineages, and how well a latent keeps neighbourhoods and geodesics.

The room is a function as well: ``workbench.geometry(adata, "X_scgpt")`` is `workbench.tools.geometry.measure_geometry`.
"""

import sys
from types import ModuleType
from typing import Any

from workbench.lazy import lazily

__getattr__, __dir__ = lazily(
    __name__,
    dimension_tables="dimension_table",
    quality="embedding_quality",
    shape="stage_distances",
    space_tables="measure_space",
)


class _Room(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        """`workbench.tools.geometry.measure_geometry`, whose arguments it takes."""
        from workbench.tools.geometry import measure_geometry

        return measure_geometry(*args, **options)


sys.modules[__name__].__class__ = _Room
