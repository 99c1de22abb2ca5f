"""Rows of batches: scGPT's rule, which is pandas' category codes of the names as text."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
from helpers import checkpoint_args, require_upstream, tiny_cells, tiny_model, write_checkpoint

import workbench
from workbench.errors import CellsError, CheckpointError
from workbench.models.scgpt.batches import batch_table
from workbench.models.scgpt.checkpoint import load_checkpoint, save_checkpoint
from workbench.models.scgpt.layout import to_upstream
from workbench.models.scgpt.tokenizer import Tokenizer


def upstream_codes(labels):
    """As scGPT's integration script: the names as text, then category codes."""
    return pd.Series(labels).astype(str).astype("category").cat.codes.tolist()


@pytest.mark.parametrize("n", [2, 10])
@pytest.mark.parametrize("write", [str, lambda i: f"{i}.0"])
def test_up_to_ten_numbers_from_0_are_rows(n, write):
    labels = [write(i) for i in range(n)]
    assert [batch_table(labels, n)[label] for label in labels] == list(range(n)) == upstream_codes(range(n))
    assert batch_table([write(0), write(1)], n) == {write(0): 0, write(1): 1}, "some of them as well"


@pytest.mark.parametrize("labels", [[f"donor {i}" for i in range(23)], ["b", "B", "a", "é", "10x", "9x"], range(1, 13)])
def test_names_follow_upstreams_rule(labels):
    labels = [str(label) for label in labels]
    table = batch_table(labels, len(labels))
    assert [table[label] for label in labels] == upstream_codes(labels)
    assert list(table.values()) == list(range(len(labels)))


def test_more_than_ten_numbers_are_asked_about_and_both_answers_work():
    labels = [str(i) for i in range(12)]
    with pytest.raises(CellsError, match='batch 2 is not row 2.*"batch_names": .*"0", "1", "10", "11", "2"') as caught:
        batch_table(labels, 12)
    by_text, by_row = (json.loads("[" + part.split("]")[0] + "]") for part in str(caught.value).split("[")[-2:])
    assert [batch_table(labels, 12, by_text)[label] for label in labels] == upstream_codes(range(12))
    assert [batch_table([f"{i}.0" for i in range(12)], 12, by_row)[f"{i}.0"] for i in range(12)] == list(range(12))


@pytest.mark.parametrize("labels", [["1", "3"], ["a"], ["a", "b", "c", "d"], ["0", "7"], ["0.5", "1"], ["-1", "0"]])
def test_what_cannot_be_told_is_refused(labels):
    with pytest.raises(CellsError, match='rows cannot be told. .* "batch_names" in args.json'):
        batch_table(labels, 3)


@pytest.mark.parametrize("names", [["a", "b", "c"], ["1", "2", "3"]])
def test_parts_of_loaded_cells_keep_the_rows_of_the_whole(names):
    cells = tiny_cells(6)
    cells.obs["lane"] = names * 2
    loaded, model = workbench.load(cells, batch="lane"), tiny_model(n_batches=3)
    for rows in (range(6), [1, 4], [2]):
        part = loaded[list(rows)].copy()
        assert model.tokenizer(part).tokens().batch_labels.tolist() == [row % 3 for row in rows]


def test_names_of_the_checkpoint_decide():
    names = ("zeta", "alpha", "4")
    assert batch_table(["4.0", "zeta"], 3, names) == {"zeta": 0, "4.0": 2}
    with pytest.raises(CellsError, match="Unknown batch 'alfa': did you mean 'alpha'.*batch_names of args.json"):
        batch_table(["alfa"], 3, names)


@pytest.mark.parametrize("shape", [{"n_batches": 12}, {"norm_domains": 12}], ids=["labels", "norms"])
def test_cells_reach_the_rows_that_upstream_trained(shape, capsys):
    model, cells = tiny_model(**shape), tiny_cells(24)
    ids = [f"lane{i}" for i in range(12)]
    cells.obs["batch"] = ids * 2
    tokens = model.tokenizer(cells).tokens()
    assert tokens.batch_labels.tolist() == upstream_codes(ids) * 2
    assert "names in 'batch': lane0 0, lane1 1, lane10 2, lane11 3, lane2 4" in capsys.readouterr().err
    with pytest.raises(CellsError, match="trained with 12 batches and needs the batch of each cell.*data.batch"):
        model.tokenizer(tiny_cells())
    named = Tokenizer(
        cells[:3].copy(), replace(model.config, batch_names=tuple(sorted(ids))), model.vocabulary, batch_column="batch"
    )
    assert named.tokens().batch_labels.tolist() == upstream_codes(ids)[:3], "a part of the batches, by name"


def test_names_are_read_from_args_json_and_written(tmp_path):
    state = to_upstream(tiny_model(n_batches=3).state_dict())
    model = load_checkpoint(write_checkpoint(tmp_path / "a", state, checkpoint_args(batch_names=["x", "y", 3])))
    assert model.config.batch_names == ("x", "y", "3")
    assert load_checkpoint(save_checkpoint(model, tmp_path / "b")).config == model.config
    for names, said in (
        (["x"], "1 different batch_names, but the weights have 3"),
        ("xyz", "should be a list of names"),
    ):
        with pytest.raises(CheckpointError, match=said):
            load_checkpoint(write_checkpoint(tmp_path / "c", state, checkpoint_args(batch_names=names)))


@pytest.mark.parametrize("norm", ["dsbn", "batchnorm"])
def test_embeddings_by_name_equal_upstreams(eager_upstream, norm):
    from helpers import make_upstream, vocabulary_ids

    from workbench.models.scgpt.checkpoint import from_upstream

    require_upstream("model.model")
    theirs = make_upstream(
        eager_upstream, seed=3, use_batch_labels=True, num_batch_labels=12, domain_spec_batchnorm=norm
    )
    cells = tiny_cells(12)
    cells.obs["batch"] = [f"lane{i}" for i in range(12)]
    model = from_upstream(theirs, vocabulary_ids())
    tokens = model.tokenizer(cells).tokens()
    ours = model(tokens, outputs=("cell", "mvc"))
    codes = torch.tensor(upstream_codes(cells.obs["batch"]))
    for i in range(12):
        n = int((~tokens.padding[i]).sum())
        part = (tokens.gene_ids[i : i + 1, :n], tokens.values[i : i + 1, :n], tokens.padding[i : i + 1, :n])
        with torch.no_grad():
            wanted = theirs(*part, batch_labels=codes[i : i + 1], MVC=True)
        assert (ours.cell[i] - wanted["cell_emb"][0]).abs().max() < 1e-5
        assert (ours.mvc[i, :n] - wanted["mvc_output"][0]).abs().max() < 1e-5
