# SPDX-License-Identifier: Apache-2.0
"""One way of writing channels in code per module: a stem, the code under test, a head."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from support.zoo_classifiers import ConvNorm, channel_shuffle
from torch import Tensor, nn

WIDTH = 12


class Odd(nn.Module):
    """`code` is a function of the module and its map [N, 12, 8, 8]; `parts` are the modules it uses."""

    def __init__(self, code: Callable[[nn.Module, Tensor], Tensor], out: int, **parts: nn.Module | Tensor):
        super().__init__()
        self.code = code
        self.stem = ConvNorm(3, WIDTH, 3, 4)
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_parameter(name, nn.Parameter(part))
        self.head = nn.Conv2d(out, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.code(self, self.stem(x)))


def _conv(cout: int = WIDTH, **options: object) -> nn.Conv2d:
    return nn.Conv2d(WIDTH, cout, 3, padding=1, **options)


def _stacked(_: nn.Module, x: Tensor) -> Tensor:
    """A shuffle of two halves by `stack`."""
    a, b = x.chunk(2, 1)
    return torch.stack((a, b), 2).reshape(x.shape[0], WIDTH, 8, 8)


def _in_place(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    y.mul_(0.5)
    z = F.silu(y, inplace=True)
    z += x
    return y  # the silu and the sum have written into it


def _functional(m: nn.Module, x: Tensor) -> Tensor:
    x = F.relu(F.conv2d(x, m.mix, None, 1, 1, 1, WIDTH))
    x = F.conv2d(x, m.weight, m.bias)
    return F.prelu(F.batch_norm(x, m.norm.running_mean, m.norm.running_var, m.norm.weight, m.norm.bias), m.slope)


def _spatial_gate(m: nn.Module, x: Tensor) -> Tensor:
    return m.conv(x) * torch.sigmoid(m.gate(x))


def _along_width(m: nn.Module, x: Tensor) -> Tensor:
    """Convolutions of one axis."""
    rows = m.conv(x.flatten(2))
    return rows.unflatten(2, (8, 8)) * x


def _last(m: nn.Module, x: Tensor) -> Tensor:
    """Channels last, as ConvNeXt has them."""
    y = m.down(F.gelu(m.up(x.permute(0, 2, 3, 1))))
    return x + (y * m.scale.view(WIDTH)).permute(0, 3, 1, 2)


def _slices(m: nn.Module, x: Tensor) -> Tensor:
    x = m.conv(x)
    return torch.cat([x[:, ::2], x[:, 1::2], x.narrow(1, 3, 5), x[:, -2:], x[:, 4:5]], 1)


def _thirds(m: nn.Module, x: Tensor) -> Tensor:
    a, b, c = m.conv(x).split(4, dim=1)
    return a * b - 2 * c


def _scaled(m: nn.Module, x: Tensor) -> Tensor:
    """A number that counts channels takes part in the arithmetic."""
    return torch.add(x, m.conv(x) / x.shape[1], alpha=x.size(1))


def _coordinates(m: nn.Module, x: Tensor) -> Tensor:
    ramp = torch.linspace(-1, 1, 8, dtype=x.dtype).expand(x.shape[0], 1, 8, 8)
    return m.conv(torch.cat([m.first(x), ramp], 1))


def _squeezed(m: nn.Module, x: Tensor) -> Tensor:
    gate = torch.sigmoid(m.fc(x.mean((2, 3))))
    return m.conv(x) * gate[:, :, None, None].expand(-1, WIDTH, 8, 8)


def _views(m: nn.Module, x: Tensor) -> Tensor:
    """Into pixels and back by numbers."""
    flat = m.conv(x).view(-1, WIDTH * 64)
    return flat.view(-1, WIDTH, 8, 8) + flat.unflatten(1, (WIDTH, 8, 8))


PRUNABLE: dict[str, Callable[[], Odd]] = {
    "stacked": lambda: Odd(_stacked, WIDTH),
    "in_place": lambda: Odd(_in_place, WIDTH, conv=_conv()),
    "functional": lambda: Odd(
        _functional, WIDTH, mix=torch.randn(WIDTH, 1, 3, 3), weight=torch.randn(WIDTH, WIDTH, 1, 1),
        bias=torch.randn(WIDTH), norm=nn.BatchNorm2d(WIDTH), slope=torch.rand(WIDTH),
    ),
    "spatial_gate": lambda: Odd(_spatial_gate, WIDTH, conv=_conv(bias=False), gate=_conv(1)),
    "along_width": lambda: Odd(_along_width, WIDTH, conv=nn.Conv1d(WIDTH, WIDTH, 3, padding=1)),
    "channels_last": lambda: Odd(
        _last, WIDTH, up=nn.Linear(WIDTH, 20), down=nn.Linear(20, WIDTH), scale=torch.rand(WIDTH, 1)
    ),
    "slices": lambda: Odd(_slices, WIDTH + 8, conv=_conv()),
    "thirds": lambda: Odd(_thirds, 4, conv=_conv()),
    "scaled": lambda: Odd(_scaled, WIDTH, conv=_conv()),
    "coordinates": lambda: Odd(_coordinates, WIDTH, first=_conv(), conv=nn.Conv2d(WIDTH + 1, WIDTH, 1)),
    "squeezed": lambda: Odd(_squeezed, WIDTH, conv=_conv(bias=False), fc=nn.Linear(WIDTH, WIDTH)),
    "views": lambda: Odd(_views, WIDTH, conv=_conv()),
    "shared": lambda: Odd(lambda m, x: m.conv(F.relu(m.conv(x))) + m.norm(m.conv(x)), WIDTH, conv=_conv(),
                          norm=nn.BatchNorm2d(WIDTH)),
    "shuffle_module": lambda: Odd(lambda m, x: m.shuffle(m.conv(x)), WIDTH, conv=_conv(), shuffle=nn.ChannelShuffle(3)),
    "pixels_to_depth": lambda: Odd(lambda m, x: F.pixel_shuffle(m.pixels(m.conv(x)), 2), WIDTH, conv=_conv(),
                                   pixels=nn.PixelUnshuffle(2)),
    "three_groups": lambda: Odd(lambda m, x: channel_shuffle(m.conv(x), 3), 24, conv=_conv(24, groups=3)),
    "no_affine": lambda: Odd(lambda m, x: F.elu(m.norm(m.conv(x))), WIDTH, conv=_conv(),
                             norm=nn.BatchNorm2d(WIDTH, affine=False)),
    "no_statistics": lambda: Odd(lambda m, x: m.norm(m.conv(x)), WIDTH, conv=_conv(),
                                 norm=nn.InstanceNorm2d(WIDTH)),
    "instance": lambda: Odd(lambda m, x: m.norm(m.conv(x)), WIDTH, conv=_conv(),
                            norm=nn.InstanceNorm2d(WIDTH, affine=True)),
    "widened": lambda: Odd(lambda m, x: F.pad(x, (1, 1, 0, 0, 3, 5)) + m.conv(F.pad(x, (1, 1))), 20, conv=_conv(20)),
    "reflected": lambda: Odd(lambda m, x: m.conv(F.pad(x, (2, 2, 2, 2), mode="reflect")), WIDTH,
                             conv=_conv(padding_mode="circular")),
    "averaged": lambda: Odd(lambda m, x: F.avg_pool2d(m.conv(x), 3, 1, 1) + F.max_pool2d(x, 3, 1, 1), WIDTH,
                            conv=_conv()),
}  # fmt: skip
"""Name -> module all of whose own channels can be pruned."""


def _attention(m: nn.Module, x: Tensor) -> Tensor:
    q, k = m.query(x).flatten(2), m.conv(x).flatten(2)
    return torch.matmul(torch.matmul(q.transpose(1, 2), k).softmax(-1), q.transpose(1, 2)).transpose(1, 2).view_as(x)


class Mixer(nn.Module):
    """A module of its own, so that a message can name it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


PROTECTED: dict[str, tuple[Callable[[], Odd], str]] = {
    "attention": (lambda: Odd(_attention, WIDTH, query=_conv(), conv=_conv()), "matmul"),
    "unknown": (lambda: Odd(lambda m, x: m.mixer(m.conv(x)), WIDTH, conv=_conv(), mixer=Mixer()), "cumsum in mixer"),
    "group_norm": (
        lambda: Odd(lambda m, x: m.norm(m.conv(x)), WIDTH, conv=_conv(), norm=nn.GroupNorm(3, WIDTH)),
        "GroupNorm in norm: normalises several channels together",
    ),
    "channel_mean": (lambda: Odd(lambda m, x: m.conv(x).mean(1, keepdim=True) * x, WIDTH, conv=_conv()), "mean"),
    "transposed": (
        lambda: Odd(lambda m, x: m.up(m.conv(x)), WIDTH, conv=_conv(), up=nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2)),
        "ConvTranspose2d in up",
    ),
    "one_channel": (lambda: Odd(lambda m, x: m.conv(x)[:, 3].unsqueeze(1) * x, WIDTH, conv=_conv()), "getitem"),
    "added_map": (lambda: Odd(lambda m, x: m.conv(x) + m.position, WIDTH, conv=_conv(),
                              position=torch.randn(1, WIDTH, 8, 8)), "add"),
    "index": (
        lambda: Odd(lambda m, x: m.conv(x)[:, torch.tensor([3, 1, 2])], 3, conv=_conv()), "getitem"
    ),
}  # fmt: skip
"""Name -> (module, part of the reason why the channels of its ``conv`` are protected)."""
