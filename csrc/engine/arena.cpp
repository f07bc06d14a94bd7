// SPDX-License-Identifier: Apache-2.0
#include "arena.h"

#include <algorithm>
#include <numeric>

namespace yhw {

std::vector<size_t> place_buffers(const std::vector<Lifetime>& buffers, size_t& total) {
  std::vector<size_t> order(buffers.size()), offsets(buffers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return buffers[a].bytes > buffers[b].bytes; });
  total = 0;
  std::vector<size_t> placed;  // by offset
  for (const size_t index : order) {
    const Lifetime& buffer = buffers[index];
    const size_t bytes = aligned(buffer.bytes);
    size_t at = 0;
    for (const size_t other : placed) {
      const bool together = buffers[other].first <= buffer.last && buffer.first <= buffers[other].last;
      if (together && offsets[other] < at + bytes) {
        at = std::max(at, offsets[other] + aligned(buffers[other].bytes));
      }
    }
    offsets[index] = at;
    total = std::max(total, at + bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), at,
                                   [&](size_t offset, size_t other) { return offset < offsets[other]; }),
                  index);
  }
  return offsets;
}

}  // namespace yhw
