"""Maps the layers of a network to its parts: stem, stage1, stage2 and so on, and top.

A stage is a group of blocks after the stem, as counted in the network's paper: conv2_x to conv5_x in ResNets
(He et al., 2015, table 1), the rows of MBConv blocks in EfficientNets (Tan and Le, 2019, table 1; 2021, table
4), the rows of bottlenecks in MobileNetV2 (Sandler et al., 2018, table 2). The layers after the last stage (a
1x1 convolution in EfficientNets and MobileNetV2, the pooling in all networks) are the top.
"""

import re
from collections.abc import Sequence

TOP = "top"
_STEM = "stem"

# Pattern of the names of a stage's layers, by family. The group "stage" is the number in the name.
_STAGE_IN_NAME = {
    "basic-resnet": re.compile(r"stage(?P<stage>\d+)_"),
    "bottleneck-resnet": re.compile(r"stage(?P<stage>\d+)_"),
    "resnet": re.compile(r"conv(?P<stage>[2-9])_"),
    "efficientnet": re.compile(r"block(?P<stage>\d+)[a-z]_"),
    "efficientnet-v2": re.compile(r"block(?P<stage>\d+)[a-z]_"),
    "mobilenet-v2": re.compile(r"(expanded_conv|block_(?P<stage>\d+))_"),
}
# The first blocks of MobileNetV2's stages from the second on. Its blocks are numbered through all stages.
_MOBILENET_FIRST_BLOCKS = (1, 3, 6, 10, 13, 16)


def parts_of_layers(family: str, names: Sequence[str]) -> list[str]:
    """Returns the part of each layer: ``stem``, ``stage1``, ``stage2``, ..., or ``top``.

    Args:
        family: ``ModelType.family``.
        names: Names of all layers, starting at the images.
    """
    parts: list[str] = []
    stage = 0
    for name in names:
        match = _STAGE_IN_NAME[family].match(name)
        if match:
            stage = _stage(family, match)
            parts.append(f"stage{stage}")
        else:
            parts.append(TOP if stage else _STEM)
    return parts


def frozen_parts(freeze: str, stage_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the parts of a network that are not trained.

    Args:
        freeze: ``none``, ``backbone``, or the last frozen one of ``stage_names``.
        stage_names: ``ModelType.stage_names``.
    """
    if freeze == "none":
        return ()
    if freeze == "backbone":
        return (*stage_names, TOP)
    return tuple(stage_names[: stage_names.index(freeze) + 1])


def _stage(family: str, match: "re.Match[str]") -> int:
    if family == "mobilenet-v2":
        block = int(match["stage"] or 0)
        return 1 + sum(block >= first for first in _MOBILENET_FIRST_BLOCKS)
    number = int(match["stage"])
    # The stem's convolution is conv1.
    return number - 1 if family == "resnet" else number
