// SPDX-License-Identifier: Apache-2.0
// Elements into and out of the first-level cache, whatever their type and strides. Included by kernels of every
// instruction set, so all of it is local to the source file that includes it.
#ifndef YHW_CPU_FAKE_QUANT_POW2_TILES_H_
#define YHW_CPU_FAKE_QUANT_POW2_TILES_H_

#include "fake_quant_pow2_task.h"
#include "half.h"
#include "stream.h"

namespace yhw {
namespace {

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <typename Element>
constexpr bool kStoredAsComputed = sizeof(typename Element::Stored) == sizeof(typename Element::Real);

// Elements [begin, begin + count) of a strided tensor to `to`.
template <typename Element>
void gather(const typename Element::Stored* from, const StridedIndex& index, int64_t begin, int64_t count,
            // outputs
            typename Element::Real* to) {
  int64_t position[kMaxDims];
  int64_t rest = begin, offset = 0;
  for (int d = index.dim - 1; d >= 0; --d) {
    position[d] = rest % index.sizes[d];
    rest /= index.sizes[d];
    offset += position[d] * index.strides[d];
  }
  const int last = index.dim - 1;
  const int64_t size = index.sizes[last], stride = index.strides[last];
  while (count > 0) {
    const int64_t run = smaller(count, size - position[last]);
    for (int64_t i = 0; i < run; ++i) {
      to[i] = Element::load(from[offset + i * stride]);
    }
    to += run;
    count -= run;
    offset += (size - position[last]) * stride;  // one past the row; the loop below carries
    position[last] = size;
    for (int d = last; d > 0 && position[d] == index.sizes[d]; --d) {
      offset += index.strides[d - 1] - index.sizes[d] * index.strides[d];
      position[d] = 0;
      ++position[d - 1];
    }
  }
}

// Elements [begin, begin + count) as Real: in place where they lie so, else in `buffer`.
template <typename Element>
const typename Element::Real* load_tile(const FakeQuantInput& input, int64_t begin, int64_t count,
                                        typename Element::Real* buffer) {
  const auto* stored = static_cast<const typename Element::Stored*>(input.data);
  if (input.index != nullptr) {
    gather<Element>(stored, *input.index, begin, count, buffer);
    return buffer;
  }
  if constexpr (kStoredAsComputed<Element>) {
    return stored + begin;
  } else {
    for (int64_t i = 0; i < count; ++i) {
      buffer[i] = Element::load(stored[begin + i]);
    }
    return buffer;
  }
}

// Where a tile of results is computed: in place where it may be written there at once, else in a buffer that store()
// writes out.
template <typename Element>
class OutputTile {
  using Stored = typename Element::Stored;
  using Real = typename Element::Real;

 public:
  explicit OutputTile(const FakeQuantTask& task)
      : out_(static_cast<Stored*>(task.out)), stream_(task.stream), direct_(kStoredAsComputed<Element> && !stream_) {}

  Real* at(int64_t begin) {
    if constexpr (kStoredAsComputed<Element>) {
      return direct_ ? out_ + begin : buffer_;
    }
    return buffer_;
  }

  void store(int64_t begin, int64_t count) {
    if (direct_) {
      return;
    }
    if constexpr (kStoredAsComputed<Element>) {
      stream_copy(out_ + begin, buffer_, static_cast<size_t>(count) * sizeof(Stored));
    } else {
      alignas(kCacheLine) Stored converted[kFakeQuantTile];
      Stored* to = stream_ ? converted : out_ + begin;
      for (int64_t i = 0; i < count; ++i) {
        to[i] = Element::store(buffer_[i]);
      }
      if (stream_) {
        stream_copy(out_ + begin, converted, static_cast<size_t>(count) * sizeof(Stored));
      }
    }
  }

  ~OutputTile() {
    if (stream_) {
      stream_fence();
    }
  }

 private:
  Stored* out_;
  bool stream_;
  bool direct_;
  alignas(kCacheLine) Real buffer_[kFakeQuantTile];
};

// A chunk of a channel that lies in several runs of memory: elements [first, first + count) of the channel.
struct ChannelPieces {
  int64_t inner;
  int64_t channels;
  int64_t channel;
  int64_t first;
  int64_t count;

  // Calls piece(position in the tensor, position in the chunk, elements).
  template <typename Piece>
  void for_each(const Piece& piece) const {
    int64_t run = first / inner, within = first % inner;
    for (int64_t done = 0; done < count; ++run, within = 0) {
      const int64_t size = smaller(inner - within, count - done);
      piece((run * channels + channel) * inner + within, done, size);
      done += size;
    }
  }

  template <typename Element>
  void load(const FakeQuantInput& input, typename Element::Real* buffer) const {
    if (input.index != nullptr) {
      return for_each([&](int64_t at, int64_t to, int64_t size) {
        gather<Element>(static_cast<const typename Element::Stored*>(input.data), *input.index, at, size, buffer + to);
      });
    }
    const auto* stored = static_cast<const typename Element::Stored*>(input.data);
    for_each([&](int64_t at, int64_t to, int64_t size) {
      for (int64_t i = 0; i < size; ++i) {
        buffer[to + i] = Element::load(stored[at + i]);
      }
    });
  }

  template <typename Element>
  void store(const typename Element::Real* buffer, void* out) const {
    auto* stored = static_cast<typename Element::Stored*>(out);
    for_each([&](int64_t at, int64_t from, int64_t size) {
      for (int64_t i = 0; i < size; ++i) {
        stored[at + i] = Element::store(buffer[from + i]);
      }
    });
  }
};

}  // namespace
}  // namespace yhw

#endif  // YHW_CPU_FAKE_QUANT_POW2_TILES_H_
