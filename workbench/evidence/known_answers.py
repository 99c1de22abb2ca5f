"""Figures that others measured on the released whole-human checkpoint, and whether a checkpoint at hand gives them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float

from workbench.errors import ConfigError
from workbench.evidence.known_genes import hla_neighbours
from workbench.files import read_json
from workbench.models import CellModel
from workbench.models.load import Contents, read_model
from workbench.yaml_once import read_yaml

MET, MISSED, SHOWN, NOT_ASKED = "met", "missed", "shown, not asserted", "not asked"
APPLIES, OTHER = "the release", "not the release: these answers do not apply"
_KEYS = {"what", "needs", "expected", "low", "high", "source", "licence", "miss"}
_NEEDED = _KEYS - {"needs", "low", "high"}
_GENES = ("gene", "symbol", "gene_name", "feature_name", "gene_symbol")
_CHROMOSOMES = ("chromosome", "chr", "chrom", "seqname")
COLUMNS = ("answer", "expected", "low", "high", "found", "n", "beside", "status", "miss", "source", "licence")


@dataclass(frozen=True)
class KnownAnswers:
    """Answers that are known of one release.

    Attributes
    ----------
    name
        Name of the release that they are of.
    weights, vocabulary
        sha256 of its file of weights and of its ``vocab.json``.
    answers
        By name: ``what``, ``expected``, ``source``, ``licence``, ``miss``, and ``needs``, ``low`` and ``high`` where they are.
    pairs
        Pairs of genes: ``source``, ``target``, ``mean`` over heads and ``head``, the highest.
    left_out
        Public figures that are not asked, and why.
    """

    name: str
    weights: str
    vocabulary: str
    answers: Mapping[str, Mapping[str, Any]]
    pairs: pd.DataFrame
    left_out: Mapping[str, str]

    def is_of(self, contents: Contents) -> bool:
        """Whether a checkpoint is this release: weights and vocabulary, byte for byte.

        Parameters
        ----------
        contents
            What `read_model` read of its folder.
        """
        sums = contents.report.sha256
        return next(iter(sums.values()), "") == self.weights and sums.get("vocab.json") == self.vocabulary

    def differs(self, contents: Contents) -> str:
        """What makes a checkpoint another one, as a sentence; empty for the release.

        Parameters
        ----------
        contents
            What `read_model` read of its folder.
        """
        if self.is_of(contents):
            return ""
        if contents.report.sha256.get("vocab.json") == self.vocabulary:
            return (
                "Its vocabulary is the release's and its weights are not: a fine-tune of it, or a copy that was saved again. Fine-tuning "
                "changes what is asked here, so none of it can be missed."
            )
        if set(contents.vocabulary.ids) >= {*self.pairs["source"], *self.pairs["target"]}:
            return "Its vocabulary is not the release's file, though it has the genes: another model, or a fine-tune that wrote its own."
        return "Its vocabulary is not the release's: another model."


@dataclass(frozen=True)
class Checked:
    """What was found of a checkpoint.

    Attributes
    ----------
    release
        Whether it is the release that the answers are of.
    table
        A row per answer, with the columns `COLUMNS`.
    left_out
        Public figures that are not asked, and why.
    why
        A sentence on what makes it another checkpoint; empty for the release.
    """

    release: bool
    table: pd.DataFrame
    left_out: Mapping[str, str]
    why: str = ""

    @property
    def verdict(self) -> str:
        """`APPLIES` or `OTHER`."""
        return APPLIES if self.release else OTHER

    @property
    def missed(self) -> list[str]:
        """Answers of the release that were asked and are missed; none of any other checkpoint."""
        return self.table.loc[self.table["status"] == MISSED, "answer"].tolist()


def read_answers(path: Path | None = None) -> KnownAnswers:
    """Known answers of a file.

    Parameters
    ----------
    path
        YAML file of the form of the one that ships, with ``release`` and ``answers``; it may name ``pairs`` of its own, as lists of
        gene, gene, mean and head. None for the one that ships.

    Raises
    ------
    ConfigError
        If an answer lacks what it is, its source, its licence or what a miss means.
    """
    here = resources.files("workbench.evidence")
    raw = read_yaml((path or here.joinpath("known_answers.yaml")).read_text(encoding="utf-8"))
    for name, answer in raw["answers"].items():
        if not _NEEDED <= set(answer) <= _KEYS or ("low" in answer) != ("high" in answer):
            raise ConfigError(
                f"The known answer '{name}' has {', '.join(sorted(answer))}; it needs {', '.join(sorted(_NEEDED))}, and low with high."
            )
    with resources.as_file(here.joinpath("known_pairs.json")) as file:
        pairs = pd.DataFrame(raw.get("pairs") or read_json(file)["pairs"], columns=["source", "target", "mean", "head"])
    release = raw["release"]
    return KnownAnswers(
        release["name"], release["weights"], release["vocabulary"], raw["answers"], pairs, raw["left_out"]
    )


def check_answers(
    path: str | Path,
    cells: AnnData | None = None,
    annotation: str | Path | None = None,
    *,
    dictionaries: str | Path | None = None,
    answers: KnownAnswers | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Checked:
    """Compare a checkpoint with what is known of the release; no cell is read unless cells are given.

    Parameters
    ----------
    path
        Folder of the checkpoint that is asked.
    cells
        Cells of the immune system, as `workbench.load` gives them; of more than 600 a draw by seed and name is read.
    annotation
        Table (CSV or TSV, also gzipped) with a column of gene symbols and one of chromosomes, such as ``19q13.43`` or ``chr19``.
    dictionaries
        Folder of a run of ``workbench dictionary`` on this checkpoint, which trained 2,048 features, 32 active, behind every layer.
    answers
        What is known; that of the file that ships when None.
    device
        Where the model runs, where cells or dictionaries are given.
    seed
        Seed of the draw of cells and of the folds.

    Returns
    -------
    Checked
        On any other checkpoint than the release every answer is shown, and none is asserted.

    Raises
    ------
    CheckpointError, VocabularyError
        As `workbench.load_model`.
    ConfigError
        If the annotation cannot be read, or has no such columns; or the run has no such dictionaries.
    HookError
        If the dictionaries are of another checkpoint.
    """
    known, contents = answers or read_answers(), read_model(path)
    found: dict[str, dict[str, Any]] = {name: {"found": value} for name, value in _of_folder(contents).items()}
    found["hla_neighbours"] = hla_neighbours(contents, seed)
    if annotation is not None:
        found["chromosome"] = chromosome_accuracy(contents, read_annotation(Path(annotation)), seed)
    if cells is not None:
        from workbench.evidence.known_cells import of_cells

        model: CellModel = _on(contents, device)
        found |= of_cells(model, cells, known.pairs, seed)
    if dictionaries is not None:
        from workbench.evidence.known_dictionaries import of_dictionaries

        found |= of_dictionaries(_on(contents, device), dictionaries)
    release = known.is_of(contents)
    rows = [_row(answer, found.get(name), release) for name, answer in known.answers.items()]
    return Checked(release, pd.DataFrame(rows, columns=list(COLUMNS)), known.left_out, known.differs(contents))


def _on(contents: Contents, device: str) -> CellModel:
    from workbench.models.devices import find_device

    return contents.model(find_device(device))


def _row(answer: Mapping[str, Any], found: dict[str, Any] | None, release: bool) -> dict[str, Any]:
    expected = answer["expected"]
    row = {"answer": answer["what"], "expected": expected, "low": answer.get("low"), "high": answer.get("high")}
    about = {name: answer[name] for name in ("miss", "source", "licence")}
    if found is None:
        return {**row, **about, "status": f"{NOT_ASKED}: give --{answer.get('needs', 'cells')}"}
    if "why" in found:
        return {**row, **about, "status": f"{NOT_ASKED}: {found['why']}"}
    value = found["found"]
    same = answer["low"] <= value <= answer["high"] if "low" in answer else value == expected
    return {**row, **about, **found, "status": (MET if same else MISSED) if release else SHOWN}


def _of_folder(contents: Contents) -> dict[str, Any]:
    """What the files alone say."""
    sums, config, ids = contents.report.sha256, contents.config, contents.vocabulary.ids
    return {
        "weights_sha256": next(iter(sums.values()), ""),
        "vocabulary_sha256": sums.get("vocab.json", ""),
        "args_sha256": sums.get("args.json", ""),
        "layers": config.n_layers,
        "heads": config.n_heads,
        "width": config.d_model,
        "bins": getattr(config, "n_bins", None),
        "tokens": len(ids),
        **{f"{name}_id": ids.get(f"<{name}>", -1) for name in ("pad", "cls", "eoc")},
        "suffixed": sum("_ENSG" in name for name in ids),
    }


def read_annotation(path: Path) -> dict[str, int]:
    """Autosome of each gene, 1 to 22; genes of other chromosomes, and those that stand on two, are left out.

    Parameters
    ----------
    path
        Table as `check_answers` takes it.

    Raises
    ------
    ConfigError
        If it cannot be read, or has no column of genes and chromosomes.
    """
    try:
        table = pd.read_csv(path, sep=None, engine="python", dtype=str)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The annotation '{path}' cannot be read as a table ({error}); give a CSV or TSV file."
        ) from error
    columns = {str(name).lower(): name for name in table.columns}
    gene, place = (next((columns[n] for n in names if n in columns), None) for names in (_GENES, _CHROMOSOMES))
    if gene is None or place is None:
        raise ConfigError(
            f"The annotation '{path}' has the columns {', '.join(map(str, table.columns[:8]))}; name one of them {' or '.join(_GENES[:2])} and "
            f"one {' or '.join(_CHROMOSOMES[:2])}."
        )
    number = table[place].str.extract(r"^(?:chr)?(\d{1,2})(?=$|[pq.\s])", expand=False)
    known = pd.DataFrame({"gene": table[gene], "chromosome": pd.to_numeric(number)}).dropna().drop_duplicates()
    known = known[known["chromosome"].between(1, 22)].drop_duplicates("gene", keep=False)
    return dict(zip(known["gene"], known["chromosome"].astype(int), strict=True))


def chromosome_accuracy(contents: Contents, annotation: Mapping[str, int], seed: int) -> dict[str, Any]:
    """How well a linear classifier reads the chromosome of left-out genes from their rows of the gene table.

    Parameters
    ----------
    contents
        Checkpoint whose gene table is read, before its LayerNorm.
    annotation
        Chromosome of each gene by its symbol.
    seed
        Seed of the folds, and of the permutation that gives chance.

    Returns
    -------
    dict
        ``found`` (balanced accuracy over five folds), ``n`` genes, and ``beside``: chance, by one permutation of the chromosomes.

    Raises
    ------
    ConfigError
        If fewer than 100 genes of the table have a chromosome, or none has five.
    """
    ids = contents.vocabulary.ids
    genes = sorted(gene for gene in annotation if gene in ids)
    label = np.array([annotation[gene] for gene in genes], dtype=int)
    counts = Counter(label.tolist())
    keep = np.array([counts[one] >= 5 for one in label.tolist()], dtype=bool)
    if keep.sum() < 100 or len(set(label[keep].tolist())) < 2:
        raise ConfigError(
            f"{int(keep.sum())} genes of the vocabulary have a chromosome of five genes or more in the annotation; 100 on two chromosomes are "
            "needed. Check that it names genes by symbol."
        )
    table = contents.tensors["embed.gene.embedding.weight"].float().numpy()
    x, y = table[[ids[gene] for gene in genes]][keep].astype(np.float64), label[keep]
    dealt = np.random.default_rng(seed).permutation(y)
    found, chance = (_balanced(x, one, seed) for one in (y, dealt))
    return {"found": found, "n": len(y), "beside": f"chromosomes permuted: {chance:.4f}"}


def _balanced(x: Float[np.ndarray, "gene width"], y: np.ndarray, seed: int) -> float:
    from sklearn.linear_model import RidgeClassifier
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), RidgeClassifier(alpha=1.0, class_weight="balanced"))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return float(balanced_accuracy_score(y, cross_val_predict(classifier, x, y, cv=folds)))


def answers_text(checked: Checked, path: str | Path) -> str:
    """What was found, for people.

    Parameters
    ----------
    checked
        What `check_answers` returned for a folder.
    path
        Folder that it was asked of, for the first line.
    """
    lines = [f"{path}: {checked.verdict}.{' ' if checked.why else ''}{checked.why}"]
    for row in checked.table.to_dict("records"):
        within = f" ({row['low']:g} to {row['high']:g})" if row["low"] == row["low"] and row["low"] is not None else ""
        n = f", n = {row['n']:.0f}" if row["n"] == row["n"] else ""
        beside = f"; {row['beside']}" if isinstance(row["beside"], str) else ""
        found = "" if str(row["status"]).startswith(NOT_ASKED) else f"; found {_short(row['found'])}{n}{beside}"
        lines.append(f"  {row['status']}: {row['answer']}: expected {_short(row['expected'])}{within}{found}")
        if row["status"] == MISSED:
            lines.append(f"      a miss means: {row['miss']}. Source: {row['source']}")
    lines.append("Not asked, for these public figures are artefacts or cannot be compared:")
    lines += [f"  {name}: {why}" for name, why in checked.left_out.items()]
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value if len(value) <= 16 else f"{value[:12]}..."
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
