"""Maps the layers of a network to its parts: stem, stage1, stage2 and so on, and top.

A stage is a group of blocks after the stem, as counted in the network's paper: conv2_x to conv5_x in ResNets
(He et al., 2015, table 1), the rows of MBConv blocks in EfficientNets (Tan and Le, 2019, table 1; 2021, table
4), the rows of bottlenecks in MobileNetV2 (Sandler et al., 2018, table 2), the rows with the same number of
output channels in MobileNetV3 (Howard et al., 2019, tables 1 and 2), res2 to res5 in ConvNeXts (Liu et al.,
2022, table 9), each with the downsampling before it. The layers after the last stage (a 1x1 convolution in
EfficientNets and MobileNets, the pooling in all networks) are the top.
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
    "mobilenet-v3-small": re.compile(r"expanded_conv_((?P<stage>\d+)_)?"),
    "mobilenet-v3-large": re.compile(r"expanded_conv_((?P<stage>\d+)_)?"),
    "convnext": re.compile(r"convnext_[a-z]+_(stage|(?P<before>downsampling_block))_(?P<stage>\d+)"),
}
# The first blocks of the stages from the second on, in families whose blocks are numbered through all stages.
_FIRST_BLOCKS = {
    "mobilenet-v2": (1, 3, 6, 10, 13, 16),
    "mobilenet-v3-small": (1, 3, 6, 8),
    "mobilenet-v3-large": (1, 3, 6, 10, 12),
}


def parts_of_layers(family: str, names: Sequence[str]) -> list[str]:
    """Returns the part of each layer: ``stem``, ``stage1``, ``stage2``, ..., or ``top``.

    Args:
        family: ``ModelType.family``.
        names: Names of all layers, starting at the images.
    """
    matches = [_STAGE_IN_NAME[family].match(name) for name in names]
    last = max(index for index, match in enumerate(matches) if match)
    parts = [_STEM]
    for index, match in enumerate(matches):
        if match:
            parts.append(f"stage{_stage(family, match)}")
        else:
            # MobileNetV3's activations, between the named layers of a stage, have no names of their own.
            parts.append(TOP if index > last else parts[-1])
    return parts[1:]


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
    if family in _FIRST_BLOCKS:
        block = int(match["stage"] or 0)
        return 1 + sum(block >= first for first in _FIRST_BLOCKS[family])
    number = int(match["stage"])
    if family == "convnext":
        # Numbered from 0.
        return number + (2 if match["before"] else 1)
    # The stem's convolution is conv1.
    return number - 1 if family == "resnet" else number
