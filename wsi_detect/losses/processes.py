"""What the processes of a distributed run must agree on: sums over all of them, and divisors that average to one run's.

`DistributedDataParallel` averages gradients. A loss is therefore right when its mean over the processes is the loss of
the joined batch: each process divides its own sum by its share of the joined divisor.
"""

import torch
from torch import Tensor, distributed


def world() -> int:
    """Number of processes that train together, 1 outside a distributed run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def summed(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without gradient; every process must call it, with the same shape."""
    total = value.detach()
    if world() > 1:
        total = total.clone()
        distributed.all_reduce(total)
    return total


def shared_normaliser(count: Tensor) -> Tensor:
    """A process's share of a divisor: max(1, count over all processes) / processes.

    Args:
        count: scalar, what this process counted: positives, rows.

    Returns:
        A float scalar, equal on all processes.
    """
    total = summed(count.to(torch.promote_types(count.dtype, torch.float32)))
    return total.clamp(min=1) / world()
