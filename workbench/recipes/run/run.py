"""``workbench run``: cells -> operators -> adaptor -> readout -> algorithm -> compaction -> factors -> report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workbench.engine.recipe import execute
from workbench.engine.sweep import Backend
from workbench.recipes.run.config import RunConfig
from workbench.recipes.run.recipe import EXTRACT, FACTORS, RECIPE


def run(
    config: RunConfig, out: Path, *, parts: Sequence[str] = (EXTRACT, FACTORS), backend: Backend | None = None
) -> Path:
    """Run all stages, or those of a part, and report.

    Parameters
    ----------
    config
        Model, cells, ruler and settings; sections that are absent are skipped.
    out
        Folder of the run; finished stages in it whose inputs are unchanged are kept, and are in the report whatever part
        is run.
    parts
        ``extract``: heads, controls, readouts, the algorithm. ``factors``: compaction and factors. Both stand on the cells
        and operators of the run.
    backend
        Who does the splits of the second part; one after the other by default.

    Returns
    -------
    Path
        The folder, with ``report.html``, ``metrics.json``, ``manifest.json``, ``tables/``, ``figures/`` and, with the first
        part, ``algorithm/``.
    """
    return execute(RECIPE, config, out, backend, parts).out
