"""Which settings of ``args.json`` change what a cell is fed as, and what the workbench does about each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from workbench.models.scgpt.config import ModelConfig, plain_args


def input_keys(args: Mapping[str, Any], config: ModelConfig) -> tuple[tuple[str, str, str], ...]:
    """Settings that change the input, with what is done about each; those that ``args.json`` does not name are left out.

    Parameters
    ----------
    args
        The parsed ``args.json``, wandb's form included.
    config
        Configuration that was read from it and from the tensors.

    Returns
    -------
    tuple of (name, value, what is done)
        Values as JSON writes them.
    """
    said, most = plain_args(args), config.max_tokens
    zeros = "genes without expression are tokens" if config.include_zeros else "genes without expression are no tokens"
    done = {
        "input_style": "followed: values are binned per cell" if config.input_style == "binned" else "cells are refused: only binned input is made",
        "input_emb_style": "followed: how a value enters the first layer",
        "n_bins": "followed: the bin of no expression is one of them",
        "max_seq_len": f"followed: at most {most} tokens, <cls> among them (capture.max_tokens for fewer)",
        "trunc_by_sample": _sampled(said.get("trunc_by_sample"), most),
        "include_zero_gene": f"followed: {zeros}, and <cls> has the value {config.cls_value:g}",
        "no_cls": "no input: it says that no classes were trained; <cls> is put first, as upstream's embedding does",
        "append_cls": "followed: <cls> is put first" if said.get("append_cls") else "not followed: <cls> is put first all the same",
        "pad_value": f"followed: padding has it, and <cls> the value {config.cls_value:g}",
        "pad_token": "followed",
        "n_hvg": "no input" if said.get("n_hvg") in (None, 0, -1, False) else "not followed: give cells the genes that it was trained on",
        "cell_emb_style": "followed: how the cell embedding is made",
        "use_batch_labels": "followed: cells need a batch (data.batch)" if config.n_labels else "no batch is needed: there are no such tensors",
    }  # fmt: skip
    if config.perturbation:
        done |= dict.fromkeys(
            ("n_bins", "input_style"), "no part of a perturbation fine-tune, which reads log-normalised values"
        )
        done |= dict.fromkeys(
            ("append_cls", "include_zero_gene"), "no part of it: every gene is a token, and there is no <cls>"
        )
    return tuple((name, json.dumps(said[name]), what) for name, what in done.items() if name in said)


def _sampled(said: Any, most: int) -> str:
    if said:
        return f"followed: of a cell with more than {most - 1} genes a sample is read, by seed and name of the cell"
    return f"not followed: of a cell with more than {most - 1} genes a sample is read all the same, by seed and name of the cell"
