"""The ruler: distances counted by hand, labels, and graphs that are none."""

from __future__ import annotations

import ast
import re
from importlib import resources

import numpy as np
import pytest
import yaml

from workbench.errors import EvaluationError
from workbench.evidence.contrasts import Contrast
from workbench.evidence.ruler import build_ruler, load_ruler, normalise_label

PBMC68K = {
    "CD34+": "MPP",
    "CD14+ Monocyte": "monocyte",
    "Dendritic": "dendritic",
    "CD19+ B": "B",
    "CD56+ NK": "NK",
    "CD4+/CD45RA+/CD25- Naive T": "CD4 naive",
    "CD4+/CD45RO+ Memory": "CD4 memory",
    "CD4+/CD25 T Reg": "Treg",
    "CD8+/CD45RA+ Naive Cytotoxic": "CD8 naive",
    "CD8+ Cytotoxic T": "CD8 effector",
}


# Steps between the ten stages of pbmc68k, in the order above, counted on the graph before it was refined: results on
# these cells were published with them.
STEPS_OF_PBMC68K = [
    [0, 3, 3, 2, 2, 3, 4, 4, 3, 4],
    [3, 0, 2, 5, 5, 6, 7, 7, 6, 7],
    [3, 2, 0, 5, 5, 6, 7, 7, 6, 7],
    [2, 5, 5, 0, 2, 3, 4, 4, 3, 4],
    [2, 5, 5, 2, 0, 3, 4, 4, 3, 4],
    [3, 6, 6, 3, 3, 0, 1, 1, 2, 3],
    [4, 7, 7, 4, 4, 1, 0, 2, 3, 4],
    [4, 7, 7, 4, 4, 1, 2, 0, 3, 4],
    [3, 6, 6, 3, 3, 2, 3, 3, 0, 1],
    [4, 7, 7, 4, 4, 3, 4, 4, 1, 0],
]


@pytest.fixture(scope="module")
def ruler():
    return load_ruler("hematopoiesis")


@pytest.fixture(scope="module")
def written_stages():
    file = resources.files("workbench.evidence") / "rulers" / "hematopoiesis.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]


@pytest.fixture(scope="module")
def steps(ruler):
    """Steps between two stages by name; the longest way of the graph is 8, see below."""
    number = {stage: i for i, stage in enumerate(ruler.stages)}
    return lambda a, b: ruler.distances[number[a], number[b]] * 8


@pytest.mark.parametrize(
    ("a", "b", "n"),
    [
        ("HSC", "HSC", 0),
        ("HSC", "MPP", 1),
        ("monocyte", "dendritic", 2),  # by GMP
        ("monocyte", "nonclassical monocyte", 1),
        ("erythroid", "megakaryocyte", 2),  # by MEP
        ("erythroid", "granulocyte", 4),  # MEP, CMP, GMP
        ("B", "NK", 2),  # by CLP
        ("B", "CD4 naive", 3),  # CLP, T
        ("monocyte", "B", 5),  # GMP, CMP, MPP, CLP
        ("CD4 memory", "Treg", 2),  # by CD4 naive
        ("CD4 memory", "CD8 effector", 4),  # CD4 naive, T, CD8 naive
        ("plasmacytoid dendritic", "dendritic", 5),  # CLP, MPP, CMP, GMP
        ("T", "CD4", 0.5),
        ("CD4", "CD8", 1),
        ("CD8 memory", "CD8 effector", 2),
        ("gamma-delta T", "CD4 naive", 2),  # by T and CD4
        ("neutrophil", "monocyte", 3),  # by GMP
        ("eosinophil", "basophil", 2),
        ("erythrocyte", "platelet", 4),  # by MEP
        ("cDC1", "cDC2", 2),
        ("pre-B", "CLP", 0.75),
        ("B naive", "B memory", 1),  # by the germinal centre
        ("B", "plasma", 2),
        ("macrophage", "CD8 effector", 8),  # monocyte, GMP, CMP, MPP, CLP, T, CD8 naive: the longest way
    ],
)
def test_distances_by_hand(steps, a, b, n):
    assert steps(a, b) == pytest.approx(n) and steps(b, a) == pytest.approx(n)


def test_distances_are_a_metric_from_0_to_1(ruler):
    d = ruler.distances
    assert np.array_equal(d, d.T) and (np.diag(d) == 0).all() and d.max() == 1
    assert (d[~np.eye(len(d), dtype=bool)] > 0).all()
    assert (d[:, :, None] <= d[:, None, :] + d[None, :, :].transpose(0, 2, 1) + 1e-12).all()


@pytest.mark.parametrize(
    ("stage", "depth"),
    [("HSC", 0), ("MPP", 1), ("MEP", 3), ("erythroid", 4), ("B", 3), ("CD4", 3.5), ("CD8 effector", 5), ("plasma", 5)],
)
def test_depths_by_hand(ruler, stage, depth):
    assert ruler.depths[ruler.stages.index(stage)] == depth


def test_the_ten_stages_of_pbmc68k_keep_their_distances(ruler):
    at = [ruler.stages.index(stage) for stage in PBMC68K.values()]
    assert np.array_equal(ruler.distances[np.ix_(at, at)], np.array(STEPS_OF_PBMC68K) / 8), "the longest way is 8"
    assert ruler.depths[at].tolist() == [1, 4, 4, 3, 3, 4, 5, 5, 4, 5]
    assert [ruler.branches[i] for i in at] == ["progenitor", "monocyte", "dendritic", "B", "NK"] + ["T"] * 5


def test_the_graph_is_a_tree_from_hsc_and_has_what_blood_has(ruler):
    wanted = "HSC MPP CMP GMP MEP CLP erythroid megakaryocyte neutrophil basophil eosinophil monocyte macrophage cDC1 B plasma NK"
    assert set(wanted.split()) <= set(ruler.stages)
    assert {"plasmacytoid dendritic", "CD4", "CD4 naive", "CD4 memory", "Treg", "CD8", "CD8 naive", "CD8 effector", "gamma-delta T"} <= set(ruler.stages)  # fmt: skip
    children = [child for _, child, _ in ruler.edges]
    assert len(children) == len(set(children)) == len(ruler.stages) - 1, "one parent each: acyclic where connected"
    assert set(range(len(ruler.stages))) - set(children) == {ruler.stages.index("HSC")}
    for parent, child, length in ruler.edges:
        assert ruler.depths[child] == ruler.depths[parent] + length
        assert ruler.distances[parent, child] == length / 8
    assert ruler.depths.max() == 5, "more detail does not stretch a lineage"


def test_every_stage_has_a_branch_and_a_source(ruler):
    assert len(ruler.branches) == len(ruler.stages) == len(ruler.depths)
    assert {"progenitor", "erythroid", "monocyte", "dendritic", "B", "NK", "T"} <= set(ruler.branches)
    assert set(ruler.literature) == set(ruler.stages)
    assert all("(" in source and ")" in source for source in ruler.literature.values()), "full references, not keys"


def test_every_reference_is_used_and_every_source_is_a_reference(written_stages):
    file = resources.files("workbench.evidence") / "rulers" / "hematopoiesis.yaml"
    references = yaml.safe_load(file.read_text(encoding="utf-8"))["literature"]
    used = {key for e in written_stages.values() for key in np.atleast_1d(e["source"]).tolist()}
    assert used == set(references)
    assert all(re.search(r"\(\d{4}\)", text) for text in references.values()), "each has a year"


# Labels


def test_every_synonym_is_written_once(written_stages):
    labels = [normalise_label(label) for stage, e in written_stages.items() for label in (stage, *e["labels"])]
    assert sorted(labels) == sorted(set(labels)) and all(labels)


def test_ontology_ids_are_well_formed_and_unique(ruler, written_stages):
    ids = [identifier for e in written_stages.values() for identifier in e["ontology"]]
    assert all(re.fullmatch(r"CL:\d{7}", identifier) for identifier in ids) and len(ids) == len(set(ids))
    assert set(ruler.ontology) == set(ruler.stages), "every stage has one"


@pytest.mark.parametrize(
    ("label", "stage"),
    [
        ("CL:0000624", "CD4"),
        ("CL_0000625", "CD8"),
        ("cl:0000037", "HSC"),
        ("http://purl.obolibrary.org/obo/CL_0000798", "gamma-delta T"),
        ("CD4-positive, alpha-beta T cell", "CD4"),
        ("CD4T", "CD4"),
        ("CD8 T cells", "CD8"),
        ("Tregs", "Treg"),
        ("γδ T cells", "gamma-delta T"),
        ("Naïve B-cells", "B naive"),
        ("Alveolar macrophages", "macrophage"),
        ("CD16 Mono", "nonclassical monocyte"),
        ("CD16+ NK cells", "NK"),
        ("Tem/Temra cytotoxic T cells", "CD8 effector"),
    ],
)
def test_labels_of_public_atlases_map_by_themselves(ruler, label, stage):
    placed, unknown = ruler.place([label])
    assert not unknown and ruler.stages[placed[0]] == stage


def test_an_unknown_ontology_id_is_listed_and_no_near_number_is_offered(ruler):
    placed, unknown = ruler.place(["CL:0000626", "CL:0000540"])
    assert placed.tolist() == [-1, -1] and unknown == ["CL:0000540", "CL:0000626"]
    assert ruler.hint("CL:0000626") == "no stage has this ontology id"


@pytest.mark.parametrize(
    ("file", "column", "unknown"),
    [
        pytest.param(file, column, unknown, marks=pytest.mark.shared_data(file), id=file)
        for file, column, unknown in (
            ("kang2018_8donors.h5ad", "cell_type", []),
            ("kang2018_ifnb.h5ad", "cell_type", []),
            ("ranzoni2021_progenitors.h5ad", "cell_type", []),
            ("combat_pbmc_6donors.h5ad", "gated_type", ["T (CD4/CD8 unclear)", "unassigned"]),
        )
    ],
)
def test_labels_of_real_cells_map_or_are_listed(ruler, shared_data, file, column, unknown):
    import anndata as ad

    labels = sorted(set(ad.read_h5ad(shared_data / file, backed="r").obs[column]))
    placed, listed = ruler.place(labels)
    assert listed == unknown and (placed < 0).sum() == len(unknown)


@pytest.mark.shared_data("dmap_bulk_38populations.csv.gz")
def test_sorted_populations_all_map(ruler, shared_data):
    import pandas as pd

    labels = pd.read_csv(shared_data / "dmap_bulk_38populations.csv.gz", index_col=0, nrows=1).columns
    assert ruler.place(labels)[1] == []


def test_all_labels_of_pbmc68k_are_placed(ruler, pbmc68k):
    labels = sorted(set(pbmc68k.obs["cell_type"]))
    assert labels == sorted(PBMC68K)
    placed, unknown = ruler.place(labels)
    assert unknown == [] and [ruler.stages[i] for i in placed] == [PBMC68K[label] for label in labels]


def test_every_stage_is_a_label_of_itself(ruler):
    placed, unknown = ruler.place(ruler.stages)
    assert placed.tolist() == list(range(len(ruler.stages))) and not unknown


def test_labels_are_compared_without_case_and_punctuation(ruler):
    placed, _ = ruler.place(["cd14+ MONOCYTE", "CD14+monocyte", "C.D.14+ Mono-cyte"])
    assert {ruler.stages[i] for i in placed} == {"monocyte"}
    assert normalise_label("CD4+/CD45RA+ Naive") == "cd4+cd45ra+naive" != normalise_label("CD4/CD45RA Naive")


@pytest.mark.parametrize(
    ("label", "stage"),
    [
        ("CD4- T cell", None),
        ("cd4- t cells", None),
        ("CD4-/CD8- T cell", None),
        ("CD4- CD8- T", None),
        ("T cell CD4-", None),
        ("CD16- monocyte", None),
        ("CD14+ CD16- monocyte", None),
        ("CD19-_B", None),
        ("monocyte (CD16-)", None),
        ("CD4(-) T cell", None),
        ("CD16 [-] monocyte", None),
        ("CD8 (\u2212)T cell", None),
        ("CD8(+) T cell", "CD8"),
        ("CD4\u2212 T cell", None),  # the minus sign of Unicode
        ("CD16\u2212monocyte", None),
        ("CD4\u207b T cell", None),  # superscript
        ("CD4\u2013 T cell", None),  # en dash
        ("CD4\u2011 T cell", None),  # hyphen that does not break
        ("CD8-T", "CD8"),
        ("CD8\u2010T cell", "CD8"),
        ("CD8 - T cell", "CD8"),
        ("NK-T", "NKT"),
        ("B-cell", "B"),
        ("B-cells", "B"),
        ("CD16-monocyte", "nonclassical monocyte"),
        ("CD14\u207a monocyte", "monocyte"),
        ("CD16- NK cells", "NK"),
        ("HSC_CD38- CD34+", "HSC"),
        ("Mature NK cell_CD56- CD16+ CD3-", "NK"),
    ],
)
def test_a_minus_behind_a_marker_is_one(ruler, label, stage):
    placed, unknown = ruler.place([label])
    assert (None if placed[0] < 0 else ruler.stages[placed[0]]) == stage
    assert unknown == ([] if stage else [label])
    assert stage or "lack a marker" in ruler.hint(label)
    mapped, _ = ruler.place([label, "CD4 T cell"], {label: "Treg"})
    assert [ruler.stages[i] for i in mapped] == ["Treg", "CD4"]


def test_a_hyphen_between_words_is_no_minus():
    assert normalise_label("HLA-DR+ B") == "hladr+b" and normalise_label("HLA-DR- B") == "hladr-b"
    assert normalise_label("CD4+/CD45RA+/CD25- Naive T") == "cd4+cd45ra+cd25-naivet"
    assert normalise_label("gamma-delta T~cell") == "gammadeltatcell"


def test_an_unknown_label_is_minus_one_and_listed_once_with_a_hint(ruler):
    placed, unknown = ruler.place(["NK", "Monozytes?", "astrocyte", "Monozytes?", "NK"])
    nk = ruler.stages.index("NK")
    assert placed.tolist() == [nk, -1, -1, -1, nk] and unknown == ["Monozytes?", "astrocyte"]
    assert "did you mean" in ruler.hint("Monozytes?") and "monocyte" in ruler.hint("Monozytes?")
    assert ruler.hint("zzzzzzzzz") == "nothing near is known"


def test_missing_labels_are_unknown(ruler, pbmc68k):
    labels = pbmc68k.obs["cell_type"].where(np.arange(700) > 2).astype(str)
    placed, unknown = ruler.place(labels)
    assert (placed < 0).sum() == 3 and unknown == ["nan"]
    assert ruler.place([])[0].tolist() == []


def test_more_labels_may_be_mapped_and_go_first(ruler):
    placed, unknown = ruler.place(["cluster 7", "NK", "Cluster-7"], {"cluster 7": "B", "nk": "T"})
    assert [ruler.stages[i] for i in placed] == ["B", "T", "B"] and not unknown
    assert ruler.stages[ruler.place(["NK"])[0][0]] == "NK", "the ruler itself is unchanged"


def test_a_mapping_to_an_unknown_stage_is_an_error(ruler):
    with pytest.raises(
        EvaluationError, match="Label 'x' is mapped to a stage: Unknown stage 'monocytes': did you mean 'mono"
    ):
        ruler.place(["x"], {"x": "monocytes"})


# One's own graph

OWN = {
    "name": "own",
    "literature": {"a2020": "A, Journal 1:1 (2020)"},
    "stages": {
        "root": {"from": [], "branch": "stem", "source": "a2020"},
        "left": {"from": ["root"], "branch": "L", "source": "a2020", "labels": ["Left cell"]},
        "right": {"from": ["root"], "branch": "R", "source": "unlisted"},
        "both": {"from": ["left", "right"], "branch": "L"},
        "end": {"from": ["both"], "branch": "L"},
    },
}


def write(folder, content):
    path = folder / "own.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def changed(**stages):
    return {**OWN, "stages": {**OWN["stages"], **stages}}


def ends(entry):
    return {**OWN, "endpoints": {"x": entry}}


def test_a_graph_from_a_file_of_one_s_own(tmp_path):
    ruler = load_ruler(write(tmp_path, OWN))
    assert ruler.name == "own" and ruler.stages == ("root", "left", "right", "both", "end")
    expected = np.array([[0, 1, 1, 2, 3], [1, 0, 2, 1, 2], [1, 2, 0, 1, 2], [2, 1, 1, 0, 1], [3, 2, 2, 1, 0]]) / 3
    np.testing.assert_allclose(ruler.distances, expected)
    assert ruler.depths.tolist() == [0, 1, 1, 2, 3]
    assert ruler.literature == {"root": "A, Journal 1:1 (2020)", "left": "A, Journal 1:1 (2020)", "right": "unlisted", "both": "", "end": ""}  # fmt: skip
    assert ruler.place(["left CELL"])[0].tolist() == [1]
    assert load_ruler(str(write(tmp_path, OWN))).stages == ruler.stages


@pytest.mark.parametrize(
    "other",
    [
        {"left": {"from": ["root"], "branch": "R", "source": "a2020", "labels": ["Left cell"]}},
        {"left": {"from": ["root"], "branch": "L", "source": "a2020", "labels": ["Left cell", "sinister"]}},
        {"left": {"from": ["root"], "branch": "L", "source": "b2021", "labels": ["Left cell"]}},
        {"both": {"from": ["left"], "branch": "L"}},
    ],
)
def test_the_fingerprint_is_of_everything_that_a_result_may_depend_on(tmp_path, other):
    own = load_ruler(write(tmp_path, OWN)).fingerprint()
    assert load_ruler(write(tmp_path, OWN)).fingerprint() == own
    assert load_ruler(write(tmp_path, changed(**other))).fingerprint() != own


EXTRA = {
    "endpoints": {
        "L against R": {"yes": ["L"], "no": ["R"]},
        "end against the rest of its branch": {"yes": "end", "no": ["left", "both"], "metrics": "balanced accuracy", "only_if": ["R"]},
    },
    "lineages": ["L"],
    "colors": {"R": "#1177aa", "L": "#117733"},
}  # fmt: skip


def test_a_ruler_has_endpoints_lineages_and_colors_of_its_own(tmp_path):
    ruler = load_ruler(write(tmp_path, {**OWN, **EXTRA}))
    assert ruler.endpoints == (
        Contrast("L against R", ("left", "both", "end"), ("right",)),
        Contrast(
            "end against the rest of its branch", ("end",), ("left", "both"), ("balanced accuracy",), only_if=("right",)
        ),
    )
    assert ruler.lineages == ("L",) and ruler.colors == {"R": "#1177AA", "L": "#117733"}
    plain = load_ruler(write(tmp_path, OWN))
    assert plain.endpoints == () and plain.lineages == () and plain.colors == {}
    empty = load_ruler(write(tmp_path, {**OWN, **dict.fromkeys(EXTRA)}))
    assert empty.fingerprint() == plain.fingerprint()


def test_sides_are_read_as_a_person_writes_them(tmp_path):
    """A bare yes and no are true and false to YAML, and a list may have one entry without brackets."""
    text = yaml.safe_dump(OWN, sort_keys=False)
    text += "endpoints:\n  one against other:\n    yes: [left, end]\n    no: R\nlineages: [L, L]\n"
    ruler = load_ruler(write(tmp_path, text))
    assert ruler.endpoints == (Contrast("one against other", ("left", "end"), ("right",)),)
    assert ruler.lineages == ("L",)


def test_a_name_of_both_a_stage_and_a_branch_is_the_branch_unless_it_says_stage():
    stages = {"M": {"from": [], "branch": "M"}, "late M": {"from": ["M"], "branch": "M"}}
    stages["N"] = {"from": ["M"], "branch": "N"}
    raw = {"a": {"yes": ["M"], "no": ["N"]}, "b": {"yes": [{"stage": "M"}], "no": ["late M"]}}
    whole, alone = build_ruler("own", stages, {}, endpoints=raw).endpoints
    assert (whole.yes, whole.no) == (("M", "late M"), ("N",)) and (alone.yes, alone.no) == (("M",), ("late M",))


def test_colors_and_lineages_invalidate_nothing_and_endpoints_do(tmp_path):
    def of(**more):
        return load_ruler(write(tmp_path, {**OWN, **more})).fingerprint()

    assert of() == of(lineages=["L"]) == of(colors=EXTRA["colors"])
    assert of() != of(endpoints=EXTRA["endpoints"]) != of(endpoints={"L against R": {"yes": ["left"], "no": ["R"]}})


def test_blood_has_what_stood_in_code(ruler):
    assert [one.name for one in ruler.endpoints] == [
        "CD4 against CD8",
        "monocyte against dendritic",
        "monocyte against macrophage",
    ]
    assert [one.only_if for one in ruler.endpoints] == [(), (), ("macrophage",)]
    assert ruler.lineages == ("erythroid", "monocyte", "B", "T")
    assert set(ruler.colors) == set(ruler.branches) and len(set(ruler.colors.values())) == len(ruler.colors)
    known = {"progenitor": "#DDCC77", "monocyte": "#AA4499", "B": "#332288", "T": "#117733", "NK": "#88CCEE"}
    assert {branch: ruler.colors[branch] for branch in known} == known


def test_no_word_of_blood_is_left_in_code():
    """What is said of one tissue belongs into its ruler file; docstrings may have examples of it."""
    root = resources.files("workbench")
    words = re.compile(r"CD4|CD8|monocyt|macrophag|dendritic|erythr|granulocyt|megakaryo|Treg", re.IGNORECASE)
    found = []
    for path in sorted(set(root.rglob("*.py")) - set((root / "planted").rglob("*.py"))):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
                found += [(path.name, node.value)] if words.search(node.value) else []
    assert not found


def test_several_roots_and_the_nearest_counts(tmp_path):
    ruler = load_ruler(
        write(tmp_path, changed(other={"from": [], "branch": "S"}, end={"from": ["both", "other"], "branch": "L"}))
    )
    assert dict(zip(ruler.stages, ruler.depths.tolist(), strict=True))["end"] == 1


BROKEN = {
    "an unknown parent": (changed(end={"from": ["boht"], "branch": "L"}), "Stage 'end' comes from an unknown one: Unknown stage 'boht': did you mean 'both'"),
    "a repeated label": (changed(end={"from": ["both"], "branch": "L", "labels": ["LEFT cell"]}), "Label 'LEFT cell' is claimed by the stages 'left' and 'end'"),
    "a label that is another stage": (changed(end={"from": ["both"], "branch": "L", "labels": ["Right"]}), "Label 'Right' is claimed by the stages 'right' and 'end'"),
    "a disconnected graph": (changed(alone={"from": [], "branch": "X"}), "'own' is not connected: alone cannot be reached"),
    "a cycle": (changed(a={"from": ["b", "root"], "branch": "X"}, b={"from": ["c"], "branch": "X"}, c={"from": ["b", "end"], "branch": "X"}, root={"from": ["a"], "branch": "stem"}), "'own' goes in a circle: root, left, right, both come from no stage with an empty `from`"),
    "stages that no root leads to": (changed(b={"from": ["c"], "branch": "X"}, c={"from": ["b"], "branch": "X"}, end={"from": ["both", "b"], "branch": "L"}), "goes in a circle: b, c"),
    "a circle below a root": (changed(end={"from": ["both", "loop"], "branch": "L"}, loop={"from": ["end"], "branch": "L"}), "goes in a circle: end, loop come from themselves"),
    "its own parent": (changed(end={"from": ["both", "end"], "branch": "L"}), "goes in a circle: end come from themselves"),
    "a length of zero": (changed(end={"from": {"both": 0}, "branch": "L"}), "The step from 'both' to 'end' has the length 0; give a number above zero"),
    "a length in words": (changed(end={"from": {"both": "far"}, "branch": "L"}), "from 'both' to 'end' has the length 'far'"),
    "no ontology id": (changed(end={"from": ["both"], "branch": "L", "ontology": ["37"]}), "Stage 'end' has the ontology id '37'; write it as CL:0000037"),
    "an ontology id of two": (changed(left={"from": ["root"], "branch": "L", "ontology": ["CL:0000084"]}, right={"from": ["root"], "branch": "R", "ontology": ["CL_0000084"]}), "Label 'CL_0000084' is claimed by the stages 'left' and 'right'"),
    "one stage": ({**OWN, "stages": {"root": OWN["stages"]["root"]}}, "has 1 stage.s.; at least two are needed"),
    "no stage": ({**OWN, "stages": {}}, "has 0 stage.s.; at least two are needed"),
    "no branch": (changed(end={"from": ["both"]}), "is no stage graph .*see hematopoiesis.yaml"),
    "no parents": (changed(end={"branch": "L"}), "is no stage graph"),
    "a list": (["root", "left"], "is no stage graph"),
    "stages as a list": ({**OWN, "stages": ["root", "left"]}, "is no stage graph"),
    "another YAML file": ({"checkpoint": "x", "seed": 3}, "is no stage graph"),
    "text": ("just text", "is no stage graph"),
    "nothing": ("", "is no stage graph"),
    "no YAML": ("stages: [unclosed", "is no stage graph"),
    "an unknown key": ({**OWN, "colours": {}}, "The ruler '.*own.yaml': Unknown key 'colours': did you mean 'colors'"),
    "an unknown key of a stage": (changed(end={"from": ["both"], "branch": "L", "label": ["x"]}), "Stage 'end': Unknown key 'label': did you mean 'labels'"),
    "endpoints as a list": ({**OWN, "endpoints": ["L"]}, r"Write `endpoints` as `name: .*; found \['L'\]"),
    "an endpoint as a list": (ends(["L", "R"]), "Endpoint 'x' has to be written as"),
    "an unknown key of an endpoint": (ends({"yes": ["L"], "no": ["R"], "metric": "AUROC"}), "Endpoint 'x': Unknown key 'metric': did you mean 'metrics'"),
    "an unknown stage of an endpoint": (ends({"yes": ["L"], "no": ["rihgt"]}), "Endpoint 'x': Unknown stage or branch 'rihgt': did you mean 'right'"),
    "a branch that is no stage": (ends({"yes": [{"stage": "L"}], "no": ["R"]}), "Endpoint 'x': Unknown stage 'L': known: root, left, right"),
    "an unknown condition": (ends({"yes": ["L"], "no": ["R"], "only_if": "stme"}), "Endpoint 'x': Unknown stage or branch 'stme': did you mean 'stem'"),
    "an empty side": (ends({"yes": ["L"], "no": []}), "Endpoint 'x' has nothing on its side 'no'; name stages or branches"),
    "no side": (ends({"no": ["L"]}), "Endpoint 'x' has nothing on its side 'yes'"),
    "sides that overlap": (ends({"yes": ["L"], "no": ["R", "both"]}), "Endpoint 'x' has 'both' on both sides; leave it to one"),
    "an unknown metric": (ends({"yes": ["L"], "no": ["R"], "metrics": ["accuracy"]}), "Endpoint 'x': Unknown metric 'accuracy': did you mean 'balanced accuracy'"),
    "an endpoint that every ruler has": ({**OWN, "endpoints": {"depth": {"yes": ["L"], "no": ["R"]}}}, "Endpoint 'depth' has a name that the workbench uses itself"),
    "a lineage that is no branch": ({**OWN, "lineages": ["L", "stm"]}, "Lineages are branches: Unknown branch 'stm': did you mean 'stem'"),
    "a stage as a lineage": ({**OWN, "lineages": "left"}, "Lineages are branches: Unknown branch 'left': known: stem, L, R"),
    "a color in words": ({**OWN, "colors": {"L": "green"}}, "The colour of branch 'L' is 'green'; write six hexadecimal digits in quotes"),
    "a color without quotes": (yaml.safe_dump(OWN, sort_keys=False) + "colors:\n  L: #117733\n", "The colour of branch 'L' is None; write six hexadecimal digits in quotes"),
    "a short color": ({**OWN, "colors": {"L": "#173"}}, "The colour of branch 'L' is '#173'"),
    "two branches of one color": ({**OWN, "colors": {"L": "#aabbcc", "R": "#AABBCC"}}, "The branches 'L' and 'R' have one colour, #AABBCC; change one"),
    "a color of an unknown branch": ({**OWN, "colors": {"stm": "#117733"}}, "Colours are of branches: Unknown branch 'stm': did you mean 'stem'"),
    "colors as a list": ({**OWN, "colors": ["#117733"]}, "Write `colors` as `branch: .*found"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_ruler_is_an_error(tmp_path, content, said):
    with pytest.raises(EvaluationError, match=said):
        load_ruler(write(tmp_path, content))


def test_a_stage_given_twice_is_an_error(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\nstages:\n  a: {from: [], branch: x}\n  b: {from: [a], branch: x}\n  b: {from: [], branch: y}\n"
    )
    with pytest.raises(EvaluationError, match=r"it gives 'b' twice \(lines 4 and 5\)"):
        load_ruler(path)


def test_a_binary_file_is_no_ruler(tmp_path):
    (tmp_path / "own.yaml").write_bytes(b"\x89HDF\r\n\xff\xfe" * 20)
    with pytest.raises(EvaluationError, match="is no stage graph"):
        load_ruler(tmp_path / "own.yaml")


def test_an_unknown_ruler_is_an_error(tmp_path):
    with pytest.raises(
        EvaluationError, match="Unknown ruler 'hematopoesis': did you mean 'hematopoiesis'.*No file of that"
    ):
        load_ruler("hematopoesis")
    with pytest.raises(EvaluationError, match="No file of that name exists"):
        load_ruler(tmp_path)


def test_two_trees_give_the_same_ruler_in_any_order(tmp_path):
    order = ["end", "both", "right", "root", "left"]
    ruler = load_ruler(write(tmp_path, OWN))
    shuffled = build_ruler("own", {stage: OWN["stages"][stage] for stage in order}, {})
    at = [ruler.stages.index(stage) for stage in order]
    assert np.array_equal(shuffled.distances, ruler.distances[np.ix_(at, at)])
    assert np.array_equal(shuffled.depths, ruler.depths[at])


def test_lengths_of_steps_count(tmp_path):
    ruler = load_ruler(write(tmp_path, changed(end={"from": {"both": 0.5, "root": 4}, "branch": "L"})))
    at = {stage: i for i, stage in enumerate(ruler.stages)}
    assert ruler.distances[at["end"], at["both"]] * 2.5 == pytest.approx(0.5)
    assert ruler.distances[at["end"], at["root"]] == 1 and ruler.depths[at["end"]] == 2.5, (
        "the way by 'both' is shorter"
    )
    assert (at["root"], at["end"], 4.0) in ruler.edges and len(ruler.edges) == 6


def test_several_sources_and_ontology_ids_of_one_s_own(tmp_path):
    end = {"from": "both", "branch": "L", "source": ["a2020", "B (2021)"], "ontology": "CL:0000084"}
    ruler = load_ruler(write(tmp_path, changed(end=end)))
    assert ruler.literature["end"] == "A, Journal 1:1 (2020); B (2021)"
    assert ruler.ontology == {"end": ("CL:0000084",)} and ruler.place(["CL:0000084"])[0].tolist() == [4]


# One's own matrix

MATRIX = ",a,b,c\na,0,1,4\nb,1,0,2\nc,4,2,0\n"


def table(folder, text, name="own.csv"):
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / name


def test_a_matrix_from_a_file(tmp_path):
    ruler = load_ruler(table(tmp_path, MATRIX))
    assert ruler.name == "own" and ruler.stages == ("a", "b", "c") and ruler.edges == ()
    np.testing.assert_allclose(ruler.distances, np.array([[0, 1, 4], [1, 0, 2], [4, 2, 0]]) / 4)
    assert ruler.branches == ("a", "b", "c") and ruler.depths.tolist() == [0, 1, 4], "from the first stage"
    assert ruler.endpoints == () and ruler.lineages == () and ruler.colors == {}
    assert ruler.place(["B", "d"])[0].tolist() == [1, -1] and set(ruler.literature.values()) == {"the matrix own.csv"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.tsv", MATRIX.replace(",", "\t")),
        ("OWN.CSV", "\ufeff" + MATRIX.replace("\n", "\r\n") + "\r\n,,,\r\n"),
        ("own.csv", '"","c","a","b"\n a ,4,0,1\nb,2,1,0\nc,0,4,2'),
    ],
    ids=["tabs", "as a spreadsheet writes it", "columns in another order"],
)
def test_other_ways_to_write_the_same_matrix(tmp_path, name, text):
    expected, found = load_ruler(table(tmp_path, MATRIX, "first.csv")), load_ruler(str(table(tmp_path, text, name)))
    assert found.stages == expected.stages and np.array_equal(found.distances, expected.distances)


def test_a_matrix_may_have_branches_and_depths(tmp_path):
    ruler = load_ruler(table(tmp_path, "stage,branch,depth,a,b\na,stem,1,0,3\nb,leaf,7,3,0\n"))
    assert ruler.branches == ("stem", "leaf") and ruler.depths.tolist() == [1, 7] and ruler.distances[0, 1] == 1


NO_MATRIX = {
    "nothing": ("", "it has 0 stage.s.; at least two are needed"),
    "one stage": (",a\na,0\n", "it has 1 stage.s."),
    "a stage twice": (",a,b\na,0,1\na,1,0\n", "its first column has 'a' more than once, or empty"),
    "a column twice": (",a,b,b\na,0,1,1\nb,1,0,0\n", "its header has 'b' more than once"),
    "a stage without a name": (",a,b\na,0,1\n,1,0\n", "its first column has '' more than once, or empty"),
    "a row only": (",a,monocite\na,0,1\nmonocyte,1,0\n", "'monocyte' is a row only; did you mean 'monocite'"),
    "a column only": (",a,b,c\na,0,1,1\nb,1,0,1\n", "'c' is a column only; rows and columns need the same stages"),
    "a short row": (",a,b\na,0,1\nb,1\n", "the row 'b' has another number of values than the header"),
    "a word": (",a,b\na,0,far\nb,1,0\n", "row 'a', column 'b' holds 'far', which is no finite number"),
    "a hole": (",a,b\na,0,\nb,1,0\n", "row 'a', column 'b' holds ''"),
    "infinity": (",a,b\na,0,inf\nb,inf,0\n", "row 'a', column 'b' holds 'inf', which is no finite number"),
    "negative": (",a,b\na,0,-1\nb,-1,0\n", "from 'a' to 'b' it is -1, which is negative"),
    "a diagonal": (",a,b\na,0,1\nb,1,2\n", "from 'b' to 'b' it is 2; a stage is at distance zero from itself"),
    "asymmetric": (",a,b\na,0,1\nb,3,0\n", "from 'a' to 'b' it is 1 one way and 3 the other"),
    "zeros": (",a,b\na,0,0\nb,0,0\n", "every distance is zero"),
    "a binary file": (b"\x89HDF\r\n\xff\xfe" * 20, "it cannot be read"),
    "a depth in words": ("s,depth,a,b\na,old,0,1\nb,2,1,0\n", "row 'a', column 'depth' holds 'old'"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), NO_MATRIX.values(), ids=NO_MATRIX)
def test_a_file_that_is_no_matrix_is_an_error(tmp_path, text, said):
    with pytest.raises(EvaluationError, match=f"The ruler '.*own.csv' is no matrix of distances: {said}"):
        load_ruler(table(tmp_path, text))


def test_two_stages_of_a_matrix_with_one_label_are_an_error(tmp_path):
    with pytest.raises(EvaluationError, match="Label 'B-cells' is claimed by the stages 'B cell' and 'B-cells'"):
        load_ruler(table(tmp_path, ",B cell,B-cells\nB cell,0,1\nB-cells,1,0\n"))
