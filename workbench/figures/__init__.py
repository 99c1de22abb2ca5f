"""Pure functions from a tidy table to a plotly figure; notebooks, reports and experiments call the same ones."""

from workbench.figures.distances import ruler_against_latent
from workbench.figures.evidence import holdouts, readouts
from workbench.figures.heads import head_map
from workbench.figures.latent import latent_map
from workbench.figures.style import BRANCH_COLORS, branch_color

__all__ = [
    "BRANCH_COLORS",
    "branch_color",
    "head_map",
    "holdouts",
    "latent_map",
    "readouts",
    "ruler_against_latent",
]
