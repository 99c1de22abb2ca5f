"""What the tools share: the model, slots of an AnnData, groups of cells, and passes in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from tqdm import tqdm

from workbench import __version__
from workbench.cells.datasets import load
from workbench.cells.formats import check_anndata
from workbench.errors import CellsError, GeneMatchError, HookError, OutputError, near_matches, unknown_name
from workbench.models import CellModel, CellTokenizer
from workbench.models.devices import Fitting, prefetched
from workbench.models.tokens import Tokens
from workbench.seeds import order_of

Found = TypeVar("Found")
BATCH = 16
_MADE_BY = "workbench"


def as_cells(adata: AnnData) -> AnnData:
    """Cells whose expression can be read: as `workbench.load` gives them, which finds the depth of cells cut to few genes.

    Parameters
    ----------
    adata
        Cells in memory or on the disk, loaded by `workbench.load` or read by anndata.
    """
    check_anndata(adata)
    return adata if "workbench" in adata.uns else load(adata)


def check_slot(adata: AnnData, slot: str, key_added: str | None) -> None:
    """Refuse to write over what is not the workbench's, before any work.

    Parameters
    ----------
    adata
        Cells that are to be written into.
    slot
        ``obsm`` or ``varp``, the mapping that takes the result.
    key_added
        Name that was asked for there; None where a copy is to be made.

    Raises
    ------
    OutputError
        If something of that name is there which the workbench has not put there.
    """
    check_anndata(adata)
    if key_added is None or key_added not in getattr(adata, slot):
        return
    about = adata.uns.get(key_added)
    if not (isinstance(about, Mapping) and about.get("made_by") == _MADE_BY):
        raise OutputError(
            f"The cells have a {slot}['{key_added}'] already, which the workbench has not made. Give another key_added, or "
            "leave it out for a copy of the cells."
        )


def put(
    adata: AnnData, slot: str, default: str, value: Any, about: Mapping[str, Any], key_added: str | None
) -> AnnData | None:
    """Put a result into a copy of the cells, or into the cells themselves where a key is given.

    Parameters
    ----------
    adata, slot, key_added
        As in `check_slot`.
    default
        Name of the slot in a copy.
    value
        What goes there; its first axis is that of the slot.
    about
        Settings, which go to ``uns`` under the same name.

    Returns
    -------
    AnnData or None
        The copy; None where the cells were written into. Of cells on the disk the copy has no matrix.
    """
    into = adata
    if key_added is None:
        here = not adata.isbacked and (isinstance(adata.X, np.ndarray) or sp.issparse(adata.X))
        into = adata.copy() if here else AnnData(obs=adata.obs.copy(), var=adata.var.copy())
    name = default if key_added is None else key_added
    getattr(into, slot)[name] = value
    into.uns[name] = {"made_by": _MADE_BY, "version": __version__, **about}
    return into if key_added is None else None


def column(adata: AnnData, name: str) -> np.ndarray:
    """A column of ``obs`` as text, empty where a cell has no label.

    Parameters
    ----------
    adata
        Cells whose ``obs`` is read.
    name
        Name of the column that is asked for.

    Raises
    ------
    CellsError
        If there is none of that name; near matches are listed.
    """
    check_anndata(adata)
    if name not in adata.obs:
        hint = near_matches(name, map(str, adata.obs))
        raise CellsError(
            f"The cells have no column '{name}' in obs{'; ' + hint if hint else ''}; they have {', '.join(map(str, adata.obs)) or 'none'}."
        )
    values = adata.obs[name]
    return values.astype(object).where(values.notna(), "").astype(str).to_numpy(dtype=object)


def rows_of(
    labels: np.ndarray, wanted: str | Sequence[str], names: np.ndarray, most: int | None, seed: int
) -> np.ndarray:
    """Numbers of the cells of one label or several, or a draw of them by seed and name.

    Parameters
    ----------
    labels, names
        Label and name of each cell.
    wanted
        Label or labels that are asked for.
    most
        Number of cells, at most; all when None.
    seed
        Seed that the draw is keyed by, with the names.

    Raises
    ------
    CellsError
        If no cell has the label; near matches are listed.
    """
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    for one in wanted:
        if one not in labels:
            raise CellsError(unknown_name("label", one, sorted(set(labels) - {""})))
    rows = np.flatnonzero(np.isin(labels, wanted))
    if most is not None and len(rows) > most:
        rows = np.sort(rows[order_of(seed, names[rows], "cell")[:most]])
    return rows


def check_cells(tokenizer: CellTokenizer, names: Sequence[str]) -> None:
    """Refuse cells of which the model would read nothing, before any pass.

    Parameters
    ----------
    tokenizer
        Tokens of the cells that are to be run.
    names
        Names of these cells, for the message.

    Raises
    ------
    CellsError
        If a cell expresses none of the genes that the model knows; the first is named.
    """
    bare = np.flatnonzero(tokenizer.lengths() <= 1)
    if len(bare):
        raise CellsError(
            f"{len(bare)} of {len(names)} cells express none of the model's genes (first: '{names[bare[0]]}'); leave them out, for example by "
            "scanpy.pp.filter_cells(adata, min_genes=1)."
        )


def passes(
    model: CellModel,
    tokenizer: CellTokenizer,
    work: Callable[[Tokens], Found],
    batch_size: int | None = None,
    progress: bool = True,
    what: str = "cells",
) -> Iterator[Found]:
    """What a function finds for each batch of cells, in their order, with a progress bar.

    Parameters
    ----------
    model
        Model whose device the batches go to.
    tokenizer
        Tokens of the cells, of which consecutive ones make a batch.
    work
        Function of a batch on the model's device; called again with half of it where memory has run out.
    batch_size
        Cells per batch, at most; 16 by default.
    progress
        Show cells a second and the time left on stderr.
    what
        Word in front of the bar.
    """
    fitting = Fitting(batch_size or BATCH)
    with tqdm(total=len(tokenizer), unit="cell", desc=what, disable=not progress) as bar:
        for tokens in prefetched(tokenizer.batches(fitting.size), model.device):
            for n_cells, found in _with_size(fitting, tokens.to(model.device, model.dtype), work):
                bar.update(n_cells)
                yield found


def _with_size(fitting: Fitting, tokens: Tokens, work: Callable[[Tokens], Found]) -> Iterator[tuple[int, Found]]:
    return fitting.batches(tokens, lambda batch: (len(batch), work(batch)))


def layers_of(model: CellModel, layers: str | Sequence[int]) -> list[int]:
    """Numbers of the layers that are asked for, ascending.

    Parameters
    ----------
    model
        Model whose layers they are.
    layers
        ``all``, or numbers from 0, or from the end where negative.

    Raises
    ------
    HookError
        If a layer does not exist.
    """
    n = model.config.n_layers
    if isinstance(layers, str):
        if layers != "all":
            raise HookError(f"layers is '{layers}'; give 'all' or numbers of layers, such as [0, {n - 1}].")
        return list(range(n))
    for layer in layers:
        if not -n <= layer < n:
            raise HookError(f"There is no layer {layer}: this model has layers 0 to {n - 1}.")
    return sorted({layer % n for layer in layers})


def known_genes(tokenizer: CellTokenizer, genes: str | Sequence[str]) -> dict[str, str]:
    """Genes as they were asked for, with their names in the vocabulary.

    Parameters
    ----------
    tokenizer
        Tokens of the cells, which know how their genes were matched.
    genes
        Names as the cells or the vocabulary spell them.

    Raises
    ------
    GeneMatchError
        If a name is none of the cells' that the model knows, or two names are one gene.
    """
    match = tokenizer.match
    known = {gene: gene for gene in match.genes}
    for pairs in (match.recased, match.renamed, match.by_id):
        known |= dict(pairs)
    asked = [genes] if isinstance(genes, str) else list(genes)
    for gene in asked:
        if gene not in known:
            raise GeneMatchError(
                f"{unknown_name('gene', gene, known)} Only genes that the cells measure and the model knows can be asked for."
            )
    found = {gene: known[gene] for gene in asked}
    if len(set(found.values())) < len(asked):
        raise GeneMatchError("The same gene was asked for twice; name each once.")
    return found
