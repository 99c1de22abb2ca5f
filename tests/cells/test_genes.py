"""Matching gene names, and the panel."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from helpers import genes, tiny_cells

from workbench.cells.genes import choose_panel, gene_names, match_genes
from workbench.errors import CellsError, GeneMatchError
from workbench.models.vocabulary import Vocabulary

VOCABULARY = Vocabulary.of_genes(["CD4", "CD8A", "GATA1", "C1orf43", "C1ORF43", "HLA-A"])


def match(*names, **options):
    return match_genes(names, VOCABULARY, **options)


def test_exact_names_match_in_matrix_order():
    found = match("GATA1", "CD4", "HLA-A")
    assert found.genes == ("GATA1", "CD4", "HLA-A") and found.columns.tolist() == [0, 1, 2]
    assert found.share == 1 and not (found.missing or found.duplicated or found.ambiguous or found.recased)


def test_missing_names_are_listed_and_skipped():
    found = match("GATA1", "NOPE", "CD4", "MT-XX")
    assert found.missing == ("NOPE", "MT-XX")
    assert found.genes == ("GATA1", "CD4") and found.columns.tolist() == [0, 2] and found.share == 0.5


def test_special_tokens_are_no_genes():
    assert match("CD4", "<pad>", "<cls>").missing == ("<pad>", "<cls>")


def test_of_a_duplicated_name_the_first_column_is_used():
    found = match("CD4", "GATA1", "CD4", "NOPE", "NOPE", "CD4")
    assert found.duplicated == ("CD4", "NOPE")
    assert found.genes == ("CD4", "GATA1") and found.columns.tolist() == [0, 1]


def test_another_case_matches_when_there_is_one_way():
    found = match("Gata1", "cd4", "hla-a")
    assert found.genes == ("GATA1", "CD4", "HLA-A")
    assert found.recased == (("Gata1", "GATA1"), ("cd4", "CD4"), ("hla-a", "HLA-A"))


def test_another_case_is_ambiguous_when_there_are_two_ways():
    found = match("c1orf43", "CD4")
    assert found.ambiguous == ("c1orf43",) and found.genes == ("CD4",) and not found.missing


def test_an_exact_name_wins_over_another_case_wherever_it_stands():
    for names in (("gata1", "GATA1"), ("GATA1", "gata1")):
        found = match(*names)
        assert found.genes == ("GATA1",) and names[found.columns[0]] == "GATA1"
        assert found.missing == ("gata1",)
    found = match("C1orf43", "c1orf43")
    assert found.genes == ("C1orf43", "C1ORF43"), (
        "one of the two symbols is taken, so the other spelling has one way left"
    )


def test_two_spellings_of_one_symbol_are_reported_as_duplicated():
    found = match("gata1", "Gata1", "CD4")
    assert found.genes == ("GATA1", "CD4") and found.columns.tolist() == [0, 2]
    assert found.recased == (("gata1", "GATA1"),) and found.duplicated == ("Gata1",)


def test_every_column_is_accounted_for():
    names = ["CD4", "cd8a", "NOPE", "c1orf43", "CD4", "Cd8a", "HLA-A", "NOPE"]
    found = match(*names, min_share=0)
    said = {*found.missing, *found.duplicated, *found.ambiguous, *(name for name, _ in found.recased)}
    assert {name for i, name in enumerate(names) if i not in found.columns} <= said
    counts = found.to_dict()
    assert counts["columns"] == 8 and counts["matched"] == len(found.genes) == 3
    assert counts["missing"] == {"n": 2, "first": ["NOPE", "NOPE"]} and counts["ambiguous"]["n"] == 1
    assert str(found).startswith("3 of 8 genes matched (2 missing")


def test_too_few_matches_are_an_error_that_says_what_to_pass():
    with pytest.raises(
        GeneMatchError, match=r"Only 25.0% of 4 genes .* under the stated 30% .*CD4, a, b.*lower min_share"
    ):
        match("CD4", "a", "b", "c")
    assert match("CD4", "a", "b", "c", min_share=0.25).genes == ("CD4",)
    with pytest.raises(GeneMatchError, match="Only 0.0% of 1 genes"):
        match("a", min_share=0)
    with pytest.raises(GeneMatchError, match="of 0 genes"):
        match()


def test_ensembl_ids_are_recognised():
    ids = [f"ENSG{i:011d}" for i in range(9)]
    with pytest.raises(GeneMatchError, match="look like Ensembl ids: name the var column that holds symbols"):
        match(*ids, "CD4")
    with pytest.raises(GeneMatchError, match="name the var column that holds gene symbols"):
        match(*"abcde")


def test_names_come_from_the_index_or_a_named_column():
    cells = tiny_cells(4, 5)
    cells.var["symbol"] = pd.Categorical(list("abcde"))
    assert gene_names(cells).tolist() == genes(5) and gene_names(cells, "symbol").tolist() == list("abcde")
    with pytest.raises(CellsError, match="no gene column 'symbl' in var .did you mean 'symbol'. it holds: symbol"):
        gene_names(cells, "symbl")


def test_the_panel_holds_the_genes_seen_in_most_cells():
    seen = {"GENE4": 5, "GENE0": 4, "GENE3": 3, "GENE1": 3, "GENE2": 1}
    matrix = np.zeros((5, 6), np.float32)
    for name, n in seen.items():
        matrix[:n, int(name[-1])] = 7
    matrix[:, 5] = 9  # seen everywhere, but no gene of the vocabulary
    cells = AnnData(sp.csr_matrix(matrix), var=pd.DataFrame(index=genes(6)))
    found = match_genes(genes(6), Vocabulary.of_genes(genes(5)))
    assert choose_panel(cells, found, 1) == ("GENE4",)
    assert choose_panel(cells, found, 3) == ("GENE0", "GENE1", "GENE4"), "a tie goes by name"
    assert choose_panel(cells, found) == choose_panel(cells, found, 99) == tuple(genes(5))


def test_the_panel_depends_on_neither_order_nor_storage_nor_labels():
    cells = tiny_cells(30, seed=4)
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary.of_genes(genes())
    wanted = choose_panel(cells, match_genes(cells.var_names, vocabulary), 15)
    assert len(wanted) == len(set(wanted)) == 15 and list(wanted) == sorted(wanted)
    shuffled = cells[rng.permutation(30)][:, rng.permutation(40)].copy()
    shuffled.obs["cell_type"] = rng.permutation(shuffled.obs["cell_type"])
    dense = AnnData(cells.X.toarray(), cells.obs, cells.var)
    for other in (shuffled, dense):
        assert choose_panel(other, match_genes(other.var_names, vocabulary), 15) == wanted


def test_genes_that_made_the_labels_can_be_left_out_of_the_panel():
    vocabulary = Vocabulary.of_genes(["A", "B", "C"])
    adata = AnnData(
        sp.csr_matrix(np.array([[1, 2, 0], [1, 0, 3]], dtype=np.float32)), var=pd.DataFrame(index=["A", "B", "C"])
    )
    match = match_genes(["A", "B", "C"], vocabulary)
    assert choose_panel(adata, match) == ("A", "B", "C")
    assert choose_panel(adata, match, 1) == ("A",)
    assert choose_panel(adata, match, 1, exclude=["A"]) == ("B",)
    assert choose_panel(adata, match, exclude=["A", "NOT THERE"]) == ("B", "C")
    with pytest.raises(GeneMatchError, match="All 3 matched genes are left out"):
        choose_panel(adata, match, exclude=["A", "B", "C"])
