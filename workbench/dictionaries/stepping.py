"""SAELens's training step, written out for features of which few are active: the same sums without what is zero.

An activation enters the reconstruction in units of what its feature writes. So the length of a decoder row counts for which
features are chosen and for nothing else: its gradient is zero. Only the product with the encoder is dense. Parameters, moments of
Adam, counts and the schedule of the rate are SAELens's trainer's, of which dictionaries are made and by which a training goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.dictionaries import kernels
from workbench.dictionaries.settings import DictionaryConfig
from workbench.threads import threaded

# Rows and features of one piece of work: fixed, since by them sums over rows are added up.
_ROWS, _FEATURES = 512, 256
# Rows that all features of a piece go through before the next: a megabyte of them stays in a core's cache.
_BLOCK = 512
Work = Callable[[], None]
Given = tuple[Tensor, float, Tensor | None, float]


def is_sparse(config: DictionaryConfig, device: torch.device) -> bool:
    """Whether a step of these dictionaries is written out here: they keep the k largest, and are trained on a CPU.

    Parameters
    ----------
    config
        Settings of the dictionaries; their architecture counts.
    device
        Device that the dictionaries are trained on.
    """
    return device.type == "cpu" and config.architecture in ("topk", "batchtopk", "matryoshka")


class Steps:
    """Steps of several dictionaries of one architecture, all of which are taken at once.

    Parameters
    ----------
    trainers
        SAELens's trainers from `make_trainer`, at the state that they go on from; changed in place.
    config
        Settings that they were made with.
    device
        Device that the dictionaries are trained on.
    """

    def __init__(self, trainers: Sequence[Any], config: DictionaryConfig, device: torch.device) -> None:
        self._trainers = list(trainers)
        self._sparse = [SparseStep(trainer) for trainer in trainers] if is_sparse(config, device) else []

    def take(self, rows: Sequence[Given]) -> list[Tensor]:
        """One step of every dictionary, whose work threads share.

        Parameters
        ----------
        rows
            Of each dictionary its activations, the number that they are multiplied by, and the same of what a transcoder
            decodes to; None in place of these for a dictionary of one hook.

        Returns
        -------
        list
            Of each dictionary the squared error of a row, on average.
        """
        if self._sparse:
            stages = [one.stages(*given) for one, given in zip(self._sparse, rows, strict=True)]
            for works in zip(*stages, strict=True):
                threaded(_do, list(chain(*works)))
            errors = [torch.tensor(one.error) for one in self._sparse]
        else:
            errors = []
            for trainer, (x, scale, y, scale_out) in zip(self._trainers, rows, strict=True):
                both = x * scale if y is None else torch.cat([x * scale, y * scale_out], dim=1)
                errors.append(trainer.step(both).losses["mse_loss"].detach())
        for trainer in self._trainers:
            trainer.n_training_steps += 1
        return errors


def _do(work: Work) -> None:
    work()


class SparseStep:
    """Steps of one dictionary on a CPU. The encoder's memory is rearranged to a row per feature, its shape stays.

    Parameters
    ----------
    trainer
        SAELens's trainer from `make_trainer`, of an architecture that keeps the k largest; changed in place.
    """

    error = 0.0

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.sae = trainer, trainer.sae
        cfg = self.sae.cfg
        self._n, self._k = trainer.cfg.train_batch_size_samples, cfg.k
        self._of_batch = hasattr(self.sae, "topk_threshold")
        self._ends = np.array(getattr(cfg, "matryoshka_widths", None) or [cfg.d_sae])
        self.sae.W_enc.data = self.sae.W_enc.data.T.contiguous().T
        self._state = {}
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            weights = getattr(self.sae, name)
            own = trainer.optimizer.state[weights]
            own.setdefault("step", torch.tensor(0.0))
            for moment in ("exp_avg", "exp_avg_sq"):  # a state that was read has the other order
                own[moment] = torch.zeros_like(weights.data).copy_(own.get(moment, torch.zeros(())))
            self._state[name] = [_by_row(one) for one in (weights.data, own["exp_avg"], own["exp_avg_sq"])]
        self._encoder, self._decoder = self._state["W_enc"][0], self._state["W_dec"][0]
        self._lengths = np.sqrt(kernels.squares(self._decoder))
        self._to_encoder, self._to_decoder = np.empty_like(self._encoder), np.empty_like(self._decoder)
        # What is read, and the gradient over what each of the nested dictionaries writes.
        self._x = np.empty((self._n, self._encoder.shape[1]), np.float32)
        self._residual = np.empty((len(self._ends), self._n, self._decoder.shape[1]), np.float32)
        self._pre = np.empty((self._n, cfg.d_sae), np.float32)
        self._floor = np.float32(0)

    def stages(
        self, x: Float[Tensor, "row d_in"], scale: float, y: Float[Tensor, "row d_out"] | None, scale_out: float
    ) -> Iterator[list[Work]]:
        """Work of one step, in lists that come one after the other; the works of a list may be done in any order.

        Parameters
        ----------
        x
            Activations that are encoded, as many as a step has rows.
        scale
            Number that they are multiplied by.
        y, scale_out
            The same of what a transcoder decodes to; `y` is None for a dictionary of one hook.
        """
        self._dead = np.flatnonzero(self.trainer.dead_neurons.numpy())
        self._wanted, self._scale = (x.numpy(), np.float32(scale)) if y is None else (y.numpy(), np.float32(scale_out))
        parts = list(enumerate(_parts(self._n, _ROWS)))
        yield [partial(self._read_part, x.numpy()[part], np.float32(scale), part) for _, part in parts]
        # The dense product is torch's, with threads of its own.
        own, pre, weights = torch.from_numpy(self._x), torch.from_numpy(self._pre), self.sae
        torch.addmm(weights.b_enc.data, own, weights.W_enc.data, out=pre)
        # Of each part: how many features its rows have, which, their activations, gradients over those; and sums over its rows.
        self._places: list[Any] = [None] * len(parts)
        self._sums: list[Any] = [None] * len(parts)
        if self._of_batch:
            yield [partial(self._find_part, i, part) for i, part in parts]
            least, taken = self._least(parts)
            yield [partial(self._take_part, i, part, least, taken[i]) for i, part in parts]
        else:
            yield [partial(self._choose_part, i, part) for i, part in parts]
        yield [self._arrange]
        features = _parts(len(self._lengths), _FEATURES)
        self._through: list[Any] = [None] * len(features)
        yield [partial(self._sum_up, i, part) for i, part in enumerate(features)]
        self._move_biases()
        yield [partial(self._move, part) for part in features]

    def _read_part(self, x: np.ndarray, scale: np.float32, part: slice) -> None:
        own = self._x[part]
        np.multiply(x, scale, out=own)
        if self.sae.cfg.apply_b_dec_to_input:
            own -= self.sae.b_dec.data.numpy()

    def _choose_part(self, i: int, part: slice) -> None:
        """The k largest of each row, and what they reconstruct."""
        n = part.stop - part.start
        features, values = np.empty((n, self._k), np.int32), np.empty((n, self._k), np.float32)
        kernels.top_of_rows(self._pre[part], self._lengths, self._k, features, values)
        self._reconstruct(i, part, np.full(n, self._k), features.ravel(), values.ravel())

    def _find_part(self, i: int, part: slice) -> None:
        """Features that may be among the largest of the batch."""
        pre = self._pre[part]
        counts, features, values = (
            np.empty(len(pre), np.int64),
            np.empty(pre.size, np.int32),
            np.empty(pre.size, np.float32),
        )
        n = kernels.over(pre, self._lengths, self._floor, counts, features, values)
        self._places[i] = counts, features[:n], values[:n], values[:n] * self._lengths[features[:n]]

    def _least(self, parts: Sequence[tuple[int, slice]]) -> tuple[np.float32, list[int]]:
        """The least of the largest of the batch, and how many of each part equal it and are taken, the first ones."""
        wanted = int(self._k * self._n)
        if self._floor > 0 and sum(len(found[1]) for found in self._places) < wanted:
            # The floor is a guess from the step before; what is taken does not depend on it.
            self._floor = np.float32(0)
            for i, part in parts:
                self._find_part(i, part)
        sizes = [found[3] for found in self._places]
        together = np.concatenate(sizes)
        if len(together) < wanted:
            return np.float32(0), [0] * len(sizes)
        least = np.partition(together, len(together) - wanted)[len(together) - wanted]
        self._floor = np.float32(0.75) * least
        equal = np.array([(size == least).sum() for size in sizes])
        left = wanted - (together > least).sum() - (np.cumsum(equal) - equal)
        return least, np.clip(left, 0, equal).tolist()

    def _take_part(self, i: int, part: slice, least: np.float32, n_equal: int) -> None:
        """The largest of the whole batch, and what they reconstruct."""
        counts, features, values, sizes = self._places[i]
        taken = sizes > least
        taken[np.flatnonzero(sizes == least)[:n_equal]] = True
        rows = np.repeat(np.arange(len(counts)), counts)[taken]
        self._reconstruct(i, part, np.bincount(rows, minlength=len(counts)), features[taken], values[taken])

    def _reconstruct(self, i: int, part: slice, counts: np.ndarray, features: np.ndarray, values: np.ndarray) -> None:
        gradients = np.empty_like(values)
        self._sums[i] = kernels.reconstruct(
            self._wanted[part], self._scale, _starts(counts), features, values, self._decoder, self.sae.b_dec.data.numpy(),
            self._ends, np.float32(2 / self._n), part.start, self._residual, gradients,
        )  # fmt: skip
        self._places[i] = counts, features, values, gradients

    def _arrange(self) -> None:
        """Active places by feature, counts of what fired, and what is asked of features that are dead."""
        counts, features, values, gradients = (np.concatenate(each) for each in zip(*self._places, strict=True))
        width, trainer = len(self._lengths), self.trainer
        self._bounds, places, self._rows = kernels.by_feature(_starts(counts), features, values, width)
        self._values, self._gradients = values[places], gradients[places]
        self._to_bias = np.bincount(features, weights=gradients, minlength=width)
        self.error = sum(error for error, _ in self._sums) / self._n
        fired = torch.from_numpy(np.diff(self._bounds))
        trainer.n_forward_passes_since_fired += 1
        trainer.n_forward_passes_since_fired[fired > 0] = 0
        trainer.act_freq_scores += fired
        trainer.n_frac_active_samples += self._n
        trainer.n_training_samples += self._n
        if self._of_batch:
            self.sae.update_topk_threshold(torch.from_numpy(values * self._lengths[features]))
        self._revived = self._revive() if len(self._dead) else None

    def _revive(self) -> tuple[np.ndarray, np.ndarray]:
        """Gradients of SAELens's loss over both matrices' rows of dead features, the largest of which are to write what is left."""
        dead = self._dead
        pre = self._pre[:, dead]
        half = self._decoder.shape[1] // 2
        if half < len(dead):
            largest = torch.from_numpy(pre * self._lengths[dead]).topk(half).indices.numpy()
            chosen = np.zeros(pre.shape, bool)
            np.put_along_axis(chosen, largest, True, 1)
            pre *= chosen
        weight = 2 / self._n
        error = pre @ self._decoder[dead] + self._residual[-1] / np.float32(weight)
        error *= np.float32(weight * self.sae.cfg.aux_loss_coefficient * min(len(dead) / half, 1))
        asked = error @ self._decoder[dead].T
        if half < len(dead):
            asked *= chosen
        self._to_bias[dead] += asked.sum(0, dtype=np.float64)
        return asked.T @ self._x, pre.T @ error

    def _sum_up(self, i: int, part: slice) -> None:
        """Gradients of some features' rows of both matrices, their squares, and what the bias gets through the encoder."""
        bounds = self._bounds[part.start : part.stop + 1]
        kernels.gather(bounds, self._rows, self._gradients, self._x, _BLOCK, self._to_encoder[part])
        for level, end in enumerate(self._ends):
            start = 0 if level == 0 else self._ends[level - 1]
            own = slice(max(part.start, start), min(part.stop, end))
            if own.start < own.stop:
                bounds = self._bounds[own.start : own.stop + 1]
                kernels.gather(bounds, self._rows, self._values, self._residual[level], _BLOCK, self._to_decoder[own])
        if self._revived is not None:
            mine = (self._dead >= part.start) & (self._dead < part.stop)
            for matrix, more in zip((self._to_encoder, self._to_decoder), self._revived, strict=True):
                matrix[self._dead[mine]] += more[mine]
        square = sum(kernels.squares(one[part]).sum(dtype=np.float64) for one in (self._to_encoder, self._to_decoder))
        self._through[i] = square, self._to_bias[part] @ self._encoder[part]

    def _move_biases(self) -> None:
        """How much shorter gradients are made, which are to be at most 1 long; and the step of both biases."""
        to_bias, to_output = self._to_bias, sum(total for _, total in self._sums)
        if self.sae.cfg.apply_b_dec_to_input:
            to_output = to_output - sum(through for _, through in self._through)
        square = sum(one for one, _ in self._through) + (to_bias**2).sum() + (to_output**2).sum()
        clip = min(1.0, 1 / (math.sqrt(square) + 1e-6))
        optimizer = self.trainer.optimizer
        group, (beta1, beta2) = optimizer.param_groups[0], optimizer.param_groups[0]["betas"]
        for weights in self.sae.parameters():
            optimizer.state[weights]["step"] += 1
        done = float(optimizer.state[self.sae.b_dec]["step"])
        rate, root = group["lr"] / (1 - beta1**done), math.sqrt(1 - beta2**done)
        self._adam = [np.float32(one) for one in (clip, rate, beta1, beta2, root, group["eps"])]
        for name, gradient in (("b_enc", to_bias), ("b_dec", to_output)):
            self._update(name, gradient.astype(np.float32)[None])
        optimizer.step()  # of no gradients: the schedule asks for it
        self.trainer.lr_scheduler.step()

    def _update(self, name: str, gradient: np.ndarray, part: slice = slice(None)) -> None:
        """Adam's step of some rows of one parameter."""
        weights, mean, square = (one[part] for one in self._state[name])
        kernels.adam(weights, gradient, mean, square, *self._adam)

    def _move(self, part: slice) -> None:
        """Both matrices' rows of some features, moved."""
        self._update("W_enc", self._to_encoder[part], part)
        self._update("W_dec", self._to_decoder[part], part)
        self._lengths[part] = np.sqrt(kernels.squares(self._decoder[part]))


def _by_row(matrix: Tensor) -> np.ndarray:
    """A matrix's memory with a row per feature; a bias as one row."""
    found = np.atleast_2d(matrix.numpy())
    return found if found.flags.c_contiguous else found.T


def _parts(n: int, size: int) -> list[slice]:
    return [slice(at, min(at + size, n)) for at in range(0, n, size)]


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)])
