"""Answers of the live explorer, against the same ablation by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from workbench.ablation import Ablation, ablated, build_reference, needed_hooks
from workbench.ablation.build import choose_rows
from workbench.errors import EvaluationError, HookError
from workbench.explorer.heads import short
from workbench.explorer.live import NO_LABEL, answer, open_session, shift


def by_hand(session, ablation, rows):
    hooks = needed_hooks([ablation])
    reference = build_reference(session.model, session.tokens, hooks, session.batch_size) if hooks else None
    found = []
    with torch.no_grad():
        for batch in session.tokens.take(rows).batches(session.batch_size):
            with ablated(session.model, ablation, reference):
                found.append(session.model(batch).cell)
    return torch.cat(found).double().numpy()


def intact(session, rows):
    with torch.no_grad():
        parts = [session.model(batch).cell for batch in session.tokens.take(rows).batches(session.batch_size)]
    return torch.cat(parts).double().numpy()


def turn(a, b):
    return 1 - (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


@pytest.mark.parametrize("how", ["zero", "mean"])
@pytest.mark.parametrize("heads", [["L1H2"], ["L0H1", "L2H3"]])
def test_it_is_what_ablated_gives(session, how, heads):
    found = shift(session, heads, how, ["B"])
    rows = found["rows"]
    before, after = intact(session, rows), by_hand(session, Ablation(heads, how), rows)
    assert np.array_equal(found["end"], [[short(v, 6) for v in row] for row in session.project(after)])
    assert np.array_equal(found["start"], [[short(v, 6) for v in row] for row in session.project(before)])
    turned = turn(before, after)
    assert found["mean"] == short(turned.mean()) and found["sd"] == short(turned.std(ddof=1))
    assert found["heads"] == heads and found["n_reference"] == (20 if how == "mean" else None)


def test_the_null_is_the_change_turned_at_random(session):
    found = shift(session, ["L1H2"], "zero", ["B", "T"])
    rows = found["rows"]
    before = intact(session, rows)
    draws = [by_hand(session, Ablation("L1H2", "zero", rotation=draw), rows) for draw in range(4)]
    means = np.array([turn(before, one).mean() for one in draws])
    assert [found["null"][key] for key in ("mean", "low", "high")] == pytest.approx(
        [means.mean(), means.min(), means.max()], rel=1e-3
    )
    assert found["null"]["draws"] == 4
    assert np.allclose(found["null_end"], session.project(draws[0]), atol=1e-4)
    larger = (means >= turn(before, by_hand(session, Ablation("L1H2", "zero"), rows)).mean()).sum()
    assert found["p"] == pytest.approx((1 + larger) / 5)


def test_only_chosen_labels_and_no_more_cells_than_stated(session):
    found = shift(session, ["L0H0"], "zero", ["T"])
    chosen = [i for i, label in enumerate(session.labels) if label == "T"]
    assert found["n_chosen"] == len(chosen) > found["n"] == session.max_cells == len(found["rows"])
    names = [session.tokens.cell_ids[i] for i in chosen]
    assert found["rows"] == [chosen[i] for i in choose_rows(names, session.max_cells, session.seed)]
    assert [row["label"] for row in found["by_label"]] == ["T"] and found["by_label"][0]["n"] == found["n"]


def test_asking_twice_answers_the_same_and_leaves_the_model_intact(session, model):
    before = intact(session, range(4))
    first, _, again = (shift(session, heads, "mean", ["B"]) for heads in (["L0H0"], ["L2H1"], ["L0H0"]))
    assert first == again and np.array_equal(before, intact(session, range(4)))


def test_the_map_holds_the_principal_axes_of_the_shown_cells(session):
    shown = session.to_map()
    assert len(shown["x"]) == 20 and shown["n_total"] == 24
    xy = np.array([shown["x"], shown["y"]]).T
    assert np.allclose(xy, session.project(session.intact), rtol=1e-4, atol=1e-6)
    centered = session.intact - session.intact.mean(0)
    variance = np.linalg.eigvalsh(centered.T @ centered)[::-1]
    assert session.projection[2] == pytest.approx(variance[:2] / variance.sum())
    assert (xy**2).sum(0) == pytest.approx(variance[:2], rel=1e-3)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ({"heads": ["L9H0"], "how": "zero", "labels": ["B"]}, "There is no L9H0 in this model"),
        ({"heads": ["nonsense"], "how": "zero", "labels": ["B"]}, "is no place of the model"),
        ({"heads": [], "how": "zero", "labels": ["B"]}, "names no place"),
        ({"heads": ["L0H0"], "how": "zero", "labels": []}, "tick a label"),
        ({"heads": ["L0H0"], "how": "zero", "labels": ["Q"]}, "Unknown label 'Q'"),
        ({"heads": ["L0H0"], "how": "patch", "labels": ["B"]}, "Unknown way to ablate 'patch'"),
        ({}, "Unknown way to ablate 'None'"),
    ],
)
def test_errors_come_back_as_a_sentence(session, message, sentence):
    found = answer(session, {"type": "ablate", "id": 7, **message})
    assert found["type"] == "error" and found["id"] == 7 and sentence in found["message"]


def test_an_answer_carries_its_request(session):
    found = answer(session, {"type": "ablate", "id": 8, "heads": ["L0H0"], "how": "zero", "labels": ["B"]})
    assert found == {"type": "shift", "id": 8, **shift(session, ["L0H0"], "zero", ["B"])}


def test_errors_in_python_are_errors(session):
    with pytest.raises(HookError):
        shift(session, ["L9H0"], "zero", ["B"])
    with pytest.raises(EvaluationError):
        shift(session, ["L0H0"], "zero", [])


def test_cells_without_labels_have_one(model, cells):
    bare = cells[:5].copy()
    del bare.obs["cell_type"]
    found = open_session(model, bare, null_draws=1)
    assert shift(found, ["L0H0"], "zero", [NO_LABEL])["n"] == 5
    # So have those that alone lack one, of which `load` makes the empty label.
    few = cells[:5].copy()
    few.obs["cell_type"] = ["", "B", "", "B", "B"]
    assert shift(open_session(model, few, null_draws=1), ["L0H0"], "zero", [NO_LABEL])["n"] == 2


def test_too_few_cells_or_draws_are_refused(model, cells):
    with pytest.raises(EvaluationError, match="takes three"):
        open_session(model, cells[:2].copy())
    with pytest.raises(EvaluationError, match="null_draws is 0"):
        open_session(model, cells, null_draws=0)
