"""What is computed while one looks: cell embeddings with heads ablated, beside the same change in random directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from jaxtyping import Float

from workbench.ablation.build import choose_cells, choose_rows
from workbench.ablation.edits import Edits, ablated
from workbench.ablation.exact import exact_sweep
from workbench.ablation.reference import Reference, build_reference, needed_hooks
from workbench.ablation.sites import Ablation
from workbench.ablation.study import intact_cells
from workbench.cells.genes import MIN_SHARE
from workbench.errors import EvaluationError, WorkbenchError, unknown_name
from workbench.evidence.ruler import load_ruler
from workbench.explorer.heads import short
from workbench.explorer.maps import NO_LABEL, branches_of, cell_map, label_groups
from workbench.models import CellModel
from workbench.models.tokens import Tokens
from workbench.stats import permutation_p

HOWS = ("zero", "mean")
MAP = "embedding"


@dataclass(frozen=True)
class Session:
    """Some cells of a model, embedded, that can be embedded again with heads ablated.

    Attributes
    ----------
    model
        Model in evaluation mode; an ablation is taken back after its pass.
    tokens
        Tokens of the cells that are shown, on the model's device.
    labels
        Cell type of each of these cells; ``no label`` where it has none.
    n_total
        Cells that these were drawn from.
    intact
        Embeddings of these cells with nothing ablated.
    max_cells
        Cells that are ablated at once, at most; of more chosen ones some are drawn by seed and name.
    null_draws
        Random directions beside each ablation, 1 or more.
    batch_size
        Cells per forward pass; changes memory and speed only.
    seed
        Seed of every draw of cells, directions and reference cells.
    groups
        Labels with their branches and colours, see `label_groups`.
    """

    model: CellModel
    tokens: Tokens
    labels: tuple[str, ...]
    n_total: int
    intact: Float[np.ndarray, "cell d_model"]
    max_cells: int
    null_draws: int
    batch_size: int
    seed: int
    groups: Sequence[Mapping[str, str]]
    _references: dict[tuple[str, ...], Reference] = field(default_factory=dict, repr=False)

    @cached_property
    def projection(self) -> tuple[np.ndarray, Float[np.ndarray, "d_model 2"], Float[np.ndarray, " 2"]]:
        """Mean and two principal axes of `intact`, by which the map is drawn, and the variance's share on each axis."""
        center = self.intact.mean(0)
        _, s, vt = np.linalg.svd(self.intact - center, full_matrices=False)
        # The largest part of an axis is positive, since the sign of a singular vector means nothing.
        axes = vt[:2] * np.sign(vt[np.arange(2), np.abs(vt[:2]).argmax(1)])[:, None]
        return center, axes.T, s[:2] ** 2 / max(float((s**2).sum()), np.finfo(float).tiny)

    def project(self, cells: Float[np.ndarray, "cell d_model"]) -> Float[np.ndarray, "cell 2"]:
        """Places of embeddings on the map.

        Parameters
        ----------
        cells
            Embeddings of any cells by the same model.
        """
        center, axes, _ = self.projection
        return (cells - center) @ axes

    def reference(self, ablation: Ablation) -> Reference | None:
        """Means over the shown cells that a mean ablation needs; None for others.

        Parameters
        ----------
        ablation
            Heads to ablate and how. Means are kept until other layers are asked for.
        """
        hooks = needed_hooks([ablation])
        if hooks and hooks not in self._references:
            self._references.clear()  # one set of layers at a time: of a large model each is hundreds of megabytes
            self._references[hooks] = build_reference(self.model, self.tokens, hooks, self.batch_size)
        return self._references.get(hooks)

    def settings(self) -> dict[str, Any]:
        """What the page says of an ablation before it is made."""
        numbers = {name: getattr(self, name) for name in ("max_cells", "null_draws", "seed")}
        return {"map": MAP, "hows": list(HOWS), **numbers}

    def to_map(self) -> dict[str, Any]:
        """The shown cells as a map of the explorer."""
        a, b = (f"{share:.0%}" for share in self.projection[2])
        return cell_map(
            MAP,
            "cell embeddings of the model, principal axes",
            f"The axes hold {a} and {b} of the variance of the embeddings of the cells that are shown.",
            ("axis 1", "axis 2"),
            self.project(self.intact),
            list(self.tokens.cell_ids),
            list(self.labels),
            self.groups,
            n_total=self.n_total,
            seed=self.seed,
            limit=len(self.labels),
        )


def open_session(
    model: CellModel,
    cells: AnnData,
    *,
    n_cells: int = 200,
    max_cells: int = 60,
    null_draws: int = 10,
    batch_size: int = 16,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
    ruler: str = "hematopoiesis",
    stages: Mapping[str, str] | None = None,
) -> Session:
    """Draw cells, tokenise and embed them.

    Parameters
    ----------
    model
        Model that embeds the cells, on any device.
    cells
        Cells as `workbench.load` returns them, three or more; labels are read from ``cell_type``.
    n_cells
        Cells on the map at most, drawn by seed and name.
    max_cells, null_draws, batch_size, seed
        As in `Session`.
    min_gene_share
        Smallest share of the cells' genes that must be in the vocabulary.
    ruler, stages
        Name of a shipped ruler or the path of one's own, and more labels with their stages: which branch a label is of.

    Raises
    ------
    EvaluationError
        If fewer than three cells are there, or a number is out of range.
    """
    for name, value in (("n_cells", n_cells), ("max_cells", max_cells), ("null_draws", null_draws)):
        if value < 1:
            raise EvaluationError(f"{name} is {value}; give 1 or more.")
    chosen = choose_cells(cells, n_cells, seed)
    if len(chosen) < 3:
        raise EvaluationError(f"A map of cells takes three, and {len(chosen)} are there; give more cells.")
    tokens = model.tokenizer(chosen, seed=seed, min_gene_share=min_gene_share).tokens().to(model.device, model.dtype)
    labels = [NO_LABEL] * len(chosen)
    if "cell_type" in chosen.obs:
        labels = [str(label) or NO_LABEL for label in chosen.obs["cell_type"]]
    known, intact = load_ruler(ruler), intact_cells(model, tokens, batch_size)
    groups = label_groups(branches_of(labels, known, stages), known)
    shown = tokens, tuple(labels), cells.shape[0], intact
    return Session(model, *shown, max_cells, null_draws, batch_size, seed, groups)


def shift(session: Session, heads: Sequence[str], how: str, labels: Sequence[str]) -> dict[str, Any]:
    """Ablate heads together in the shown cells of some labels, and say how far these cells move.

    Parameters
    ----------
    session
        Model and embedded cells, from `open_session`.
    heads
        Labels of the heads, such as ``L2H1``; all are ablated at once.
    how
        ``zero``, or ``mean``: the mean over the shown cells, by gene.
    labels
        Labels whose cells are ablated, out of those of the session.

    Returns
    -------
    dict
        JSON-ready. ``rows`` (of the map), ``start`` and ``end`` (places), ``null_end`` (of the first random direction);
        ``n``, ``n_chosen``; ``mean`` and ``sd`` over cells of 1 - cosine; ``by_label``; ``null``: ``mean``, ``low``, ``high``
        (of the draws' means over cells), ``draws``; ``p`` (draws at least as large, this one counted); ``in_plane`` (share
        of the squared change that the map shows).

    Raises
    ------
    EvaluationError
        If no cell is chosen, or a label or way to ablate is unknown.
    HookError
        If a head does not exist, or none is named.
    """
    if how not in HOWS:
        raise EvaluationError(unknown_name("way to ablate", how, HOWS))
    for label in labels:
        if label not in session.labels:
            raise EvaluationError(unknown_name("label", label, sorted(set(session.labels))))
    ablation = Ablation(tuple(heads), how, seed=session.seed)
    ablation.check(session.model.config, session.model.vocabulary)
    chosen = [i for i, label in enumerate(session.labels) if label in set(labels)]
    if not chosen:
        raise EvaluationError("No cell is chosen to ablate the heads in; tick a label.")
    names = session.tokens.cell_ids
    rows = [chosen[i] for i in choose_rows([names[i] for i in chosen], session.max_cells, session.seed)]
    before, after, nulls = _embeddings(session, ablation, rows)
    places = zip(("start", "end", "null_end"), (before, after, nulls[0]), strict=True)
    turned = _turn(before, after)
    null = np.array([_turn(before, one).mean() for one in nulls])
    change = after - before
    total = float((change**2).sum())
    kinds = np.array([session.labels[i] for i in rows])
    return {
        **{"heads": [str(place) for place in ablation.sites], "how": how, "rows": rows},
        **{name: [[short(v, 6) for v in at] for at in session.project(of)] for name, of in places},
        **{"n_chosen": len(chosen), "n_reference": len(session.labels) if how == "mean" else None},
        **_moments(turned),
        "by_label": [{"label": kind, **_moments(turned[kinds == kind])} for kind in sorted(set(kinds.tolist()))],
        "null": {"mean": short(null.mean()), "low": short(null.min()), "high": short(null.max()), "draws": len(null)},
        "p": short(permutation_p(float(turned.mean()), null)),
        "in_plane": short(float(((change @ session.projection[1]) ** 2).sum()) / total, 3) if total else None,
    }


def answer(session: Session, message: Mapping[str, Any]) -> dict[str, Any]:
    """Reply to a request of the explorer; an error that input can cause is a sentence in it.

    Parameters
    ----------
    session
        Model and embedded cells, from `open_session`.
    message
        Request with ``heads``, ``how`` and ``labels`` as in `shift`, and an ``id`` that the reply carries.
    """
    asked = message.get("id")
    try:
        heads, labels = ([str(one) for one in message.get(key) or ()] for key in ("heads", "labels"))
        return {"type": "shift", "id": asked, **shift(session, heads, str(message.get("how")), labels)}
    except WorkbenchError as error:
        return {"type": "error", "id": asked, "message": str(error)}


def _embeddings(
    session: Session, ablation: Ablation, rows: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Intact, ablated, and with the change turned at random, once per draw."""
    model, reference = session.model, session.reference(ablation)
    draws = [replace(ablation, rotation=draw) for draw in range(session.null_draws)]
    after: list[np.ndarray] = []
    swept: dict[int | None, list[np.ndarray]] = {which: [] for which in (None, *range(len(draws)))}
    for batch in session.tokens.take(rows).batches(session.batch_size):
        with torch.no_grad(), ablated(model, ablation, reference):
            after.append(_numbers(model(batch).cell))
        # The sweep shares what lies below the first head, and its intact pass is of the same batch.
        for which, out in exact_sweep(model, batch, draws, Edits(model, batch, draws, reference)):
            swept[which].append(_numbers(out.cell))
    before, *nulls = (np.concatenate(parts) for parts in swept.values())
    return before, np.concatenate(after), nulls


def _numbers(cell: torch.Tensor | None) -> np.ndarray:
    assert cell is not None
    return cell.float().cpu().numpy().astype(np.float64)


def _turn(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """1 - cosine of each cell."""
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    return 1 - (before * after).sum(1) / np.where(lengths > 0, lengths, 1)


def _moments(values: np.ndarray) -> dict[str, Any]:
    sd = short(values.std(ddof=1)) if len(values) > 1 else None
    return {"n": len(values), "mean": short(values.mean()), "sd": sd}
