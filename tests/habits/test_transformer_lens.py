"""What a user of transformer-lens types first works, or is refused by a sentence that says what to do."""

from __future__ import annotations

import pytest
import torch
import transformer_lens
import transformer_lens.utilities as utils

import workbench
from tests.habits.lines import TRANSFORMER_LENS
from workbench.errors import WorkbenchError
from workbench.models.cache import CellCache
from workbench.models.names import full_name, spellings

MINI = "artifacts/scgpt-blood-mini"

REFUSED = ("cache.decompose_resid", "cache.logit_attrs")


def with_hooks(model, adata):
    seen = []
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: seen.append(hook.name))]):
        model(adata[:2])
    assert seen == ["blocks.1.hook_resid_post"]


@pytest.fixture(scope="module")
def names():
    model, adata = workbench.load_model(MINI), workbench.load("pbmc68k")
    _, cache = model.run_with_cache(adata[:3])
    assert isinstance(cache, CellCache)
    return {
        "workbench": workbench,
        "torch": torch,
        "transformer_lens": transformer_lens,
        "utils": utils,
        "CHECKPOINT": MINI,
        "model": model,
        "adata": adata,
        "cache": cache,
        "with_hooks": with_hooks,
    }


@pytest.mark.parametrize("line", TRANSFORMER_LENS)
def test_a_line_works_or_says_what_to_do(line, names):
    if line.startswith(REFUSED):
        with pytest.raises(WorkbenchError, match="workbench.ablate"):
            exec(line, dict(names))
    else:
        exec(line, dict(names))


def test_nine_in_ten_lines_work():
    assert len(TRANSFORMER_LENS) >= 55
    assert sum(line.startswith(REFUSED) for line in TRANSFORMER_LENS) <= len(TRANSFORMER_LENS) / 10


def test_every_hook_is_reached_by_the_short_name_of_transformer_lens(names):
    cache, model = names["cache"], names["model"]
    for name in model.hook_dict:
        *_, part = name.split(".")
        short = part.removeprefix("hook_")
        key = (short, int(name.split(".")[1])) if name.startswith("blocks.") else (name,)
        if name in ("embed.hook_gene", "embed.hook_value"):
            key = (part,)
        assert cache.name(*key) == name
        for spelling in spellings(name):
            assert full_name(spelling) == name and model.resolve_hooks(spelling) == (name,)


def test_weights_are_what_the_hooks_see(names):
    model, cache = names["model"], names["cache"]
    x, attn = cache["resid_pre", 1], model.blocks[1].attn
    torch.testing.assert_close(torch.einsum("cgd,hde->cghe", x, model.W_Q[1]) + attn.b_Q, cache["q", 1])
    written = torch.einsum("cghe,hed->cghd", cache["z", 1], model.W_O[1])
    torch.testing.assert_close(written, cache["result", 1])
    torch.testing.assert_close(written.sum(2) + model.b_O[1], cache["attn_out", 1])
    torch.testing.assert_close(
        cache["resid_mid", 1] @ model.W_in[1] + model.blocks[1].mlp.linear1.bias, cache["pre", 1]
    )
    post = cache["post", 1] @ model.W_out[1] + model.blocks[1].mlp.linear2.bias
    torch.testing.assert_close(post, cache["mlp_out", 1])
    torch.testing.assert_close(model.OV[1, 2].AB, model.W_V[1, 2] @ model.W_O[1, 2])
    torch.testing.assert_close(model.QK[1, 2].AB, model.W_Q[1, 2] @ model.W_K[1, 2].T)


def test_head_results_are_made_from_z_where_they_were_not_cached(names):
    model, adata, whole = names["model"], names["adata"], names["cache"]
    _, cache = model.run_with_cache(adata[:3], names_filter="blocks.*.attn.hook_z")
    stacked, labels = cache.stack_head_results(return_labels=True)
    assert labels[-1] == "L5H3"
    torch.testing.assert_close(stacked, whole.stack_head_results())
