/* SPDX-License-Identifier: Apache-2.0
 *
 * One record of ddr/descriptors.bin: what the accelerator does next. C99 and C++.
 *
 * A record is 64 little-endian 32-bit words, 256 bytes. Offsets into memory are bytes from the base of their region:
 * the parameters (ddr/params.bin) or the activations. Words that an operation does not use are 0.
 * hls_export/bundle/descriptor.py writes it; a test compares the field order of both files.
 */
#ifndef YHW_DESCRIPTOR_H_
#define YHW_DESCRIPTOR_H_

#include <stddef.h>
#include <stdint.h>

#define YHW_MAGIC 0x31574859 /* "YHW1" */
#define YHW_DESCRIPTOR_WORDS 64
#define YHW_MAX_INPUTS 4

/* Values of `op`. */
enum yhw_op {
  YHW_CONV = 1,    /* dense or grouped convolution on the TM x TN tile */
  YHW_DWCONV = 2,  /* depthwise convolution */
  YHW_MAXPOOL = 3, /* largest code of a window */
  YHW_AVGPOOL = 4, /* average over the whole map */
  YHW_ADD = 5,     /* sum of up to four maps */
  YHW_MUL = 6,     /* map times factors */
  YHW_COPY = 7,    /* channels into another map, enlarged by `stride` */
  YHW_REORG = 8    /* pixels to channels or back */
};

/* Bits of `flags`. */
enum yhw_flag {
  YHW_LAST_OF_NODE = 1, /* the node's output is complete after this record */
  YHW_HAS_TABLE = 2,    /* the activation is a table */
  YHW_REORG_REVERSE = 4,
  YHW_REORG_DARKNET = 8 /* darknet's index map, else plain space to depth */
};

typedef struct {
  int32_t magic;
  int32_t op;
  int32_t node; /* index of the node in network.json */
  int32_t flags;
  int32_t in_c, in_h, in_w;    /* shape of the first input */
  int32_t out_c, out_h, out_w; /* shape of what this record writes */
  int32_t size_h, size_w;      /* window; vertical, horizontal */
  int32_t stride_h, stride_w;
  int32_t dilation_h, dilation_w;
  int32_t pad_h, pad_w;
  int32_t stride;         /* COPY: enlargement; REORG: block size */
  int32_t tile_h, tile_w; /* output rows and columns computed at a time */
  int32_t num_inputs;
  uint32_t in_offset[YHW_MAX_INPUTS];       /* activations */
  int32_t in_element_bytes[YHW_MAX_INPUTS]; /* 1 or 2 */
  int32_t in_signed[YHW_MAX_INPUTS];
  int32_t in_shift[YHW_MAX_INPUTS]; /* ADD: left shift that aligns the input */
  int32_t in_lanes;                 /* channels of one pixel's piece of the first input; L but for the image */
  uint32_t out_offset;              /* activations */
  int32_t out_element_bytes;
  int32_t in_channel, out_channel;      /* COPY: first channel read and written */
  int32_t factor_c, factor_h, factor_w; /* MUL: shape of the factors */
  uint32_t param_offset, param_bytes;   /* the record's block in the parameters */
  uint32_t param_crc32;
  int32_t weight_bytes;          /* 1 or 2 */
  uint32_t tile_table_offset;    /* per output tile: first input tile, count, byte offset of the weights, 0 */
  uint32_t channel_table_offset; /* per output channel: bias, shift */
  uint32_t table_offset;         /* activation table */
  int32_t shift;                 /* output shift where it is not per channel */
  int32_t mul_pos, mul_neg, shift_neg;
  int32_t code_lo, code_hi, code_bits;
  int32_t clamp_lo, clamp_hi;
  int32_t modes; /* rounding + 16 * overflow, as numbered in core/rounding.h; must be what the engine was built with */
  int32_t build; /* TM + 256 * TN + 65536 * accumulator bits that the parameters were made for */
} yhw_descriptor_t;

#ifdef __cplusplus
#define YHW_STATIC_ASSERT(condition, message) static_assert(condition, message)
#else
#define YHW_STATIC_ASSERT(condition, message) _Static_assert(condition, message)
#endif

YHW_STATIC_ASSERT(sizeof(yhw_descriptor_t) == 4 * YHW_DESCRIPTOR_WORDS, "a descriptor has 256 bytes");
YHW_STATIC_ASSERT(offsetof(yhw_descriptor_t, op) == 4, "descriptor: op");
YHW_STATIC_ASSERT(offsetof(yhw_descriptor_t, in_c) == 16, "descriptor: in_c");
YHW_STATIC_ASSERT(offsetof(yhw_descriptor_t, size_h) == 40, "descriptor: size_h");
YHW_STATIC_ASSERT(offsetof(yhw_descriptor_t, in_offset) == 88, "descriptor: in_offset");
YHW_STATIC_ASSERT(offsetof(yhw_descriptor_t, out_offset) == 156, "descriptor: out_offset");
YHW_STATIC_ASSERT(offsetof(yhw_descriptor_t, param_offset) == 184, "descriptor: param_offset");
YHW_STATIC_ASSERT(offsetof(yhw_descriptor_t, shift) == 212, "descriptor: shift");
YHW_STATIC_ASSERT(offsetof(yhw_descriptor_t, build) == 252, "descriptor: build");

#endif /* YHW_DESCRIPTOR_H_ */
