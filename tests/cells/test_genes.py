"""Matching gene names, and the panel."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from helpers import genes, tiny_cells

from workbench.cells.genes import find_genes, gene_names, match_cells, match_genes
from workbench.cells.panel import choose_panel
from workbench.errors import CellsError, GeneMatchError
from workbench.models.vocabulary import Vocabulary

VOCABULARY = Vocabulary.of_genes(["CD4", "CD8A", "GATA1", "C1orf43", "C1ORF43", "HLA-A"])


def match(*names, **options):
    return match_genes(names, VOCABULARY.genes, **options)


def test_exact_names_match_in_matrix_order():
    found = match("GATA1", "CD4", "HLA-A")
    assert found.genes == ("GATA1", "CD4", "HLA-A") and found.place.tolist() == [0, 1, 2]
    assert found.share == 1 and not (found.missing or found.duplicated or found.ambiguous or found.recased)


def test_missing_names_are_listed_and_skipped():
    found = match("GATA1", "NOPE", "CD4", "MT-XX")
    assert found.missing == ("NOPE", "MT-XX")
    assert found.genes == ("GATA1", "CD4") and found.place.tolist() == [0, -1, 1, -1] and found.share == 0.5


def test_special_tokens_are_no_genes():
    assert match("CD4", "<pad>", "<cls>").missing == ("<pad>", "<cls>")


def test_columns_of_one_gene_go_to_one_place():
    found = match("CD4", "GATA1", "CD4", "NOPE", "NOPE", "CD4", "gata1 ")
    assert found.duplicated == ("CD4",)
    assert found.genes == ("CD4", "GATA1") and found.place.tolist() == [0, 1, 0, -1, -1, 0, -1]


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
        assert found.genes == ("GATA1",) and names[found.place.tolist().index(0)] == "GATA1"
        assert found.missing == ("gata1",)
    found = match("C1orf43", "c1orf43")
    assert found.genes == ("C1orf43", "C1ORF43"), (
        "one of the two symbols is taken, so the other spelling has one way left"
    )


def test_two_spellings_of_one_symbol_are_added_up_and_reported():
    found = match("gata1", "GatA1", "CD4")
    assert found.genes == ("GATA1", "CD4") and found.place.tolist() == [0, 0, 1]
    assert found.recased == (("gata1", "GATA1"), ("GatA1", "GATA1")) and found.duplicated == ("GATA1",)


def test_every_column_is_accounted_for():
    names = ["CD4", "cd8a", "NOPE", "c1orf43", "CD4", "Cd8a", "HLA-A", "NOPE", "IGJ"]
    found = match(*names, min_gene_share=0)
    said = {*found.missing, *found.ambiguous}
    assert {name for i, name in enumerate(names) if found.place[i] < 0} == said
    counts = found.to_dict()
    assert counts["columns"] == 9 and counts["matched"] == len(found.genes) == 3
    assert counts["missing"] == {"n": 3, "first": ["NOPE", "NOPE", "IGJ"]} and counts["ambiguous"]["n"] == 1
    assert counts["why_missing"]["unknown"]["n"] == 3
    assert str(found).startswith(
        "3 genes in 5 of 9 columns matched, 1 ambiguous; 2 of several columns, added up, 2 matched by another case"
    )


def test_names_are_cleaned_of_blanks_and_the_genome():
    found = match(" CD4", "GATA1\t", "GRCh38_CD8A", "hg19_HLA-A", "mm10_Cd4")
    assert found.genes == ("CD4", "GATA1", "CD8A", "HLA-A") and found.missing == ("mm10_Cd4",)
    assert "4 names were read without the blanks" in found.hint


def test_a_symbol_that_was_replaced_is_found_by_its_successor_and_the_other_way():
    found = find_genes(["IGJ", "FYB", "SEPT7", "CD4"], ["JCHAIN", "FYB1", "SEPTIN7", "CD4"])
    assert found.genes == ("JCHAIN", "FYB1", "SEPTIN7", "CD4")
    assert found.renamed == (("IGJ", "JCHAIN"), ("FYB", "FYB1"), ("SEPT7", "SEPTIN7"))
    back = find_genes(["JCHAIN", "SEPTIN7"], ["IGJ", "SEPT7"])
    assert back.genes == ("IGJ", "SEPT7") and back.renamed == (("JCHAIN", "IGJ"), ("SEPTIN7", "SEPT7"))
    assert "2 by a renamed symbol" in str(back)


def test_a_symbol_is_not_replaced_where_that_is_not_certain():
    # The successor is measured beside it.
    found = find_genes(["IGJ", "JCHAIN"], ["JCHAIN"])
    assert found.place.tolist() == [-1, 0] and found.why == {"renamed": ("IGJ",)} and not found.renamed
    # Two earlier names of one gene: which of them is it?
    found = find_genes(["NCRNA00181", "A1BGAS", "CD4"], ["A1BG-AS1", "CD4"])
    assert found.genes == ("CD4",) and found.why["renamed"] == ("NCRNA00181", "A1BGAS")
    # A name that several genes had, and one that is an approved symbol of another gene.
    table = json.loads((resources.files("workbench.cells") / "hgnc_symbols.json").read_text())
    several = table["several"][0]
    assert find_genes([several], table["renamed"].values()).why == {"retired": (several,)}
    approved = set(table["renamed"].values())
    assert not approved & set(table["several"]) and not approved & set(table["renamed"])
    # An alias is no earlier symbol: this clone would have become IGHA1.
    assert find_genes(["AL928768.3"], ["IGHA1"]).why == {"retired": ("AL928768.3",)}


def test_a_symbol_of_several_ids_needs_the_id():
    known = ["RGS5_ENSG00000143248", "RGS5_ENSG00000232995", "CD4"]
    without = find_genes(["RGS5", "CD4"], known)
    assert without.genes == ("CD4",) and without.why == {"several ids": ("RGS5",)}
    assert "a column of var with Ensembl ids tells which" in without.hint
    found = find_genes(["RGS5", "CD4"], known, ["ENSG00000143248", "ENSG00000010610"])
    assert found.genes == ("RGS5_ENSG00000143248", "CD4") and found.by_id == (("RGS5", "RGS5_ENSG00000143248"),)
    cells = tiny_cells(4, 2)
    cells.var_names = ["RGS5", "CD4"]
    cells.var["feature_id"] = ["ENSG00000143248.14", "ENSG00000010610.9"]
    assert match_cells(cells, known).genes == found.genes


def test_mouse_symbols_are_not_taken_for_human_ones():
    with pytest.raises(
        GeneMatchError, match="Only 0.0% of 3 genes.*3 names are written as mouse symbols are: map them"
    ):
        match("Cd4", "Cd8a", "Gata1")
    found = match("Cd4", "CD8A", "GATA1", "HLA-A")
    assert found.recased == (("Cd4", "CD4"),), "one of many may be anybody's spelling"


def test_names_that_other_tools_changed_are_hinted_at():
    found = find_genes(["HLA.DRA", "CD4", "CD4-1", "GATA1.2"], ["HLA-DRA", "CD4", "GATA1"])
    assert found.genes == ("CD4",)
    assert (
        "1 names look as R writes them" in found.hint and "2 names end in a number that make.unique adds" in found.hint
    )


@pytest.mark.shared_data("real_scgpt/vocab.json")
def test_reasons_of_the_shipped_genes_against_the_released_vocabulary(shared_data, pbmc68k):
    known = json.loads((shared_data / "real_scgpt" / "vocab.json").read_text())
    found = find_genes(pbmc68k.var_names, known)
    # Facts of the data: 60 genes are not in the vocabulary, 49 of them have one successor, which is.
    assert len(found.renamed) == 49 and len(found.missing) == 11
    assert found.why["unknown"] == ("SELT", "TMBIM4-1") and len(found.why["retired"]) == 9


def test_too_few_matches_are_an_error_that_says_what_to_pass():
    with pytest.raises(
        GeneMatchError, match=r"Only 25.0% of 4 genes .* under the stated 30% .*CD4, a, b.*lower min_gene_share"
    ):
        match("CD4", "a", "b", "c")
    assert match("CD4", "a", "b", "c", min_gene_share=0.25).genes == ("CD4",)
    with pytest.raises(GeneMatchError, match="Only 0.0% of 1 genes"):
        match("a", min_gene_share=0)
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
    found = match_genes(genes(6), genes(5))
    assert choose_panel(cells, found, 1) == ("GENE4",)
    assert choose_panel(cells, found, 3) == ("GENE0", "GENE1", "GENE4"), "a tie goes by name"
    assert choose_panel(cells, found) == choose_panel(cells, found, 99) == tuple(genes(5))


def test_a_cell_counts_once_for_a_gene_of_several_columns():
    counts = np.array([[1, 2, 1, 0], [3, 1, 0, 0], [0, 0, 1, 1]], np.float32)
    cells = AnnData(sp.csr_matrix(counts), var=pd.DataFrame(index=["A", "A", "B", "C"]))
    # A is seen in two cells, twice in each; B in two as well; so that names decide, not four entries.
    found = match_genes(["A", "A", "C", "B"], ["A", "B", "C"])
    assert choose_panel(cells[:, [0, 1, 3, 2]], found, 2) == ("A", "B")
    swapped = match_genes(["B", "B", "C", "A"], ["A", "B", "C"])
    assert choose_panel(cells[:, [0, 1, 3, 2]], swapped, 1) == ("A",)


def test_the_panel_depends_on_neither_order_nor_storage_nor_labels():
    cells = tiny_cells(30, seed=4)
    rng = np.random.default_rng(0)
    wanted = choose_panel(cells, match_genes(cells.var_names, genes()), 15)
    assert len(wanted) == len(set(wanted)) == 15 and list(wanted) == sorted(wanted)
    shuffled = cells[rng.permutation(30)][:, rng.permutation(40)].copy()
    shuffled.obs["cell_type"] = rng.permutation(shuffled.obs["cell_type"])
    dense = AnnData(cells.X.toarray(), cells.obs, cells.var)
    for other in (shuffled, dense):
        assert choose_panel(other, match_genes(other.var_names, genes()), 15) == wanted


def test_genes_that_made_the_labels_can_be_left_out_of_the_panel():
    adata = AnnData(
        sp.csr_matrix(np.array([[1, 2, 0], [1, 0, 3]], dtype=np.float32)), var=pd.DataFrame(index=["A", "B", "C"])
    )
    match = match_genes(["A", "B", "C"], ["A", "B", "C"])
    assert choose_panel(adata, match) == ("A", "B", "C")
    assert choose_panel(adata, match, 1) == ("A",)
    assert choose_panel(adata, match, 1, exclude=["A"]) == ("B",)
    assert choose_panel(adata, match, exclude=["A", "A"]) == ("B", "C")
    with pytest.raises(GeneMatchError, match="All 3 matched genes are left out"):
        choose_panel(adata, match, exclude=["A", "B", "C"])


def test_a_name_to_leave_out_that_is_no_gene_s_is_an_error():
    names = ["CD8A", "CD8B", "cd3e", "NOT KNOWN"]
    match, adata = (
        match_genes(names, ["CD8A", "CD8B", "CD3E", "MS4A1"]),
        AnnData(np.eye(4, dtype=np.float32), var=pd.DataFrame(index=names)),
    )
    assert choose_panel(adata, match) == ("CD3E", "CD8A", "CD8B")
    assert choose_panel(adata, match, exclude=["cd3e", "CD8A"]) == choose_panel(adata, match, exclude=["CD3E", "CD8A"])
    assert choose_panel(adata, match, exclude=["NOT KNOWN", "CD8B"]) == ("CD3E", "CD8A")
    with pytest.raises(GeneMatchError, match="Unknown gene 'CD8a': did you mean 'CD8A'.* 1 of the genes"):
        choose_panel(adata, match, exclude=["CD8B", "CD8a"])
    with pytest.raises(GeneMatchError, match="'ENSG00000153563'.* 2 of the genes to leave out .*ids are no symbols"):
        choose_panel(adata, match, exclude=["ENSG00000153563", "MS4A1", "CD8A"])
    # What other cells of the same panel measure may be left out as well.
    others = [match_genes(["MS4A1", "CD8A"], ["CD8A", "CD8B", "CD3E", "MS4A1"])]
    assert choose_panel(adata, match, exclude=["MS4A1", "CD8A"], others=others) == ("CD3E", "CD8B")
    with pytest.raises(GeneMatchError, match="'ENSG00000153563'.* 1 of the genes"):
        choose_panel(adata, match, exclude=["ENSG00000153563", "MS4A1"], others=others)


@pytest.mark.parametrize("name", ["NA", "NaN", "nan", "<NA>", "None", ""])
def test_a_missing_symbol_is_no_gene(name):
    match = find_genes([name, "CD4", name], ["XK", "CD4"])
    assert match.genes == ("CD4",) and match.place.tolist() == [-1, 0, -1] and not match.renamed
    assert match.why == {"unknown": (name, name)}
