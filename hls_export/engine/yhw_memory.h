// SPDX-License-Identifier: Apache-2.0
// Memory words of L bytes, and pieces of L channels in them. A map lies in memory as [ceil(C / L)][H][W][L], so one
// piece is one word of 8-bit codes or two words of 16-bit codes; a whole row of a block is one burst.
#ifndef YHW_MEMORY_H_
#define YHW_MEMORY_H_

#include "yhw_types.h"

namespace yhw {

#if defined(YHW_AP)
YHW_HD uint8_t word_byte(const word_t& word, int i) { return word.range(8 * i + 7, 8 * i).to_uint(); }
YHW_HD void set_word_byte(word_t* word, int i, uint8_t value) { word->range(8 * i + 7, 8 * i) = value; }
#else
YHW_HD uint8_t word_byte(const word_t& word, int i) { return word.byte[i]; }
YHW_HD void set_word_byte(word_t* word, int i, uint8_t value) { word->byte[i] = value; }
#endif

// Where a map lies and how its codes are stored.
struct MapPort {
  uint32_t offset;  // bytes
  int h, w;
  int element_bytes;  // 1 or 2
  bool is_signed;
  int lanes;  // channels of a pixel's piece: L, or less for the image
};

// Index of the first word of the piece of `block` at (y, x).
YHW_HD uint32_t piece_index(const MapPort& map, int block, int y, int x) {
  const uint32_t pixel = (static_cast<uint32_t>(block) * map.h + y) * map.w + x;
  return map.offset / kLanes + pixel * map.element_bytes;
}

// The codes of one piece.
YHW_HD void read_piece(const word_t* memory, const MapPort& map, int block, int y, int x, data_t codes[kLanes]) {
#pragma HLS INLINE
  const uint32_t index = piece_index(map, block, y, x);
  const word_t low = memory[index];
  const word_t high = map.element_bytes == 2 ? memory[index + 1] : low;
  for (int i = 0; i < kLanes; ++i) {
#pragma HLS UNROLL
    if (map.element_bytes == 2) {
      const word_t& word = 2 * i < kLanes ? low : high;
      const int first = 2 * i < kLanes ? 2 * i : 2 * i - kLanes;
      const uint16_t bits = word_byte(word, first) | (word_byte(word, first + 1) << 8);
      codes[i] = map.is_signed ? static_cast<int32_t>(static_cast<int16_t>(bits)) : static_cast<int32_t>(bits);
    } else {
      const uint8_t bits = word_byte(low, i);
      codes[i] = map.is_signed ? static_cast<int32_t>(static_cast<int8_t>(bits)) : static_cast<int32_t>(bits);
    }
  }
}

YHW_HD void write_piece(word_t* memory, const MapPort& map, int block, int y, int x, const int32_t codes[kLanes]) {
#pragma HLS INLINE
  const uint32_t index = piece_index(map, block, y, x);
  word_t low = word_t(), high = word_t();
  for (int i = 0; i < kLanes; ++i) {
#pragma HLS UNROLL
    if (map.element_bytes == 2) {
      word_t* word = 2 * i < kLanes ? &low : &high;
      const int first = 2 * i < kLanes ? 2 * i : 2 * i - kLanes;
      set_word_byte(word, first, codes[i] & 0xff);
      set_word_byte(word, first + 1, (codes[i] >> 8) & 0xff);
    } else {
      set_word_byte(&low, i, codes[i] & 0xff);
    }
  }
  memory[index] = low;
  if (map.element_bytes == 2) {
    memory[index + 1] = high;
  }
}

// The piece of an image whose pixels take fewer than L bytes: several pixels share a word.
YHW_HD void read_pixel(const word_t* memory, const MapPort& map, int y, int x, data_t codes[kLanes]) {
#pragma HLS INLINE
  const uint32_t address = map.offset + (static_cast<uint32_t>(y) * map.w + x) * map.lanes;
  const word_t word = memory[address / kLanes];
  const int first = address % kLanes;
  for (int i = 0; i < kLanes; ++i) {
#pragma HLS UNROLL
    codes[i] = i < map.lanes ? static_cast<int32_t>(word_byte(word, (first + i) % kLanes)) : 0;
  }
}

// A little-endian 32-bit value at a byte address that is a multiple of 4.
YHW_HD int32_t read_int32(const word_t* memory, uint32_t address) {
#pragma HLS INLINE
  const word_t word = memory[address / kLanes];
  const int first = address % kLanes;
  const uint32_t bits = word_byte(word, first) | (static_cast<uint32_t>(word_byte(word, first + 1)) << 8) |
                        (static_cast<uint32_t>(word_byte(word, first + 2)) << 16) |
                        (static_cast<uint32_t>(word_byte(word, first + 3)) << 24);
  return static_cast<int32_t>(bits);
}

}  // namespace yhw

#endif  // YHW_MEMORY_H_
