# SPDX-License-Identifier: Apache-2.0
"""One builder per cfg section: checked options in, typed layer out. The table is `BUILDERS`, at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

from yolo_hw.darknet import layers as L
from yolo_hw.darknet.head_training import RegionTraining, YoloTraining
from yolo_hw.darknet.layers import HeadSpec, Layer, Place, Shape
from yolo_hw.darknet.section_reader import SectionReader

MAX_LAYERS = 4096

Training = TypeVar("Training", YoloTraining, RegionTraining)


@dataclass(frozen=True)
class BuildContext:
    """What a builder sees: its section, the layers before it and the network's input shape."""

    reader: SectionReader
    built: list[Layer]
    net_shape: Shape

    @property
    def previous(self) -> int:
        """Index of the layer before, -1 for the network's input."""
        return len(self.built) - 1

    def shape_of(self, index: int) -> Shape:
        """Return the output shape of layer `index`."""
        return self.net_shape if index < 0 else self.built[index].shape

    def place(self, *inputs: int) -> Place:
        """Return the place of the layer being built; without `inputs` it reads the previous one."""
        indices = inputs or (self.previous,)
        return Place(len(self.built), self.reader.section.line, indices, tuple(map(self.shape_of, indices)))

    def reference(self, value: int, key: str) -> int:
        """Resolve a relative (negative) or absolute layer reference."""
        here = len(self.built)
        index = here + value if value < 0 else value
        if not 0 <= index < here:
            self.reader.fail(
                f"{key}={value} refers to layer {index}, but this is layer {here}: it must refer to a layer before it",
                key,
            )
        return index


def _strides(reader: SectionReader, default: int) -> tuple[int, int]:
    stride = reader.integer("stride", default, 1)
    return reader.integer("stride_y", stride, 1), reader.integer("stride_x", stride, 1)


def _convolutional(ctx: BuildContext, depthwise: bool = False) -> Layer:
    reader, source = ctx.reader, ctx.shape_of(ctx.previous)
    filters = reader.integer("filters", source.c if depthwise else 1, 1)
    size = reader.integer("size", 1, 1)
    stride_y, stride_x = _strides(reader, 1)
    dilation = reader.integer("dilation", 1, 1) if size > 1 else 1
    padding = size // 2 if reader.flag("pad") else reader.integer("padding", 0)
    groups = source.c if depthwise else reader.integer("groups", 1, 1)
    if depthwise and filters != source.c:
        reader.fail(f"filters must equal the {source.c} input channels, got {filters}", "filters")
    if source.c % groups or filters % groups:
        reader.fail(f"groups={groups} must divide the {source.c} input channels and the {filters} filters", "groups")
    extent = dilation * (size - 1) + 1
    pad = padding * dilation
    return L.Convolutional(
        place=ctx.place(),
        shape=Shape(filters, _windows(source.h, extent, stride_y, pad), _windows(source.w, extent, stride_x, pad)),
        size=size,
        stride_y=stride_y,
        stride_x=stride_x,
        padding=pad,
        dilation=dilation,
        groups=groups,
        batch_normalize=reader.flag("batch_normalize"),
        activation=reader.activation("linear" if depthwise else "logistic"),
    )


def _depthwise(ctx: BuildContext) -> Layer:
    return _convolutional(ctx, depthwise=True)


def _windows(length: int, extent: int, stride: int, pad: int) -> int:
    return (length + 2 * pad - extent) // stride + 1


def _pool(ctx: BuildContext, mode: str) -> Layer:
    reader, source = ctx.reader, ctx.shape_of(ctx.previous)
    stride_y, stride_x = _strides(reader, 1)
    size = reader.integer("size", reader.integer("stride", 1, 1), 1)
    padding = reader.integer("padding", size - 1)
    if padding >= 2 * size:
        reader.fail(f"padding must be below 2 * size = {2 * size}, got {padding}", "padding")
    shape = Shape(source.c, (source.h + padding - size) // stride_y + 1, (source.w + padding - size) // stride_x + 1)
    last_y, last_x = (shape.h - 1) * stride_y - padding // 2, (shape.w - 1) * stride_x - padding // 2
    if padding // 2 >= size or last_y >= source.h or last_x >= source.w:
        reader.fail(f"size={size} and padding={padding} make windows that lie outside of the {source} map")
    return L.Pool(
        place=ctx.place(),
        shape=shape,
        mode=mode,
        size=size,
        stride_y=stride_y,
        stride_x=stride_x,
        padding=padding,
    )


def _avgpool(ctx: BuildContext) -> Layer:
    return L.AvgPool(place=ctx.place(), shape=Shape(ctx.shape_of(ctx.previous).c, 1, 1))


def _route(ctx: BuildContext) -> Layer:
    reader = ctx.reader
    inputs = tuple(ctx.reference(value, "layers") for value in reader.integers("layers"))
    groups = reader.integer("groups", 1, 1)
    group_id = reader.integer("group_id", 0)
    if group_id >= groups:
        reader.fail(f"group_id must be below groups={groups}, got {group_id}", "group_id")
    shapes = [ctx.shape_of(index) for index in inputs]
    for index, shape in zip(inputs, shapes, strict=True):
        if shape[1:] != shapes[0][1:]:
            reader.fail(f"all inputs must have one size, got {shapes[0]} and {shape} (layer {index})", "layers")
        if shape.c % groups:
            reader.fail(f"groups={groups} must divide the {shape.c} channels of layer {index}", "groups")
    total = sum(shape.c // groups for shape in shapes)
    return L.Route(
        place=ctx.place(*inputs),
        shape=Shape(total, shapes[0].h, shapes[0].w),
        groups=groups,
        group_id=group_id,
    )


def _shortcut(ctx: BuildContext) -> Layer:
    reader = ctx.reader
    others = [ctx.reference(value, "from") for value in reader.integers("from")]
    shape = ctx.shape_of(ctx.previous)
    for index in others:
        if ctx.shape_of(index)[1:] != shape[1:]:
            reader.fail(f"inputs must have one size, got {shape} and {ctx.shape_of(index)} (layer {index})", "from")
    weights_type = reader.choice("weights_type", "none", ("none", "per_feature", "per_layer", "per_channel"))
    normalization = reader.choice("weights_normalization", "none", ("none", "relu", "avg_relu", "softmax"))
    return L.Shortcut(
        place=ctx.place(ctx.previous, *others),
        shape=shape,
        activation=reader.activation("linear"),
        weights_type="per_feature" if weights_type == "per_layer" else weights_type,
        weights_normalization="relu" if normalization == "avg_relu" else normalization,
    )


def _upsample(ctx: BuildContext) -> Layer:
    shape = ctx.shape_of(ctx.previous)
    stride = ctx.reader.integer("stride", 2, 1, 64)
    return L.Upsample(
        place=ctx.place(),
        shape=Shape(shape.c, shape.h * stride, shape.w * stride),
        stride=stride,
        scale=ctx.reader.real("scale", 1.0),
    )


def _reorg(ctx: BuildContext, mode: str) -> Layer:
    shape = ctx.shape_of(ctx.previous)
    stride = ctx.reader.integer("stride", 1, 1, 64)
    reverse = ctx.reader.flag("reverse")
    square = stride * stride
    if (reverse or mode == "darknet") and shape.c % square:
        ctx.reader.fail(f"stride**2={square} must divide the {shape.c} channels", "stride")
    if not reverse and (shape.h % stride or shape.w % stride):
        ctx.reader.fail(f"stride={stride} must divide the map size {shape}", "stride")
    down = Shape(shape.c * square, shape.h // stride, shape.w // stride)
    up = Shape(shape.c // square, shape.h * stride, shape.w * stride)
    return L.Reorg(
        place=ctx.place(),
        shape=up if reverse else down,
        stride=stride,
        reverse=reverse,
        mode=mode,
    )


def _scale_channels(ctx: BuildContext) -> Layer:
    source = ctx.reference(ctx.reader.integer("from", None, -MAX_LAYERS, MAX_LAYERS), "from")
    factor, shape = ctx.shape_of(ctx.previous), ctx.shape_of(source)
    scale_wh = ctx.reader.flag("scale_wh")
    expected = Shape(1, shape.h, shape.w) if scale_wh else Shape(shape.c, 1, 1)
    if factor != expected:
        ctx.reader.fail(f"the factors must have shape {expected} for layer {source} ({shape}), got {factor}", "from")
    return L.ScaleChannels(
        place=ctx.place(ctx.previous, source),
        shape=shape,
        scale_wh=scale_wh,
        activation=ctx.reader.activation("linear"),
    )


def _sam(ctx: BuildContext) -> Layer:
    source = ctx.reference(ctx.reader.integer("from", None, -MAX_LAYERS, MAX_LAYERS), "from")
    shape = ctx.shape_of(source)
    if shape != ctx.shape_of(ctx.previous):
        ctx.reader.fail(f"both inputs must have one shape, got {ctx.shape_of(ctx.previous)} and {shape}", "from")
    place = ctx.place(ctx.previous, source)
    return L.Sam(place=place, shape=shape, activation=ctx.reader.activation("linear"))


def _se(ctx: BuildContext) -> Layer:
    shape = ctx.shape_of(ctx.previous)
    reduction = ctx.reader.integer("reduction", 4, 1)
    if ctx.reader.integer("filters", shape.c, 1) != shape.c:
        ctx.reader.fail(f"filters must equal the {shape.c} input channels", "filters")
    return L.SqueezeExcite(place=ctx.place(), shape=shape, squeezed=max(shape.c // reduction, 1))


def _connected(ctx: BuildContext) -> Layer:
    return L.Connected(
        place=ctx.place(),
        shape=Shape(ctx.reader.integer("output", 1, 1), 1, 1),
        batch_normalize=ctx.reader.flag("batch_normalize"),
        activation=ctx.reader.activation("logistic"),
    )


def _same_shape(ctx: BuildContext, cls: type[Layer]) -> Layer:
    return cls(place=ctx.place(), shape=ctx.shape_of(ctx.previous))


def _activation(ctx: BuildContext) -> Layer:
    shape = ctx.shape_of(ctx.previous)
    return L.Activation(place=ctx.place(), shape=shape, activation=ctx.reader.activation("linear"))


def _softmax(ctx: BuildContext) -> Layer:
    shape = ctx.shape_of(ctx.previous)
    groups = ctx.reader.integer("groups", 1, 1)
    temperature = ctx.reader.real("temperature", 1.0)
    if shape.numel % groups:
        ctx.reader.fail(f"groups={groups} must divide the {shape.numel} inputs", "groups")
    if temperature <= 0:
        ctx.reader.fail(f"temperature must be positive, got {temperature}", "temperature")
    return L.Softmax(
        place=ctx.place(),
        shape=shape,
        groups=groups,
        temperature=temperature,
        spatial=ctx.reader.flag("spatial"),
    )


def _anchors(reader: SectionReader, count: int) -> tuple[tuple[float, float], ...]:
    values = reader.reals("anchors")[: 2 * count]
    if len(values) < 2 * count:
        reader.fail(f"anchors must hold {count} pairs (num={count}), got {len(values)} numbers", "anchors")
    pairs = tuple(zip(values[0::2], values[1::2], strict=True))
    if any(w <= 0 or h <= 0 for w, h in pairs):
        reader.fail("anchors must be positive", "anchors")
    return pairs


def _head(ctx: BuildContext, spec: HeadSpec, training: YoloTraining | RegionTraining) -> Layer:
    shape = ctx.shape_of(ctx.previous)
    if shape.c != spec.channels:
        ctx.reader.fail(
            f"{len(spec.anchors)} anchors and {spec.classes} classes need {spec.channels} input channels, "
            f"got {shape.c}: set filters={spec.channels} in the convolution before it"
        )
    return L.DetectionHead(place=ctx.place(), shape=shape, spec=spec, training=training)


def _training(reader: SectionReader, kind: type[Training]) -> Training:
    """Read the keys that are fields of `kind`; its default holds where the section gives none."""
    values: dict[str, object] = {}
    for field in fields(kind):
        key, default = field.name, field.default
        if not reader.has(key):
            continue
        if isinstance(default, bool):
            values[key] = reader.real(key, 0.0) != 0  # as in darknet, where every number but 0 means yes
        elif isinstance(default, float):
            values[key] = reader.real(key, default)
        else:
            values[key] = reader.text(key) if isinstance(default, str) else reader.integers(key)
    return kind(**values)  # type: ignore[arg-type]


def _yolo(ctx: BuildContext) -> Layer:
    reader = ctx.reader
    classes, total = reader.integer("classes", 20, 1), reader.integer("num", 1, 1)
    anchors = _anchors(reader, total)
    mask = reader.integers("mask") if reader.has("mask") else tuple(range(total))
    if not all(0 <= i < total for i in mask):
        reader.fail(f"mask must hold indices below num={total}, got {mask}", "mask")
    return _head(
        ctx,
        HeadSpec(
            kind="yolo",
            classes=classes,
            anchors=tuple(anchors[i] for i in mask),
            scale_x_y=reader.real("scale_x_y", 1.0),
            new_coords=reader.flag("new_coords"),
        ),
        _training(reader, YoloTraining),
    )


def _region(ctx: BuildContext) -> Layer:
    reader = ctx.reader
    classes, total = reader.integer("classes", 20, 1), reader.integer("num", 1, 1)
    if reader.integer("coords", 4) != 4:
        reader.fail("coords must be 4", "coords")
    anchors = _anchors(reader, total)
    spec = HeadSpec(kind="region", classes=classes, anchors=anchors, softmax=reader.flag("softmax"))
    return _head(ctx, spec, _training(reader, RegionTraining))


BUILDERS: dict[str, Callable[[BuildContext], Layer]] = {
    "convolutional": _convolutional,
    "depthwise": _depthwise,
    "maxpool": lambda ctx: _pool(ctx, "max"),
    "local_avgpool": lambda ctx: _pool(ctx, "avg"),
    "avgpool": _avgpool,
    "route": _route,
    "shortcut": _shortcut,
    "upsample": _upsample,
    "reorg": lambda ctx: _reorg(ctx, "darknet"),
    "reorg3d": lambda ctx: _reorg(ctx, "space_to_depth"),
    "scale_channels": _scale_channels,
    "sam": _sam,
    "se": _se,
    "batchnorm": lambda ctx: _same_shape(ctx, L.BatchNorm),
    "activation": _activation,
    "connected": _connected,
    "dropout": lambda ctx: _same_shape(ctx, L.Identity),
    "empty": lambda ctx: _same_shape(ctx, L.Identity),
    "cost": lambda ctx: _same_shape(ctx, L.Identity),
    "softmax": _softmax,
    "yolo": _yolo,
    "region": _region,
}
