"""The search space of a tuning without one: what matters most, around the values of the recipe."""

from collections.abc import Callable, Mapping
from typing import Any

from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.recipes import recipe_values

# The range of a value: the recipe's divided and multiplied by these. Higher learning rates diverge.
_LEARNING_RATE_RANGE, _WEIGHT_DECAY_RANGE = (10, 4), (10, 10)
# In place of a recipe's weight decay of 0.
_WEIGHT_DECAY = 1e-4
# Networks of the size of the recipes' own, which train on a laptop.
_PRETRAINED_NETWORKS = ("mobilenet-v2", "efficientnet-v2-b0", "resnet-50")
_OTHER_NETWORKS = ("resnet-18", "resnet-34")
_SEPARATOR = "; "


def default_space(given: Mapping[str, Any], *, has_weights: Callable[[str], bool]) -> str:
    """Returns a search space in the short form of the argument ``tune``; empty if all of it is given.

    It has the learning rate, the weight decay, the augmentation and the network, except for those that the
    user has set.

    Args:
        given: The training arguments that the user has set.
        has_weights: Whether the ImageNet weights of a network can be loaded.
    """
    values = recipe_values(given)
    spaces: dict[str, str] = {
        "initial_learning_rate": _range(values["initial_learning_rate"], _LEARNING_RATE_RANGE),
        "weight_decay": _range(values["weight_decay"] or _WEIGHT_DECAY, _WEIGHT_DECAY_RANGE),
        # Each step of a frozen network with random augmentation computes all of its features again; more of
        # it is not worth that time.
        "augmentation": "none,crop-flip" + ("" if values["freeze"] == "backbone" else ",randaugment"),
    }
    networks = _networks(values, has_weights)
    # Parts of a network, and the weights of an earlier model, belong to one network.
    is_fixed = values["freeze"] not in ("none", "backbone") or given.get("pretrained_checkpoint_path")
    if len(networks) > 1 and not is_fixed:
        spaces["model_type"] = ",".join(networks)
    return _SEPARATOR.join(f"{name}={space}" for name, space in spaces.items() if name not in given)


def _networks(values: Mapping[str, Any], has_weights: Callable[[str], bool]) -> list[str]:
    if values["weights"] != "imagenet":
        return list(dict.fromkeys((values["model_type"], *_OTHER_NETWORKS)))
    candidates = dict.fromkeys((values["model_type"], *_PRETRAINED_NETWORKS))
    return [name for name in candidates if MODEL_TYPES[name].has_imagenet_weights and has_weights(name)]


def _range(value: float, factors: tuple[int, int]) -> str:
    return f"log:{value / factors[0]:g}:{value * factors[1]:g}"
