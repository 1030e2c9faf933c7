"""One bank's part of a private round: clipped gradients of a secret sample, summed, with the bank's share of the noise.

Every training customer is in a round with probability ``sample_rate``, decided by secret randomness (Poisson sampling). Its
gradient, times its weight of at most 1, is clipped to norm C; the sum is rounded to the grid of the masked sum and gets
Gaussian noise (Abadi et al. 2016, algorithm 1).

A bank knows its own noise, so the shares of all banks but one must make up the whole: where B banks take part in every
round, or more, each adds noise of standard deviation ``z C / sqrt(B - 1)`` (distributed noise: Kairouz et al. 2021). Sum
and noise are integers of the grid. The noise of several banks is, up to exp(-2^32), a Gaussian plus uniforms of one step
each, at the points of the grid: adding those is post-processing of the Gaussian mechanism. Rounding the sum moves a
customer's contribution by at most one step per parameter, and the noise is enlarged by that.

Assumes: banks are semi-honest; at most one of them pools what it knows with the coordinator.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from fedshare.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from fedshare.sealed.randomness import Stream

    from .customers import NetworkCustomers

__all__ = ["GRADIENT_BITS", "clipped_gradient_sum", "noise_deviation", "noisy_gradient_sum", "sample"]

GRADIENT_BITS = 24
"""Fractional bits of a sum of gradients in units of the clipping norm."""

# Entries of per-customer gradients that are in memory at once: 64 MiB of float32.
_GRADIENT_ENTRIES = 1 << 24


def sample(customers: NetworkCustomers, sample_rate: float, stream: Stream) -> Tensor:
    """Return the rows of the training customers that are in a round, each with probability ``sample_rate``."""
    draws = stream.uniform((len(customers.training_rows),)).view(np.uint64) >> np.uint64(11)
    return customers.training_rows[torch.from_numpy(draws * 2.0**-53 < sample_rate).to(customers.device)]


def clipped_gradient_sum(customers: NetworkCustomers, rows: Tensor, clip_norm: float) -> NDArray[np.float64]:
    """Return the sum over ``rows`` of gradients of the weighted loss, each of norm at most 1, in units of ``clip_norm``.

    Args:
        customers: the bank's; the network is differentiated where it stands.
        rows: which customers, shape ``[r]``; may be none.
        clip_norm: C > 0.
    """
    network = customers.network
    network.eval()
    parameters = {name: each.detach() for name, each in network.named_parameters()}
    size = sum(each.numel() for each in parameters.values())

    def loss(
        values: dict[str, Tensor],
        numeric: Tensor,
        categories: Tensor,
        label: Tensor,
        weight: Tensor,
        offset: Tensor,
    ) -> Tensor:
        inputs = (numeric.unsqueeze(0), categories.unsqueeze(0))
        score = functional_call(network, values, inputs).squeeze(0) + offset
        found: Tensor = weight * (functional.softplus(score) - label * score)
        return found

    per_customer = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0, 0))
    total = torch.zeros(size, dtype=torch.float64, device=customers.device)
    for chunk in torch.split(rows, max(1, _GRADIENT_ENTRIES // size)):
        if not len(chunk):
            continue
        gradients = per_customer(parameters, *customers.rows(chunk))
        flat = torch.cat([gradients[name].flatten(1) for name in parameters], dim=1).double() / clip_norm
        norms = flat.norm(dim=1, keepdim=True)
        total += (flat / norms.clamp(min=1.0)).sum(dim=0)
    summed: NDArray[np.float64] = total.cpu().numpy()
    return summed


def noise_deviation(noise_multiplier: float, parameters: int, banks: int) -> float:
    """Return the standard deviation of one bank's share of the noise, in steps of 2^-``GRADIENT_BITS`` of C.

    Raises:
        ParameterError: there are fewer than two banks, or the noise is not well above a step.
    """
    if banks < 2:
        raise ParameterError("distributed noise needs at least two banks")
    rounding = 1.0 + math.sqrt(parameters) * 2.0**-GRADIENT_BITS
    deviation = noise_multiplier * rounding * 2.0**GRADIENT_BITS / math.sqrt(banks - 1)
    if not 2.0**16 <= deviation < 2.0**52:
        raise ParameterError("the noise of a bank is too small or too large for the grid of the masked sum")
    return deviation


def noisy_gradient_sum(
    customers: NetworkCustomers,
    *,
    sample_rate: float,
    clip_norm: float,
    noise_multiplier: float,
    banks: int,
    stream: Stream,
) -> NDArray[np.float64]:
    """Return this bank's contribution to a round, shape ``[P]``: multiples of 2^-``GRADIENT_BITS``, in units of C.

    Args:
        customers: the bank's.
        sample_rate: chance of a customer to be in the round.
        clip_norm: C.
        noise_multiplier: z: what the shares of all banks but one give, in units of C.
        banks: how many take part in every round, at least.
        stream: secret; draws the sample and the noise.

    Raises:
        ParameterError: a gradient is not finite, or as ``noise_deviation``.
    """
    gradients = clipped_gradient_sum(customers, sample(customers, sample_rate, stream), clip_norm)
    if not np.isfinite(gradients).all():
        raise ParameterError("a gradient is not finite; lower the learning rate")
    words = np.rint(gradients * 2.0**GRADIENT_BITS)
    words += stream.gaussian(words.shape, noise_deviation(noise_multiplier, len(words), banks))
    return words * 2.0**-GRADIENT_BITS
