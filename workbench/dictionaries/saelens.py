"""SAELens's classes for training, which are imported when a dictionary is trained; what they train becomes a `Dictionary` here."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.dictionaries.dictionary import JUMPRELU, JUMPRELU_TRANSCODER, STANDARD, TOPK
from workbench.dictionaries.settings import DictionaryConfig
from workbench.errors import ConfigError
from workbench.requirements import extra
from workbench.seeds import key

EXTRA = "dictionaries"
_INFERENCE = {"topk": TOPK, "batchtopk": JUMPRELU, "matryoshka": JUMPRELU, "jumprelu": JUMPRELU, "l1": STANDARD}
# Adam's moments, by which a training goes on.
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_COUNTS = ("act_freq_scores", "n_forward_passes_since_fired")
_NUMBERS = ("n_training_samples", "n_training_steps", "n_frac_active_samples")


def sae_lens() -> Any:
    """The package, imported.

    Raises
    ------
    ConfigError
        If it is not installed; the command that installs it is said.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import sae_lens
    except ImportError as error:
        raise ConfigError(
            f"Dictionaries are trained by SAELens, which cannot be imported ({error}): {extra(EXTRA)}"
        ) from error
    return sae_lens


def make_trainer(config: DictionaryConfig, d_in: int, d_out: int | None, steps: int, seed: int, device: str) -> Any:
    """SAELens's trainer of one dictionary, whose public step is called for each batch.

    Parameters
    ----------
    config
        Settings of the dictionary: architecture, width, rates.
    d_in, d_out
        Numbers of an activation, and of what a transcoder decodes to; None for a dictionary of one hook. A transcoder's batches hold
        both, side by side.
    steps
        Steps of the whole training, for the schedule of the rate.
    seed
        Seed of the first weights; the caller's random numbers stay as they were.
    device
        Name of the device that it is trained on.
    """
    lens = sae_lens()
    from sae_lens.config import SAETrainerConfig

    shared: dict[str, Any] = {"d_in": d_in, "d_sae": config.width, "device": device, "normalize_activations": "none"}
    kind = config.architecture
    if kind == "topk":
        made, kinds = lens.TopKTrainingSAE, lens.TopKTrainingSAEConfig(k=config.k, **shared)
    elif kind == "batchtopk":
        made, kinds = lens.BatchTopKTrainingSAE, lens.BatchTopKTrainingSAEConfig(k=config.k, **shared)
    elif kind == "matryoshka":
        inner = config.matryoshka or tuple(config.width // part for part in (8, 4, 2))
        made = lens.MatryoshkaBatchTopKTrainingSAE
        kinds = lens.MatryoshkaBatchTopKTrainingSAEConfig(
            k=config.k, matryoshka_widths=[*inner, config.width], **shared
        )
    elif kind == "jumprelu":
        made = lens.JumpReLUTrainingSAE
        kinds = lens.JumpReLUTrainingSAEConfig(
            jumprelu_sparsity_loss_mode="quadratic", target_l0=config.k, l0_coefficient=config.penalty,
            l0_warm_up_steps=int(config.warmup * steps), pre_act_loss_coefficient=3e-6, **shared,
        )  # fmt: skip
    else:
        made = lens.StandardTrainingSAE
        kinds = lens.StandardTrainingSAEConfig(
            l1_coefficient=config.penalty, l1_warm_up_steps=int(config.warmup * steps), **shared
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, "dictionary") % 2**63)
        if d_out is None:
            sae = made(kinds)
        else:
            if kind != "batchtopk":
                raise ConfigError(
                    f"A transcoder is trained as batchtopk, not as {kind}; set architecture to batchtopk."
                )
            sae = _transcoder_class()(replace(kinds, apply_b_dec_to_input=False), d_out)
    warm, decay = int(config.warmup * steps), int(config.decay * steps)
    rates = SAETrainerConfig(
        total_training_samples=steps * config.rows, train_batch_size_samples=config.rows, lr=config.learning_rate, lr_end=config.learning_rate,
        lr_warm_up_steps=warm if warm > 1 else 0, lr_decay_steps=decay, device=device, dead_feature_window=config.dead_after,
    )  # fmt: skip
    return lens.SAETrainer(cfg=rates, sae=sae, data_provider=iter(()))


@cache
def _transcoder_class() -> type:
    """SAELens has transcoders to use and none to train: its BatchTopK class with another output."""
    lens = sae_lens()

    class TranscoderTraining(lens.BatchTopKTrainingSAE):
        def __init__(self, cfg: Any, d_out: int) -> None:
            self.d_out = d_out  # before the weights are made
            super().__init__(cfg)

        def initialize_weights(self) -> None:
            super().initialize_weights()
            d_in, width = self.W_enc.shape
            decoder = torch.empty(width, self.d_out, dtype=self.dtype, device=self.device)
            nn.init.kaiming_uniform_(decoder)
            self.W_dec = nn.Parameter(decoder / decoder.norm(dim=1, keepdim=True) * self.cfg.decoder_init_norm)
            self.b_dec = nn.Parameter(torch.zeros(self.d_out, dtype=self.dtype, device=self.device))

        def process_sae_in(self, sae_in: Tensor) -> Tensor:
            return self.hook_sae_input(sae_in.to(self.dtype))

        def training_forward_pass(self, step_input: Any) -> Any:
            from sae_lens.saes.sae import TrainStepOutput

            x, y = step_input.sae_in.split([self.W_enc.shape[0], self.d_out], dim=-1)
            acts, pre = self.encode_with_hidden_pre(x)
            out = self.decode(acts)
            error = self.mse_loss_fn(out, y).sum(-1).mean()
            step = replace(step_input, sae_in=y)
            losses = self.calculate_aux_loss(step_input=step, feature_acts=acts, hidden_pre=pre, sae_out=out)
            self.update_topk_threshold(acts)
            losses = {"mse_loss": error, **losses}
            return TrainStepOutput(y, out, acts, pre, sum(losses.values()), losses)

    return TranscoderTraining


@torch.no_grad()
def finished(trainer: Any, config: DictionaryConfig, scale: float, scale_out: float | None) -> dict[str, Any]:
    """Architecture, weights and k of what was trained, scales folded in and decoder rows of length 1.

    Parameters
    ----------
    trainer
        From `make_trainer`; it stays as it is, so that a training can go on.
    config
        Settings that the trainer was made with.
    scale, scale_out
        Numbers that activations were multiplied by, and those that a transcoder decodes to; None for a dictionary of one hook.

    Returns
    -------
    dict
        Arguments of `Dictionary`, but for the origin.
    """
    sae = copy.deepcopy(trainer.sae)
    if scale_out is None:
        sae.fold_activation_norm_scaling_factor(scale)
    else:
        sae.fold_activation_norm_scaling_factor(scale_out)
        sae.W_enc.data *= scale / scale_out
    kind = config.architecture
    if kind in ("jumprelu", "l1"):
        sae.fold_W_dec_norm()
    weights = sae.state_dict()
    sae.process_state_dict_for_saving_inference(weights)
    architecture = _INFERENCE[kind] if scale_out is None else JUMPRELU_TRANSCODER
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    return {
        "architecture": architecture,
        "weights": {name: weights[name].detach().float().contiguous() for name in names if name in weights},
        "k": config.k if architecture == TOPK else 0,
        "centred": scale_out is None,
    }


def trainer_state(trainer: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Everything that a training goes on from: arrays, and what is ready for JSON.

    Parameters
    ----------
    trainer
        Trainer that `make_trainer` made, at any step.
    """
    arrays = {f"weight/{name}": value for name, value in trainer.sae.state_dict().items()}
    adam = trainer.optimizer.state_dict()
    for number, moments in adam["state"].items():
        arrays |= {f"adam/{number}/{name}": moments[name] for name in _MOMENTS}
    arrays |= {f"count/{name}": getattr(trainer, name) for name in _COUNTS}
    about = {name: getattr(trainer, name) for name in _NUMBERS}
    about |= {"groups": adam["param_groups"], "rate": trainer.lr_scheduler.state_dict()}
    about["penalties"] = {name: one.state_dict() for name, one in trainer.coefficient_schedulers.items()}
    return {name: value.detach().cpu().numpy() for name, value in arrays.items()}, about


def restore_trainer(trainer: Any, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Take a trainer back to a state that `trainer_state` gave.

    Parameters
    ----------
    trainer
        A fresh one of the same settings.
    arrays, about
        Both parts of the state.
    """
    there = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    trainer.sae.load_state_dict({n[len("weight/") :]: v for n, v in there.items() if n.startswith("weight/")})
    numbers = sorted({int(name.split("/")[1]) for name in there if name.startswith("adam/")})
    moments = {number: {name: there[f"adam/{number}/{name}"] for name in _MOMENTS} for number in numbers}
    trainer.optimizer.load_state_dict({"state": moments, "param_groups": about["groups"]})
    trainer.lr_scheduler.load_state_dict(about["rate"])
    for name, one in trainer.coefficient_schedulers.items():
        one.load_state_dict(about["penalties"][name])
    for name in _COUNTS:
        setattr(trainer, name, there[f"count/{name}"].to(trainer.sae.device))
    for name in _NUMBERS:
        setattr(trainer, name, about[name])
