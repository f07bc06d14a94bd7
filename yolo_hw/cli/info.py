# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw info``: the layer table of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from yolo_hw.cli.console import compact, millions, note, print_json, print_table
from yolo_hw.cli.options import FilePath
from yolo_hw.darknet.layers import Convolutional, Layer, Pool, Route
from yolo_hw.darknet.network import Network, load_network
from yolo_hw.darknet.weights import Header, read_weights

if TYPE_CHECKING:
    from yolo_hw.nn.accounting import Account

PACKED_BITS = (8, 4)
"""Weight widths whose packed size is stated."""


@click.command(
    "info",
    epilog="Example: yolo-hw info --cfg yolov3-tiny.cfg --weights yolov3-tiny.weights",
)
@click.option("--cfg", type=FilePath, required=True, help="Darknet cfg.")
@click.option("--weights", type=FilePath, help="Darknet weights, to check that they fit.")
@click.option("--partial", is_flag=True, help="Accept weights that cover only the first layers.")
@click.option("--lenient", is_flag=True, help="Skip unknown training keys of the cfg with a warning.")
@click.option(
    "--profile",
    metavar="NAME",
    help="Count parameters and FLOPs as other tools do: macs, keras, ptflops, ptflops-half, thop or darknet.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(**options: Any) -> None:  # noqa: ANN401
    """Show every layer: shapes, parameters, multiply-accumulates, FLOPs (2 per MAC), bytes."""
    network = load_network(options["cfg"], lenient=options["lenient"])
    for warning in network.warnings:
        note(f"warning: {warning}")
    weights = options["weights"]
    header = read_weights(weights, network, partial=options["partial"]).header if weights else None
    if options["profile"]:
        found = account_of(network, options["profile"])
        if options["as_json"]:
            print_json(_account_document(network, found))
        else:
            _print_account(network, found)
    elif options["as_json"]:
        print_json(_document(network, header))
    else:
        _print(network, header)


def account_of(network: Network, profile: str) -> Account:
    """Count a network by a named profile, one row per layer."""
    from yolo_hw.nn.accounting import account, find_profile  # noqa: PLC0415 - torch only where it is needed
    from yolo_hw.nn.darknet import Darknet  # noqa: PLC0415

    rules = find_profile(profile)
    return account(Darknet(network), network.input, rules, depth=2)


def _account_document(network: Network, found: Account) -> dict[str, Any]:
    return {
        "name": network.name,
        "input": list(network.input),
        "profile": found.profile.name,
        "params": found.params,
        "macs": found.macs,
        "flops": found.flops,
        "bytes": found.param_bytes,
        "packed_bytes": {bits: found.packed_bytes(bits) for bits in PACKED_BITS},
        "layers": [
            {
                "name": layer.name.removeprefix("blocks."),
                "params": layer.params,
                "statistics": layer.statistics,
                "macs": layer.macs,
                "flops": found.flops_of(layer.operations),
                "float_bytes": layer.param_bytes,
            }
            for layer in found.layers
        ],
    }


def _print_account(network: Network, found: Account) -> None:
    rows = [
        (
            layer.name.removeprefix("blocks."),
            compact(layer.params),
            compact(layer.statistics),
            compact(layer.macs),
            compact(round(found.flops_of(layer.operations))),
            compact(layer.param_bytes),
        )
        for layer in found.layers
    ]
    packed = ", ".join(f"{found.packed_bytes(bits):,} with {bits}-bit weights" for bits in PACKED_BITS)
    footer = (
        f"profile {found.profile.name}: {found.profile.source}\n{found.params:,} parameters, "
        f"{millions(round(found.flops))} FLOPs; {millions(found.macs)} MACs under every profile\n"
        f"bytes: {found.param_bytes:,} as float32 with statistics; without them {packed}"
    )
    columns = ("layer", "params", "statistics", "MACs", "FLOPs", "bytes")
    print_table(f"{network.name}: input {network.input}", columns, rows, footer)


def _document(network: Network, header: Header | None) -> dict[str, Any]:
    return {
        "name": network.name,
        "input": list(network.input),
        "params": network.num_params,
        "macs": network.macs,
        "flops": 2 * network.macs,
        "weights": None if header is None else {"version": [header.major, header.minor], "seen": header.seen},
        "layers": [
            {
                "index": layer.index,
                "name": layer.name,
                "inputs": list(layer.inputs),
                "shape": list(layer.shape),
                "params": _params(layer),
                "macs": layer.macs,
                "flops": 2 * layer.macs,
                "float_bytes": 4 * _params(layer),
                "activation_bytes": 4 * layer.shape.numel,
            }
            for layer in network.layers
        ],
        "heads": [
            {"name": h.name, "stride": list(network.stride(h)), "classes": h.spec.classes, "anchors": h.spec.anchors}
            for h in network.heads
        ],
    }


def _params(layer: Layer) -> int:
    return sum(param.numel for param in layer.params)


def _operation(layer: Layer) -> str:
    """Return for example ``3x3/2 g16 leaky``: window, stride, groups, activation, as far as the layer has them."""
    words = []
    if isinstance(layer, (Convolutional, Pool)):
        y, x = layer.stride_y, layer.stride_x
        stride = f"/{y}" if y == x else f"/{y}x{x}"
        words.append(f"{layer.size}x{layer.size}{'' if stride == '/1' else stride}")
    if isinstance(layer, (Convolutional, Route)) and layer.groups > 1:
        words.append(f"g{layer.groups}")
    activation = getattr(layer, "activation", "linear")
    return " ".join(words if activation == "linear" else [*words, activation])


def _print(network: Network, header: Header | None) -> None:
    rows = [
        (
            layer.name,
            ",".join("image" if i < 0 else str(i) for i in layer.inputs),
            _operation(layer),
            layer.shape,
            compact(_params(layer)),
            compact(layer.macs),
            compact(2 * layer.macs),
            compact(4 * _params(layer)),
            compact(4 * layer.shape.numel),
        )
        for layer in network.layers
    ]
    heads = "; ".join(
        f"{head.name}: stride {network.stride(head)[0]:g}x{network.stride(head)[1]:g}, {head.spec.classes} classes"
        for head in network.heads
    )
    footer = (
        f"{network.num_params:,} floats ({4 * network.num_params:,} bytes), {millions(network.macs)} MACs, "
        f"{millions(2 * network.macs)} FLOPs (2 per MAC), bytes as float32\n{heads}"
    )
    if header is not None:
        footer += f"\nweights fit: version {header.major}.{header.minor}, {header.seen:,} images seen"
    columns = ("layer", "<from", "<operation", "<CxHxW", "params", "MACs", "FLOPs", "bytes", "bytes out")
    print_table(f"{network.name}: input {network.input}", columns, rows, footer)
