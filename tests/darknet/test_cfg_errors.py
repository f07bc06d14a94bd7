# SPDX-License-Identifier: Apache-2.0
"""A cfg that describes no network: one error with file, line and what to do."""

import pytest
from support.networks import build

from yolo_hw.darknet import load_network
from yolo_hw.errors import CfgError

NET = "[net]\nheight=8\nwidth=8\nchannels=4\n"  # lines 1 to 4; sections of the table start at line 5

# sections after NET -> line of the error, parts of the message
BAD = {
    "unknown_section": ("[convolutionall]\n", 5, "unknown section [convolutionall]; did you mean 'convolutional'?"),
    "unknown_key": ("[convolutional]\nfilter=3\n", 6, "unknown key 'filter'; did you mean 'filters'?"),
    "unknown_activation": ("[activation]\nactivation=leeky\n", 6, "unknown activation 'leeky'; did you mean 'leaky'?"),
    "negative_filters": ("[convolutional]\nfilters=-3\n", 6, "filters must be in [1, "),
    "zero_filters": ("[convolutional]\nfilters=0\n", 6, "filters must be in [1, "),
    "huge_filters": ("[convolutional]\nfilters=99999999999\n", 6, "filters must be in [1, "),
    "fractional": ("[convolutional]\nsize=2.5\n", 6, "size must be an integer, got '2.5'"),
    "empty_value": ("[convolutional]\nsize=\n", 6, "size must be an integer, got ''"),
    "no_flag": ("[convolutional]\nbatch_normalize=2\n", 6, "batch_normalize must be in [0, 1], got 2"),
    "zero_stride": ("[convolutional]\nstride=0\n", 6, "stride must be in [1, "),
    "groups_input": ("[convolutional]\nfilters=6\ngroups=3\n", 7, "must divide the 4 input channels"),
    "groups_filters": ("[convolutional]\nfilters=5\ngroups=2\n", 7, "the 5 filters"),
    "empty_output": ("[convolutional]\nsize=9\n", 5, "the output would be empty"),
    "depthwise_filters": ("[depthwise]\nfilters=5\n", 6, "filters must equal the 4 input channels"),
    "pool_outside": ("[maxpool]\nsize=2\npadding=3\n", 5, "outside"),
    "forward_route": ("[maxpool]\n[route]\nlayers=2\n", 7, "refers to layer 2, but this is layer 1"),
    "cyclic_route": ("[maxpool]\n[route]\nlayers=1\n", 7, "must refer to a layer before it"),
    "route_before_start": ("[route]\nlayers=-1\n", 6, "must refer to a layer before it"),
    "route_empty": ("[maxpool]\n[route]\nlayers=\n", 7, "layers must not be empty"),
    "route_missing": ("[maxpool]\n[route]\n", 6, "layers is missing"),
    "route_text": ("[maxpool]\n[route]\nlayers=-1,x\n", 7, "layers must be a list of integers, got '-1,x'"),
    "route_sizes": ("[maxpool]\n[maxpool]\nstride=2\n[route]\nlayers=-1,-2\n", 9, "must have one size"),
    "route_groups": ("[maxpool]\n[route]\nlayers=-1\ngroups=3\n", 8, "must divide the 4 channels of layer 0"),
    "route_group_id": ("[maxpool]\n[route]\nlayers=-1\ngroups=2\ngroup_id=2\n", 9, "group_id must be below groups=2"),
    "forward_shortcut": ("[maxpool]\n[shortcut]\nfrom=1\n", 7, "must refer to a layer before it"),
    "shortcut_sizes": ("[maxpool]\n[maxpool]\nstride=2\n[shortcut]\nfrom=-2\n", 9, "must have one size"),
    "loss_number": ("[conv]\nfilters=6\n[yolo]\nnum=1\nclasses=1\nanchors=1,2\nignore_thresh=x\n", 11, "finite"),
    "class_tree": ("[convolutional]\nfilters=6\n[region]\ntree=9k.tree\n", 8, "classes in a tree (YOLO9000) are not"),
    "weights_type": ("[maxpool]\n[shortcut]\nfrom=-1\nweights_type=per_feture\n", 8, "did you mean 'per_feature'?"),
    "upsample_huge": ("[upsample]\nstride=1000\n", 6, "stride must be in [1, 64]"),
    "upsample_chain": ("[upsample]\nstride=64\n" * 3, 7, "elements"),
    "reorg_odd": ("[maxpool]\nsize=2\npadding=0\n[reorg]\nstride=2\n", 9, "must divide the map size"),
    "reorg_channels": ("[convolutional]\nfilters=3\n[reorg]\nstride=2\n", 8, "must divide the 3 channels"),
    "scale_shape": ("[maxpool]\n[scale_channels]\nfrom=-1\n", 7, "must have shape 4x1x1"),
    "sam_shape": ("[maxpool]\n[convolutional]\n[sam]\nfrom=0\n", 8, "must have one shape"),
    "se_filters": ("[se]\nfilters=5\n", 6, "filters must equal the 4 input channels"),
    "softmax_groups": ("[softmax]\ngroups=3\n", 6, "must divide"),
    "softmax_temperature": ("[softmax]\ntemperature=0\n", 6, "temperature must be positive"),
    "yolo_channels": ("[yolo]\nanchors=1,2\nclasses=3\n", 5, "set filters=8 in the convolution before it"),
    "yolo_anchor_count": ("[yolo]\nanchors=1,2\nnum=3\nclasses=1\n", 6, "anchors must hold 3 pairs"),
    "yolo_anchor_nan": ("[yolo]\nanchors=1,nan\nclasses=1\n", 6, "anchors must be a list of finite numbers"),
    "yolo_anchor_negative": ("[yolo]\nanchors=1,-2\nclasses=1\n", 6, "anchors must be positive"),
    "yolo_mask": ("[yolo]\nanchors=1,2\nmask=1\nclasses=1\n", 7, "mask must hold indices below num=1"),
    "region_coords": ("[region]\nanchors=1,2\ncoords=5\nclasses=1\n", 7, "coords must be 4"),
    "second_net": ("[maxpool]\n[net]\n", 6, "[net] must be the first section only"),
    "connected_huge": ("[convolutional]\nfilters=65536\n[connected]\noutput=65536\n", 7, "parameters"),
    "convolution_huge": ("[convolutional]\nfilters=65536\nsize=8191\npad=1\n", 5, "parameters"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_error_names_file_line_and_reason(case):
    sections, line, part = BAD[case]
    with pytest.raises(CfgError) as caught:
        build(NET + sections, "broken.cfg")
    message = str(caught.value)
    assert message.startswith(f"broken.cfg:{line}"), message
    assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "the first section must be [net]"),
        ("# only a comment\n", "the first section must be [net]"),
        ("[convolutional]\n", "the first section must be [net]"),
        ("[net]\nheight=8\nwidth=8\n", "must have 1 to 4096 layers, got 0"),
        ("[net]\nheight=8\n[maxpool]\n", "broken.cfg:1 [net]: width is missing"),
        ("[net]\nheight=8\nwidth=0\n[maxpool]\n", "broken.cfg:3 [net]: width must be in [1, 65536]"),
        ("[net]\nheight=65536\nwidth=65536\n[maxpool]\n", "elements"),
        ("[net]\nhieght=8\nwidth=8\n[maxpool]\n", "did you mean 'height'?"),
        (NET + "[maxpool]\n" * 5000, "layers"),
    ],
)
def test_whole_file_errors(text, part):
    with pytest.raises(CfgError) as caught:
        build(text, "broken.cfg")
    assert part in str(caught.value)
    assert str(caught.value).startswith("broken.cfg")


@pytest.mark.parametrize("length", [10**5, 10**6])
def test_messages_stay_short_whatever_the_file_holds(length):
    junk = "x" * length
    texts = [
        f"{NET}[{junk}]\n",
        f"{NET}[maxpool]\n{junk}=1\n",
        f"{NET}[convolutional]\nactivation={junk}\n",
        f"{NET}[convolutional]\nbinary={junk}\n",
        f"{NET}[convolutional]\nfilters={'9' * 4000}\n",
        f"{NET}[maxpool]\nsize=1\nsize={junk}\n[maxpool]\nsize=0\n",
        f"{NET}[yolo]\nanchors=1,2\nclasses=1\nmask={'7,' * (length // 20)}7\n",
    ]
    for text in texts:
        with pytest.raises(CfgError) as caught:
            build(text)
        assert len(str(caught.value)) < 500


def test_missing_file(tmp_path):
    with pytest.raises(CfgError, match=r"none\.cfg: cannot read the cfg file: No such file"):
        load_network(tmp_path / "none.cfg")


def test_folder(tmp_path):
    with pytest.raises(CfgError, match="cannot read the cfg file"):
        load_network(tmp_path)


def test_binary_file(tmp_path):
    path = tmp_path / "net.cfg"
    path.write_bytes(bytes([0x5B, 0xFF, 0xFE]))
    with pytest.raises(CfgError, match="UTF-8 text, got byte 0xff at 1"):
        load_network(path)


def test_endless_file():
    """A device that never ends must not fill the memory."""
    with pytest.raises(CfgError, match="at most"):
        load_network("/dev/zero")
