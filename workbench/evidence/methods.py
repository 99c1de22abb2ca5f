"""The methods of the benchmark: what was extracted, controls, baselines, frozen scGPT, and those of other packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from workbench.capture.pooled import AVERAGE, CLS
from workbench.errors import EvaluationError, unknown_name
from workbench.evidence import representations as rep
from workbench.evidence.peers import peer_methods
from workbench.evidence.protocol import Method
from workbench.evidence.readouts import LINEAR, Represent, Represented
from workbench.operators.cell_adaptor import hybrid_sweep
from workbench.operators.controls import COEXPRESSION, CONTROLS, IDENTITY

if TYPE_CHECKING:
    from workbench.recipes.benchmark.config import BenchmarkConfig

EXTRACTED, COMPACT, CONTROL, BASELINE, SCGPT, LAYERS, PEER, OWN = GROUPS = (
    "extracted", "compact", "control", "baseline", "scGPT", "layers", "peer", "own",
)  # fmt: skip
ANCHOR_HEAD, UNTRAINED, PERMUTED_LABELS = "anchor head", "an untrained model", "labels permuted"
# Of embeddings and objects that the user brings, in the table of methods and in the report.
UNSEEN = "made by the user, may have seen the held-out cells; the audit cannot see that"
OUTSIDE = "made by the user, copied and fitted for each split; what it brings from elsewhere the audit cannot see"
WITH_MLP = "scGPT cls, 3-layer MLP"
_HIDDEN = (64,)
# On which pseudotime is told beside the depth that is read out, for peers to be compared with that have no other.
_TIMED = (ANCHOR_HEAD, f"PCA-{rep.WIDTH}", f"scGPT {CLS}")


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
    identity
        What stands for its code and settings where the user brought it; empty for methods of the package.
    """

    method: Method
    group: str
    about: str
    forward: bool = False
    shared: bool = False
    identity: str = ""


def chosen_methods(
    config: BenchmarkConfig, n_layers: int, own: Mapping[str, Listed] | None = None
) -> dict[str, Listed]:
    """The methods that a configuration asks for, by name, in one order whatever order they are asked for in.

    Parameters
    ----------
    config
        Configuration whose ``methods`` names methods or groups of them (all when empty); ``ours``, and what the user brings, are
        always among them.
    n_layers
        Number of layers of the model.
    own
        The user's own methods by name; none by default.

    Raises
    ------
    EvaluationError
        For a name that is none (near ones are listed), or one of the user's that is taken.
    ConfigError
        For options of a peer that it does not have.
    """
    every, peers = own_methods(config, n_layers), config.peers
    for name, peer in peer_methods(peers.python, peers.seconds, peers.options).items():
        every[name] = Listed(peer, PEER, peer.about)
    brought = [(f"obsm/{key}", key, embedding_method(key)) for key in dict.fromkeys(config.data.embeddings)]
    brought += [(name, name, one) for name, one in (own or {}).items()]
    for what, name, one in brought:
        if name in every or name in GROUPS:
            raise EvaluationError(
                f"Your own '{what}' has the name of a method or group of methods, '{name}'; give it another name."
            )
        every[name] = one
    for name in (*config.methods, config.ours):
        if name not in every and (name not in GROUPS or name == config.ours):
            raise EvaluationError(unknown_name("method or group of methods", name, [*every, *GROUPS]))
    wanted = {*config.methods, config.ours, OWN}
    return {name: one for name, one in every.items() if not config.methods or {name, one.group} & wanted}


def embedding_method(key: str) -> Listed:
    """A user's own embedding as a method.

    Parameters
    ----------
    key
        Entry of ``obsm`` that it was read from.
    """
    about = f"obsm['{key}'], {UNSEEN}; linear probes"
    return Listed(Represented(partial(rep.embedded, rep.own_name(key))), OWN, about)


def own_methods(config: BenchmarkConfig, n_layers: int) -> dict[str, Listed]:
    """All methods of the workbench itself, by name.

    Parameters
    ----------
    config
        Configuration with ``adaptor``, ``anchors``, ``cell_heads`` and ``seed``.
    n_layers
        Number of layers of the model; each has a method on its residual stream.
    """
    found: dict[str, Listed] = {}

    def add(name: str, group: str, about: str, represent: Represent, *more: Any, **needs: Any) -> None:
        timed = name in _TIMED
        about += "; diffusion pseudotime on it" if timed else ""
        method = replace(Represented(represent, *more), pseudotime=timed)
        found[name] = Listed(method, group, about, **needs)

    def on(matrix: Callable[..., Any], *given: Any) -> Represent:
        return partial(rep.let, config, partial(matrix, config, *given))

    what = config.adaptor.name
    add(ANCHOR_HEAD, EXTRACTED, f"LET on {what}, fitted to anchors; linear probes", on(rep.mapped), shared=True)
    add("cell head", EXTRACTED, f"LET on {what}, trained on cells", partial(rep.cell_head, config, {}), shared=True)
    for kind in ("strong", "conservative") if config.cell_heads.hybrid else ():
        one = next(sweep for sweep in hybrid_sweep() if kind in sweep["name"])
        about, trained = "cell head with terms for the topology of the stages", partial(rep.cell_head, config)
        add(f"{one['name']} head", EXTRACTED, about, partial(trained, one["parameters"]), shared=True)
    sparse = f"hard sparse, {rep.SPARSE['n_factors']} x ({rep.SPARSE['n_read']} + {rep.SPARSE['n_write']})"
    for name in ("single head", *(f"rank {rank}" for rank in rep.RANKS), sparse):
        about = "LET on the head that a screen of training anchors puts first"
        about += "" if name == "single head" else f", {name}"
        add(name, COMPACT, about, partial(rep.compact, config, name), shared=True)
    for name in CONTROLS:
        alone = name in (IDENTITY, COEXPRESSION)
        about = "the anchor head with the operator replaced"
        add(f"LET on {name}", CONTROL, about, on(rep.controlled, name), shared=not alone)
    about = "the anchor head on operators of a model of the same shape that was never trained"
    add(f"LET on {UNTRAINED}", CONTROL, about, on(rep.untrained_map), shared=True)
    about = "fitted to training labels that were permuted: what chance gives"
    add(f"anchor head, {PERMUTED_LABELS}", CONTROL, about, on(rep.mapped), LINEAR, rep.permuted, shared=True)
    add("raw log1p", BASELINE, "log-normalised expression of the panel; linear probes", rep.raw)
    add("raw log1p, small MLP", BASELINE, f"one hidden layer of {_HIDDEN[0]}", rep.raw, _HIDDEN)
    add(f"PCA-{rep.WIDTH}", BASELINE, "principal components of the training side", rep.principal)
    add(f"SVD-{rep.WIDTH}", BASELINE, "singular vectors of the training side, not centred", rep.singular)
    about = (
        f"ranks in each cell, up to {rep.RANK_GENES} genes by ANOVA over the training stages, components; linear probes"
    )
    add(f"rank ANOVA PCA-{rep.RANK_WIDTH}", BASELINE, about, rep.ranked)
    for name in (CLS, AVERAGE):
        of = "<cls> after the last layer" if name == CLS else "mean over the gene tokens after the last layer"
        frozen = partial(rep.embedded, name)
        add(f"scGPT {name}", SCGPT, f"frozen: {of}; linear probes", frozen, forward=True)
        about = f"frozen: {of}; d -> d/2 -> d/4 -> classes"
        add(f"scGPT {name}, 3-layer MLP", SCGPT, about, frozen, three_layers, forward=True)
    for layer in range(n_layers):
        stream = partial(rep.let_on_stream, config, f"{AVERAGE} {layer}")
        about = f"LET on the mean over gene tokens after layer {layer}; linear probes"
        add(f"LET on residual stream {layer}", LAYERS, about, stream, forward=True)
    return found


def three_layers(width: int) -> tuple[int, ...]:
    """Hidden layers of the 3-layer MLP; 512 -> 256 -> 128 -> 60 classes has 172,092 numbers.

    Parameters
    ----------
    width
        Width of the embedding that they read.
    """
    return max(width // 2, 2), max(width // 4, 2)
