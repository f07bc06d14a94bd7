// SPDX-License-Identifier: Apache-2.0
// Where the elements of a tensor lie. Operators that treat every element alike walk memory in order, whatever the order
// of the dimensions: a dense tensor (contiguous, channels-last, permuted) is one run of elements.
#ifndef YHW_TENSOR_LAYOUT_H_
#define YHW_TENSOR_LAYOUT_H_

#include <algorithm>
#include <array>

#include "checks.h"
#include "strided_index.h"

namespace yhw {

// Sizes and strides, in elements; valid as long as the tensor.
struct Geometry {
  int64_t dim;
  const int64_t* sizes;
  const int64_t* strides;
};

inline Geometry geometry(const Tensor& x) {
  int64_t *sizes = nullptr, *strides = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(x.get(), &sizes));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(x.get(), &strides));
  return {x.dim(), sizes, strides};
}

// The dimensions longer than 1 from the widest stride to the narrowest.
struct MemoryOrder {
  int dim = 0;
  std::array<int, kMaxDims> axes;

  explicit MemoryOrder(const Geometry& g) {
    for (int d = 0; d < g.dim; ++d) {
      if (g.sizes[d] != 1) {
        axes[static_cast<size_t>(dim++)] = d;
      }
    }
    std::stable_sort(axes.begin(), axes.begin() + dim, [&](int a, int b) { return g.strides[a] > g.strides[b]; });
  }
};

// Whether the elements lie without gap or overlap, in some order of the dimensions.
inline bool is_dense(const Geometry& g) {
  if (std::find(g.sizes, g.sizes + g.dim, 0) != g.sizes + g.dim) {
    return true;
  }
  int64_t expected = 1;
  for (int64_t d = g.dim - 1; d >= 0; --d) {  // contiguous: no sorting needed
    if (g.sizes[d] != 1 && g.strides[d] != expected) {
      expected = -1;
      break;
    }
    expected *= g.sizes[d];
  }
  if (expected >= 0) {
    return true;
  }
  const MemoryOrder order(g);
  expected = 1;
  for (int i = order.dim - 1; i >= 0; --i) {
    const int axis = order.axes[static_cast<size_t>(i)];
    if (g.strides[axis] != expected) {
      return false;
    }
    expected *= g.sizes[axis];
  }
  return true;
}

inline bool same_shape(const Geometry& a, const Geometry& b) {
  return a.dim == b.dim && std::equal(a.sizes, a.sizes + a.dim, b.sizes);
}

// A gradient or a result that must look like the tensor it belongs to, wherever its elements lie.
inline void check_like(const char* op, const char* name, const Tensor& found, const Tensor& expected,
                       const char* expected_name) {
  STD_TORCH_CHECK(found.scalar_type() == expected.scalar_type(), op, ": ", name, " must have the dtype of ",
                  expected_name);
  STD_TORCH_CHECK(found.device() == expected.device(), op, ": ", name, " must be on the device of ", expected_name);
  STD_TORCH_CHECK(same_shape(geometry(found), geometry(expected)), op, ": ", name, " must have the shape of ",
                  expected_name);
}

// Whether equal positions in memory are equal elements; both of one shape.
inline bool same_layout(const Geometry& a, const Geometry& b) {
  for (int64_t d = 0; d < a.dim; ++d) {
    if (a.sizes[d] != 1 && a.strides[d] != b.strides[d]) {
      return false;
    }
  }
  return true;
}

// Layout of a dense tensor for one value per channel along `axis`; one channel where a single value serves all of it.
inline ChannelLayout channel_layout(const Geometry& dense, int64_t numel, int64_t axis, bool single) {
  if (single || dense.sizes[axis] == 1 || numel == 0) {
    return {1, 1, numel};
  }
  const int64_t channels = dense.sizes[axis], inner = dense.strides[axis];  // all that lies closer has stride < inner
  return {numel / (channels * inner), channels, inner};
}

// A new tensor like x: in its memory order where x is dense, else in the dense order nearest to it, as empty_like.
inline Tensor empty_in_layout(const Tensor& x) {
  const Geometry g = geometry(x);
  if (!is_dense(g)) {
    return torch::stable::empty_like(x);
  }
  int32_t type = 0, device_type = 0, device_index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(x.get(), &device_index));
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(g.dim, g.sizes, g.strides, type, device_type, device_index, &handle));
  return Tensor(handle);
}

// The elements of a strided tensor in the memory order of a dense one of the same shape.
inline StridedIndex strided_index(const Geometry& strided, const Geometry& dense) {
  StridedIndex index;
  index.dim = 0;
  const MemoryOrder order(dense);
  for (int i = 0; i < order.dim; ++i) {
    const int axis = order.axes[static_cast<size_t>(i)];
    const int64_t size = strided.sizes[axis], stride = strided.strides[axis];
    if (index.dim > 0 && index.strides[index.dim - 1] == size * stride) {  // one loop over both
      index.sizes[index.dim - 1] *= size;
      index.strides[index.dim - 1] = stride;
    } else {
      index.sizes[index.dim] = size;
      index.strides[index.dim++] = stride;
    }
  }
  if (index.dim == 0) {
    index.sizes[0] = index.strides[0] = 1;
    index.dim = 1;
  }
  return index;
}

}  // namespace yhw

#endif  // YHW_TENSOR_LAYOUT_H_
