"""Kubernetes quantities, e.g. 500m processors or 16G of memory."""

import re

from imgpipe.components.common.errors import InvalidArgumentError

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(r"(\d+\.?\d*|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")


def check_quantity(name: str, text: str) -> None:
    """Rejects an invalid quantity, or one of zero.

    Raises:
        InvalidArgumentError: naming the argument, its value and valid examples.
    """
    match = _QUANTITY.fullmatch(text)
    if not match or not float(match[1]):
        raise InvalidArgumentError(
            f"{name}={text!r} is not a valid Kubernetes quantity",
            remedy="write processors as 4 or 500m, and memory as 16G or 16Gi",
        )
