#!/usr/bin/env bash
# transformer-lens 4.3.0: `run_with_cache(pos_slice=0)` on a hooked model with an activation of batch x features, which has no positions, keeps
# one example of the batch instead of all, and says nothing. In 3.9.0 `remove_batch_dim=True` fails on the same activation, with no slice asked for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat >"$folder/look.py" <<'PY'
import importlib.metadata
import torch
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

class Pooled(HookedRootModule):
    def __init__(self):
        super().__init__()
        self.linear, self.hook_pooled = torch.nn.Linear(4, 2), HookPoint()
        self.setup()

    def forward(self, x):  # batch x positions x features to batch x features
        return self.hook_pooled(self.linear(x.mean(1)))

def shape(n, **asked):
    try:
        return tuple(Pooled().run_with_cache(torch.zeros(n, 5, 4), **asked)[1]["hook_pooled"].shape)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

print("transformer-lens", importlib.metadata.version("transformer-lens"))
print("3 examples:", shape(3), "| with pos_slice=0:", shape(3, pos_slice=0))
print("1 example, remove_batch_dim=True:", shape(1, remove_batch_dim=True))
PY
for version in 3.9.0 4.3.0; do
    "$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformer-lens=="$version"
    "$folder/venv/bin/python" -W ignore "$folder/look.py" | tee "$folder/$version"
done
grep -q "3 examples: (3, 2) | with pos_slice=0: (1, 2)" "$folder/4.3.0"
grep -q "remove_batch_dim=True: IndexError" "$folder/3.9.0"
# Seen on 2026-11-28:
# transformer-lens 3.9.0
# 3 examples: (3, 2) | with pos_slice=0: (1, 2)
# 1 example, remove_batch_dim=True: IndexError: list assignment index out of range
# transformer-lens 4.3.0
# 3 examples: (3, 2) | with pos_slice=0: (1, 2)
# 1 example, remove_batch_dim=True: (2,)
