// SPDX-License-Identifier: Apache-2.0
// Memory words of L bytes, and pieces of L channels in them. A map lies in memory as [ceil(C / L)][H][W][L], so one
// piece is one word of 8-bit codes or two words of 16-bit codes, and a block of L channels is one run of words.
// Word indices are int: record_fits holds every map within 4 GiB, that is 2^30 words of at least 4 bytes.
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
  int c, h, w;
  int code_bytes;  // 1 or 2
  bool is_signed;
  int lanes;  // channels of a pixel's piece: L, or less for the image
};

// Words of a piece; a constant where no map has 16-bit codes.
YHW_HD int piece_words(const MapPort& map) { return kMaxCodeBytes == 1 ? 1 : map.code_bytes; }

// Index of the first word of the piece of `block` at `pixel`, row by row.
YHW_HD int piece_index(const MapPort& map, int block, int pixel) {
  return static_cast<int>(map.offset / kLanes) + (block * map.h * map.w + pixel) * piece_words(map);
}

// Of a run of pieces, word i belongs to piece word_piece(i) and is its part word_part(i): 0, or 1 for the upper lanes
// of 16-bit codes.
YHW_HD int word_piece(const MapPort& map, int i) { return piece_words(map) == 1 ? i : i / 2; }
YHW_HD int word_part(const MapPort& map, int i) { return piece_words(map) == 1 ? 0 : i % 2; }

// Whether part `part` of a piece holds lane `lane`.
YHW_HD bool holds_lane(const MapPort& map, int part, int lane) {
  return piece_words(map) == 1 || (2 * lane >= kLanes) == (part == 1);
}

YHW_HD int32_t signed_code(uint32_t bits, bool is_signed, int size) {
  const uint32_t sign = 1u << (size - 1);
  return static_cast<int32_t>(bits) - static_cast<int32_t>(is_signed ? (bits & sign) << 1 : 0u);
}

// The code of a lane that `word` holds.
YHW_HD data_t word_code(const MapPort& map, const word_t& word, int lane) {
  if (piece_words(map) == 1) {
    return signed_code(word_byte(word, lane), map.is_signed, 8);
  }
  const int first = 2 * lane % kLanes;
  const uint32_t bits = word_byte(word, first) | (static_cast<uint32_t>(word_byte(word, first + 1)) << 8);
  return signed_code(bits, map.is_signed, 16);
}

// Puts the code of a lane into the word that holds it.
YHW_HD void set_word_code(const MapPort& map, int lane, int32_t code, word_t* word) {
  if (piece_words(map) == 1) {
    set_word_byte(word, lane, code & 0xff);
    return;
  }
  const int first = 2 * lane % kLanes;
  set_word_byte(word, first, code & 0xff);
  set_word_byte(word, first + 1, (code >> 8) & 0xff);
}

// The 32-bit value, little-endian, at byte `first` of a word.
YHW_HD int32_t word_int32(const word_t& word, int first) {
  const uint32_t bits = word_byte(word, first) | (static_cast<uint32_t>(word_byte(word, first + 1)) << 8) |
                        (static_cast<uint32_t>(word_byte(word, first + 2)) << 16) |
                        (static_cast<uint32_t>(word_byte(word, first + 3)) << 24);
  return static_cast<int32_t>(bits);
}

// The 32-bit value at a byte address that is a multiple of 4.
YHW_HD int32_t read_int32(const word_t* memory, uint32_t address) {
#pragma HLS INLINE
  return word_int32(memory[address / kLanes], static_cast<int>(address % kLanes));
}

}  // namespace yhw

#endif  // YHW_MEMORY_H_
