// SPDX-License-Identifier: Apache-2.0
// The kernels as templates over an instruction set `Isa`, which supplies the dot products. Included by one source file
// per instruction set; everything is in an unnamed namespace so that no function compiled for one can be linked into
// another.
#include <cstring>

#include "conv_impl.h"
#include "depthwise_impl.h"
#include "finish_impl.h"
#include "kernels.h"
#include "maxpool_impl.h"
#include "transpose_impl.h"
#include "vec.h"

namespace yhw {
namespace {

template <typename T>
YHW_INLINE T minimum(T a, T b) {
  return a < b ? a : b;
}

template <class Isa>
void pool_tile(const int32_t* below, int pixels, int vectors, int32_t* acc) {
  const int pitch = vectors * kLanes;
  for (int p = 0; p < pixels; ++p) {
    for (int v = 0; v < vectors; ++v) {
      const int from = 2 * p * pitch + v * kLanes;
      const Vec upper = max_vec(load_vec(acc + from), load_vec(acc + from + pitch));
      const Vec lower = max_vec(load_vec(below + from), load_vec(below + from + pitch));
      store_vec(acc + p * pitch + v * kLanes, max_vec(upper, lower));
    }
  }
}

template <typename Stored>
void add_tile_stored(const PixelRun& run, int left, bool start, int32_t* acc) {
  const int blocks = (run.channels + kLanes - 1) / kLanes;
  const Vec zero = splat(run.storage.zero);
  for (int p = 0; p < run.pixels; ++p) {
    const uint8_t* from = run.data + p * run.spacing;
    for (int b = 0; b < blocks; ++b) {
      // A last block reads beyond the channels; what it makes of that is not stored.
      const Vec codes = widen(reinterpret_cast<const Stored*>(from) + b * kLanes);
      int32_t* to = acc + (p * blocks + b) * kLanes;
      const Vec shifted = (codes - zero) << left;
      const Vec sum = start ? shifted : load_vec(to) + shifted;
      std::memcpy(to, &sum, sizeof(sum));
    }
  }
}

template <class Isa>
void add_tile(const PixelRun& run, int left, bool start, int32_t* acc) {
  if (run.storage.bytes == 1) {
    add_tile_stored<uint8_t>(run, left, start, acc);
  } else {
    add_tile_stored<int16_t>(run, left, start, acc);
  }
}

template <typename StoredA, typename StoredB>
void mul_tile_stored(const PixelRun& a, const PixelRun& b, int32_t* acc) {
  const int blocks = (a.channels + kLanes - 1) / kLanes;
  const Vec zero_a = splat(a.storage.zero), zero_b = splat(b.storage.zero);
  for (int p = 0; p < a.pixels; ++p) {
    const uint8_t* from = a.data + p * a.spacing;
    const uint8_t* factors = b.data + p * b.spacing;
    StoredB one;
    std::memcpy(&one, factors, sizeof(one));
    for (int i = 0; i < blocks; ++i) {
      const int first = i * kLanes;
      const Vec x = widen(reinterpret_cast<const StoredA*>(from) + first);
      const Vec f = b.channels == 1 ? splat(one) : widen(reinterpret_cast<const StoredB*>(factors) + first);
      const Vec product = (x - zero_a) * (f - zero_b);
      std::memcpy(acc + (p * blocks + i) * kLanes, &product, sizeof(product));
    }
  }
}

template <class Isa>
void mul_tile(const PixelRun& a, const PixelRun& b, int32_t* acc) {
  if (a.storage.bytes == 1) {
    b.storage.bytes == 1 ? mul_tile_stored<uint8_t, uint8_t>(a, b, acc) : mul_tile_stored<uint8_t, int16_t>(a, b, acc);
  } else {
    b.storage.bytes == 1 ? mul_tile_stored<int16_t, uint8_t>(a, b, acc) : mul_tile_stored<int16_t, int16_t>(a, b, acc);
  }
}

// Codes [H, W, C] into the stored input map.
template <typename T>
void load_channels_last(const T* image, const View& map) {
  const int64_t pixels = map.pixels(), codes = pixels * map.c;
  if (map.storage.bytes == 1 && map.stride == map.c) {
    // A map of bytes may alias anything: what the loop reads besides the image is read before it.
    uint8_t* __restrict to = map.data;
    const int zero = map.storage.zero;
    for (int64_t i = 0; i < codes; ++i) {
      to[i] = static_cast<uint8_t>(image[i] + zero);
    }
    return;
  }
  for (int64_t p = 0; p < pixels; ++p) {
    for (int c = 0; c < map.c; ++c) {
      set_code(map, map.pixel(p), c, static_cast<Code>(image[p * map.c + c]));
    }
  }
}

// Codes [C, H, W], or [H, W, C], into the stored input map.
template <class Isa, typename T>
void load_image(const T* image, bool channels_last, const View& map) {
  if (channels_last) {
    return load_channels_last(image, map);
  }
  const int64_t plane = map.pixels();
  if (map.storage.bytes == 1 && map.stride == kStepBytes) {
    // Four bytes per pixel; channels that do not exist repeat the last one and are not read.
    const int last = map.c - 1;
    const T* channels[] = {image, image + (last > 0 ? plane : 0), image + minimum(2, last) * plane,
                           image + minimum(3, last) * plane};
    const Vec zero = splat(map.storage.zero), byte = splat(0xff);
    int64_t p = 0;
    for (; p + kLanes <= plane; p += kLanes) {
      Vec words = {};
      for (int c = 0; c < kStepBytes; ++c) {
        words |= ((widen(channels[c] + p) + zero) & byte) << (8 * c);
      }
      std::memcpy(map.data + p * kStepBytes, &words, sizeof(words));
    }
    for (; p < plane; ++p) {
      for (int c = 0; c < kStepBytes; ++c) {
        map.pixel(p)[c] = static_cast<uint8_t>(channels[c][p] + map.storage.zero);
      }
    }
    return;
  }
  if (map.storage.bytes == 1) {
    return load_squares(image, map);
  }
  for (int64_t p = 0; p < plane; ++p) {
    for (int c = 0; c < map.c; ++c) {
      set_code(map, map.pixel(p), c, static_cast<Code>(image[c * plane + p]));
    }
  }
}

template <class Isa>
const Kernels& make_kernels() {
  static const Kernels kernels = {
      Isa::kName,
      Isa::kLayout,
      Isa::kInterleaves,
      Isa::kMaxBlocks,
      {0, Isa::kTilePixels[1], Isa::kTilePixels[2], Isa::kTilePixels[3], Isa::kTilePixels[4]},
      Isa::kSparsePixels,
      conv_tile<Isa>,
      sparse_tile<Isa>,
      pool_tile<Isa>,
      depthwise_row<Isa>,
      add_tile<Isa>,
      mul_tile<Isa>,
      finish<Isa>,
      finish_wide<Isa>,
      maxpool_row<Isa>,
      load_image<Isa, uint8_t>,
      load_image<Isa, int8_t>,
      load_image<Isa, Code>,
      read_map<Isa>};
  return kernels;
}

}  // namespace
}  // namespace yhw
