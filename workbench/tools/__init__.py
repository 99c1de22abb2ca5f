"""One call for each common question about cells and a model; each gives a table, or a copy of the cells with the answer in it."""

from workbench.tools.attention import attention
from workbench.tools.embed import embed, latent
from workbench.tools.gene_geometry import gene_geometry
from workbench.tools.geometry import measure_geometry
from workbench.tools.patch import patch
from workbench.tools.probe import lens, probe
from workbench.tools.steer import steer

__all__ = ["attention", "embed", "gene_geometry", "latent", "lens", "measure_geometry", "patch", "probe", "steer"]
