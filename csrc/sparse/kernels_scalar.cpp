// SPDX-License-Identifier: Apache-2.0
// Sparse kernels for any processor, in single and double precision.
#include <cmath>

#include "kernels_impl.h"

namespace yhw {
namespace sparse {
namespace {

template <typename T>
struct ScalarIsa {
  using Real = T;
  static constexpr int kLanes = 8;
  static constexpr int kMaxRows = 8;
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
  // Rounded once, as the vector instructions do; slow where the processor has no such instruction.
  static Vector fma(const Vector& a, const Vector& b, const Vector& c) {
    Vector v;
    for (int l = 0; l < kLanes; ++l) {
      v.lane[l] = std::fma(a.lane[l], b.lane[l], c.lane[l]);
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
  static void copy_in(T* to, const T* from, uint32_t mask, int64_t stride) {
    for (int l = 0; l < Strip; ++l) {
      to[l] = (mask >> l & 1) != 0 ? from[l * stride] : T{0};
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

}  // namespace sparse
}  // namespace yhw
