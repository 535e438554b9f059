"""The search space of a tuning run without one: what matters most, around the values of the recipe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from imgpipe.components.train.recipes import recipe_of_trials, recipe_values

# The range of a value: the recipe's divided and multiplied by these. Higher learning rates diverge.
_LEARNING_RATE_RANGE, _WEIGHT_DECAY_RANGE = (10, 4), (10, 10)
# In place of a recipe's weight decay of 0.
_WEIGHT_DECAY = 1e-4
# Networks of the size of the recipes' own, which train on a laptop.
_PRETRAINED_NETWORKS = ("mobilenet-v2", "efficientnet-v2-b0", "resnet-50")
_OTHER_NETWORKS = ("resnet-18", "resnet-34")
_SEPARATOR = "; "


@dataclass(frozen=True)
class DefaultSpace:
    """A search space.

    Attributes:
        text: In the short form of the argument ``tune``; empty if there is nothing to search.
        left_out: The networks that are not in it because their ImageNet weights cannot be loaded.
    """

    text: str
    left_out: tuple[str, ...] = ()


def default_space(given: Mapping[str, Any], *, has_weights: Callable[[str], bool]) -> DefaultSpace:
    """Returns the search space of a tuning run for which none is given.

    It has the learning rate, the weight decay, the augmentation and the network, except for those that the
    user has set.

    Args:
        given: The training arguments that the user has set.
        has_weights: Whether the ImageNet weights of a network can be loaded.
    """
    values = recipe_values({**given, "recipe": recipe_of_trials(given)})
    spaces: dict[str, str] = {
        "initial_learning_rate": _range(values["initial_learning_rate"], _LEARNING_RATE_RANGE),
        "weight_decay": _range(values["weight_decay"] or _WEIGHT_DECAY, _WEIGHT_DECAY_RANGE),
        # Each step of a frozen network with random augmentation computes all of its features again; more of
        # it is not worth that time.
        "augmentation": "none,crop-flip" + ("" if values["freeze"] == "backbone" else ",randaugment"),
    }
    left_out: list[str] = []
    # Parts of a network, and the weights of an earlier model, belong to one network.
    is_fixed = values["freeze"] not in ("none", "backbone") or given.get("pretrained_checkpoint_path")
    if "model_type" not in given and not is_fixed:
        networks = [values["model_type"], *_OTHER_NETWORKS]
        if values["weights"] == "imagenet":
            networks = [values["model_type"], *_PRETRAINED_NETWORKS]
            left_out = [name for name in dict.fromkeys(networks) if not has_weights(name)]
        found = [name for name in dict.fromkeys(networks) if name not in left_out]
        if len(found) > 1:
            spaces["model_type"] = ",".join(found)
    text = _SEPARATOR.join(f"{name}={space}" for name, space in spaces.items() if name not in given)
    return DefaultSpace(text, tuple(left_out))


def _range(value: float, factors: tuple[int, int]) -> str:
    return f"log:{value / factors[0]:g}:{value * factors[1]:g}"
