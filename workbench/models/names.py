"""Names of hook points as users of transformer-lens know them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# What transformer-lens calls what scGPT has under another name, or in another place.
_ALIASES = (
    (re.compile(r"hook_attn_scores(?=$|_grad$)"), "hook_scores"),
    (re.compile(r"^hook_embed(?=$|_grad$)"), "blocks.0.hook_resid_pre"),
    (re.compile(r"^hook_(gene|value)(?=$|_grad$)"), r"embed.hook_\1"),
    (re.compile(r"^(blocks\.[^.]+)\.hook_scores"), r"\1.attn.hook_scores"),
)


def full_name(name: str) -> str:
    """The model's own name of a hook, for one that transformer-lens uses; any other name as it is.

    Parameters
    ----------
    name
        Name or wildcard of a hook, such as ``blocks.*.attn.hook_attn_scores`` or ``hook_embed``.

    Examples
    --------
    >>> from workbench.models.names import full_name
    >>> full_name("blocks.3.attn.hook_attn_scores"), full_name("hook_embed")
    ('blocks.3.attn.hook_scores', 'blocks.0.hook_resid_pre')
    """
    for pattern, own in _ALIASES:
        name = pattern.sub(own, name)
    return name


def spellings(name: str) -> tuple[str, ...]:
    """A hook's name and those that transformer-lens has for it, for predicates on names.

    Parameters
    ----------
    name
        Name of a hook as the model's own ``hook_dict`` has it.
    """
    theirs = name.replace("attn.hook_scores", "attn.hook_attn_scores")
    return (name, *([theirs] if theirs != name else []), *(["hook_embed"] if name == "blocks.0.hook_resid_pre" else []))


def hook_of(known: Iterable[str], *key: Any) -> str:
    """Name of a hook for what is written in brackets behind a cache.

    Parameters
    ----------
    known
        Names that the model's hooks have.
    *key
        A full name, or a short one with its layer and part, as `transformer_lens.utilities.get_act_name` takes them.
    """
    from transformer_lens.utilities import get_act_name

    whole = full_name(str(key[0]))
    if len(key) == 1 and whole in known:
        return whole
    return full_name(get_act_name(*key))
