"""Every layer belongs to a part of its network, and the parts are as in the papers."""

import pytest

from imgpipe.components.train.network_stages import TOP, frozen_parts, parts_of_layers

NAMES = ("stem", "stage1", "stage2", "stage3", "stage4")


@pytest.mark.parametrize(
    ("family", "names", "parts"),
    [
        (
            "resnet",
            ["images", "conv1_pad", "pool1_pool", "conv2_block1_1_conv", "conv5_block3_out", "avg_pool"],
            ["stem", "stem", "stem", "stage1", "stage4", "top"],
        ),
        (
            "basic-resnet",
            ["input_layer_3", "stem_conv", "stage1_block1_1_conv", "stage4_block2_relu2", "pool"],
            ["stem", "stem", "stage1", "stage4", "top"],
        ),
        (
            "efficientnet",
            [
                "rescaling_2",
                "normalization_2",
                "stem_bn",
                "block1a_dwconv",
                "block7d_add",
                "top_conv",
                "top_bn",
            ],
            ["stem", "stem", "stem", "stage1", "stage7", "top", "top"],
        ),
        (
            "mobilenet-v2",
            [
                *("Conv1", "expanded_conv_project", "block_1_pad", "block_2_add", "block_3_expand"),
                *("block_6_expand", "block_10_expand", "block_13_pad", "block_15_add", "block_16_project"),
                *("Conv_1", "out_relu"),
            ],
            [
                *("stem", "stage1", "stage2", "stage2", "stage3"),
                *("stage4", "stage5", "stage6", "stage6", "stage7"),
                *("top", "top"),
            ],
        ),
        (
            "mobilenet-v3-small",
            [
                *("rescaling_3", "conv_bn", "activation_4", "expanded_conv_depthwise", "re_lu_9"),
                *("expanded_conv_1_expand", "re_lu_2", "expanded_conv_2_add", "expanded_conv_3_expand"),
                *("activation_1", "expanded_conv_6_expand", "expanded_conv_8_expand", "re_lu_14"),
                *("expanded_conv_10_add", "conv_1", "activation_17", "avg_pool"),
            ],
            [
                *("stem", "stem", "stem", "stage1", "stage1", "stage2", "stage2", "stage2", "stage3"),
                *("stage3", "stage4", "stage5", "stage5", "stage5", "top", "top", "top"),
            ],
        ),
        (
            "mobilenet-v3-large",
            [
                *("conv", "expanded_conv_project", "expanded_conv_1_expand", "expanded_conv_3_expand"),
                *("expanded_conv_6_expand", "activation_3", "expanded_conv_10_expand"),
                *("expanded_conv_12_expand", "expanded_conv_14_add", "conv_1"),
            ],
            [
                *("stem", "stage1", "stage2", "stage3", "stage4", "stage4", "stage5", "stage6", "stage6"),
                "top",
            ],
        ),
        (
            "convnext",
            [
                *("convnext_tiny_prestem_normalization", "convnext_tiny_stem"),
                *("convnext_tiny_stage_0_block_2_gelu", "convnext_tiny_downsampling_block_0"),
                *("convnext_tiny_stage_1_block_0_layer_scale", "convnext_tiny_downsampling_block_2"),
                *("convnext_small_stage_3_block_2_identity", "global_average_pooling2d_7"),
                "layer_normalization_7",
            ],
            ["stem", "stem", "stage1", "stage2", "stage2", "stage4", "stage4", "top", "top"],
        ),
    ],
)
def test_layers_belong_to_the_parts_defined_in_the_paper(family, names, parts):
    assert parts_of_layers(family, names) == parts


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        ("none", ()),
        ("stem", ("stem",)),
        ("stage2", ("stem", "stage1", "stage2")),
        ("stage4", NAMES),
        ("backbone", (*NAMES, TOP)),
    ],
)
def test_everything_up_to_and_including_the_given_stage_is_frozen(freeze, frozen):
    assert frozen_parts(freeze, NAMES) == frozen
