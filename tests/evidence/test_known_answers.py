"""Known answers on planted checkpoints: hits and misses by construction, and none asserted of any other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from fixtures_dictionaries import random_dictionary
from helpers import genes, tiny_cells, tiny_model

from workbench.capture.pairs import PATTERNS, GenePairSink
from workbench.capture.record import capture
from workbench.cli import main
from workbench.engine.tables import table_path, write_table
from workbench.errors import ConfigError, HookError
from workbench.evidence import known_answers, known_contexts
from workbench.evidence.known_answers import (
    MET,
    NOT_ASKED,
    OTHER,
    SHOWN,
    answers_text,
    check_answers,
    read_annotation,
    read_answers,
)
from workbench.evidence.known_cells import compared, first_component, last_layer
from workbench.evidence.known_contexts import LAYERS, context_vectors, contextualisation, of_contexts
from workbench.evidence.known_genes import CLASSES, same_class
from workbench.geometry.dimension import participation_ratio
from workbench.models.load import load_model, read_model
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.vocabulary import Vocabulary
from workbench.operators.operator import head_name
from workbench.tools.gene_vectors import gene_vectors

N = 400


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A checkpoint whose gene table says the chromosome, its annotation, and the facts that are true of it."""
    folder = tmp_path_factory.mktemp("planted")
    hla = [gene for genes in CLASSES.values() for gene in genes]
    names = [*[f"G{i}" for i in range(N)], "A_ENSG01", "<pad>", "<cls>", "<eoc>", *hla]
    vocabulary = Vocabulary({name: i for i, name in enumerate(names)})
    model = HookedScGPT(ModelConfig(n_tokens=len(names), d_model=32, n_layers=3, n_heads=4, d_mlp=16), vocabulary)
    place = np.arange(N) % 4 + 1
    with torch.no_grad():
        model.embed.gene.embedding.weight[torch.arange(N), torch.as_tensor(place)] += 4
        for kind, genes in enumerate(CLASSES.values()):
            model.embed.gene.embedding.weight[[names.index(gene) for gene in genes], 10 + kind] += 20
    save_checkpoint(model, folder / "model")
    pd.DataFrame({"symbol": names[:N], "chromosome": [f"{p}q12" for p in place]}).to_csv(
        folder / "genes.csv", index=False
    )
    sums, shipped = read_model(folder / "model").report.sha256, read_answers()
    true = {
        "layers": 3,
        "heads": 4,
        "width": 32,
        "tokens": N + 4 + len(hla),
        "pad_id": N + 1,
        "cls_id": N + 2,
        "eoc_id": N + 3,
        "suffixed": 1,
    }
    true |= {
        "weights_sha256": next(iter(sums.values())),
        "vocabulary_sha256": sums["vocab.json"],
        "args_sha256": sums["args.json"],
    }
    answers = {
        name: {**answer, "expected": true.get(name, answer["expected"])} for name, answer in shipped.answers.items()
    }
    answers["chromosome"] = {**answers["chromosome"], "low": 0.9, "high": 1.0}
    known = replace(shipped, weights=true["weights_sha256"], vocabulary=true["vocabulary_sha256"], answers=answers)
    return folder, known


def status(checked):
    return dict(zip(checked.table["answer"], checked.table["status"], strict=True))


def test_what_is_true_by_construction_is_met_and_what_was_not_given_is_not_asked(planted):
    folder, known = planted
    checked = check_answers(folder / "model", annotation=folder / "genes.csv", answers=known)
    needs = [answer["what"] for answer in known.answers.values() if answer.get("needs") == "cells"]
    found = status(checked)
    dictionaries = [answer["what"] for answer in known.answers.values() if answer.get("needs") == "dictionaries"]
    assert checked.release and not checked.missed and len(needs) == 9 and len(dictionaries) == 2
    assert all(found.pop(name) == f"{NOT_ASKED}: give --dictionaries" for name in dictionaries)
    assert all(found[name] == f"{NOT_ASKED}: give --cells" for name in needs)
    assert {found[name] for name in found if name not in needs} == {MET}
    row = checked.table[checked.table["answer"].str.startswith("chromosome")].iloc[0]
    assert row["found"] > 0.95 and row["n"] == N and float(row["beside"].split(": ")[1]) < 0.45


def test_a_wrong_fact_is_missed(planted):
    folder, known = planted
    wrong = {**known.answers, "cls_id": {**known.answers["cls_id"], "expected": 7}}
    # The chromosomes of other genes: the table no longer says them.
    table = pd.read_csv(folder / "genes.csv")
    table["chromosome"] = np.random.default_rng(0).permutation(table["chromosome"])
    table.to_csv(folder / "dealt.csv", index=False)
    checked = check_answers(folder / "model", annotation=folder / "dealt.csv", answers=replace(known, answers=wrong))
    assert checked.missed == [known.answers["cls_id"]["what"], known.answers["chromosome"]["what"]]


def test_a_fine_tune_is_not_the_release_and_nothing_is_asserted(planted, tmp_path):
    folder, known = planted
    shutil.copytree(folder / "model", tmp_path / "tuned")
    state = torch.load(tmp_path / "tuned" / "best_model.pt")
    first = next(name for name in state if name.endswith("linear1.weight"))
    state[first] = state[first] + 1e-4
    torch.save(state, tmp_path / "tuned" / "best_model.pt")
    renamed = tmp_path / "renamed"
    shutil.copytree(folder / "model", renamed)
    ids = json.loads((renamed / "vocab.json").read_text())
    (renamed / "vocab.json").write_text(json.dumps({("OTHER" if name == "G3" else name): i for name, i in ids.items()}))
    for other, why in ((tmp_path / "tuned", "a fine-tune of it, or a copy"), (renamed, "another model")):
        checked = check_answers(other, answers=known)
        assert checked.verdict == OTHER and not checked.missed and why in checked.why
        assert answers_text(checked, other).splitlines()[0].endswith(checked.why)
        assert {one.split(":")[0] for one in status(checked).values()} == {SHOWN, NOT_ASKED}


def test_pairs_of_the_model_itself_are_found_and_dealt_ones_are_missed():
    model, cells = tiny_model(seed=2), tiny_cells(30, seed=1)
    names = genes()
    sink = GenePairSink(names, model.vocabulary)
    capture(model, model.tokenizer(cells, panel=names), PATTERNS, sink, progress=False)
    sums, counts = sink.result().sums, sink.result().counts
    rows, columns = np.where(~np.eye(len(names), dtype=bool))
    part, n = sums[..., rows, columns], counts[rows, columns]
    flat = part.reshape(-1, part.shape[-1])
    best = [head_name(*divmod(int(i), 4)) for i in flat.argmax(0)]
    true = pd.DataFrame(
        {"source": np.array(names)[rows], "target": np.array(names)[columns], "mean": flat.mean(0), "head": best}
    )
    found = compared(part, n, true)
    assert found["pair_means"]["found"] == pytest.approx(1) and found["pair_best_head"]["found"] == 1
    assert found["pair_means"]["n"] == int((n > 0).sum())
    rng = np.random.default_rng(0)
    dealt = true.assign(
        mean=rng.permutation(true["mean"]), head=[head_name(int(rng.integers(3)), int(rng.integers(4))) for _ in best]
    )
    found = compared(part, n, dealt)
    assert abs(found["pair_means"]["found"]) < 0.3 and found["pair_best_head"]["found"] < 0.3
    # Divided by the counts in the publication: the other reading is the better one, and both are told.
    found = compared(part, n, true.assign(mean=true["mean"] / np.maximum(n, 1)))["pair_means"]
    assert found["found"] == pytest.approx(1) and "mean over cells 1.000" in found["beside"]


def test_cells_are_read_in_both_inputs(planted, monkeypatch):
    model, cells = tiny_model(), tiny_cells(30)
    points = [last_layer(model, model.tokenizer(cells, panel=panel)) for panel in (genes(), None)]
    shares = [first_component(own) for own in points]
    x = []
    tokens = model.tokenizer(cells).tokens()
    stream = model(tokens, outputs=()).residual
    for row, keep in zip(stream, tokens.genes, strict=True):
        x.append(row[keep].mean(0).numpy())
    values = np.linalg.eigvalsh(np.cov(np.array(x).T.astype(float)))
    assert shares[1] == pytest.approx(values[-1] / values.sum(), rel=1e-4) and shares[0] != pytest.approx(shares[1])
    assert participation_ratio(points[1]) == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-4)


def test_the_share_of_the_first_axis_bounds_the_participation_ratio_as_the_facts_say():
    """What .81 and .22 leave, at the ends: the rest on one axis more (or as few as may be), or on very many."""

    def ratio(shares):
        return 1 / np.sum(np.square(shares))

    assert [ratio([0.81, 0.19]), ratio([0.81, *np.full(10**5, 0.19e-5)])] == pytest.approx([1.44, 1.52], abs=0.01)
    assert [ratio([0.22] * 4 + [0.12]), ratio([0.22, *np.full(10**5, 0.78e-5)])] == pytest.approx([4.8, 20.7], abs=0.05)
    known = read_answers().answers
    assert known["participation_unbinned"]["low"] < 1.44 and known["participation_unbinned"]["high"] > 1.52
    assert known["participation_binned"]["low"] < 4.8 and known["participation_binned"]["high"] > 20.7


def test_excess_is_that_of_the_planted_shifts_and_zero_where_all_genes_move_alike():
    rng = np.random.default_rng(0)
    n_types, n_genes, d, noise = 4, 300, 64, 0.5
    alike = rng.standard_normal((n_genes, d)) + rng.standard_normal((n_types, 1, d))
    own = rng.standard_normal((n_types, n_genes, d))
    every = np.ones((n_types, n_genes), bool)

    def halves(mean):
        return mean + noise * rng.standard_normal((2, n_types, n_genes, d))

    # Shifts of signal variance 2 and noise variance 2 noise^2: their cosine between halves is 1 / (1 + noise^2).
    found = contextualisation(halves(alike + own), every, 0)
    assert found["found"] == pytest.approx(1 / (1 + noise**2), abs=0.02) and found["n"] == 6 * n_genes
    assert abs(contextualisation(halves(alike), every, 0)["found"]) < 0.02
    # A coordinate of another scale changes nothing, and genes that do not count do not.
    wide = halves(alike + own) * np.where(np.arange(d) == 0, 1000, 1)
    some = every & (np.arange(n_genes) < 200)
    wide[:, :, 200:] = 1e9
    assert contextualisation(wide, some, 0)["found"] == pytest.approx(1 / (1 + noise**2), abs=0.03)
    assert "share 150 genes" in contextualisation(wide, every & (np.arange(n_genes) < 100), 0)["why"]


def typed_cells(n, kinds=("a", "b")):
    cells = tiny_cells(n)
    cells.obs["cell_type"] = np.array(kinds)[np.arange(n) % len(kinds)]
    return cells


def test_vectors_of_genes_in_types_are_means_over_their_first_cells(monkeypatch):
    model, cells = tiny_model(), typed_cells(24)
    place = {name: (i // 2 % 2, i % 2) for i, name in enumerate(cells.obs_names)}
    monkeypatch.setattr(known_contexts, "CAP", 10**6)
    vectors, _ = context_vectors(model, cells, place, 2, [1, 2], 0)
    cells.obs["part"] = [f"{half}{kind}" for half, kind in place.values()]
    wanted = gene_vectors(cells, model, layers=[0, 1], groupby="part", progress=False)
    order = np.argsort([list(wanted["00"].genes).index(gene) for gene in wanted["00"].genes])
    for half in range(2):
        for kind in range(2):
            part = wanted[f"{half}{kind}"]
            seen = part.n > 0
            np.testing.assert_allclose(
                vectors[:, half, kind][:, seen[order]], part.vectors[1:][:, seen], rtol=1e-4, atol=1e-5
            )
    monkeypatch.setattr(known_contexts, "CAP", 2)
    _, balanced = context_vectors(model, cells, place, 2, [1], 0)
    counts = np.array([[wanted[f"{half}{kind}"].n for kind in range(2)] for half in range(2)])
    np.testing.assert_array_equal(balanced, (counts >= 2).all(0))


def test_a_checkpoint_without_context_has_no_excess_and_one_with_context_has(monkeypatch):
    """Planted: blocks that add nothing and values that are not read leave a gene's vector what it is, whatever the cell."""
    for name, value in (("CAP", 4), ("FEWEST_GENES", 5)):
        monkeypatch.setattr(known_contexts, name, value)
    monkeypatch.setattr(known_contexts.contextualisation, "__defaults__", (5,))
    cells, rng = typed_cells(80), np.random.default_rng(0)
    # Each type has levels of its own: in one the values of a gene are high that are low in the other.
    level = rng.permuted(np.tile(np.geomspace(1, 50, cells.shape[1]), (2, 1)), axis=1)
    of_cell = (cells.obs["cell_type"] == "b").to_numpy().astype(int)
    cells.X = (level[of_cell] * rng.uniform(0.9, 1.1, cells.shape)).astype(np.float32)
    model = tiny_model()
    deaf = tiny_model()
    with torch.no_grad():
        for name, weight in deaf.named_parameters():
            if "attn.out" in name or "mlp.linear2" in name or name.startswith("embed.value"):
                weight.zero_()
    found, none = (of_contexts(one, cells, 0) for one in (model, deaf))
    assert set(found) == set(LAYERS) and all(found[name]["found"] > 0.25 for name in LAYERS), found
    assert all(abs(none[name]["found"]) < 0.02 for name in LAYERS), none
    assert "here behind" in found["context_4"]["beside"]
    bare = tiny_cells(10)
    del bare.obs["cell_type"]
    assert "name no cell type" in of_contexts(model, bare, 0)["context_2"]["why"]
    assert "fewer than two cell types" in of_contexts(model, typed_cells(6), 0)["context_2"]["why"]


def test_neighbours_of_two_classes_are_counted():
    rows = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.05]])
    assert same_class(rows, np.array(list("aabba"))) == 1 and same_class(rows, np.array(list("babba"))) == 0.8


def test_annotations_are_read_and_refused_in_a_sentence(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("Gene\tChr\tx\nA\tchr3\t1\nB\t19q13.43\t1\nC\tX\t1\nD\t23\t1\nE\t7\t1\nE\t8\t1\nF\t7\t1\nF\t7\t2\n")
    assert read_annotation(file) == {"A": 3, "B": 19, "F": 7}
    file.write_text("one,two\n1,2\n")
    with pytest.raises(ConfigError, match="has the columns one, two"):
        read_annotation(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_annotation(tmp_path / "none.csv")


def test_the_command_exits_with_one_where_an_answer_is_missed(planted, monkeypatch, capsys):
    folder, known = planted
    wrong = replace(known, answers={**known.answers, "bins": {**known.answers["bins"], "expected": 50}})
    for answers, status_, word in ((known, 0, "the release."), (wrong, 1, "a miss means: other bins")):
        monkeypatch.setattr(known_answers, "read_answers", lambda answers=answers: answers)
        assert main(["known-answers", str(folder / "model")]) == status_
        said = capsys.readouterr().out
        assert word in said and "artefacts" in said
    monkeypatch.undo()
    assert main(["known-answers", str(folder / "model"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == OTHER and not told["missed"] and len(told["answers"]) == len(read_answers().answers)
    assert main(["known-answers", str(folder / "nowhere")]) == 2


def test_cells_come_as_atlases_have_them(tmp_path, capsys):
    """Symbols in a column and counts in raw: neither is where an h5ad has them by itself."""
    pairs = read_answers().pairs
    names = sorted({*pairs["source"][:40], *pairs["target"][:40]})
    model = HookedScGPT(
        ModelConfig(n_tokens=len(names) + 3, d_model=16, n_layers=2, n_heads=2, d_mlp=16), Vocabulary.of_genes(names)
    )
    save_checkpoint(model, tmp_path / "model")
    counts = tiny_cells(20, len(names), seed=3, share=0.9)
    var = pd.DataFrame({"feature_name": names}, index=[f"ENSG{i:011d}" for i in range(len(names))])
    counts = AnnData(counts.X, obs=counts.obs, var=var, uns=counts.uns)
    atlas = AnnData(counts.X.log1p(), obs=counts.obs, var=var, uns=counts.uns)
    atlas.raw = counts
    atlas.write_h5ad(tmp_path / "atlas.h5ad")
    asked = ["known-answers", str(tmp_path / "model"), "--cells", str(tmp_path / "atlas.h5ad")]
    assert main([*asked, "--layer", "raw", "--gene-column", "feature_name", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = {row["answer"]: row["n"] for row in told["answers"] if row["n"]}
    assert told["verdict"] == OTHER and max(found.values()) >= 40
    assert main(asked) == 2
    assert "gene column" in capsys.readouterr().err


def test_every_fact_that_ships_says_where_it_is_from():
    known = read_answers()
    assert len(known.pairs) == 1587 and len(set(known.pairs["source"]) | set(known.pairs["target"])) == 457
    assert known.pairs["head"].value_counts().head(2).to_dict() == {"L0H3": 173, "L10H2": 156}
    assert all(answer["source"] and answer["licence"] and answer["miss"] for answer in known.answers.values())
    assert any("random gene lists" in why for why in known.left_out.values())


@pytest.mark.shared_data("real_scgpt/vocab.json")
def test_the_vocabulary_of_the_release_has_the_facts(shared_data):
    from workbench.models.vocabulary import Vocabulary

    ids = Vocabulary.read(shared_data / "real_scgpt" / "vocab.json").ids
    known = read_answers().answers
    assert (
        len(ids) == known["tokens"]["expected"]
        and sum("_ENSG" in name for name in ids) == known["suffixed"]["expected"]
    )
    for name in ("pad", "cls", "eoc"):
        assert ids[f"<{name}>"] == known[f"{name}_id"]["expected"]


def test_dictionaries_of_the_published_size_are_compared_and_others_refused(planted, tmp_path):
    folder, known = planted
    model = load_model(folder / "model")
    hooks = [f"blocks.{i}.hook_resid_post" for i in range(3)]
    rows = {
        "hook": hooks,
        "source": "model",
        "seed": 0,
        "variance_explained": [0.9, 0.8, 0.85],
        "gene_id": 0.7,
        "l0": 32.0,
    }
    write_table(table_path(tmp_path, "dictionary_summary"), pd.DataFrame({**rows, "dead": [0.0, 0.1, 0.05]}))
    for hook in hooks:
        random_dictionary(model, hook, width=2048, k=32).save_pretrained(tmp_path / "dictionaries" / hook)
    table = check_answers(folder / "model", dictionaries=tmp_path, answers=known).table.set_index("answer")
    own = [table.loc[known.answers[name]["what"]] for name in ("dictionary_variance", "dictionary_alive")]
    assert [row["found"] for row in own] == pytest.approx([0.85, 0.95]) and {row["status"] for row in own} == {MET}
    assert own[0]["beside"] == "0.800 to 0.900 by layer; each gene's mean alone explains 0.700"
    random_dictionary(model, hooks[0], width=64, k=32).save_pretrained(tmp_path / "dictionaries" / hooks[0])
    with pytest.raises(ConfigError, match="has 64 features, 32 of them active, and the published ones have 2048"):
        check_answers(folder / "model", dictionaries=tmp_path, answers=known)
    with pytest.raises(ConfigError, match="holds no tables/dictionary_summary.csv"):
        check_answers(folder / "model", dictionaries=tmp_path / "none", answers=known)
    random_dictionary(tiny_model(seed=3), hooks[0], width=2048, k=32).save_pretrained(
        tmp_path / "dictionaries" / hooks[0]
    )
    with pytest.raises(HookError):
        check_answers(folder / "model", dictionaries=tmp_path, answers=known)
