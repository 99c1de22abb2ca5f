"""Figures of public dictionaries of the release, beside those of a run of ``workbench dictionary``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.dictionaries.dictionary import Dictionary
from workbench.engine.tables import read_table, table_path
from workbench.errors import ConfigError
from workbench.models import CellModel

# What the public ones are: a dictionary behind each layer, of so many features, of which so many are active.
_HOOK, _WIDTH, _ACTIVE = "blocks.{}.hook_resid_post", 2048, (28, 36)


def of_dictionaries(model: CellModel, run: str | Path) -> dict[str, dict[str, Any]]:
    """Variance explained and living features of the dictionaries behind all layers, means over layers.

    Parameters
    ----------
    model
        The checkpoint that the answers are asked of.
    run
        Folder of a run that has trained and judged dictionaries of it.

    Returns
    -------
    dict
        ``dictionary_variance`` and ``dictionary_alive``, with ``found``, ``n`` (layers), and ``beside`` what each gene's mean explains of the same cells.

    Raises
    ------
    ConfigError
        If the run has not judged a dictionary behind every layer, or they are not of the published size.
    HookError
        If they are of another checkpoint.
    """
    run, layers = Path(run), [_HOOK.format(i) for i in range(model.config.n_layers)]
    if not table_path(run, "dictionary_summary").is_file():
        raise ConfigError(
            f"'{run}' holds no tables/dictionary_summary.csv; give the folder of a run of workbench dictionary judge."
        )
    table = read_table(table_path(run, "dictionary_summary"))
    own = table[(table["source"] == "model") & table["hook"].isin(layers)]
    own = own[own["seed"] == own["seed"].min()]
    if len(own) != len(layers):
        raise ConfigError(
            f"'{run}' has dictionaries behind {len(own)} of {len(layers)} layers; set hooks to [blocks.*.hook_resid_post]."
        )
    for hook in layers:
        dictionary = Dictionary.from_pretrained(run / "dictionaries" / hook, hook=hook)
        dictionary.check(model)
        active = float(own.loc[own["hook"] == hook, "l0"].iloc[0])
        if dictionary.width != _WIDTH or not _ACTIVE[0] <= active <= _ACTIVE[1]:
            raise ConfigError(
                f"The dictionary of '{hook}' has {dictionary.width} features, {active:.3g} of them active, and the published ones have {_WIDTH} and 32; set "
                "dictionary.width and dictionary.k to these."
            )
    least, most = own["variance_explained"].min(), own["variance_explained"].max()
    beside = f"{least:.3f} to {most:.3f} by layer; each gene's mean alone explains {own['gene_id'].mean():.3f}"
    return {
        "dictionary_variance": {"found": float(own["variance_explained"].mean()), "n": len(own), "beside": beside},
        "dictionary_alive": {"found": float(1 - own["dead"].mean()), "n": len(own)},
    }
