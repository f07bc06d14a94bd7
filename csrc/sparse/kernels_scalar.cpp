// SPDX-License-Identifier: Apache-2.0
// Sparse kernels for any processor: floats of both precisions and 8-bit codes.
#include <cmath>

#include "kernels_impl.h"

namespace yhw {
namespace sparse {
namespace {

// Rounded once, as the vector instructions do; slow where the processor has no such instruction.
template <typename T>
T multiply_add(T weight, T x, T sum) {
  return std::fma(weight, x, sum);
}

// The product of a quad of unsigned codes and one of signed weights, modulo 2^32.
int32_t multiply_add(int32_t weight, int32_t x, int32_t sum) {
  uint32_t total = static_cast<uint32_t>(sum);
  for (int byte = 0; byte < 4; ++byte) {
    const int code = static_cast<uint8_t>(static_cast<uint32_t>(x) >> (8 * byte));
    total += static_cast<uint32_t>(code * static_cast<int8_t>(static_cast<uint32_t>(weight) >> (8 * byte)));
  }
  return static_cast<int32_t>(total);
}

template <typename T>
struct ScalarIsa {
  using Element = T;
  static constexpr int kLanes = 8;
  static constexpr int kMaxRows = 8;
  static constexpr bool kRuns = false;
  static constexpr decltype(Kernels<T>::place_taps) kPlaceTaps = nullptr;
  struct Vector {
    T lane[kLanes];
  };

  static constexpr int max_rows(int channels) { return channels == 1 ? 2 : 1; }

  static Vector load(const T* p) {
    Vector v;
    for (int l = 0; l < kLanes; ++l) {
      v.lane[l] = p[l];
    }
    return v;
  }
  static void store(T* p, const Vector& v) {
    for (int l = 0; l < kLanes; ++l) {
      p[l] = v.lane[l];
    }
  }
  static void store_lanes(T* p, const Vector& v, uint32_t mask) {
    for (int l = 0; l < kLanes; ++l) {
      if ((mask >> l & 1) != 0) {
        p[l] = v.lane[l];
      }
    }
  }
  static Vector broadcast(T value) {
    Vector v;
    for (int l = 0; l < kLanes; ++l) {
      v.lane[l] = value;
    }
    return v;
  }
  template <typename Operation>
  static Vector map(const Vector& a, const Vector& b, const Operation& operation) {
    Vector v;
    for (int l = 0; l < kLanes; ++l) {
      v.lane[l] = operation(a.lane[l], b.lane[l]);
    }
    return v;
  }
  static Vector fma(const Vector& weight, const Vector& x, const Vector& sum) {
    Vector v;
    for (int l = 0; l < kLanes; ++l) {
      v.lane[l] = multiply_add(weight.lane[l], x.lane[l], sum.lane[l]);
    }
    return v;
  }
  static Vector maximum(const Vector& a, const Vector& b) {
    return map(a, b, [](T x, T y) { return x > y ? x : y; });
  }
  static Vector minimum(const Vector& a, const Vector& b) {
    return map(a, b, [](T x, T y) { return x < y ? x : y; });
  }
  static Vector leaky(const Vector& v, const Vector& slope) {
    return map(v, slope, [](T x, T factor) { return x > 0 ? x : x * factor; });
  }
  static void prefetch(const T*) {}

  template <int Strip>
  static void copy_in(T* to, const T* from, uint32_t mask, int64_t stride, T outside) {
    for (int l = 0; l < Strip; ++l) {
      to[l] = (mask >> l & 1) != 0 ? from[l * stride] : outside;
    }
  }
  template <int Strip>
  static void copy_out(T* to, const T* from, uint32_t mask) {
    for (int l = 0; l < Strip; ++l) {
      if ((mask >> l & 1) != 0) {
        to[l] = from[l];
      }
    }
  }
};

}  // namespace

Kernels<float> scalar_kernels_float() { return make_kernels<ScalarIsa<float>>(); }
Kernels<double> scalar_kernels_double() { return make_kernels<ScalarIsa<double>>(); }
Kernels<int32_t> scalar_kernels_quads() { return make_kernels<ScalarIsa<int32_t>>(); }

}  // namespace sparse
}  // namespace yhw
