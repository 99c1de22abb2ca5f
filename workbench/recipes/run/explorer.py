"""The explorer of a run: what can be computed before anyone looks, as a piece of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.files import write_text
from workbench.recipes.run.chain import Chain

_FRAGMENT = "explorer.html"


def explorer_stage(chain: Chain, folder: Path) -> dict[str, Any]:
    """Pairs, factors and programs of every head, as a section of a page.

    Parameters
    ----------
    chain
        The run.
    folder
        Of the stage.
    """
    from workbench.explorer.data import from_run
    from workbench.explorer.page import explorer_fragment

    fragment = explorer_fragment(from_run(chain.out, seed=chain.config.seed))
    write_text(folder / _FRAGMENT, fragment)
    return {"bytes": len(fragment.encode())}


def explorer_of(chain: Chain) -> str:
    """That section; empty where the stage was not run.

    Parameters
    ----------
    chain
        The run.
    """
    path = chain.out / "stages" / "explorer" / _FRAGMENT
    return path.read_text(encoding="utf-8") if path.is_file() else ""
