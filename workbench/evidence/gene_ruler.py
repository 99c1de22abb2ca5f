"""Rulers over genes: a graph of genes with edges of some length, whose shortest paths are the distances.

Ligands and receptors, pathways, regulation, or places on a chromosome: whatever links genes. It is read from a table of edges or from YAML:

- ``name``, and ``over: genes``.
- ``edges``: a list of ``[gene, gene]`` or ``[gene, gene, weight]``, or the path of a table with the columns source, target and
  optionally weight; or ``resource``: the name of a resource of ligands and receptors (see `interactions`).
- ``lengths`` of the edges: ``steps`` (each 1), ``weights``, or ``square root`` of the weights; a larger weight is farther.
- ``component``: ``all`` (a graph in several parts is refused) or ``largest``.
- ``groups``: name -> genes that are held out together, such as pathways; families by symbol where it is left out.
- ``source``: where the graph is from.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, dijkstra

from workbench.errors import EvaluationError, unknown_name
from workbench.evidence.contrasts import check_keys
from workbench.evidence.interactions import read_interactions
from workbench.evidence.ruler import GENES, Edge, Ruler, Signal

Link = tuple[str, str, float]
# The first one of each is the default.
Lengths = Literal["steps", "weights", "square root"]
Component = Literal["all", "largest"]
_KEYS = ("name", "over", "edges", "resource", "lengths", "component", "groups", "source")
_ENDS = ("source", "target")
# All pairs are held: 300 MB.
_MOST = 6000
# Genes of clusters of differentiation share a name and nothing else.
_NO_FAMILY = re.compile(r"CD\d")


def gene_ruler_of(raw: Mapping[str, Any], where: str, folder: Path) -> Ruler:
    """Ruler over genes as a YAML file says it.

    Parameters
    ----------
    raw
        What the file holds, keys as in the head of this module.
    where
        Start of the sentence of a refusal, such as ``The ruler 'mine.yaml'``.
    folder
        Folder of the file, which a path of edges is relative to.

    Raises
    ------
    EvaluationError
        If a key means nothing or has another value than it may, or as `build_gene_ruler`.
    ConfigError
        If the resource needs a package that is not installed.
    """
    check_keys(where, raw, _KEYS)
    if raw["over"] != GENES:
        raise EvaluationError(f"{where} lies over {raw['over']!r}; write `over: genes`, or leave the key out.")
    if ("edges" in raw) == ("resource" in raw):
        raise EvaluationError(f"{where} lies over genes and needs one of `edges` and `resource`.")
    groups, source = raw.get("groups"), str(raw.get("source", ""))
    if groups is not None and not (
        isinstance(groups, Mapping) and all(isinstance(genes, list) for genes in groups.values())
    ):
        raise EvaluationError(f"{where} has `groups` that are no names with a list of genes each.")
    options: dict[str, Any] = {
        "lengths": _one_of(where, raw, "lengths", Lengths),
        "component": _one_of(where, raw, "component", Component),
        "groups": groups,
    }
    name = str(raw.get("name", Path(where).stem))
    if "resource" in raw:
        found = read_interactions(str(raw["resource"]))
        about = " ".join(part for part in (found.about, source) if part)
        return build_gene_ruler(name, found.edges, **options, about=about, signals=found.signals)
    edges = raw["edges"]
    links = _links(folder / edges)[0] if isinstance(edges, str) else [_link(where, edge) for edge in edges]
    return build_gene_ruler(name, links, **options, about=source)


def is_edge_list(path: Path) -> bool:
    """Whether a table is a list of edges, and no matrix of distances, by its header.

    Parameters
    ----------
    path
        File with commas, or with tabs where it ends in ``.tsv``; one that cannot be read is none.
    """
    try:
        rows = _rows(path)
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return bool(rows) and set(_ENDS) <= set(rows[0]) and not set(_ENDS) <= {row[0] for row in rows[1:]}


def read_edge_list(path: Path) -> Ruler:
    """Ruler over the genes of an edge list, called as the file.

    Parameters
    ----------
    path
        Table with the columns ``source`` and ``target``, and optionally ``weight``, which then is the length of an edge; otherwise each is 1.

    Raises
    ------
    EvaluationError
        If a weight is no number above zero, or as `build_gene_ruler`.
    """
    links, weighted = _links(path)
    return build_gene_ruler(
        path.stem, links, lengths="weights" if weighted else "steps", about=f"The table {path.name}."
    )


def build_gene_ruler(
    name: str,
    links: Sequence[Link],
    *,
    lengths: Lengths = "steps",
    component: Component = "all",
    groups: Mapping[str, Sequence[str]] | None = None,
    about: str = "",
    signals: Sequence[Signal] = (),
) -> Ruler:
    """Ruler of a graph of genes.

    Parameters
    ----------
    name
        Name of the graph, for tables and messages.
    links
        Two genes and a weight each. Direction is ignored by distances; of an edge given twice the shorter counts; loops are left out.
    lengths
        What an edge is long: ``steps``, ``weights`` or ``square root``.
    component
        ``all``, or ``largest``: of a graph in several parts the largest is taken, and that is said in `Ruler.about`.
    groups
        Name -> genes that are held out together; a gene in none is a group of its own. Families when None: genes whose symbols have the
        same stem (``CCL5``, ``CCL4``), and subunits of one complex.
    about
        Where the graph is from.
    signals
        Senders and receivers, complexes whole.

    Raises
    ------
    EvaluationError
        If there are fewer than two genes or more than 6,000, a weight is no number above zero, the graph is not connected, or a gene is in
        two groups.
    """
    known = [(one.strip(), other.strip(), weight) for one, other, weight in links]
    kept = [link for link in known if link[0] and link[1] and link[0] != link[1]]
    genes = tuple(dict.fromkeys(gene for one, other, _ in kept for gene in (one, other)))
    if not 2 <= len(genes) <= _MOST:
        raise EvaluationError(
            f"The graph of genes '{name}' has {len(genes)} linked genes; from 2 to {_MOST:,} can be measured. Give edges between two genes, or "
            "fewer of them."
        )
    number = {gene: i for i, gene in enumerate(genes)}
    shortest: dict[tuple[int, int], Edge] = {}
    for one, other, weight in kept:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < np.inf:
            raise EvaluationError(
                f"The edge of '{name}' from '{one}' to '{other}' has the weight {weight!r}; give a number above zero."
            )
        length = {"steps": 1.0, "weights": float(weight), "square root": float(np.sqrt(weight))}[lengths]
        a, b = number[one], number[other]
        if (at := (min(a, b), max(a, b))) not in shortest or length < shortest[at][2]:
            shortest[at] = (a, b, length)
    edges = list(shortest.values())
    part = connected_components(_graph(edges, len(genes)), directed=False)[1]
    sizes = np.bincount(part)
    if len(sizes) > 1 and component == "all":
        apart = genes[int(np.flatnonzero(part != sizes.argmax())[0])]
        raise EvaluationError(
            f"The graph of genes '{name}' is not connected: it falls into {len(sizes)} parts, the largest with {sizes.max()} of {len(genes)} genes, "
            f"and there is no way from it to '{apart}'. Add the edges that are missing, or write `component: largest` in a ruler file that names the table under edges."
        )
    stays = np.flatnonzero(part == sizes.argmax())
    place = {int(old): new for new, old in enumerate(stays)}
    edges = [(place[a], place[b], length) for a, b, length in edges if a in place]
    if len(stays) < len(genes):
        about = f"{about} Of {len(genes)} genes the {len(stays)} of the largest connected part were kept.".strip()
    genes = tuple(genes[i] for i in stays)
    paths = gene_paths(edges, len(genes))
    return Ruler(
        name=name,
        stages=genes,
        branches=_groups(name, genes, groups, signals),
        distances=paths / paths.max(),
        depths=np.zeros(len(genes)),
        labels={gene.upper(): gene for gene in genes},
        literature=dict.fromkeys(genes, about),
        edges=tuple(edges),
        over=GENES,
        about=f"{about} {len(genes)} genes, {len(edges)} edges, lengths: {lengths}.".strip(),
        signals=tuple(signals),
    )


def gene_paths(
    edges: Sequence[Edge], n: int, rows: Int[np.ndarray, " row"] | None = None
) -> Float[np.ndarray, "row gene"]:
    """Shortest paths along a graph of genes, direction ignored, from some of them to all.

    Parameters
    ----------
    edges
        Two numbers of genes and a length each.
    n
        Number of genes in all.
    rows
        Numbers of the genes that paths start from; all by default.

    Returns
    -------
    ndarray
        In the unit of the lengths; infinite where there is no way.
    """
    return dijkstra(_graph(edges, n), directed=False, indices=rows)


def degrees(ruler: Ruler) -> Int[np.ndarray, " gene"]:
    """Number of edges of each gene.

    Parameters
    ----------
    ruler
        Ruler whose nodes are genes, with its edges.
    """
    return np.bincount(np.array([edge[:2] for edge in ruler.edges]).ravel(), minlength=len(ruler.stages))


def on_genes(ruler: Ruler, genes: Sequence[str], least: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Which genes of a ruler are among others, such as those of a panel; case is ignored.

    Parameters
    ----------
    ruler
        Ruler whose nodes are genes, as `build_gene_ruler` makes it.
    genes
        Symbols that may be measured.
    least
        So many of them have to be on the ruler.
    what
        What these genes are, for the sentence of a refusal.

    Returns
    -------
    nodes, places
        Numbers of the genes on the ruler, and their places among `genes`, in the order of these.

    Raises
    ------
    EvaluationError
        If fewer are on the ruler.
    """
    number = {gene: i for i, gene in enumerate(ruler.stages)}
    found = [(number[ruler.labels[gene.upper()]], i) for i, gene in enumerate(genes) if gene.upper() in ruler.labels]
    if len(found) < least:
        raise EvaluationError(
            f"{len(found)} of the {len(ruler.stages)} genes of the ruler '{ruler.name}' ({', '.join(ruler.stages[:3])}, ...) are among the "
            f"{len(genes)} {what} ({', '.join(list(genes)[:3])}, ...); {least} are needed. Take more genes into the panel, or check that both "
            "name genes by the same symbols."
        )
    nodes, places = np.array(found, dtype=int).T
    return nodes, places


def family(symbol: str) -> str:
    """Family of a gene by the letters that its symbol begins with; the symbol itself where these say nothing (``CD4``).

    Parameters
    ----------
    symbol
        Symbol of the gene, in capitals.

    Examples
    --------
    >>> from workbench.evidence.gene_ruler import family
    >>> family("CCL5"), family("HLA-DRA"), family("CD4")
    ('CCL', 'HLA', 'CD4')
    """
    stem = re.match(r"[A-Z]+", symbol)
    return stem[0] if stem and not _NO_FAMILY.match(symbol) else symbol


def _groups(
    name: str, genes: Sequence[str], groups: Mapping[str, Sequence[str]] | None, signals: Sequence[Signal]
) -> tuple[str, ...]:
    if groups is not None:
        of: dict[str, str] = {}
        for group, members in groups.items():
            for gene in members:
                if of.setdefault(str(gene), str(group)) != str(group):
                    raise EvaluationError(
                        f"Gene '{gene}' of the ruler '{name}' is in the groups '{of[str(gene)]}' and '{group}'; it can be held out with one only."
                    )
        return tuple(of.get(gene, gene) for gene in genes)
    number = {gene: i for i, gene in enumerate(genes)}
    families: dict[str, list[int]] = {}
    for gene, i in number.items():
        families.setdefault(family(gene.upper()), []).append(i)
    together = [
        [number[gene] for gene in side if gene in number] for signal in signals for side in signal if len(side) > 1
    ]
    chains = [pair for one in (*families.values(), *together) for pair in zip(one, one[1:], strict=False)]
    part = connected_components(_graph([(a, b, 1.0) for a, b in chains], len(genes)), directed=False)[1]
    first = np.unique(part, return_index=True)[1]
    stems = [family(genes[i].upper()) for i in first]
    # Two groups of one stem cannot be: the stem joins them.
    return tuple(stems[i] for i in part)


def _graph(edges: Sequence[Edge], n: int) -> csr_array:
    ends = np.array([edge[:2] for edge in edges], dtype=int).reshape(-1, 2)
    return csr_array(([edge[2] for edge in edges], (ends[:, 0], ends[:, 1])), shape=(n, n))


def _one_of(where: str, raw: Mapping[str, Any], key: str, kind: Any) -> Any:
    known = get_args(kind)
    if (given := raw.get(key, known[0])) not in known:
        raise EvaluationError(f"{where}: {unknown_name(f'value of `{key}`', str(given), known)}")
    return given


def _link(where: str, edge: Any) -> Link:
    if not (isinstance(edge, list) and len(edge) in (2, 3) and all(isinstance(gene, str) for gene in edge[:2])):
        raise EvaluationError(f"{where} has the edge {edge!r}; write [gene, gene] or [gene, gene, weight].")
    return cast(Link, (edge[0], edge[1], edge[2] if len(edge) == 3 else 1.0))


def _links(path: Path) -> tuple[list[Link], bool]:
    if not path.is_file():
        raise EvaluationError(f"The table of edges '{path}' does not exist; check the path.")
    if not is_edge_list(path):
        raise EvaluationError(f"The table '{path}' has no columns called source and target; name them so.")
    header, *rows = _rows(path)
    columns, weighted = [header.index(name) for name in _ENDS], "weight" in header
    if uneven := [i for i, row in enumerate(rows, 2) if len(row) != len(header)]:
        raise EvaluationError(f"Row {uneven[0]} of the edges '{path}' has another number of values than the header.")

    def weight(row: list[str]) -> float:
        said = row[header.index("weight")]
        try:
            return float(said)
        except ValueError:
            raise EvaluationError(
                f"The edge from '{row[columns[0]]}' in '{path}' has the weight '{said}'; give a number."
            ) from None

    return [(row[columns[0]], row[columns[1]], weight(row) if weighted else 1.0) for row in rows], weighted


def _rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    return [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
