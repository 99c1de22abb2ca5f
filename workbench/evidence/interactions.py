"""Who can signal to whom: resources of ligands and receptors that the package liana carries, read from its data without importing it."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from workbench.errors import ConfigError, EvaluationError, unknown_name
from workbench.evidence.ruler import Signal
from workbench.requirements import LIANA, pip

PACKAGE = "liana"
_FILE = "resource/omni_resource.csv"
_COLUMNS = ("source_genesymbol", "target_genesymbol", "resource")
# Made of the others, so that they confirm nothing.
_COLLECTIONS = ("consensus", "mouseconsensus")
_SUBUNITS = "_"


@dataclass(frozen=True)
class Interactions:
    """A resource of pairs of senders and receivers.

    Attributes
    ----------
    name
        Name of the resource within the package.
    version
        Version of the package that carries it.
    licence
        Licence of that package; a resource's own terms may be narrower.
    signals
        Senders and receivers, each once, in the order of the file; complexes whole.
    listed
        How many resources list the pair, collections of others left out; 1 at least.
    """

    name: str
    version: str
    licence: str
    signals: tuple[Signal, ...]
    listed: tuple[int, ...]

    @property
    def n_complexes(self) -> int:
        """Different complexes among senders and receivers."""
        return len({side for signal in self.signals for side in signal if len(side) > 1})

    @property
    def edges(self) -> list[tuple[str, str, float]]:
        """Sender, receiver and 1 / number of resources of each pair of genes.

        Each subunit of a sender is linked with each of its receiver, and subunits of one complex are not linked with each other.
        """
        return [
            (one, other, 1 / listed)
            for (senders, receivers), listed in zip(self.signals, self.listed, strict=True)
            for one in senders
            for other in receivers
        ]

    @property
    def about(self) -> str:
        """What it is and how complexes were split, in sentences."""
        n = sum(len(side) > 1 for signal in self.signals for side in signal)
        return (
            f"The resource '{self.name}' of {PACKAGE} {self.version} (package licence: {self.licence}; OmniPath says the terms of each source): "
            f"{len(self.signals)} pairs, {self.n_complexes} complexes on {n} of their sides. Each subunit of a sender is linked with each of its "
            "receiver, and subunits of one complex are not linked with each other."
        )


def read_interactions(name: str = "consensus") -> Interactions:
    """A resource of ligands and receptors from the installed package liana.

    Parameters
    ----------
    name
        Name of the resource, such as ``consensus``, ``cellphonedb`` or ``cellchatdb``.

    Raises
    ------
    ConfigError
        If liana is not installed, or carries no such file; the command that installs it is said.
    EvaluationError
        If it has no resource of that name.
    """
    spec = find_spec(PACKAGE)
    folder = Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None
    if folder is None or not (folder / _FILE).is_file():
        lacks = "is not installed" if folder is None else f"has no file {_FILE} in the version that is installed"
        raise ConfigError(
            f"The resource '{name}' of ligands and receptors comes with the package {PACKAGE}, which {lacks}: "
            f"{pip(*LIANA)}. It needs none of liana's dependencies here. Or give an edge list of your own."
        )
    table = pd.read_csv(folder / _FILE, usecols=list(_COLUMNS), dtype=str, keep_default_na=False)
    known = table["resource"].unique().tolist()
    if name not in known:
        raise EvaluationError(f"{unknown_name('resource of liana', name, known)}")
    pairs = table[["source_genesymbol", "target_genesymbol"]].apply(tuple, axis=1)
    others = pairs[~table["resource"].isin(_COLLECTIONS)].value_counts()
    own = list(dict.fromkeys(pairs[table["resource"] == name]))
    about = importlib.metadata.metadata(PACKAGE).json
    licence = str(about.get("license_expression") or about.get("license") or "not said").strip().splitlines()[0]
    return Interactions(
        name,
        importlib.metadata.version(PACKAGE),
        licence,
        tuple((_genes(sender), _genes(receiver)) for sender, receiver in own),
        tuple(int(others.get(pair, 1)) for pair in own),
    )


def _genes(side: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in side.split(_SUBUNITS) if part.strip()))
