"""What a target is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Target:
    """A place where a pipeline runs.

    Attributes:
        name: Of the folder of its compiled pipelines.
        place: ``place(step, task)`` sets what this target needs of a step's task, e.g. its resources.
    """

    name: str
    place: Callable[[str, Any], None]
