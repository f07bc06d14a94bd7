# SPDX-License-Identifier: Apache-2.0
"""What the builders read from a section besides shapes: edges, options, defaults, warnings."""

import pytest
from support.networks import build

from yolo_hw.darknet import build_network, parse_cfg
from yolo_hw.darknet.head_training import RegionTraining, YoloTraining
from yolo_hw.errors import CfgError

NET = "[net]\nheight=8\nwidth=12\nchannels=14\n"


def last(sections):
    return build(NET + sections).layers[-1]


def test_convolution_options():
    layer = last(
        "[convolutional]\nfilters=28\nsize=5\npad=1\nstride=2\nstride_x=3\ndilation=2\ngroups=7\nactivation=mish\n"
    )
    assert (layer.size, layer.stride_y, layer.stride_x) == (5, 2, 3)
    assert (layer.padding, layer.dilation, layer.groups) == (4, 2, 7)
    assert (layer.batch_normalize, layer.activation, layer.depthwise) == (False, "mish", False)


def test_convolution_with_one_group_per_channel_is_depthwise():
    assert last("[convolutional]\nfilters=14\ngroups=14\nsize=3\npad=1\n").depthwise


def test_default_activation_is_logistic_as_in_darknet():
    assert last("[convolutional]\n").activation == "logistic"


@pytest.mark.parametrize(
    "name",
    "linear leaky relu relu6 mish swish logistic hard_mish h_swish h_sigmoid elu selu gelu tanh loggy relie ramp plse "
    "hardtan lhtan stair".split(),
)
def test_every_activation_is_known(name):
    assert last(f"[convolutional]\nactivation={name}\n").activation == name
    assert last(f"[activation]\nactivation={name}\n").activation == name


@pytest.mark.parametrize(
    ("alias", "kind"), [("conv", "conv"), ("max", "pool"), ("avg", "avgpool"), ("soft", "softmax")]
)
def test_section_aliases(alias, kind):
    assert last(f"[{alias}]\n").kind == kind


def test_network_alias():
    assert build(NET.replace("[net]", "[network]") + "[maxpool]\n").input == (14, 8, 12)


def test_edges_are_absolute_and_in_order():
    network = build(
        NET + "[maxpool]\nsize=3\n" * 4 + "[route]\nlayers=-1, 0, -3\n[shortcut]\nfrom=-2\nactivation=leaky\n"
    )
    route, shortcut = network.layers[-2:]
    assert (route.index, route.inputs) == (4, (3, 0, 1))
    assert (shortcut.inputs, shortcut.activation) == ((4, 3), "leaky")
    assert network.layers[0].inputs == (-1,)


def test_dropout_counts_as_a_layer_for_references():
    network = build(NET + "[maxpool]\n[dropout]\nprobability=0.5\n[maxpool]\n[route]\nlayers=-2\n")
    assert network.layers[3].inputs == (1,)


def test_yolo_options():
    spec = last(
        "[yolo]\nmask = 3,1\nanchors = 1,2, 3,4, 5,6, 7,8\nnum=4\nclasses=2\nscale_x_y=1.5\nnew_coords=1\n"
    ).spec
    assert (spec.kind, spec.classes, spec.anchors) == ("yolo", 2, ((7, 8), (3, 4)))
    assert (spec.scale_x_y, spec.new_coords) == (1.5, True)


def test_yolo_without_mask_uses_all_anchors():
    assert last("[yolo]\nanchors=1,2,3,4\nnum=2\nclasses=2\n").spec.anchors == ((1, 2), (3, 4))


def test_heads_have_anchors_of_their_own():
    network = build(
        NET + "[yolo]\nanchors=1,2,3,4\nnum=2\nclasses=2\n[route]\nlayers=-1\n[yolo]\nanchors=9,9\nclasses=9\n"
    )
    assert [head.spec.anchors for head in network.heads] == [((1, 2), (3, 4)), ((9, 9),)]


def test_heads_carry_the_keys_of_their_loss_with_darknets_defaults():
    head = last(
        "[yolo]\nanchors=1,2,3,4\nnum=2\nclasses=2\niou_loss=ciou\niou_normalizer=.07\nfocal_loss=1\nmax_delta=5\n"
        "counters_per_class = 10, 2\nrandom=1\n"
    )
    assert head.training == YoloTraining(
        iou_loss="ciou", iou_normalizer=0.07, focal_loss=True, max_delta=5.0, counters_per_class=(10, 2)
    )
    assert last("[yolo]\nanchors=1,2,3,4\nnum=2\nclasses=2\n").training == YoloTraining()
    section = "[region]\nanchors=1,2,3,4\nnum=2\nclasses=2\n"
    assert last(section).training == RegionTraining()
    assert last(section + "thresh=.6\nbias_match=1\nclassfix=-1\n").training == RegionTraining(
        thresh=0.6, bias_match=True, classfix=-1.0
    )


def test_a_key_of_the_loss_that_only_the_loss_refuses_does_not_stop_a_network_from_running():
    assert last("[yolo]\nanchors=1,2,3,4\nnum=2\nclasses=2\niou_loss=eiou\n").training.iou_loss == "eiou"


def test_class_trees_are_refused_even_if_lenient():
    text = NET + "[region]\nanchors=1,2\nnum=1\nclasses=9\ntree=9k.tree\n"
    with pytest.raises(CfgError, match=r"tree=9k.tree: classes in a tree \(YOLO9000\) are not supported"):
        build_network(parse_cfg(text, "net.cfg"), lenient=True)


def test_region_options():
    spec = last("[region]\nanchors=1.5,2, 3,4\nnum=2\nclasses=2\ncoords=4\nsoftmax=1\nthresh=.6\n").spec
    assert (spec.kind, spec.anchors, spec.softmax) == ("region", ((1.5, 2.0), (3.0, 4.0)), True)


def test_duplicate_keys_warn_and_the_first_one_counts():
    network = build(NET + "[convolutional]\nfilters=3\nfilters=4\n")
    assert network.layers[0].shape.c == 3
    assert len(network.warnings) == 1
    assert network.warnings[0].startswith("net.cfg:7 [convolutional]: filters is given twice")


def test_lenient_skips_unknown_training_keys_with_a_warning():
    text = NET.replace("height", "warmup_magic=3\nheight") + "[yolo]\nanchors=1,2,3,4\nnum=2\nclasses=2\nfocus_x=1\n"
    with pytest.raises(CfgError, match=r"warmup_magic.*--lenient"):
        build(text)
    network = build_network(parse_cfg(text, "net.cfg"), lenient=True)
    assert [w.split("unknown key ")[1] for w in network.warnings] == ["'warmup_magic' skipped", "'focus_x' skipped"]


@pytest.mark.parametrize(
    "section",
    [
        "[convolutional]\nmagic=1\n",
        "[convolutional]\nfilterz=1\n",
        "[maxpool]\nmagic=1\n",
        "[yolo]\nanchors=1,2,3,4\nnum=2\nclasses=2\nmasks=0\n",  # close to the structure key `mask`
        "[magic]\n",
    ],
)
def test_lenient_never_skips_structure(section):
    with pytest.raises(CfgError, match="unknown"):
        build_network(parse_cfg(NET + section), lenient=True)


def test_neutral_keys_are_accepted_only_when_switched_off():
    assert last("[convolutional]\nantialiasing=0\nbinary=0\n").kind == "conv"
    with pytest.raises(CfgError, match=r"net.cfg:6 \[convolutional\]: antialiasing=1 is not supported"):
        build(NET + "[convolutional]\nantialiasing=1\n")
