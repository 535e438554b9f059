"""Counts with a noun in messages."""


def plural(count: int, noun: str) -> str:
    """Returns the count with the noun, in the plural unless it is 1: ``1 image``, ``2,000 images``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
