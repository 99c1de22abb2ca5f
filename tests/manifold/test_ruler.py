"""The ruler: distances counted by hand, labels, and graphs that are none."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from workbench.errors import EvaluationError
from workbench.manifold.ruler import build_ruler, load_ruler, normalise_label

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


@pytest.fixture(scope="module")
def ruler():
    return load_ruler("hematopoiesis")


@pytest.fixture(scope="module")
def steps(ruler):
    """Steps between two stages by name; the longest way of the graph is 7: erythroid to CD4 memory, for example."""
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
    ("stage", "depth"), [("HSC", 0), ("MPP", 1), ("MEP", 3), ("erythroid", 4), ("CD8 effector", 5)]
)
def test_depths_by_hand(ruler, stage, depth):
    assert ruler.depths[ruler.stages.index(stage)] == depth


def test_every_stage_has_a_branch_and_a_source(ruler):
    assert len(ruler.branches) == len(ruler.stages) == len(ruler.depths)
    assert {"progenitor", "erythroid", "monocyte", "dendritic", "B", "NK", "T"} <= set(ruler.branches)
    assert set(ruler.literature) == set(ruler.stages)
    assert all("(" in source and ")" in source for source in ruler.literature.values()), "full references, not keys"


# Labels


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


def test_an_unknown_label_is_minus_one_and_listed_once_with_a_hint(ruler):
    placed, unknown = ruler.place(["NK", "Monocytes?", "astrocyte", "Monocytes?", "NK"])
    nk = ruler.stages.index("NK")
    assert placed.tolist() == [nk, -1, -1, -1, nk] and unknown == ["Monocytes?", "astrocyte"]
    assert "did you mean" in ruler.hint("Monocytes?") and "monocyte" in ruler.hint("Monocytes?")
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


def test_a_graph_from_a_file_of_one_s_own(tmp_path):
    ruler = load_ruler(write(tmp_path, OWN))
    assert ruler.name == "own" and ruler.stages == ("root", "left", "right", "both", "end")
    expected = np.array([[0, 1, 1, 2, 3], [1, 0, 2, 1, 2], [1, 2, 0, 1, 2], [2, 1, 1, 0, 1], [3, 2, 2, 1, 0]]) / 3
    np.testing.assert_allclose(ruler.distances, expected)
    assert ruler.depths.tolist() == [0, 1, 1, 2, 3]
    assert ruler.literature == {"root": "A, Journal 1:1 (2020)", "left": "A, Journal 1:1 (2020)", "right": "unlisted", "both": "", "end": ""}  # fmt: skip
    assert ruler.place(["left CELL"])[0].tolist() == [1]
    assert load_ruler(str(write(tmp_path, OWN))).stages == ruler.stages


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
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_ruler_is_an_error(tmp_path, content, said):
    with pytest.raises(EvaluationError, match=said):
        load_ruler(write(tmp_path, content))


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
