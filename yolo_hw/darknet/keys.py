# SPDX-License-Identifier: Apache-2.0
"""Every section and key of the darknet cfg dialect this library reads.

A key is *structure* (it changes what the network computes) or *training* (darknet reads it, inference
does not depend on it). Unknown structure can never be skipped: a network that is understood by half is
a wrong network.
"""

from __future__ import annotations

from yolo_hw.darknet.cfg import Cfg, Section, shorten
from yolo_hw.errors import CfgError, nearest

ALIASES = {
    "network": "net",
    "conv": "convolutional",
    "max": "maxpool",
    "avg": "avgpool",
    "local_avg": "local_avgpool",
    "conn": "connected",
    "soft": "softmax",
    "silence": "empty",
}
"""Other spellings darknet accepts for a section."""

_COMMON_TRAINING = frozenset(
    "stopbackward train_only_bn dontload dontloadscales onlyforward learning_rate name nms".split()
)

STRUCTURE: dict[str, frozenset[str]] = {
    section: frozenset(keys.split())
    for section, keys in {
        "net": "width height channels inputs letter_box",
        "convolutional": "batch_normalize filters size stride stride_x stride_y dilation pad padding groups activation",
        "depthwise": "batch_normalize filters size stride stride_x stride_y dilation pad padding activation",
        "maxpool": "size stride stride_x stride_y padding",
        "avgpool": "",
        "local_avgpool": "size stride stride_x stride_y padding",
        "route": "layers groups group_id",
        "shortcut": "from activation weights_type weights_normalization",
        "upsample": "stride scale",
        "reorg": "stride reverse",
        "reorg3d": "stride reverse",
        "scale_channels": "from scale_wh activation",
        "sam": "from activation",
        "se": "reduction filters",
        "batchnorm": "",
        "activation": "activation",
        "connected": "output activation batch_normalize",
        "dropout": "",
        "empty": "",
        "cost": "",
        "softmax": "groups temperature spatial",
        "yolo": "mask anchors classes num scale_x_y new_coords",
        "region": "anchors classes coords num softmax",
    }.items()
}
"""Structure keys of every known section."""

_HEAD_TRAINING = (
    "jitter random thresh max absolute map resize focal_loss label_smooth_eps iou_loss iou_normalizer iou_thresh "
    "iou_thresh_kind cls_normalizer obj_normalizer delta_normalizer max_delta counters_per_class beta_nms nms_kind "
    "objectness_smooth truth_thresh ignore_thresh show_details track_history_size sim_thresh dets_for_track "
    "dets_for_show track_ciou_norm embedding_layer"
)

TRAINING: dict[str, frozenset[str]] = {
    section: _COMMON_TRAINING | frozenset(TRAINING_KEYS.split())
    for section, TRAINING_KEYS in {
        "net": (
            "batch subdivisions momentum decay angle saturation exposure hue aspect learning_rate_min burn_in policy "
            "max_batches step steps scale scales seq_scales gamma power sgdr_cycle sgdr_mult adam B1 B2 eps max_crop "
            "min_crop flip blur gaussian_noise mixup cutmix mosaic mosaic_bound contrastive contrastive_jit_flip "
            "contrastive_color unsupervised label_smooth_eps resize_step attention adversarial_lr max_chart_loss "
            "time_steps track augment_speed sequential_subdivisions try_fix_nan weights_reject_freq "
            "equidistant_point badlabels_rejection_percentage num_sigmas_reject_badlabels ema_alpha use_cuda_graph "
            "loss_scale dynamic_minibatch optimized_memory workspace_size_limit_MB show_receptive_field hierarchy "
            "jitter center"
        ),
        "convolutional": "grad_centr stream wait_stream angle dot",
        "depthwise": "grad_centr",
        "maxpool": "",
        "avgpool": "",
        "local_avgpool": "",
        "route": "stream wait_stream",
        "shortcut": "",
        "upsample": "",
        "reorg": "",
        "reorg3d": "",
        "scale_channels": "",
        "sam": "",
        "se": "",
        "batchnorm": "",
        "activation": "",
        "connected": "",
        "dropout": "probability dropblock dropblock_size_rel dropblock_size_abs",
        "empty": "",
        "cost": "type scale ratio",
        "softmax": "noloss",
        "yolo": _HEAD_TRAINING,
        "region": _HEAD_TRAINING
        + " bias_match rescore classfix log sqrt coord_scale object_scale noobject_scale mask_scale class_scale",
    }.items()
}
"""Keys that darknet reads for training or display and that inference does not depend on."""

NEUTRAL: dict[str, dict[str, str]] = {
    "convolutional": dict.fromkeys(
        "antialiasing binary xnor bin_output cbn flipped assisted_excitation reverse coordconv sway rotate stretch "
        "stretch_sway".split(),
        "0",
    ),
    "maxpool": {"maxpool_depth": "0", "out_channels": "1", "antialiasing": "0", "maxpool_zero_nonmax": "0"},
    "reorg": {"flatten": "0", "extra": "0"},
    "region": {"background": "0"},
}
"""Structure this library does not implement: allowed only with the value that switches it off."""


UNSUPPORTED = {"region": {"tree": "classes in a tree (YOLO9000) are not supported"}}
"""Structure this library does not implement, whatever the value; `lenient` does not skip it."""


def canonical(section_type: str) -> str:
    """Return darknet's main name of a section type."""
    return ALIASES.get(section_type, section_type)


def check_keys(cfg: Cfg, *, lenient: bool = False) -> list[str]:
    """Check that every section and key of `cfg` is known.

    Args:
        cfg: The parsed file.
        lenient: Skip unknown keys with a warning where they can only concern training, that is in ``[net]`` and in
            the head sections; never elsewhere and never an unknown section.

    Returns:
        Warnings (skipped keys, duplicates with different values).

    Raises:
        CfgError: Names file, line and the nearest known name.
    """
    warnings: list[str] = []
    for section in cfg.sections:
        kind = canonical(section.type)
        if kind not in STRUCTURE:
            hint = nearest(section.type, [*STRUCTURE, *ALIASES])
            raise CfgError(f"{cfg.name}:{section.line}: unknown section [{shorten(section.type)}]{hint}")
        _check_section(cfg.name, kind, section, lenient, warnings)
    return warnings


def _check_section(name: str, kind: str, section: Section, lenient: bool, warnings: list[str]) -> None:
    known = STRUCTURE[kind] | TRAINING[kind]
    neutral, unsupported = NEUTRAL.get(kind, {}), UNSUPPORTED.get(kind, {})
    first: dict[str, str] = {}
    for option in section.options:
        where = f"{name}:{option.line} [{section.type}]"
        key, value = shorten(option.key), shorten(option.value)
        if option.key in unsupported:
            raise CfgError(f"{where}: {key}={value}: {unsupported[option.key]}")
        if option.key in neutral:
            if option.value.strip() not in (neutral[option.key], neutral[option.key] + ".0"):
                raise CfgError(f"{where}: {key}={value} is not supported; only {key}={neutral[option.key]} is")
        elif option.key not in known:
            if not (lenient and _may_skip(kind, option.key)):
                hint = nearest(option.key, known) or _lenient_hint(kind)
                raise CfgError(f"{where}: unknown key '{key}'{hint}")
            warnings.append(f"{where}: unknown key '{key}' skipped")
        if option.key in first and first[option.key] != option.value:
            warnings.append(f"{where}: {key} is given twice, the first value '{shorten(first[option.key])}' is used")
        first.setdefault(option.key, option.value)


_SKIPPABLE = frozenset({"net", "yolo", "region", "cost"})


def _may_skip(kind: str, key: str) -> bool:
    return kind in _SKIPPABLE and not nearest(key, STRUCTURE[kind])


def _lenient_hint(kind: str) -> str:
    return "; if it only concerns training, allow it with --lenient" if kind in _SKIPPABLE else ""
