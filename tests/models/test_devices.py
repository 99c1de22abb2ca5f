"""Where a model runs: devices that are there and that are not, batches that fit, and passes that wait for nothing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import (
    D_MLP,
    D_MODEL,
    N_BINS,
    N_HEADS,
    N_LAYERS,
    genes,
    make_tokens,
    tiny_cells,
    tiny_model,
    vocabulary_ids,
)
from torch._subclasses.fake_tensor import FakeTensorMode

from workbench.ablation.edits import Edits
from workbench.ablation.exact import exact_sweep
from workbench.ablation.sites import all_heads
from workbench.capture import GenePairSink, MomentsSink, Plan, pairs
from workbench.capture.activations import hook_shapes
from workbench.capture.pooled import RESIDUALS, PooledSink
from workbench.errors import CellsError, ConfigError
from workbench.machine import Device, Torch
from workbench.models import devices, load_model
from workbench.models.devices import Fitting, describe_device, find_device, prefetched, sums_type
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.tokens import Tokens
from workbench.models.vocabulary import Vocabulary

CPU, CARDS, MPS = Device("cpu", "2 threads", None), [Device(f"cuda:{i}", "Card", 2**30) for i in (0, 1)], "mps"


def seen(monkeypatch, *there):
    monkeypatch.setattr(devices, "read_torch", lambda: Torch("2", tuple(there)))


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ([CPU], "cpu"),
        ([CPU, Device(MPS, "Apple", None)], "mps"),
        ([CPU, *CARDS, Device(MPS, "Apple", None)], "cuda:0"),
    ],
)
def test_auto_takes_a_card_before_apple_before_the_processor(monkeypatch, there, wanted):
    seen(monkeypatch, *there)
    assert find_device() == find_device("auto") == torch.device(wanted)


@pytest.mark.parametrize("name", ["cuda:7", "xpu", "no such", "meta", ""])
def test_a_device_that_is_not_there_is_a_sentence(name, tiny_checkpoint, monkeypatch):
    seen(monkeypatch, CPU)
    for use in (
        find_device,
        lambda one: load_model(tiny_checkpoint, device=one),
        lambda one: find_device(["cpu", one]),
    ):
        with pytest.raises(
            ConfigError, match=rf"The device '{name}' cannot be used \(.*torch sees cpu \(2 threads\)\. Name"
        ):
            use(name)


def test_worker_processes_take_several_devices_in_turn(monkeypatch):
    monkeypatch.setattr(devices.torch, "empty", lambda *args, **options: None)
    for name, wanted in (("MainProcess", 0), ("LokyProcess-1", 0), ("LokyProcess-2", 1), ("LokyProcess-5", 0)):
        monkeypatch.setattr(devices.multiprocessing, "current_process", lambda name=name: SimpleNamespace(name=name))
        assert find_device(("cuda:0", "cuda:1")) == torch.device("cuda", wanted)
    with pytest.raises(ConfigError, match="empty list"):
        find_device([])


def test_what_is_said_of_a_device(monkeypatch):
    seen(monkeypatch, CPU, *CARDS)
    assert describe_device(torch.device("cpu"), torch.float32) == "cpu (2 threads), float32"
    assert describe_device(torch.device("cuda:1"), torch.bfloat16) == "cuda:1 (Card), bfloat16"
    assert describe_device(torch.device("cuda"), torch.float16) == "cuda (Card), float16"
    assert (sums_type(torch.device("mps")), sums_type(torch.device("cuda"))) == (torch.float32, torch.float64)


def test_a_float_type_is_part_of_the_fingerprint(tiny_checkpoint):
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    assert len({load_model(tiny_checkpoint, dtype=kind).fingerprint() for kind in kinds}) == 3
    same = tiny_model(seed=1)
    for value in same.parameters():
        value.data = value.bfloat16().float()  # which bfloat16 has, too
    assert same.fingerprint() != same.bfloat16().fingerprint()


# Batches that fit


def limited(most, kind=torch.OutOfMemoryError, text="CUDA out of memory."):
    """A function of batches that has no memory for more cells than so many, and the sizes that it was asked for."""
    asked = []

    def work(start, stop):
        asked.append(stop - start)
        if stop - start > most:
            raise kind(text)
        return list(range(start, stop))

    return work, asked


@pytest.mark.parametrize(
    "error",
    [
        (torch.OutOfMemoryError, "CUDA out of memory."),
        (RuntimeError, "MPS backend out of memory (MPS allocated: 1 GB)"),
        (RuntimeError, "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_batches_are_halved_until_they_fit_and_stay_so(capsys, error):
    work, asked = limited(3, *error)
    fitting = Fitting(10)
    assert sum(fitting.parts(12, work), []) == list(range(12))
    assert asked == [10, 5, 2, 2, 2, 2, 2, 2] and fitting.size == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "[memory] no room for 10 cells at a time; going on with 5",
        "[memory] no room for 5 cells at a time; going on with 2",
    ]
    assert sum(fitting.parts(3, work), []) == [0, 1, 2] and not capsys.readouterr().err


def test_no_room_for_one_cell_is_a_sentence_and_other_errors_stay_what_they_are():
    with pytest.raises(CellsError, match="too little memory on the device for one cell"):
        list(Fitting(4).parts(8, limited(0)[0]))
    with pytest.raises(RuntimeError, match="shapes"):
        list(Fitting(4).parts(8, limited(1, RuntimeError, "shapes do not fit")[0]))


# Tokens on their way


def test_batches_for_a_gpu_are_made_ahead_in_a_thread_and_are_the_same():
    batches = list(tiny_model().tokenizer(tiny_cells(9)).batches(2))
    made = []
    coming = prefetched((made.append(i) or batch for i, batch in enumerate(batches)), torch.device("mps"))
    assert next(coming) is batches[0] and len(made) >= 1
    assert list(coming) == batches[1:] and made == [0, 1, 2, 3, 4]

    def broken():
        yield batches[0]
        raise CellsError("the file ends here")

    with pytest.raises(CellsError, match="ends here"):
        list(prefetched(broken(), torch.device("mps")))


def test_what_is_known_of_tokens_goes_with_them_to_another_device():
    tokens = make_tokens(4)
    facts = tokens.to("meta", torch.bfloat16).facts  # where there is nothing to look at
    assert (facts.lowest, facts.highest) == (int(tokens.gene_ids.min()), int(tokens.gene_ids.max()))
    assert facts.padded and not facts.starts_padded and facts.labels is None
    assert not tokens[:1].facts.padded


def test_no_pass_waits_for_the_device(monkeypatch):
    """A tensor without numbers cannot be looked at: whoever needs a number of it in the middle of a pass ends in an error."""
    monkeypatch.setattr(pairs, "_COMPILED", frozenset())
    tokens, vocabulary = make_tokens(4), Vocabulary(vocabulary_ids())
    shape = {"d_model": D_MODEL, "n_layers": N_LAYERS, "n_heads": N_HEADS, "d_mlp": D_MLP, "n_bins": N_BINS}
    names, facts = tuple("abcd"), tokens.facts
    cells = tiny_model().tokenizer(tiny_cells(4))
    with FakeTensorMode() as fake, torch.no_grad():
        model = HookedScGPT(ModelConfig(n_tokens=len(vocabulary), n_classes=5, **shape), vocabulary).eval()
        parts = (fake.from_tensor(part) for part in (tokens.gene_ids, tokens.values, tokens.padding))
        there = Tokens(*parts, names)
        vars(there)["facts"] = facts
        assert model(there, outputs=model.outputs).classes.shape == (4, 5)
        pair = GenePairSink(genes(10), vocabulary, dict.fromkeys(names, 0)), pairs.PATTERNS
        for sink, hooks in (pair, (PooledSink(), RESIDUALS), (MomentsSink(), [RESIDUALS, "hook_cell"])):
            hooks = model.resolve_hooks(hooks)
            sink.open(Plan(hook_shapes(model, cells, hooks), np.full(4, 12)))
            with model.hooks([(name, lambda x, hook, sink=sink: sink.update(hook.name, x, there)) for name in hooks]):
                model(there)
            if isinstance(sink, GenePairSink):
                q = torch.zeros(4, 12, N_HEADS, D_MODEL // N_HEADS)
                sink.update_heads(hooks[0], q, q, there, model.block(0))
        heads = all_heads(model.config, "zero", 0)
        assert len(list(exact_sweep(model, there, heads, Edits(model, there, heads, None)))) == len(heads) + 1
        with pytest.raises(Exception, match=r"data-dependent|_local_scalar_dense"):
            bool(there.padding.any())
