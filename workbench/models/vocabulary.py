"""Gene symbol <-> token id."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import VocabularyError, WorkbenchError

SPECIALS = ("<pad>", "<cls>", "<eoc>")


def read_json_file(path: Path, kind: type[WorkbenchError]) -> Any:
    """What a JSON file of a checkpoint holds.

    Parameters
    ----------
    path
        File, which may be missing or damaged.
    kind
        Class of the error that says so.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise kind(f"'{path}' cannot be read ({error.strerror or error}); give a folder that holds it.") from error
    except (ValueError, RecursionError) as error:
        raise kind(f"'{path}' cannot be read as JSON ({error}); fetch the file again.") from error


def _lacks(special: str, n: int) -> str:
    return (
        f"The vocabulary of {n} tokens has no '{special}', without which cells can neither be padded nor embedded; "
        "use the vocab.json that came with the checkpoint."
    )


@dataclass(frozen=True)
class Vocabulary:
    """Gene symbols and the three special tokens, each with its row in the embedding.

    Parameters
    ----------
    ids
        Token -> id, as in scGPT's ``vocab.json``.

    Raises
    ------
    VocabularyError
        If ``<pad>`` is missing, or two tokens share an id.
    """

    ids: Mapping[str, int]
    _by_id: dict[int, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if "<pad>" not in self.ids:
            raise VocabularyError(_lacks("<pad>", len(self.ids)))
        by_id = {i: token for token, i in self.ids.items()}
        if len(by_id) != len(self.ids):
            raise VocabularyError(
                f"The vocabulary gives {len(self.ids)} tokens only {len(by_id)} different ids; each token needs its own."
            )
        object.__setattr__(self, "_by_id", by_id)

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Read a ``vocab.json``.

        Parameters
        ----------
        path
            JSON file with an object of token -> id.
        """
        ids = read_json_file(path, VocabularyError)
        # Some tools write whole numbers as 3.0.
        whole = isinstance(ids, dict) and all(type(i) in (int, float) and i >= 0 and not i % 1 for i in ids.values())
        if not whole:
            raise VocabularyError(f"'{path}' is not an object of token -> id; fetch the file again.")
        return cls({token: int(i) for token, i in ids.items()})

    @classmethod
    def of_genes(cls, genes: Iterable[str]) -> Vocabulary:
        """Make a vocabulary: the special tokens first, then the genes in the order given.

        Parameters
        ----------
        genes
            Gene symbols, each once; ids follow their order.
        """
        return cls({token: i for i, token in enumerate((*SPECIALS, *genes))})

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, token: object) -> bool:
        return token in self.ids

    @property
    def pad_id(self) -> int:
        """Id of ``<pad>``."""
        return self.ids["<pad>"]

    @property
    def cls_id(self) -> int:
        """Id of ``<cls>``."""
        if "<cls>" not in self.ids:
            raise VocabularyError(_lacks("<cls>", len(self.ids)))
        return self.ids["<cls>"]

    @property
    def genes(self) -> tuple[str, ...]:
        """Every token that is not special, by increasing id."""
        return tuple(token for _, token in sorted(self._by_id.items()) if token not in SPECIALS)

    def encode(self, genes: Iterable[str]) -> np.ndarray:
        """Ids of gene symbols; -1 where a symbol is unknown.

        Parameters
        ----------
        genes
            Gene symbols, in the vocabulary's own spelling.

        Returns
        -------
        ndarray of int64, shape (gene,)
        """
        return np.array([self.ids.get(gene, -1) for gene in genes], dtype=np.int64)

    def token(self, id: int) -> str:
        """Symbol of one id.

        Parameters
        ----------
        id
            Token id, which must exist.
        """
        return self._by_id[id]

    def decode(self, ids: Iterable[int] | np.ndarray) -> list[str]:
        """Symbols of ids.

        Parameters
        ----------
        ids
            Token ids, each of which must exist.
        """
        return [self._by_id[int(i)] for i in ids]
