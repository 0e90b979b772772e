"""How a contract speaks when it is broken."""


class ContractBrokenError(AssertionError):
    """A clause of a contract does not hold; the message says which."""


def promise(held: bool, otherwise: str) -> None:
    """Raise unless a clause holds.

    Args:
        held: whether it does.
        otherwise: the sentence to say if not.

    Raises:
        ContractBrokenError: it does not.
    """
    if not held:
        raise ContractBrokenError(otherwise)


def near(value: object, expected: float) -> bool:
    """Whether a number, or a tensor of one, is within a ten-thousandth of another."""
    return abs(float(value) - expected) <= 1e-4 * abs(expected) + 1e-6  # type: ignore[arg-type]
