"""Shares of an endpoint's traffic, in whole percent."""

from collections.abc import Mapping


def shares_with(current: Mapping[str, int], new: str, percent: int) -> dict[str, int]:
    """Returns the traffic split in which one model has its share and the others keep theirs of the rest.

    Args:
        current: Percent by deployed model; may hold ``new``.
        new: The model that gets ``percent``, or everything if no other has traffic.
        percent: 1 to 100.

    Returns:
        Percent by deployed model, 100 in all; remainders go to the largest shares first.
    """
    others = {model: share for model, share in current.items() if model != new}
    total = sum(others.values())
    if not total:
        return {**dict.fromkeys(others, 0), new: 100}
    left = 100 - percent
    shares = {model: share * left // total for model, share in others.items()}
    # Whole percent that rounding down left over.
    by_remainder = sorted(others, key=lambda model: (-(others[model] * left % total), model))
    for model in by_remainder[: left - sum(shares.values())]:
        shares[model] += 1
    return {**shares, new: percent}
