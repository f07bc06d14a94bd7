# SPDX-License-Identifier: Apache-2.0
"""Sections -> shapes and parameters, against a table derived by hand from darknet's formulas."""

import pytest
from support.networks import build

# input (channels, height, width) -> sections -> output of the last layer and its parameter shapes
# conv: (n + 2 * pad - dilation * (size - 1) - 1) // stride + 1; pool: (n + padding - size) // stride + 1
TABLE = {
    "conv_defaults": ((3, 5, 7), "[convolutional]\n", (1, 5, 7), [(1,), (1, 3, 1, 1)]),
    "conv_unpadded": ((3, 8, 6), "[convolutional]\nfilters=4\nsize=3\n", (4, 6, 4), [(4,), (4, 3, 3, 3)]),
    "conv_pad_flag": ((3, 8, 6), "[conv]\nfilters=4\nsize=3\npad=1\n", (4, 8, 6), [(4,), (4, 3, 3, 3)]),
    "conv_pad_flag_wins": (
        (3, 8, 6), "[convolutional]\nfilters=4\nsize=5\npad=1\npadding=0\n", (4, 8, 6), [(4,), (4, 3, 5, 5)],
    ),
    "conv_padding": ((3, 8, 6), "[conv]\nfilters=4\nsize=3\npadding=3\n", (4, 12, 10), [(4,), (4, 3, 3, 3)]),
    "conv_even_size": ((3, 8, 6), "[convolutional]\nfilters=1\nsize=2\npad=1\n", (1, 9, 7), [(1,), (1, 3, 2, 2)]),
    "conv_stride": ((3, 9, 6), "[convolutional]\nfilters=4\nsize=3\npad=1\nstride=2\n", (4, 5, 3), None),
    "conv_stride_xy": ((3, 9, 6), "[conv]\nfilters=4\nsize=3\npad=1\nstride=2\nstride_x=3\n", (4, 5, 2), None),
    "conv_stride_y": ((3, 9, 6), "[conv]\nfilters=4\nsize=3\npad=1\nstride_y=4\n", (4, 3, 6), None),
    "conv_dilation": ((3, 9, 9), "[convolutional]\nfilters=4\nsize=3\npad=1\ndilation=2\n", (4, 9, 9), None),
    "conv_dilation_unpadded": ((3, 9, 9), "[convolutional]\nfilters=4\nsize=3\ndilation=3\n", (4, 3, 3), None),
    "conv_groups": ((6, 4, 4), "[conv]\nfilters=4\nsize=3\npad=1\ngroups=2\n", (4, 4, 4), [(4,), (4, 3, 3, 3)]),
    "conv_batch_normalize": (
        (3, 4, 4), "[convolutional]\nfilters=2\nbatch_normalize=1\n", (2, 4, 4), [(2,), (2,), (2,), (2,), (2, 3, 1, 1)],
    ),
    "depthwise": (
        (6, 8, 8), "[depthwise]\nsize=3\nstride=2\npad=1\nbatch_normalize=1\n", (6, 4, 4),
        [(6,), (6,), (6,), (6,), (6, 1, 3, 3)],
    ),
    "depthwise_filters": ((6, 8, 8), "[depthwise]\nfilters=6\nsize=5\npad=1\n", (6, 8, 8), [(6,), (6, 1, 5, 5)]),
    "maxpool_2_2": ((3, 8, 6), "[maxpool]\nsize=2\nstride=2\n", (3, 4, 3), []),
    "maxpool_2_2_odd": ((3, 13, 7), "[maxpool]\nsize=2\nstride=2\n", (3, 7, 4), []),
    "maxpool_2_1": ((3, 13, 7), "[maxpool]\nsize=2\nstride=1\n", (3, 13, 7), []),
    "maxpool_spp_13": ((3, 10, 10), "[maxpool]\nsize=13\nstride=1\n", (3, 10, 10), []),
    "maxpool_size_is_stride": ((3, 9, 9), "[maxpool]\nstride=3\n", (3, 3, 3), []),
    "maxpool_no_padding": ((3, 9, 9), "[maxpool]\nsize=3\nstride=2\npadding=0\n", (3, 4, 4), []),
    "maxpool_xy": ((3, 8, 8), "[max]\nsize=2\nstride_x=1\nstride_y=2\nstride=1\n", (3, 4, 8), []),
    "local_avgpool": ((3, 8, 8), "[local_avgpool]\nsize=2\nstride=2\n", (3, 4, 4), []),
    "avgpool": ((5, 8, 6), "[avgpool]\n", (5, 1, 1), []),
    "route_one": ((3, 8, 6), "[conv]\nfilters=4\n[conv]\nfilters=2\n[route]\nlayers=-2\n", (4, 8, 6), []),
    "route_three": (
        (3, 8, 6), "[conv]\nfilters=4\n[conv]\nfilters=2\n[maxpool]\nsize=5\n[route]\nlayers = -1, 1,0\n",
        (8, 8, 6), [],
    ),
    "route_group": ((3, 8, 6), "[conv]\nfilters=8\n[route]\nlayers=-1\ngroups=4\ngroup_id=2\n", (2, 8, 6), []),
    "route_group_of_two": (
        (3, 8, 6), "[conv]\nfilters=8\n[conv]\nfilters=4\n[route]\nlayers=0,1\ngroups=2\ngroup_id=1\n", (6, 8, 6), [],
    ),
    "shortcut": ((3, 8, 6), "[conv]\nfilters=4\n[conv]\nfilters=4\n[shortcut]\nfrom=-2\n", (4, 8, 6), []),
    "shortcut_narrower": ((3, 8, 6), "[conv]\nfilters=2\n[conv]\nfilters=4\n[shortcut]\nfrom=-2\n", (4, 8, 6), []),
    "shortcut_n": (
        (3, 8, 6),
        "[conv]\nfilters=4\n[conv]\nfilters=4\n[conv]\nfilters=4\n[shortcut]\nfrom=-2,0\nweights_type=per_feature\n",
        (4, 8, 6), [(3,)],
    ),
    "shortcut_per_layer": (
        (3, 8, 6), "[conv]\nfilters=4\n[conv]\nfilters=4\n[shortcut]\nfrom=0\nweights_type=per_layer\n",
        (4, 8, 6), [(2,)],
    ),
    "shortcut_per_channel": (
        (3, 8, 6),
        "[conv]\nfilters=4\n[conv]\nfilters=4\n[shortcut]\nfrom=0\nweights_type=per_channel\n"
        "weights_normalization=softmax\n",
        (4, 8, 6), [(2, 4)],
    ),
    "upsample": ((3, 4, 5), "[upsample]\nstride=2\n", (3, 8, 10), []),
    "upsample_default": ((3, 4, 5), "[upsample]\n", (3, 8, 10), []),
    "upsample_3": ((3, 4, 5), "[upsample]\nstride=3\nscale=0.5\n", (3, 12, 15), []),
    "reorg": ((4, 6, 8), "[reorg]\nstride=2\n", (16, 3, 4), []),
    "reorg_reverse": ((16, 3, 4), "[reorg]\nstride=2\nreverse=1\n", (4, 6, 8), []),
    "reorg3d": ((3, 6, 8), "[reorg3d]\nstride=2\n", (12, 3, 4), []),
    "scale_channels": (
        (3, 4, 4), "[conv]\nfilters=8\n[avgpool]\n[conv]\nfilters=8\n[scale_channels]\nfrom=0\n", (8, 4, 4), [],
    ),
    "scale_wh": (
        (3, 4, 4), "[conv]\nfilters=8\n[conv]\nfilters=1\n[scale_channels]\nfrom=-2\nscale_wh=1\n", (8, 4, 4), [],
    ),
    "sam": ((3, 4, 4), "[conv]\nfilters=8\n[conv]\nfilters=8\nactivation=logistic\n[sam]\nfrom=-2\n", (8, 4, 4), []),
    "se": ((16, 4, 4), "[se]\nreduction=4\n", (16, 4, 4), [(4, 16), (16, 4)]),
    "se_default": ((8, 4, 4), "[se]\n", (8, 4, 4), [(2, 8), (8, 2)]),
    "batchnorm": ((5, 4, 4), "[batchnorm]\n", (5, 4, 4), [(5,), (5,), (5,), (5,)]),
    "activation": ((5, 4, 4), "[activation]\nactivation=mish\n", (5, 4, 4), []),
    "connected": ((3, 4, 5), "[connected]\noutput=7\nactivation=linear\n", (7, 1, 1), [(7,), (7, 60)]),
    "connected_norm": (
        (3, 2, 2), "[connected]\noutput=7\nbatch_normalize=1\n", (7, 1, 1), [(7,), (7, 12), (7,), (7,), (7,)],
    ),
    "softmax": ((10, 1, 1), "[softmax]\ngroups=2\ntemperature=2\n", (10, 1, 1), []),
    "dropout": ((3, 4, 4), "[dropout]\nprobability=.5\n", (3, 4, 4), []),
    "cost": ((3, 4, 4), "[cost]\ntype=sse\n", (3, 4, 4), []),
    "empty": ((3, 4, 4), "[silence]\n", (3, 4, 4), []),
    "yolo": ((14, 4, 5), "[yolo]\nanchors=1,2, 3,4, 5,6\nmask=2,0\nnum=3\nclasses=2\n", (14, 4, 5), []),
    "region": ((14, 4, 5), "[region]\nanchors=1,2, 3,4\nnum=2\nclasses=2\nsoftmax=1\n", (14, 4, 5), []),
}  # fmt: skip


def network_of(shape, sections):
    channels, height, width = shape
    return build(f"[net]\nchannels={channels}\nheight={height}\nwidth={width}\n{sections}")


@pytest.mark.parametrize("case", TABLE)
def test_shape_and_parameters(case):
    given, sections, shape, params = TABLE[case]
    layer = network_of(given, sections).layers[-1]
    assert layer.shape == shape
    if params is not None:
        assert [param.shape for param in layer.params] == params


@pytest.mark.parametrize("case", TABLE)
def test_shapes_are_those_that_the_model_computes(case):
    """The table again, through torch: declared shape equals computed shape."""
    torch = pytest.importorskip("torch")
    from yolo_hw.nn import Darknet

    given, sections, shape, _ = TABLE[case]
    network = network_of(given, sections)
    (found, *_) = Darknet(network).eval()(torch.zeros(2, *given))[-1:]
    assert found.shape == (2, *shape)
