"""Rulers over genes: distances counted by hand, groups, rewiring that moves, resources, and files that are refused."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from workbench.errors import ConfigError, EvaluationError
from workbench.evidence.gene_ruler import build_gene_ruler, family, on_genes
from workbench.evidence.interactions import read_interactions
from workbench.evidence.null_rulers import meaningless, rewired, rewired_links, shuffled
from workbench.evidence.ruler import GENES, load_ruler

SQUARE = {
    "name": "square",
    "over": "genes",
    "edges": [["A1", "B1", 4], ["B1", "C1", 9], ["C1", "D1", 1], ["D1", "A1", 16], ["A1", "A1"], ["B1", "A1", 25]],
}


def written(folder, content, name="own.yaml"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.parametrize(
    ("lengths", "of_a"),
    [("steps", [0, 1, 2, 1]), ("weights", [0, 4, 13, 14]), ("square root", [0, 2, 5, 4])],
)
def test_distances_are_shortest_paths_counted_by_hand(tmp_path, lengths, of_a):
    ruler = load_ruler(written(tmp_path, {**SQUARE, "lengths": lengths}))
    longest = {"steps": 2, "weights": 14, "square root": 5}[lengths]
    assert ruler.over == GENES and ruler.stages == ("A1", "B1", "C1", "D1") and len(ruler.edges) == 4
    np.testing.assert_allclose(ruler.distances[0] * longest, of_a)
    assert ruler.about == f"4 genes, 4 edges, lengths: {lengths}."


def test_a_table_of_edges_is_a_ruler_over_genes_and_a_matrix_is_not(tmp_path):
    plain = load_ruler(written(tmp_path, "source,target\nX,Y\nY,Z\n", "net.csv"))
    assert (plain.name, plain.over) == ("net", GENES) and plain.distances[0].tolist() == [0, 0.5, 1]
    weighted = load_ruler(written(tmp_path, "weight\tsource\ttarget\n3\tX\tY\n1\tY\tZ\n", "net.tsv"))
    assert weighted.distances[0].tolist() == [0, 0.75, 1]
    by_path = load_ruler(written(tmp_path, {"over": "genes", "edges": "net.tsv", "lengths": "weights"}))
    np.testing.assert_array_equal(by_path.distances, weighted.distances)
    matrix = load_ruler(written(tmp_path, "stage,source,target\nsource,0,1\ntarget,1,0\n", "stages.csv"))
    assert matrix.over == "cells" and matrix.stages == ("source", "target")


def test_genes_are_found_by_symbol_whatever_the_case_and_too_few_are_refused():
    ruler = build_gene_ruler("g", [("C1orf43", "HLA-A", 1.0), ("HLA-A", "HLAA", 1.0)])
    nodes, places = on_genes(ruler, ["hla-a", "other", "C1ORF43"], 2, "genes of the panel")
    assert [ruler.stages[i] for i in nodes] == ["HLA-A", "C1orf43"] and places.tolist() == [0, 2]
    with pytest.raises(EvaluationError, match=r"0 of the 3 genes of the ruler 'g' .* among the 2 genes of the panel"):
        on_genes(ruler, ["X", "Y"], 2, "genes of the panel")


def test_families_and_subunits_of_a_complex_are_held_out_together():
    links = [
        (a, b, 1.0)
        for a, b in [("CCL5", "CCR5"), ("CCL4", "CCR5"), ("CD4", "CCL4"), ("CD8A", "ITGB2"), ("CD4", "ITGB2")]
    ]
    plain = build_gene_ruler("g", links)
    assert dict(zip(plain.stages, plain.branches, strict=True)) == {
        "CCL5": "CCL", "CCL4": "CCL", "CCR5": "CCR", "CD4": "CD4", "CD8A": "CD8A", "ITGB2": "ITGB",
    }  # fmt: skip
    joined = build_gene_ruler("g", links, signals=[(("CD8A", "ITGB2"), ("CCR5",))])
    assert len(set(joined.branches)) == len(set(plain.branches)) - 1
    given = build_gene_ruler("g", links, groups={"one": ["CCL5", "CD4"]})
    assert given.branches == ("one", "CCR5", "CCL4", "one", "CD8A", "ITGB2")
    with pytest.raises(EvaluationError, match="'CD4' of the ruler 'g' is in the groups 'a' and 'b'"):
        build_gene_ruler("g", links, groups={"a": ["CD4"], "b": ["CD4"]})
    assert family("CD74") == "CD74" and family("S100A8") == "S"


def test_cells_have_no_place_on_it(tmp_path):
    with pytest.raises(EvaluationError, match="lies over 4 genes, and cells have no place on it"):
        load_ruler(written(tmp_path, SQUARE)).place(["T cell"])


def random_ruler(seed, n=60, m=150):
    rng = np.random.default_rng(seed)
    chain = [(f"G{i}A", f"G{i + 1}A", 1.0) for i in range(n - 1)]
    more = [(f"G{a}A", f"G{b}A", 2.0) for a, b in rng.integers(0, n, (m, 2)) if a != b]
    return build_gene_ruler("random", [*chain, *more], lengths="weights")


def test_rewiring_keeps_degrees_and_lengths_and_moves():
    ruler = random_ruler(0)
    null = rewired(ruler, 1)

    def degrees(edges):
        return np.bincount(np.array([edge[:2] for edge in edges]).ravel(), minlength=len(ruler.stages)).tolist()

    assert degrees(null.edges) == degrees(ruler.edges)
    assert sorted(edge[2] for edge in null.edges) == sorted(edge[2] for edge in ruler.edges)
    assert not np.allclose(null.distances, ruler.distances) and null.distances.max() == 1
    assert rewired_links(ruler, 1, 0) == rewired_links(ruler, 1, 0) != rewired_links(ruler, 1, 1)
    assert np.isfinite(shuffled(ruler, 0).distances).all() and np.isfinite(meaningless(ruler).distances).all()


def test_rewiring_of_a_small_graph_ends():
    """Marks of removed pairs once filled the set of a short list, and the search in it did not end."""
    ruler = random_ruler(1, n=30, m=20)
    assert len({rewired_links(ruler, 0, draw) for draw in range(30)}) == 30


def test_a_graph_that_cannot_be_rewired_is_refused():
    star = build_gene_ruler("star", [("HUB", f"G{i}", 1.0) for i in range(9)])
    with pytest.raises(EvaluationError, match="Rewiring changed 0% of the 9 edges of the ruler 'star'"):
        rewired(star, 0)


def test_a_graph_in_parts_is_refused_or_cut_to_the_largest(tmp_path):
    parts = {"name": "p", "over": "genes", "edges": [["A", "B"], ["B", "C"], ["X", "Y"]]}
    with pytest.raises(
        EvaluationError, match="not connected: it falls into 2 parts, the largest with 3 of 5 genes, and .* to 'X'"
    ):
        load_ruler(written(tmp_path, parts))
    cut = load_ruler(written(tmp_path, {**parts, "component": "largest"}))
    assert cut.stages == ("A", "B", "C") and "Of 5 genes the 3 of the largest connected part were kept." in cut.about


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"over": "proteins"}, "lies over 'proteins'; write `over: genes`"),
        ({"resource": "consensus"}, "needs one of `edges` and `resource`"),
        ({"lengths": "root"}, "Unknown value of `lengths` 'root'"),
        ({"edge": 1}, "Unknown key 'edge': did you mean 'edges'"),
        ({"edges": [["A"]]}, r"has the edge \['A'\]; write \[gene, gene\]"),
        ({"edges": [["A", "B", 0]]}, "from 'A' to 'B' has the weight 0; give a number above zero"),
        ({"edges": [["A", "A"]]}, "has 0 linked genes"),
        ({"edges": "none.csv"}, "none.csv' does not exist"),
        ({"groups": ["A1"]}, "`groups` that are no names with a list of genes"),
    ],
)
def test_a_file_that_is_no_ruler_over_genes_is_refused(tmp_path, change, said):
    with pytest.raises(EvaluationError, match=said):
        load_ruler(written(tmp_path, {**SQUARE, **change}))


def test_a_table_with_a_weight_that_is_none_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="from 'A' in '.*net.csv' has the weight 'much'; give a number"):
        load_ruler(written(tmp_path, "source,target,weight\nA,B,much\n", "net.csv"))


RESOURCE = """"","source","target","source_genesymbol","target_genesymbol","resource"
"1","P1","P2","L1","R1_R2","consensus"
"2","P1","P3","L1","R3","consensus"
"3","P1","P2","L1","R1_R2","first"
"4","P1","P2","L1","R1_R2","second"
"5","P1","P3","L1","R3","second"
"""


@pytest.fixture
def liana(tmp_path, monkeypatch):
    """A package of that name on the path, whose code must not run."""
    folder = tmp_path / "site" / "liana"
    (folder / "resource").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "resource" / "omni_resource.csv").write_text(RESOURCE)
    about = tmp_path / "site" / "liana-9.8.7.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: liana\nVersion: 9.8.7\nLicense: BSD 3-Clause License\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


def test_a_resource_is_read_without_importing_the_package(liana):
    found = read_interactions("consensus")
    assert found.signals == ((("L1",), ("R1", "R2")), (("L1",), ("R3",))) and found.listed == (2, 1)
    assert (found.version, found.licence, found.n_complexes) == ("9.8.7", "BSD 3-Clause License", 1)
    assert found.edges == [("L1", "R1", 0.5), ("L1", "R2", 0.5), ("L1", "R3", 1.0)]
    assert "'consensus' of liana 9.8.7 (package licence: BSD 3-Clause License" in found.about
    with pytest.raises(EvaluationError, match="Unknown resource of liana 'consenus': did you mean 'consensus'"):
        read_interactions("consenus")
    ruler = load_ruler("communication")
    root = np.sqrt(0.5)
    np.testing.assert_allclose(ruler.distances[0] * (1 + root), [0, root, root, 1])
    assert ruler.signals == found.signals and "9.8.7" in ruler.about


def test_a_resource_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("workbench.evidence.interactions.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match="comes with the package liana, which is not installed: .*install --no-deps .liana>="
    ):
        load_ruler("communication")
