"""The contract of classification losses. Torch is imported when a check runs, not before."""

import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_detect.testing.promise import near, promise

if TYPE_CHECKING:
    from torch import Tensor, nn

_ROWS, _CLASSES = 60, 3


def check_loss(make: Callable[[], "nn.Module"]) -> None:
    """Check a classification loss.

    A finite scalar; gradients where they belong; no positives, no rows and extreme logits; rows that are not valid do
    not count; the normaliser divides (or, with `own_normaliser`, has no part); better logits cost less; row order does
    not matter; state is saved and loaded; two processes end with equal states, the state of one that saw the joined
    batch, and with its gradients on average.

    Args:
        make: makes the loss anew, with no argument but those in `needs` of `wsi_detect.losses`; it must be a function
            that other processes can import.

    Raises:
        ContractBrokenError: a clause does not hold.
    """
    import torch

    from wsi_detect.losses import extra_columns

    make = _given_its_needs(make)
    kind = getattr(make(), "kind", "sigmoid")
    promise(kind in ("sigmoid", "softmax"), f"kind is {kind!r}, not 'sigmoid' or 'softmax'")
    columns = _CLASSES + extra_columns(make())
    batch = _batch(columns, seed=0)
    value = _value(make(), batch)
    promise(value.ndim == 0, f"a loss is a scalar, not of shape {tuple(value.shape)}")
    promise(bool(torch.isfinite(value)) and float(value) > 0, f"the loss of random logits is {float(value)}")
    _check_gradients(make, batch)
    _check_extremes(make, batch)
    _check_arithmetic(make, batch)
    _check_state(make, columns)
    _check_distributed(make, columns)


def _given_its_needs(make: Callable[..., "nn.Module"]) -> Callable[[], "nn.Module"]:
    """With the number of classes, a long-tailed table of counts and the prior of a head, if it asks for them."""
    from wsi_detect.losses import ClassCounts

    counts = ClassCounts((60.0, 30.0, 4.0), (30.0, 20.0, 3.0), 100.0)
    known = {"num_classes": _CLASSES, "class_counts": counts, "prior": 0.01}
    needs = getattr(getattr(make, "func", make), "needs", ())  # of the class, when some options were given already
    return partial(make, **{name: known[name] for name in needs})


def _batch(columns: int, seed: int, rows: int = _ROWS) -> dict[str, Any]:
    """Random logits (rows, columns); targets have a background column, the last, if there are columns to spare."""
    import torch

    maker = torch.Generator().manual_seed(seed)
    targets = torch.zeros(rows, _CLASSES + (columns > _CLASSES))
    labels = torch.randint(0, _CLASSES, (rows,), generator=maker)
    positive = torch.arange(rows) % 5 == 0
    targets[positive, labels[positive]] = 1
    if columns > _CLASSES:
        targets[~positive, -1] = 1
    return {
        "logits": torch.randn(rows, columns, generator=maker),
        "targets": targets,
        "valid": torch.arange(rows) % 7 != 3,
        "image": torch.arange(rows) * 2 // max(rows, 1),
        "normaliser": torch.tensor(float(max(int(positive.sum()), 1))),
    }


def _joined(batches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One batch of several, each of which has images 0 and 1."""
    import torch

    parts = [{**batch, "image": batch["image"] + 2 * k} for k, batch in enumerate(batches)]
    whole = {name: torch.cat([part[name] for part in parts]) for name in ("logits", "targets", "valid", "image")}
    return {**whole, "normaliser": torch.stack([part["normaliser"] for part in parts]).sum()}


def _value(loss: "nn.Module", batch: dict[str, Any]) -> "Tensor":
    rest = {name: batch[name] for name in ("valid", "image", "normaliser")}
    value: Tensor = loss(batch["logits"], batch["targets"], **rest)
    return value


def _gradient(loss: "nn.Module", batch: dict[str, Any]) -> "Tensor":
    """Return d loss / d logits (A, K)."""
    import torch

    logits = batch["logits"].clone().requires_grad_()
    value = _value(loss, {**batch, "logits": logits})
    gradient: Tensor = torch.autograd.grad(value, logits)[0]
    return gradient


def _check_gradients(make: Callable[[], "nn.Module"], batch: dict[str, Any]) -> None:
    import torch

    gradient = _gradient(make(), batch)
    valid, positive = batch["valid"], batch["targets"][:, :_CLASSES] > 0
    promise(bool(torch.isfinite(gradient).all()), "the gradient is not finite")
    promise(bool((gradient[~valid] == 0).all()), "rows that are not valid get a gradient")
    true = gradient[:, :_CLASSES][valid[:, None] & positive]
    if gradient.shape[1] > _CLASSES:
        true = torch.cat([true, gradient[valid & ~positive.any(dim=1), -1]])
    promise(bool((true < 0).all()), "the logit of a true class is not pushed up")
    promise(bool((gradient[valid] != 0).any(dim=1).all()), "a valid row gets no gradient")


def _check_extremes(make: Callable[[], "nn.Module"], batch: dict[str, Any]) -> None:
    import torch

    background = torch.zeros_like(batch["targets"])
    if batch["targets"].shape[1] > _CLASSES:
        background[:, -1] = 1
    cases = {
        "without positives": {**batch, "targets": background, "normaliser": torch.tensor(1.0)},
        "of logits of 80": {**batch, "logits": batch["logits"].sign() * 80},
        "of logits of 80 without positives": {
            **batch,
            "targets": background,
            "logits": batch["logits"].sign() * 80,
            "normaliser": torch.tensor(1.0),
        },
        "with no valid row": {**batch, "valid": torch.zeros_like(batch["valid"])},
        "without rows": _batch(batch["logits"].shape[1], seed=0, rows=0),
    }
    for what, case in cases.items():
        value, gradient = _value(make(), case), _gradient(make(), case)
        finite = bool(torch.isfinite(value)) and bool(torch.isfinite(gradient).all())
        promise(finite, f"the loss {what}, or its gradient, is not finite")
        promise(float(value) >= 0, f"the loss {what} is negative")
    promise(float(_value(make(), cases["with no valid row"])) == 0, "rows that are not valid cost something")


def _check_arithmetic(make: Callable[[], "nn.Module"], batch: dict[str, Any]) -> None:
    import torch

    value = float(_value(make(), batch))
    other = torch.where(batch["valid"][:, None], batch["logits"], batch["logits"] + 3)
    promise(near(_value(make(), {**batch, "logits": other}), value), "rows that are not valid change the loss")
    other = _value(make(), {**batch, "normaliser": 2 * batch["normaliser"]})
    if getattr(make(), "own_normaliser", False):
        promise(near(other, value), "it says that it has a divisor of its own, and uses the normaliser")
    else:
        promise(near(other, value / 2), "the sum is not divided by the normaliser")
    order = torch.randperm(_ROWS, generator=torch.Generator().manual_seed(1))
    mixed = {name: v if name == "normaliser" else v[order] for name, v in batch.items()}
    promise(near(_value(make(), mixed), value), "the order of rows changes the loss")
    right = {**batch, "logits": _right_logits(batch)}
    promise(float(_value(make(), right)) < value / 2, "right logits hardly cost less than random ones")


def _right_logits(batch: dict[str, Any]) -> "Tensor":
    """4 for what is true and -4 for the rest; of two background columns the first says that there is an object."""
    import torch

    targets, columns = batch["targets"], batch["logits"].shape[1]
    if columns > targets.shape[1]:
        targets = torch.cat([targets[:, :_CLASSES], 1 - targets[:, -1:], targets[:, -1:]], dim=1)
    right: Tensor = (targets * 2 - 1) * 4
    return right


def _check_state(make: Callable[[], "nn.Module"], columns: int) -> None:
    first = make()
    for seed in range(3):
        _value(first, _batch(columns, seed))
    second = make()
    second.load_state_dict(first.state_dict())
    later = _batch(columns, seed=9)
    expected = float(_value(first, later))
    promise(near(_value(second, later), expected), "what the loss has learned is not in its state_dict")


def _check_distributed(make: Callable[[], "nn.Module"], columns: int) -> None:
    """Two processes see different batches, one of them a batch without rows."""
    import torch
    from torch.multiprocessing.spawn import start_processes

    # A server that has imported torch once: a fresh process for each loss would take seconds.
    multiprocessing.get_context("forkserver").set_forkserver_preload(["wsi_detect.losses"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start_processes(  # type: ignore[no-untyped-call]
            _distributed_steps, args=(make, columns, folder), nprocs=2, start_method="forkserver"
        )
        found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    states = [each["state"] for each in found]
    same = all(states[0][key].equal(states[1][key]) for key in states[0])
    promise(same, "the processes of a distributed run keep different states")
    alone = make()
    gradients = [_gradient(alone, _joined(batches)) for batches in _shared_batches(columns)]
    kept = alone.state_dict()
    as_one = all(torch.allclose(states[0][key], kept[key], rtol=1e-5) for key in kept)
    promise(as_one, "two processes keep another state than one that sees the joined batch")
    for step, expected in enumerate(gradients):
        average = torch.cat([each["gradients"][step] for each in found]) / 2
        close = torch.allclose(average, expected, rtol=1e-4, atol=1e-6)
        promise(close, "two processes have other gradients than one that sees the joined batch")


def _shared_batches(columns: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What two processes see, step by step."""
    rows = ((60, 60), (40, 60), (60, 0), (60, 25))
    return [
        (_batch(columns, 10 * step, first), _batch(columns, 10 * step + 1, second))
        for step, (first, second) in enumerate(rows)
    ]


def _distributed_steps(rank: int, make: Callable[[], "nn.Module"], columns: int, folder: Path) -> None:
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    loss = make()
    gradients = []
    for batches in _shared_batches(columns):
        normaliser = _joined(batches)["normaliser"] / 2
        gradients.append(_gradient(loss, {**batches[rank], "normaliser": normaliser}))
    torch.save({"state": loss.state_dict(), "gradients": gradients}, folder / f"{rank}.pt")
    distributed.destroy_process_group()
