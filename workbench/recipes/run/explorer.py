"""The stage of the explorer: what can be computed before anyone looks, as a piece of the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.engine.stages import Result, Results
from workbench.explorer.data import from_run
from workbench.explorer.page import explorer_fragment
from workbench.files import write_text

if TYPE_CHECKING:
    from workbench.recipes.run.context import RunContext

FRAGMENT = "explorer.html"


def explorer_stage(context: RunContext, folder: Path, _: Results) -> Result:
    """Make pairs, factors and programs of every head into a section of a page.

    Parameters
    ----------
    context
        Run whose operators, heads and latent are shown.
    folder
        Folder of the stage, with ``explorer.html`` afterwards.
    _
        Results of the stages before, which are read from the disk.

    Returns
    -------
    dict
        ``bytes`` of the section.
    """
    # The page that it becomes a part of has a heading of its own.
    fragment = explorer_fragment(replace(from_run(context.out, seed=context.config.seed), title=""))
    write_text(folder / FRAGMENT, fragment)
    return {"bytes": len(fragment.encode())}
