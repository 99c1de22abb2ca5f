"""A page to browse the features of one dictionary: a list with a search, a card of each feature, a map; works from a file, without a network.

The list lies in the page. What the cards show lies beside it in script files of some hundred features each, which a page that was
opened from a file may load as it may not load data. Both are gzipped.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from workbench.figures.style import metric_title
from workbench.files import write_text

PAGE, EACH = "index.html", 512
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'self' file:; img-src data:; connect-src 'none'; "
    "base-uri 'none'; form-action 'none'"
)
# Genes and neighbours that a card shows, and significant digits of its numbers.
N_GENES, N_NEAR, _DIGITS = 10, 6, 3
# Columns of the table of features that the list has, all of them where they are there.
_LISTED = ("density", "top_share", "q", "found_again")
_CARD = (
    "mean",
    "n_genes",
    "level_r",
    "odds",
    "overlap",
    "n_list",
    "p",
    "cell_type_lift",
    "donor_share",
    "ranked_score",
    "ranked_p",
    "ranked_q",
    "regulator_overlap",
    "regulator_p",
    "regulator_q",
)
_FLAGS = ("named", "one_donor")
_WORDS = ("cell_type", "program", "donor", "ranked_program", "regulator")
_EFFECT = ("effect", "low", "high", "null_low", "null_high", "n_null", "smallest_p", "q", "n_cells")


@dataclass(frozen=True)
class Browsed:
    """What a page shows of one dictionary.

    Attributes
    ----------
    title
        Its heading, such as the name of the hook.
    about
        Names and texts of what is said of the dictionary as a whole.
    features
        A row per feature in its order: ``feature``, ``density`` and whatever else of the table ``dictionary_features`` there is.
    genes
        ``feature``, ``gene``, ``mean``, ``firings``, ``lift``, the first of each feature first; may be empty.
    cells
        ``feature``, ``cell``, ``mean``, ``firings``, and ``cell_type`` and ``donor`` where they are known: the cells in which each feature is most active,
        the first first; may be empty.
    types
        ``feature``, ``label``, ``mean``, ``density``: activations by cell type; may be empty.
    directions
        What each feature writes, (feature, width), for its neighbours.
    map
        Two coordinates of each feature, (feature, 2).
    effects
        Rows of `workbench.feature_effects` of the features that were changed; empty where none was.
    """

    title: str
    about: Mapping[str, str]
    features: pd.DataFrame
    genes: pd.DataFrame
    cells: pd.DataFrame
    types: pd.DataFrame
    directions: Float[np.ndarray, "feature width"]
    map: Float[np.ndarray, "feature 2"]
    effects: pd.DataFrame = field(default_factory=pd.DataFrame)


def page_files(n_features: int) -> list[str]:
    """Names of the files of a page.

    Parameters
    ----------
    n_features
        Number of features of the dictionary.
    """
    return [PAGE, *(_detail_file(i) for i in range(-(-n_features // EACH)))]


def write_dictionary_page(shown: Browsed, folder: Path) -> list[Path]:
    """Write the page of a dictionary and the script files beside it.

    Parameters
    ----------
    shown
        What the page shows of one dictionary.
    folder
        Where the files of `page_files` go; files of these names are replaced.

    Returns
    -------
    list of Path
        The files, the page first.
    """
    listed, cards = page_data(shown)
    script = _file("dictionary.js")
    page = Template(_file("dictionary.html").replace("@policy@", _POLICY)).substitute(
        title=html.escape(shown.title, quote=True), data=_packed(listed), script=script
    )
    written = [write_text(folder / PAGE, page)]
    for i in range(0, -(-len(cards) // EACH)):
        text = f'dictionaryDetail({i},"{_packed(cards[i * EACH : (i + 1) * EACH])}");\n'
        written.append(write_text(folder / _detail_file(i), text))
    return written


def page_data(shown: Browsed) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a page holds, JSON-ready.

    Parameters
    ----------
    shown
        What the page shows of one dictionary.

    Returns
    -------
    tuple
        The list of all features, names by number; and the card of each feature.
    """
    features, n = shown.features.reset_index(drop=True), len(shown.features)
    genes = list(dict.fromkeys(shown.genes["gene"].astype(str))) if len(shown.genes) else []
    number = {gene: i for i, gene in enumerate(genes)}
    tops: list[list[list[Any]]] = [[] for _ in range(n)]
    columns = (
        shown.genes[name].tolist() if len(shown.genes) else []
        for name in ("feature", "gene", "mean", "lift", "firings")
    )
    for feature, gene, mean, lift, firings in zip(*columns, strict=True):
        if len(tops[feature]) < N_GENES:
            tops[feature].append([number[str(gene)], _short(mean), _short(lift), int(firings)])
    active: list[list[list[Any]]] = [[] for _ in range(n)]
    for row in shown.cells.to_dict("records"):
        label = ", ".join(str(row[name]) for name in ("cell_type", "donor") if not pd.isna(row.get(name, np.nan)))
        active[row["feature"]].append([str(row["cell"]), label, _short(row["mean"]), int(row["firings"])])
    words = {name: _numbered(features[name]) for name in _WORDS if name in features}
    listed: dict[str, Any] = {
        "title": shown.title,
        "about": list(shown.about.items()),
        "each": EACH,
        "genes": genes,
        "tops": [[gene for gene, *_ in top] for top in tops],
        "words": {name: list(known) for name, (known, _) in words.items()},
        "numbers": {name: at for name, (_, at) in words.items()},
        "flags": {name: [int(bool(one)) for one in features[name]] for name in _FLAGS if name in features},
        "values": {name: [_short(one) for one in features[name]] for name in _LISTED if name in features},
        "map": np.round(_unit_square(shown.map) * 1000).astype(int).tolist(),
        "types": [],
    }
    kinds = {}
    if len(shown.types):
        wide = {
            column: shown.types.pivot(index="feature", columns="label", values=column).reindex(range(n))
            for column in ("mean", "density")
        }
        listed["types"] = [str(name) for name in wide["mean"].columns]
        kinds = {column: table.to_numpy() for column, table in wide.items()}
    changed: list[list[list[Any]]] = [[] for _ in range(n)]
    if len(shown.effects):
        metrics = list(dict.fromkeys(shown.effects["metric"]))
        first, beyond = shown.effects.iloc[0], shown.effects.groupby("feature")["beyond"].any()
        listed["effects"] = {
            "how": str(first["how"]),
            "amount": _short(first["amount"]),
            "metrics": [metric_title(metric) for metric in metrics],
            "columns": [*_EFFECT, "beyond"],
        }
        listed["flags"]["tested"] = [int(i in beyond.index) for i in range(n)]
        listed["flags"]["beyond"] = [int(beyond.get(i, False)) for i in range(n)]
        for row in shown.effects.to_dict("records"):
            figures = [_short(row[name]) for name in _EFFECT]
            changed[row["feature"]].append([metrics.index(row["metric"]), *figures, int(row["beyond"])])
    near, cosine = _neighbours(shown.directions)
    cards = []
    for i in range(n):
        card: dict[str, Any] = {
            "g": tops[i],
            "n": [[int(j), round(100 * c)] for j, c in zip(near[i], cosine[i], strict=True)],
        }
        card |= {name: found for name, found in (("c", active[i]), ("e", changed[i])) if found}
        card["v"] = [_short(features[name].iloc[i]) if name in features else None for name in _CARD]
        card["t"] = {column[0]: [_short(one, 2) for one in values[i]] for column, values in kinds.items()}
        cards.append(card)
    return {**listed, "card": list(_CARD)}, cards


def _neighbours(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The features whose directions have the largest cosine with each, itself left out, and the cosines."""
    x = directions.astype(np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    cosine = x @ x.T
    np.fill_diagonal(cosine, -np.inf)
    near = np.argsort(-cosine, axis=1, kind="stable")[:, : min(N_NEAR, len(x) - 1)]
    return near, np.take_along_axis(cosine, near, 1)


def _unit_square(points: np.ndarray) -> np.ndarray:
    low, high = points.min(0), points.max(0)
    return (points - low) / np.maximum(high - low, 1e-12)


def _numbered(column: pd.Series) -> tuple[list[str], list[int]]:
    """Names, and the number of each row's; -1 where it is empty."""
    texts = ["" if pd.isna(one) else str(one) for one in column]
    known = sorted(set(texts) - {""})
    place = {name: i for i, name in enumerate(known)}
    return known, [place.get(text, -1) for text in texts]


def _short(value: Any, digits: int = _DIGITS) -> float | int | None:
    """A number of a few digits; None where there is none."""
    if pd.isna(value):
        return None
    found = float(f"{float(value):.{digits}g}")
    return int(found) if found.is_integer() else found


def _packed(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _detail_file(number: int) -> str:
    return f"features-{number}.js"


def _file(name: str) -> str:
    return (resources.files("workbench.explorer") / name).read_text(encoding="utf-8").rstrip("\n")


def titled(about: Sequence[tuple[str, Any]]) -> dict[str, str]:
    """Pairs of name and value as texts, those without a value left out.

    Parameters
    ----------
    about
        Names and values, in the order of the page.
    """
    return {name: str(value) for name, value in about if value not in (None, "")}
