"""What a bank does between two sums: passes over its own customers, starting from the common network."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from fedshare.contract.network import NetworkModel
    from fedshare.sealed.randomness import Stream

    from .customers import NetworkCustomers

__all__ = ["local_update", "one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: steps over a few hundred customers are too short to share, and threads wait by spinning."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def local_update(
    customers: NetworkCustomers, common: NDArray[np.float64], model: NetworkModel, stream: Stream
) -> NDArray[np.float64]:
    """Return how far the bank's own customers move the common network, shape ``[P]``; it may not be finite.

    Minibatch gradient descent with momentum (McMahan et al. 2017, algorithm 1, ClientUpdate); with ``proximal`` each step is
    pulled back to the common network (Li et al. 2020, algorithm 2). The bank's own intercept, if it has one, moves as
    well and stays.

    Args:
        customers: the bank's.
        common: where the network starts, shape ``[P]``.
        model: what the contract says.
        stream: what orders the customers and draws dropout.
    """
    customers.load(common)
    customers.network.train()
    network = list(customers.network.parameters())
    start = [parameter.detach().clone() for parameter in network]
    groups = [{"params": network, "weight_decay": model.weight_decay}]
    if customers.has_own_intercept:
        groups.append({"params": [customers.intercept], "weight_decay": 0.0})
    optimiser = torch.optim.SGD(groups, lr=model.learning_rate, momentum=model.momentum)
    seed = int.from_bytes(stream.read(8), "big") >> 1
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[customers.device] if customers.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for _ in range(model.local_epochs):
            shuffled = torch.randperm(len(customers.training_rows), generator=order)
            for places in torch.split(shuffled, model.batch_size):
                optimiser.zero_grad()
                loss = customers.batch_loss(customers.training_rows[places.to(customers.device)])
                torch.autograd.backward(loss)
                for parameter, origin in zip(network, start, strict=True):
                    if parameter.grad is not None and model.proximal > 0.0:
                        parameter.grad.add_(parameter.detach() - origin, alpha=model.proximal)
                optimiser.step()
    return customers.parameters() - common
