"""Splits an endpoint's traffic in whole percent."""

from collections.abc import Mapping


def shares_with(current: Mapping[str, int], new: str, percent: int) -> dict[str, int]:
    """Returns a traffic split that gives one model its share; the others keep their proportions.

    Args:
        current: Percent by deployed model; may hold ``new``.
        new: The model that gets ``percent``, or all traffic if no other has any.
        percent: 1 to 100.

    Returns:
        Percent by deployed model, with a sum of 100.
    """
    others = {model: share for model, share in current.items() if model != new}
    total = sum(others.values())
    if not total:
        return {**dict.fromkeys(others, 0), new: 100}
    left = 100 - percent
    shares = {model: share * left // total for model, share in others.items()}
    # Rounding down leaves some percent: they go to the largest remainders.
    by_remainder = sorted(others, key=lambda model: (-(others[model] * left % total), model))
    for model in by_remainder[: left - sum(shares.values())]:
        shares[model] += 1
    return {**shares, new: percent}
