"""Where the hook points of a model go; a module of its own, so that reading a checkpoint does not import transformer-lens."""

from __future__ import annotations

from torch import nn


class HookPlace(nn.Identity):
    """The place of a hook point, in which `HookedModel.setup` puts transformer-lens's own."""


def is_listened(hook: nn.Module) -> bool:
    """Whether anybody listens to a hook point, by transformer-lens or by plain PyTorch hooks, or a module stands in its place.

    Parameters
    ----------
    hook
        The hook point, or what a user placed there.
    """
    from transformer_lens.hook_points import HookPoint

    placed = type(hook) not in (HookPoint, HookPlace)
    return placed or bool(hook._forward_hooks or hook._forward_pre_hooks or hook._backward_hooks)
