"""Head ablation. A door for now: hooks that change activations work already, see `HookedScGPT.hooks`."""
