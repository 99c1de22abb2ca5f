"""What features of the mini checkpoint cause: the figures of docs/dictionaries.md, "What features cause".

    python experiments/feature_effects.py --out artifacts/feature_effects

Trains dictionaries after layers 2 and 3 as the page says, keeps them under ``--out`` (a second call reads them), and prints estimates against exact
effects, effects of five features drawn by the seed, edges to twelve targets drawn by the seed, and steering along one of the five.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import workbench
from workbench.dictionaries import (
    Dictionary,
    DictionaryConfig,
    feature_attribution,
    feature_circuit,
    feature_effects,
    split_cells,
)
from workbench.seeds import generator

HOOKS = ("blocks.2.hook_resid_post", "blocks.3.hook_resid_post")
CONFIG = DictionaryConfig(width=256, k=16, rows=1024, epochs=10)


def drawn(what: str, n: int) -> list[int]:
    """Features drawn before anything was looked at."""
    return sorted(generator(0, what).permutation(CONFIG.width)[:n].tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("artifacts/feature_effects"), help="folder of the dictionaries"
    )
    out = parser.parse_args().out
    model, cells = workbench.load_model("artifacts/scgpt-blood-mini"), workbench.load("pbmc68k")
    split = split_cells(cells)
    held = cells[split.test]
    if not all((out / hook).is_dir() for hook in HOOKS):
        found = workbench.train_dictionaries(model, cells[split.train], list(HOOKS), CONFIG, folder=out / "training")
        for hook in HOOKS:
            found[hook].save_pretrained(out / hook)
    low, high = (Dictionary.from_pretrained(out / hook) for hook in HOOKS)
    print(feature_attribution(model, held, low, check=60).agreement.to_string())
    named = drawn("named", 5)
    effects = feature_effects(model, held, low, named, null_draws=200)
    print(effects[["metric", "feature", "rate", "n_alike", "effect", "low", "high", "null_high", "p", "q"]].to_string())
    circuit = feature_circuit(model, held, low, high, drawn("targets", 12), n_cells=24, check=6)
    print(circuit.summary)
    steered = workbench.steer(
        held,
        model,
        source="CD14+ Monocyte",
        target="CD19+ B",
        direction=(low, named[1]),
        doses=(1, 4),
        null_draws=10,
        n_cells=20,
    )
    print(steered[["dose", "measure", "value", "null_low", "null_high", "p"]].to_string())


if __name__ == "__main__":
    main()
