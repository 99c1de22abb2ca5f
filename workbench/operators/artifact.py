"""A folder with arrays and a card that says what they are, sealed by a hash, so that neither can be changed or swapped unseen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import ArtifactError
from workbench.files import digest, keep_others, read_arrays, read_json, write_arrays, write_json

_FORMAT = 1


def write_artifact(
    card_file: Path,
    weights_file: Path,
    card: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    beside: Sequence[str] = (),
) -> None:
    """Write arrays and their card, to which format and seal are added.

    Parameters
    ----------
    card_file, weights_file
        JSON and safetensors file to write, in one folder, which is made; files of an older artifact are replaced.
    card
        JSON-ready description of the arrays.
    arrays
        Arrays by name, one or more.
    beside
        Names of further files that the caller writes beside them.

    Raises
    ------
    OutputError
        If the folder holds files of these names that are of no artifact.
    """
    names = (card_file.name, weights_file.name, *beside)
    keep_others(card_file.parent, names, card_file, "format", "content")
    card = {"format": _FORMAT, **card}
    # The card first: by it a folder that was left half-written is known as ours.
    write_json(card_file, {**card, "content": _seal(card, arrays)})
    write_arrays(weights_file, arrays)


def read_artifact(card_file: Path, weights_file: Path, lacking: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `write_artifact` wrote.

    Parameters
    ----------
    card_file, weights_file
        The two files, as they were written.
    lacking
        Verb and object of the error's sentence, for example ``"is no algorithm"``.

    Returns
    -------
    card, arrays
        The card without its seal, and all arrays by name.

    Raises
    ------
    ArtifactError
        If a file is missing, truncated, changed, of another format, or the weights are not those of the card.
    """
    folder = card_file.parent
    if not folder.is_dir():
        raise ArtifactError(f"There is no folder '{folder}'; give the one that '{card_file.name}' was written into.")
    if absent := [file.name for file in (card_file, weights_file) if not file.is_file()]:
        inside = next((file.parent for file in sorted(folder.glob(f"*/{card_file.name}"))), None)
        hint = f"did you mean '{inside}'?" if inside else "give the folder that these were written into."
        raise ArtifactError(f"'{folder}' {lacking}: {' and '.join(absent)} is not there; {hint}")
    card, (arrays, _) = read_json(card_file), read_arrays(weights_file)
    if not isinstance(card, dict) or card.get("format") != _FORMAT:
        raise ArtifactError(f"'{card_file}' {lacking} of format {_FORMAT}; export it again.")
    if card.pop("content", None) != _seal(card, arrays):
        raise ArtifactError(
            f"The weights in '{weights_file.parent}' are not those that '{card_file.name}' describes: a file was changed or "
            "swapped; export it again."
        )
    return card, arrays


def _seal(card: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Hash of card and arrays; one array alone needs no name."""
    named = [part for name in sorted(arrays) for part in (name, arrays[name])]
    return digest(card, *(named if len(arrays) > 1 else arrays.values()))
