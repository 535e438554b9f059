"""Quantities as Kubernetes writes them: 500m processors, 16G of memory."""

import re

from imgpipe.components.common.errors import InvalidArgumentError

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(r"(\d+\.?\d*|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")


def check_quantity(name: str, text: str) -> None:
    """Refuses what Kubernetes would not understand, or what asks for nothing.

    Raises:
        InvalidArgumentError: naming the argument, its value and how it is written.
    """
    matched = _QUANTITY.fullmatch(text)
    if not matched or not float(matched[1]):
        raise InvalidArgumentError(
            f"{name}={text!r} is no quantity of Kubernetes",
            remedy="write processors as 4 or 500m, memory as 16G or 16Gi",
        )
