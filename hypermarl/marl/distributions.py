"""Action distributions as pure functions of what a network emits: no objects in the hot path.

`parameters` is `{"logits"}` or `{"loc", "log_std"}`, each `[..., N, A]`. A continuous action is kept as the raw
(unsquashed, unscaled) sample: the squashing and scaling to the box cancel in every probability ratio.
Letters: `N` agents, `A` actions or action dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hypermarl.spec import Weights

Parameters = dict[str, Tensor]
KINDS = ("categorical", "normal", "tanh_normal")
_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)
_TINY = torch.finfo(torch.float32).tiny


def read(kind: str, outputs: Tensor, weights: Weights, legal: Tensor | None = None) -> Parameters:
    """What a network's outputs `[..., N, A]` (and its generated `log_std`) say; `legal` is the action mask.

    `log_std` stays as it was generated, `[*lead, N or 1, A]`, and is broadcast where it is used.
    """
    if kind == "categorical":
        return {"logits": masked(outputs, legal)}
    return {"loc": outputs, "log_std": weights["log_std"]}


def masked(logits: Tensor, legal: Tensor | None) -> Tensor:
    """Illegal actions get the lowest finite logit; a row without a legal action is left alone (nobody acts there)."""
    if legal is None:
        return logits
    legal = legal | ~legal.any(-1, keepdim=True)
    return torch.where(legal, logits, torch.finfo(logits.dtype).min)


def noise_like(kind: str, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """What `sample` consumes: minus the log of exponential noise (Gumbel) or normal noise, `[..., N, A]`."""
    if kind == "categorical":
        # A zero would make infinite noise, which chooses any action, illegal ones too.
        return -torch.empty(shape, device=rng.device).exponential_(generator=rng).clamp_(min=_TINY).log_()
    return torch.randn(shape, device=rng.device, generator=rng)


def sample(kind: str, parameters: Parameters, noise: Tensor) -> Tensor:
    """An action per agent: int64 `[..., N]` or float `[..., N, A]`."""
    if kind == "categorical":
        return (parameters["logits"] + noise).argmax(-1)
    return parameters["loc"] + parameters["log_std"].exp() * noise


def mode(kind: str, parameters: Parameters) -> Tensor:
    """The greedy action, in the form of `sample`."""
    return parameters["logits"].argmax(-1) if kind == "categorical" else parameters["loc"]


def log_prob(kind: str, parameters: Parameters, action: Tensor) -> Tensor:
    """`[..., N]`; of a tanh-normal the density of the raw sample minus the log-Jacobian of tanh."""
    density = raw_log_prob(kind, parameters, action)
    return density - log_slope(action).sum(-1) if kind == "tanh_normal" else density


def raw_log_prob(kind: str, parameters: Parameters, action: Tensor) -> Tensor:
    """`[B, ..., N]`, of the raw sample before it is squashed: all that probability ratios need, and much cheaper."""
    if kind == "categorical":
        return _chosen(_logs(parameters["logits"]), action)
    loc, log_std = parameters["loc"], parameters["log_std"]
    log_std = _samples_last(log_std) if log_std.ndim == loc.ndim else log_std.unsqueeze(-1)
    deviation = (_samples_last(action).contiguous() - _samples_last(loc)) * (-log_std).exp()
    density = -0.5 * deviation.square().sum(-2) - (log_std + _HALF_LOG_TAU).sum(-2)
    return density.movedim(-1, 0)


def entropy(kind: str, parameters: Parameters, noise: Tensor | None = None) -> Tensor:
    """`[..., N]`, exact except for tanh-normal: it has no closed form, so it takes one sample, made of `noise`.

    Without noise that sample is the middle of the distribution.
    """
    if kind == "categorical":
        return _spread(_logs(parameters["logits"]))
    value = parameters["log_std"] + (0.5 + _HALF_LOG_TAU)
    if kind == "tanh_normal":
        raw = parameters["loc"] if noise is None else sample(kind, parameters, noise)
        value = value + log_slope(raw)
    return value.expand_as(parameters["loc"]).sum(-1)


def raw_log_prob_and_entropy(
    kind: str, parameters: Parameters, action: Tensor, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Both at once; a categorical normalises its logits one time only."""
    if kind != "categorical":
        return raw_log_prob(kind, parameters, action), entropy(kind, parameters, noise)
    logs = _logs(parameters["logits"])
    return _chosen(logs, action), _spread(logs)


def _samples_last(x: Tensor) -> Tensor:
    """`[B, ...]` -> `[..., B]`: what the networks emit lies in memory so, and few actions of many samples are fast."""
    return x.movedim(0, -1)


def _logs(logits: Tensor) -> Tensor:
    """Log-probabilities `[..., N, A, B]` of logits `[B, ..., N, A]`."""
    return _samples_last(logits).log_softmax(-2)


def _chosen(logs: Tensor, action: Tensor) -> Tensor:
    return logs.gather(-2, _samples_last(action).unsqueeze(-2)).squeeze(-2).movedim(-1, 0)


def _spread(logs: Tensor) -> Tensor:
    return -(logs.exp() * logs).sum(-2).movedim(-1, 0)


def to_box(kind: str, action: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """A raw sample in the environment's units: the box's middle plus its half-width times the (squashed) sample."""
    unit = torch.tanh(action) if kind == "tanh_normal" else action
    return (low + high) / 2 + unit * (high - low) / 2


def log_slope(raw: Tensor) -> Tensor:
    """log(1 - tanh(x)^2) without cancellation."""
    return 2.0 * (math.log(2.0) - raw - torch.nn.functional.softplus(-2.0 * raw))
