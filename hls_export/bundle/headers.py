# SPDX-License-Identifier: Apache-2.0
"""The C and C++ texts of a bundle that depend on the network: parameters only, no code."""

from __future__ import annotations

from hls_export.bundle.descriptor import RECORD_BYTES, Descriptor
from hls_export.plan import AcceleratorPlan
from yolo_hw.intgraph import nodes as N
from yolo_hw.intgraph.graph import INPUT

_LICENCE = "SPDX-License-Identifier: Apache-2.0"


def table_bits(plan: AcceleratorPlan) -> int:
    """Return the longest argument of an activation table, at least 8."""
    arguments = [
        node.act.table_fmt.bits
        for node in plan.graph.nodes
        if isinstance(node, (N.Conv2d, N.Add, N.Mul)) and node.act.table_fmt is not None
    ]
    return max([8, *arguments])


def config_header(plan: AcceleratorPlan) -> str:
    """Return ``hls/yhw_config.h``: the parameters the accelerator is built with."""
    graph, config = plan.graph, plan.config
    weight_bits = max([node.w_bits for node in graph.nodes if isinstance(node, N.Conv2d)], default=8)
    data_bits = max(info.fmt.bits for info in graph.tensors.values())
    values = {
        "TM": config.tm,
        "TN": config.tn,
        "LANES": config.lanes,
        "DATA_BITS": 8 if data_bits <= 8 else 16,
        "WEIGHT_BITS": 8 if weight_bits <= 8 else 16,
        "ACC_BITS": graph.contract.acc_bits,
        "TABLE_BITS": table_bits(plan),
        "IFM_WORDS": config.ifm_words,
        "ACC_WORDS": config.acc_words,
        "MAX_TAPS": config.max_taps,
        "ROUNDING": graph.contract.rounding.number,
        "OVERFLOW": graph.contract.overflow.number,
    }
    defines = "".join(f"#define YHW_{name} {value}\n" for name, value in values.items())
    return f"""// {_LICENCE}
// Parameters of the accelerator; see yhw_types.h.
#ifndef YHW_CONFIG_H_
#define YHW_CONFIG_H_

{defines}
#endif  // YHW_CONFIG_H_
"""


def network_header(plan: AcceleratorPlan, cases: list[str]) -> str:
    """Return ``hls/yhw_network.h``: the tensors and golden cases the test bench checks."""
    rows = "".join(f"    {row},\n" for row in _tensor_rows(plan))
    names = ", ".join(f'"{case}"' for case in cases)
    return f"""// {_LICENCE}
// Tensors and golden cases of the network, for the test bench.
#ifndef YHW_NETWORK_H_
#define YHW_NETWORK_H_

#include <stdint.h>

#define YHW_ACTIVATION_BYTES {plan.memory.total_bytes}u
#define YHW_NUM_TENSORS {len(plan.graph.tensors)}
#define YHW_NUM_CASES {len(cases)}

typedef struct {{
  const char* name;
  int c, h, w;
  uint32_t offset;    // in the activation memory
  int lanes;          // channels of one pixel's piece
  int element_bytes;  // 1 or 2
  int is_signed;
  int has_acc;       // whether the node computes accumulators
  int after_record;  // the record that completes it, -1 for the image
}} yhw_tensor_t;

static const yhw_tensor_t yhw_tensors[YHW_NUM_TENSORS] = {{
{rows}}};

static const char* const yhw_cases[YHW_NUM_CASES] = {{{names}}};

#endif  // YHW_NETWORK_H_
"""


def completion(plan: AcceleratorPlan) -> dict[str, int]:
    """Return for every tensor the record after which it is complete, -1 for the image."""
    done = {INPUT: -1}
    for i, command in enumerate(plan.program):
        done[command.node] = i
    for node in plan.graph.nodes:
        done[node.name] = max([done.get(node.name, -1), *(done[name] for name in node.inputs)])
    return done


def _tensor_rows(plan: AcceleratorPlan) -> list[str]:
    done = completion(plan)
    rows = []
    for name, info in plan.graph.tensors.items():
        location = plan.memory.locations[name]
        node = None if name == INPUT else plan.graph.node(name)
        has_acc = node is not None and node.requant(plan.graph.inputs_of(node), info) is not None
        values = [*info.shape, f"{location.offset}u", location.lanes, location.element_bytes]
        values += [int(info.fmt.signed), int(has_acc), done[name]]
        rows.append("{" + ", ".join([f'"{name}"', *map(str, values)]) + "}")
    return rows


def model_header(plan: AcceleratorPlan, param_bytes: int, descriptors: list[Descriptor]) -> str:
    """Return ``include/yolo_hw_model.h``: what a host driver needs, in C99."""
    lines = []
    for name, location in plan.memory.locations.items():
        info = plan.graph.tensors[name]
        macro = "".join(ch if ch.isalnum() else "_" for ch in name).upper()
        if name == INPUT or name in {output.tensor for output in plan.graph.outputs}:
            lines += [
                f"#define YHW_{macro}_OFFSET {location.offset}u",
                f"#define YHW_{macro}_BYTES {location.bytes}u",
                f"#define YHW_{macro}_C {info.shape.c}",
                f"#define YHW_{macro}_H {info.shape.h}",
                f"#define YHW_{macro}_W {info.shape.w}",
                f"#define YHW_{macro}_LANES {location.lanes}",
                f"#define YHW_{macro}_FRAC {info.fmt.frac}",
            ]
    joined = "\n".join(lines)
    return f"""/* {_LICENCE}
 *
 * Memory sizes and the places of image and results, for a host driver. Offsets are bytes from the base of the
 * activation memory; a map lies there as [ceil(C / LANES)][H][W][LANES].
 */
#ifndef YOLO_HW_MODEL_H_
#define YOLO_HW_MODEL_H_

#include "yhw_descriptor.h"

#define YHW_PARAM_BYTES {param_bytes}u
#define YHW_IO_BYTES {plan.memory.io_bytes}u
#define YHW_ARENA_BYTES {plan.memory.arena_bytes}u
#define YHW_NUM_RECORDS {len(descriptors)}

{joined}

/* The images of src/yolo_hw_model.S, linked into the program. */
extern const unsigned char yhw_params[YHW_PARAM_BYTES];
extern const unsigned char yhw_descriptors[{RECORD_BYTES} * YHW_NUM_RECORDS];

YHW_STATIC_ASSERT(sizeof(yhw_descriptor_t) == {RECORD_BYTES}, "descriptor size");
YHW_STATIC_ASSERT(YHW_IO_BYTES % {plan.config.align} == 0, "the arena must be aligned");

#endif /* YOLO_HW_MODEL_H_ */
"""


def incbin_source(align: int) -> str:
    """Return ``src/yolo_hw_model.S``: the images by .incbin; assemble with -I pointing to the bundle's ddr folder."""
    parts = []
    for symbol, file in (("yhw_params", "params.bin"), ("yhw_descriptors", "descriptors.bin")):
        parts.append(f'    .global {symbol}\n    .balign {align}\n{symbol}:\n    .incbin "{file}"\n')
    body = "\n".join(parts)
    return f'/* {_LICENCE} */\n    .section .rodata\n\n{body}\n    .section .note.GNU-stack,"",%progbits\n'
