"""The methods of the benchmark: what was extracted, controls, baselines, frozen scGPT, and those of other packages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from workbench.capture.pooled import AVERAGE, CLS
from workbench.errors import EvaluationError, unknown_name
from workbench.evidence.peers import peer_methods
from workbench.evidence.protocol import Method
from workbench.evidence.readouts import Represented
from workbench.evidence.representations import (
    RANKS,
    SPARSE,
    WIDTH,
    cell_head,
    compact,
    controlled,
    embedded,
    let,
    let_on_stream,
    mapped,
    permuted,
    principal,
    raw,
    singular,
    untrained_map,
)
from workbench.operators.cell_adaptor import hybrid_sweep
from workbench.operators.controls import COEXPRESSION, CONTROLS, IDENTITY

if TYPE_CHECKING:
    from workbench.recipes.benchmark.config import BenchmarkConfig

EXTRACTED, COMPACT, CONTROL, BASELINE, SCGPT, LAYERS, PEER = GROUPS = (
    "extracted", "compact", "control", "baseline", "scGPT", "layers", "peer",
)  # fmt: skip
ANCHOR_HEAD, UNTRAINED, PERMUTED_LABELS = "anchor head", "an untrained model", "labels permuted"
WITH_MLP = "scGPT cls, 3-layer MLP"
_HIDDEN = (64,)


@dataclass(frozen=True)
class Listed:
    """A method and what a table says of it.

    Attributes
    ----------
    method
        What is fitted on a training side.
    group
        Group of methods that it belongs to, one of `GROUPS`.
    about
        What it is, in one line.
    forward, shared
        Whether it needs forward passes over the cells that it is asked about, and whether it stands on operators that were
        captured once for all splits.
    """

    method: Method
    group: str
    about: str
    forward: bool = False
    shared: bool = False


def chosen_methods(config: BenchmarkConfig, n_layers: int) -> dict[str, Listed]:
    """The methods that a configuration asks for, by name, in one order whatever order they are asked for in.

    Parameters
    ----------
    config
        Configuration whose ``methods`` names methods or groups of them (all when empty); ``ours`` is always among them.
    n_layers
        Number of layers of the model.

    Raises
    ------
    EvaluationError
        For a name that is none; near ones are listed.
    ConfigError
        For options of a peer that it does not have.
    """
    every, peers = own_methods(config, n_layers), config.peers
    for name, peer in peer_methods(peers.python, peers.seconds, peers.options).items():
        every[name] = Listed(peer, PEER, peer.about)
    for name in (*config.methods, config.ours):
        if name not in every and (name not in GROUPS or name == config.ours):
            raise EvaluationError(unknown_name("method or group of methods", name, [*every, *GROUPS]))
    wanted = {*config.methods, config.ours}
    return {name: one for name, one in every.items() if not config.methods or {name, one.group} & wanted}


def own_methods(config: BenchmarkConfig, n_layers: int) -> dict[str, Listed]:
    """All methods but the peers, by name.

    Parameters
    ----------
    config
        Configuration with ``adaptor``, ``anchors``, ``cell_heads`` and ``seed``.
    n_layers
        Number of layers of the model; each has a method on its residual stream.
    """
    what = config.adaptor.name
    on = partial(let, config)
    found = {
        ANCHOR_HEAD: Listed(
            Represented(partial(on, partial(mapped, config))),
            EXTRACTED,
            f"LET on {what}, fitted to anchors; linear probes",
            shared=True,
        ),
        "cell head": Listed(
            Represented(partial(cell_head, config, {})), EXTRACTED, f"LET on {what}, trained on cells", shared=True
        ),
    }
    if config.cell_heads.hybrid:
        # The first setting of each of the paper's two sweeps; choosing among eight by what is judged would be tuning.
        for kind in ("strong", "conservative"):
            one = next(sweep for sweep in hybrid_sweep() if kind in sweep["name"])
            found[f"{one['name']} head"] = Listed(
                Represented(partial(cell_head, config, one["parameters"])),
                EXTRACTED,
                "cell head with terms for the topology of the stages",
                shared=True,
            )
    sparse = f"hard sparse, {SPARSE['n_factors']} x ({SPARSE['n_read']} + {SPARSE['n_write']})"
    for name in ("single head", *(f"rank {rank}" for rank in RANKS), sparse):
        found[name] = Listed(
            Represented(partial(compact, config, name)),
            COMPACT,
            "LET on the head that a screen of training anchors puts first"
            + ("" if name == "single head" else f", {name}"),
            shared=True,
        )
    for name in CONTROLS:
        found[f"LET on {name}"] = Listed(
            Represented(partial(on, partial(controlled, config, name))),
            CONTROL,
            "the anchor head with the operator replaced",
            # These two need nothing of the operator, not even its size.
            shared=name not in (IDENTITY, COEXPRESSION),
        )
    found[f"LET on {UNTRAINED}"] = Listed(
        Represented(partial(on, partial(untrained_map, config))),
        CONTROL,
        "the anchor head on operators of a model of the same shape that was never trained",
        shared=True,
    )
    found[f"anchor head, {PERMUTED_LABELS}"] = Listed(
        Represented(partial(on, partial(mapped, config)), relabel=permuted),
        CONTROL,
        "fitted to training labels that were permuted: what chance gives",
        shared=True,
    )
    found |= {
        "raw log1p": Listed(Represented(raw), BASELINE, "log-normalised expression of the panel; linear probes"),
        "raw log1p, small MLP": Listed(Represented(raw, _HIDDEN), BASELINE, f"one hidden layer of {_HIDDEN[0]}"),
        f"PCA-{WIDTH}": Listed(Represented(principal), BASELINE, "principal components of the training side"),
        f"SVD-{WIDTH}": Listed(Represented(singular), BASELINE, "singular vectors of the training side, not centred"),
    }
    for name in (CLS, AVERAGE):
        said = "<cls> after the last layer" if name == CLS else "mean over the gene tokens after the last layer"
        found[f"scGPT {name}"] = Listed(
            Represented(partial(embedded, name)), SCGPT, f"frozen: {said}; linear probes", forward=True
        )
        found[f"scGPT {name}, 3-layer MLP"] = Listed(
            Represented(partial(embedded, name), three_layers),
            SCGPT,
            f"frozen: {said}; d -> d/2 -> d/4 -> classes",
            forward=True,
        )
    for layer in range(n_layers):
        found[f"LET on residual stream {layer}"] = Listed(
            Represented(partial(let_on_stream, config, f"{AVERAGE} {layer}")),
            LAYERS,
            f"LET on the mean over gene tokens after layer {layer}; linear probes",
            forward=True,
        )
    return found


def three_layers(width: int) -> tuple[int, ...]:
    """Hidden layers of the 3-layer MLP; 512 -> 256 -> 128 -> 60 classes has 172,092 numbers.

    Parameters
    ----------
    width
        Width of the embedding that they read.
    """
    return max(width // 2, 2), max(width // 4, 2)
