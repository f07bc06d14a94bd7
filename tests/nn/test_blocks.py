# SPDX-License-Identifier: Apache-2.0
"""Layers of the torch model against loops written from darknet's definitions."""

import numpy as np
import pytest
import torch
from support.networks import build

from yolo_hw.nn import Darknet


def run(shape, sections, x=None, seed=0):
    """Build a model with seeded parameters; return (model, input, output), all in float64."""
    channels, height, width = shape
    network = build(f"[net]\nchannels={channels}\nheight={height}\nwidth={width}\n{sections}")
    generator = torch.Generator().manual_seed(seed)
    model = Darknet(network).eval().double()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.1)
    if x is None:
        x = torch.randn((1, *shape), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        return model, x[0].numpy(), model(x)[-1][0].numpy()


def convolve(x, weight, *, stride, pad, dilation, groups):
    """[C, H, W], [K, C/groups, R, S] -> [K, Ho, Wo] by definition; outside of the map is 0."""
    out_channels, depth, rows, columns = weight.shape
    extent = dilation * (rows - 1) + 1
    out = [(n + 2 * pad - extent) // s + 1 for n, s in zip(x.shape[1:], stride, strict=True)]
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    y = np.zeros((out_channels, *out))
    for k in range(out_channels):
        first = k // (out_channels // groups) * depth
        for i in range(out[0]):
            for j in range(out[1]):
                for r in range(rows):
                    for s in range(columns):
                        pixel = padded[
                            first : first + depth, i * stride[0] + r * dilation, j * stride[1] + s * dilation
                        ]
                        y[k, i, j] += pixel @ weight[k, :, r, s]
    return y


@pytest.mark.parametrize(
    ("options", "stride", "pad", "dilation", "groups"),
    [
        ("size=3\npad=1", (1, 1), 1, 1, 1),
        ("size=3\npad=1\nstride=2", (2, 2), 1, 1, 1),
        ("size=5\npad=1\nstride_x=2\nstride_y=3", (3, 2), 2, 1, 1),
        ("size=3\npad=1\ndilation=2", (1, 1), 2, 2, 1),
        ("size=3\npadding=2\ngroups=2", (1, 1), 2, 1, 2),
        ("size=2\npad=1\nstride=2\ngroups=4", (2, 2), 1, 1, 4),
        ("size=1\nstride=2", (2, 2), 0, 1, 1),
    ],
)
def test_convolution(options, stride, pad, dilation, groups):
    model, x, y = run((4, 7, 8), f"[convolutional]\nfilters=8\nactivation=linear\n{options}\n")
    arrays = model.block("conv_0").arrays()
    model.block("conv_0").load(arrays)  # float32 values, as a weights file holds them
    y = model(torch.from_numpy(x)[None])[0][0].detach().numpy()
    expected = convolve(
        x, arrays["weight"].astype(np.float64), stride=stride, pad=pad, dilation=dilation, groups=groups
    )
    np.testing.assert_allclose(y, expected + arrays["bias"].astype(np.float64)[:, None, None], rtol=1e-12, atol=1e-12)


def test_batch_norm_uses_darknets_epsilon():
    """scale * (conv(x) - mean) / sqrt(var + 1e-5) + bias, then the activation; a tiny variance shows the epsilon."""
    network = build("[net]\nchannels=1\nheight=1\nwidth=1\n[convolutional]\nbatch_normalize=1\nactivation=leaky\n")
    arrays = {"bias": 0.5, "scale": 2.0, "mean": 0.25, "var": 3e-5, "weight": 1.0}
    for options, eps, sign in [((), 1e-5, 1), ((1e-6,), 1e-6, -1)]:
        model = Darknet(network, *options).eval()
        model.block("conv_0").load({k: np.full(p.shape, arrays[k], np.float32)
                                    for k, p in ((p.role, p) for p in network.layers[0].params)})  # fmt: skip
        x = 0.25 + 0.01 * sign
        y = 2.0 * (x - 0.25) / (3e-5 + eps) ** 0.5 + 0.5
        assert model(torch.full((1, 1, 1, 1), x))[0].item() == pytest.approx(y if y > 0 else 0.1 * y, rel=1e-4)


def pool(x, size, stride, padding, mode):
    """Windows start at -(padding // 2); positions outside of the map do not take part."""
    channels, height, width = x.shape
    out = [(n + padding - size) // s + 1 for n, s in zip((height, width), stride, strict=True)]
    y = np.zeros((channels, *out))
    for i in range(out[0]):
        for j in range(out[1]):
            top, left = i * stride[0] - padding // 2, j * stride[1] - padding // 2
            window = x[:, max(top, 0) : top + size, max(left, 0) : left + size].reshape(channels, -1)
            y[:, i, j] = window.max(1) if mode == "max" else window.mean(1)
    return y


@pytest.mark.parametrize("kind", ["maxpool", "local_avgpool"])
@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [(2, (2, 2), 1), (2, (1, 1), 1), (3, (2, 2), 2), (3, (1, 1), 0), (5, (1, 1), 4), (13, (1, 1), 12), (3, (1, 2), 3)],
)
def test_pooling(kind, size, stride, padding):
    options = f"size={size}\nstride_y={stride[0]}\nstride_x={stride[1]}\npadding={padding}\n"
    _, x, y = run((3, 7, 8), f"[{kind}]\nstride=1\n{options}")
    np.testing.assert_allclose(y, pool(x, size, stride, padding, kind[:3].replace("loc", "avg")), rtol=1e-12)


def test_size_2_stride_1_pads_right_and_bottom_only():
    x = torch.tensor([[[[5.0, 1.0, 2.0], [1.0, -1.0, -2.0], [1.0, -3.0, -4.0]]]], dtype=torch.float64)
    _, _, y = run((1, 3, 3), "[maxpool]\nsize=2\nstride=1\n", x)
    assert y.tolist() == [[[5, 2, 2], [1, -1, -2], [1, -3, -4]]]


def test_padding_of_a_max_pool_never_wins():
    x = torch.full((1, 1, 4, 4), -7.0, dtype=torch.float64)
    _, _, y = run((1, 4, 4), "[maxpool]\nsize=5\nstride=1\n", x)
    assert (y == -7).all()


def darknet_reorg(x, stride, reverse):
    """The loop of darknet's reorg_cpu, called with the shape of the layer's input in both directions."""
    channels, height, width = x.shape
    flat, out = x.ravel(), np.zeros(x.size)
    depth = channels // (stride * stride)
    for k in range(channels):
        for j in range(height):
            for i in range(width):
                near = i + width * (j + height * k)
                row = j * stride + k // depth // stride
                column = i * stride + k // depth % stride
                far = column + width * stride * (row + height * stride * (k % depth))
                if reverse:
                    out[far] = flat[near]
                else:
                    out[near] = flat[far]
    return out


@pytest.mark.parametrize(("shape", "stride"), [((8, 4, 6), 2), ((9, 6, 3), 3), ((4, 2, 2), 2)])
@pytest.mark.parametrize("reverse", [0, 1])
def test_reorg_is_darknets_index_map(shape, stride, reverse):
    _, x, y = run(shape, f"[reorg]\nstride={stride}\nreverse={reverse}\n")
    assert np.array_equal(y.ravel(), darknet_reorg(x, stride, reverse))


def test_reorg3d_is_space_to_depth():
    _, x, y = run((2, 4, 6), "[reorg3d]\nstride=2\n")
    for o in range(4):
        assert np.array_equal(y[2 * o : 2 * o + 2], x[:, o // 2 :: 2, o % 2 :: 2])


def test_upsample_repeats_pixels():
    _, _, y = run((1, 2, 2), "[upsample]\nstride=2\nscale=3\n", torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]).double())
    assert y.tolist() == [[[3, 3, 6, 6], [3, 3, 6, 6], [9, 9, 12, 12], [9, 9, 12, 12]]]
