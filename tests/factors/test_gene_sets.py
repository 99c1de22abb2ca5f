"""Gene sets are read as they stand or refused in a sentence, and what ships has its literature."""

from __future__ import annotations

import re
from importlib import resources

import pytest
import yaml

from workbench.errors import ConfigError, EvaluationError
from workbench.factors.gene_sets import GeneSets, load_gene_sets, on_panel

HGNC = re.compile(r"[A-Z][A-Z0-9]*(orf[0-9]+)?(-[A-Z0-9]+)?")
IDENTIFIER = re.compile(r"doi:10\.[0-9]{4}/\S+|pmid:[0-9]{7,8}|pmcid:PMC[0-9]+")


@pytest.fixture(scope="module")
def shipped():
    return load_gene_sets("hematopoiesis")


@pytest.fixture(scope="module")
def literature():
    return yaml.safe_load((resources.files("workbench.factors") / "gmt" / "hematopoiesis.yaml").read_text("utf-8"))


@pytest.fixture
def gmt(tmp_path):
    def write(content, name="mine.gmt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def three(**sets):
    return GeneSets("three", sets, dict.fromkeys(sets, "somewhere"))


def test_shipped_terms_hold_10_to_40_distinct_symbols_that_look_like_hgnc(shipped):
    lines = (resources.files("workbench.factors") / "gmt" / "hematopoiesis.gmt").read_text("utf-8").splitlines()
    assert len(lines) == len(shipped.sets) >= 40, "no term twice"
    for line in lines:
        term, _, *genes = line.split("\t")
        assert shipped.sets[term] == tuple(genes) and len(set(genes)) == len(genes), term
        assert 10 <= len(genes) <= 40, term
        assert all(HGNC.fullmatch(gene) for gene in genes), term


def test_no_two_shipped_terms_are_the_same_program(shipped):
    terms = list(shipped.sets.items())
    for i, (one, a) in enumerate(terms):
        for other, b in terms[:i]:
            assert len(set(a) & set(b)) / len(set(a) | set(b)) < 0.5, (one, other)


def test_every_shipped_term_has_literature_and_a_criterion(shipped, literature):
    works, terms = literature["literature"], literature["terms"]
    assert set(terms) == set(shipped.sets) and literature["name"] == shipped.name
    for term, entry in terms.items():
        assert len(entry["sources"]) >= 2 and entry["criterion"], term
        assert shipped.sources[term] == "; ".join(works[key]["short"] for key in entry["sources"])
    assert {key for entry in terms.values() for key in entry["sources"]} == set(works), "no work that nobody uses"


def test_every_work_has_author_year_journal_and_a_well_formed_identifier_or_none(literature):
    for key, work in literature["literature"].items():
        assert re.search(r"\((19|20)[0-9]{2}\)", work["citation"]) and work["short"][-4:] == key[-4:]
        assert IDENTIFIER.fullmatch(work.get("id", "pmid:1234567")), key


def test_a_file_is_read_as_enrichr_and_msigdb_write_it(gmt):
    path = gmt("﻿A\t\tCD3D,1.0\tCD3E,0.5\tCD3D,1.0\t\r\n\r\nB b\thttp://x\tGENE,ODD\t 12 \r\n")
    found = load_gene_sets(path)
    assert found.name == "mine" and found.sets == {"A": ("CD3D", "CD3E"), "B b": ("GENE,ODD", "12")}
    assert found.sources == {"A": "", "B b": "http://x"}
    assert load_gene_sets(str(path)) == found


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty; a GMT file has one line per term"),
        ("\n \n", "is empty"),
        ("A\tx\t\t \nB\tx\n", "names no gene for any of its 2 terms; a GMT file has one line per term"),
        ("A\tx\tCD3D\nA\ty\tCD3E\n", r"term 'A' twice \(again in line 2\)"),
        ("A,x,CD3D\n", "line 1 .*not a term, a description and genes"),
        ("\tx\tCD3D\n", "line 1 .*not a term"),
        (b"\x1f\x8b\x08\x00\xff\xfe", "is not text"),
        (b"A\tx\tCD3\x00D\n", "is not text"),
    ],
)
def test_a_file_that_is_no_gmt_is_refused(gmt, content, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_gene_sets(gmt(content))


def test_an_unknown_name_gets_near_matches_and_a_missing_file_is_called_missing(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'hematopoiesis'"):
        load_gene_sets("haematopoiesis")
    with pytest.raises(ConfigError, match=r"other\.gmt' does not exist"):
        load_gene_sets(tmp_path / "other.gmt")
    with pytest.raises(ConfigError, match="is a folder"):
        load_gene_sets(tmp_path)


def test_a_panel_keeps_its_spelling_and_exact_matches_come_first():
    sets = three(a=("CD3D", "CD3E", "C1orf54"), b=("TRAC", "CD3D"))
    kept, table = on_panel(sets, ["Cd3e", "C1ORF54", "CD3D", "x", "Trac", "TRac"], min_size=1)
    assert kept.sets == {"a": ("Cd3e", "C1ORF54", "CD3D"), "b": ("CD3D",)}, "two spellings of TRAC: neither"
    assert list(table["n_panel"]) == [3, 1] and table["kept"].all() and (table["why"] == "").all()


def test_the_table_lists_every_term_and_says_why_one_is_left_out():
    panel = [f"G{i}" for i in range(10)]
    sets = three(few=("G1", "G2", "other"), all=tuple(panel), many=tuple(panel[:8]), fits=("G1", "G2", "G3"))
    kept, table = on_panel(sets, panel, min_size=3, max_size=7)
    why = table.set_index("term")["why"]
    assert list(kept.sets) == ["fits"] == list(kept.sources) and list(table["term"]) == list(sets.sets)
    assert why["few"] == "2 of its genes on the panel, fewer than 3" and why["fits"] == ""
    assert why["many"] == "8 of its genes on the panel, more than 7" and "more than 7" in why["all"]
    assert on_panel(sets, panel)[1].set_index("term")["why"]["all"] == "its genes are the whole panel"
    assert list(table["n_genes"]) == [3, 10, 8, 3]
    again, _ = on_panel(kept, panel, min_size=3, max_size=7)
    assert again == kept


def test_a_panel_of_ensembl_ids_is_told_to_check_for_symbols(shipped):
    with pytest.raises(
        EvaluationError, match=r"None of the [0-9]+ genes .* 2 genes of the panel \(ENSG1, ENSG2.*gene symbols"
    ):
        on_panel(shipped, ["ENSG1", "ENSG2"])


def test_a_panel_that_names_a_gene_twice_or_none_is_refused():
    with pytest.raises(EvaluationError, match="found A twice"):
        on_panel(three(a=("A",)), ["A", "B", "A"])
    with pytest.raises(EvaluationError, match="found none"):
        on_panel(three(a=("A",)), [])
    with pytest.raises(EvaluationError, match="min_size <= max_size"):
        on_panel(three(a=("A",)), ["A"], min_size=5, max_size=4)


def test_terms_without_genes_are_left_out_and_counted(gmt):
    found = load_gene_sets(gmt("A\tx\tCD3D\tCD3E\nB\tx\nC\t\tCD4\nD\tx\t\t \n"))
    assert found.sets == {"A": ("CD3D", "CD3E"), "C": ("CD4",)} and found.sources == {"A": "x", "C": ""}
    assert found.empty == ("B", "D")
    with pytest.raises(ConfigError, match=r"term 'B' twice \(again in line 2\)"):
        load_gene_sets(gmt("B\tx\nB\tx\tCD3D\n"))
