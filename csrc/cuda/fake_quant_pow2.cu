// SPDX-License-Identifier: Apache-2.0
#include "../fake_quant_pow2.h"
#include "../library.h"
#include "element.cuh"
#include "launch.cuh"

namespace yhw {
namespace {

// Fraction bits on the device, as FracSource. The values stay there and are not checked: one outside of the limits
// gives 0, infinity or NaN.
struct DeviceFracs {
  FracSource::Kind kind;
  int number;
  int magnitude_bits;
  bool wide;           // float64 values
  const void* values;  // [channels]
  ChannelLayout layout;

  __device__ int of_channel(int64_t channel) const {
    if (kind == FracSource::Kind::kNumber) {
      return number;
    }
    if (kind == FracSource::Kind::kFracs) {
      return static_cast<const int32_t*>(values)[channel];
    }
    const double value = wide ? static_cast<const double*>(values)[channel]
                              : static_cast<double>(static_cast<const float*>(values)[channel]);
    return frac_from(kind, value, magnitude_bits);
  }

  // Of element i of a tensor [outer, channels, inner].
  __device__ int of_element(int64_t i) const {
    return of_channel(layout.channels == 1 ? 0 : (i / layout.inner) % layout.channels);
  }
};

// Calls body.element(index, frac) for elements, packs of them where `packed` says that all pointers are aligned: call
// `index` covers one pack or one element. A pack never straddles two formats: `packed` needs runs of whole packs.
template <typename Element, typename Body>
struct OverElements {
  Body body;
  DeviceFracs fracs;
  int64_t count;
  bool packed;

  __device__ void operator()(int64_t index) const {
    using Stored = typename Element::Stored;
    constexpr int kSize = kPackSize<Stored>;
    if (!packed) {
      return body.one(index, fracs.of_element(index));
    }
    const int64_t first = index * kSize;
    const int frac = fracs.of_element(first);
    if (first + kSize <= count) {
      return body.pack(index, frac);
    }
    for (int64_t i = first; i < count; ++i) {
      body.one(i, frac);
    }
  }
};

template <typename Element, Rounding kRounding, Overflow kOverflow>
struct Forward {
  using Stored = typename Element::Stored;
  using Real = typename Element::Real;
  const Stored* x;
  CodeRange range;
  // outputs
  Stored* y;

  __device__ Stored value(Stored x_i, int frac) const {
    const Real scale = power_of_two<Real>(frac), step = power_of_two<Real>(-frac);
    return Element::store(fake_quant<kRounding, kOverflow>(Element::load(x_i), scale, step, range));
  }
  __device__ void one(int64_t i, int frac) const { y[i] = value(x[i], frac); }
  __device__ void pack(int64_t index, int frac) const {
    ElementPack<Stored> values = reinterpret_cast<const ElementPack<Stored>*>(x)[index];
#pragma unroll
    for (int k = 0; k < kPackSize<Stored>; ++k) {
      values.values[k] = value(values.values[k], frac);
    }
    reinterpret_cast<ElementPack<Stored>*>(y)[index] = values;
  }
};

template <typename Element>
struct Backward {
  using Stored = typename Element::Stored;
  using Real = typename Element::Real;
  const Stored* grad;
  const Stored* x;
  PassRange<Real> range;
  // outputs
  Stored* grad_x;

  __device__ Stored value(Stored grad_i, Stored x_i, int frac) const {
    return Element::store(fake_quant_grad<Overflow::kSaturate>(Element::load(grad_i), Element::load(x_i),
                                                               power_of_two<Real>(frac), range));
  }
  __device__ void one(int64_t i, int frac) const { grad_x[i] = value(grad[i], x[i], frac); }
  __device__ void pack(int64_t index, int frac) const {
    ElementPack<Stored> values = reinterpret_cast<const ElementPack<Stored>*>(grad)[index];
    const ElementPack<Stored> xs = reinterpret_cast<const ElementPack<Stored>*>(x)[index];
#pragma unroll
    for (int k = 0; k < kPackSize<Stored>; ++k) {
      values.values[k] = value(values.values[k], xs.values[k], frac);
    }
    reinterpret_cast<ElementPack<Stored>*>(grad_x)[index] = values;
  }
};

// One lane of one chunk of one channel, in the order of core/learned_step.h: grad_x, and the lane's sum.
template <typename Element, Rounding kRounding>
struct LearnedLane {
  using Stored = typename Element::Stored;
  using Real = typename Element::Real;
  const Stored* grad;
  const Stored* x;
  DeviceFracs fracs;
  LearnedFormat<Real> format;  // but its scale
  int64_t chunks;              // of a channel
  // outputs
  Stored* grad_x;
  Real* lanes;  // [channels, chunks, kSumLanes]

  __device__ void operator()(int64_t index) const {
    const ChannelLayout layout = fracs.layout;
    const int64_t lane = index % kSumLanes, chunk = index / kSumLanes % chunks, channel = index / kSumLanes / chunks;
    const int64_t length = layout.outer * layout.inner, next = (chunk + 1) * kSumChunk,
                  end = next < length ? next : length;
    LearnedFormat<Real> here = format;
    here.scale = power_of_two<Real>(fracs.of_channel(channel));
    Real sum = 0;
    for (int64_t j = chunk * kSumChunk + lane; j < end; j += kSumLanes) {
      const int64_t i = (j / layout.inner * layout.channels + channel) * layout.inner + j % layout.inner;
      const auto gradient = learned_gradient<kRounding>(Element::load(grad[i]), Element::load(x[i]), here);
      sum += gradient.step;
      grad_x[i] = Element::store(gradient.x);
    }
    lanes[index] = sum;
  }
};

template <typename Real>
struct AddLanes {
  const Real* lanes;
  // outputs
  double* partials;  // [channels, chunks]

  __device__ void operator()(int64_t i) const { partials[i] = add_lanes(lanes + i * kSumLanes); }
};

// One level of the sum: kSumGroup neighbours of a channel become one.
struct AddGroups {
  const double* partials;  // [channels, count]
  int64_t count;
  int64_t groups;
  // outputs
  double* sums;  // [channels, groups]

  __device__ void operator()(int64_t i) const {
    const int64_t first = i % groups * kSumGroup;
    const double* values = partials + i / groups * count;
    double sum = values[first];
    for (int64_t k = first + 1; k < count && k < first + kSumGroup; ++k) {
      sum += values[k];
    }
    sums[i] = sum;
  }
};

struct WriteGradient {
  const double* sums;  // [channels]; null: no elements
  DeviceFracs fracs;
  StepGradient gradient;
  double grad_scale;
  // outputs
  void* grad_parameter;  // [channels]

  __device__ void operator()(int64_t channel) const {
    const double sum = sums == nullptr ? 0 : sums[channel];
    const double value = sum * step_gradient_factor(gradient, fracs.of_channel(channel), grad_scale);
    if (fracs.wide) {
      static_cast<double*>(grad_parameter)[channel] = value;
    } else {
      static_cast<float*>(grad_parameter)[channel] = static_cast<float>(value);
    }
  }
};

// Calls kernel(element type tag).
template <typename Kernel>
void with_element(const Tensor& x, const Kernel& kernel) {
  switch (x.scalar_type()) {
    case ScalarType::Double:
      return kernel(Float64{});
    case ScalarType::Half:
      return kernel(Float16{});
    case ScalarType::BFloat16:
      return kernel(Bfloat16{});
    default:
      return kernel(Float32{});
  }
}

// `input` in the memory order of `like`, copied where it lies otherwise.
Tensor in_layout_of(const Tensor& input, const Tensor& like) {
  if (same_layout(geometry(input), geometry(like))) {
    return input;
  }
  Tensor copy = empty_in_layout(like);
  torch::stable::copy_(copy, input);
  return copy;
}

DeviceFracs device_fracs(const FracSource& source, const Tensor& contiguous, const FakeQuantMode& mode,
                         const Tensor& dense) {
  const bool is_number = source.values == nullptr;
  return {source.kind,
          source.number,
          mode.magnitude_bits,
          !is_number && contiguous.scalar_type() == ScalarType::Double,
          is_number ? nullptr : contiguous.const_data_ptr(),
          channel_layout(geometry(dense), dense.numel(), source.axis, source.single())};
}

Tensor contiguous_values(const FracSource& source, const Tensor& x) {
  return source.values == nullptr ? x : torch::stable::contiguous(*source.values);
}

template <typename Element, typename Body>
void over_elements(const Tensor& dense, const DeviceFracs& fracs, bool aligned, const Body& body) {
  constexpr int kSize = kPackSize<typename Element::Stored>;
  const bool packed = aligned && (fracs.layout.channels == 1 || fracs.layout.inner % kSize == 0);
  const int64_t count = dense.numel();
  for_each(dense, packed ? (count + kSize - 1) / kSize : count,
           OverElements<Element, Body>{body, fracs, count, packed});
}

struct Cuda {
  static void forward(const Tensor& x, const FracSource& source, const FakeQuantMode& mode,
                      // outputs
                      Tensor& y) {
    const Tensor in = in_layout_of(x, y), values = contiguous_values(source, x);
    const DeviceFracs fracs = device_fracs(source, values, mode, y);
    const void* from = in.const_data_ptr();
    void* to = y.mutable_data_ptr();
    with_element(x, [&](auto element) {
      using Element = decltype(element);
      using Stored = typename Element::Stored;
      with_modes(mode.rounding, mode.overflow, [&](auto rounding, auto overflow) {
        const Forward<Element, decltype(rounding)::value, decltype(overflow)::value> body{
            static_cast<const Stored*>(from), mode.range, static_cast<Stored*>(to)};
        over_elements<Element>(y, fracs, is_pack_aligned(from) && is_pack_aligned(to), body);
      });
    });
  }

  static void backward(const Tensor& grad, const Tensor& x, const FracSource& source, const FakeQuantMode& mode,
                       // outputs
                       Tensor& grad_x) {
    if (mode.overflow == Overflow::kWrap) {
      torch::stable::copy_(grad_x, grad);
      return;
    }
    const Tensor dy = in_layout_of(grad, grad_x), in = in_layout_of(x, grad_x), values = contiguous_values(source, x);
    const DeviceFracs fracs = device_fracs(source, values, mode, grad_x);
    const void *from_grad = dy.const_data_ptr(), *from_x = in.const_data_ptr();
    void* to = grad_x.mutable_data_ptr();
    with_element(x, [&](auto element) {
      using Element = decltype(element);
      using Stored = typename Element::Stored;
      PassRange<typename Element::Real> range{};
      with_modes(mode.rounding, mode.overflow, [&](auto rounding, auto overflow) {
        range = pass_range<decltype(rounding)::value, decltype(overflow)::value, typename Element::Real>(mode.range);
      });
      const Backward<Element> body{static_cast<const Stored*>(from_grad), static_cast<const Stored*>(from_x), range,
                                   static_cast<Stored*>(to)};
      over_elements<Element>(grad_x, fracs,
                             is_pack_aligned(from_grad) && is_pack_aligned(from_x) && is_pack_aligned(to), body);
    });
  }

  static void learned_backward(const Tensor& grad, const Tensor& x, const FracSource& source, const FakeQuantMode& mode,
                               double grad_scale,
                               // outputs
                               Tensor& grad_x, Tensor& grad_parameter) {
    const Tensor dy = in_layout_of(grad, grad_x), in = in_layout_of(x, grad_x), values = contiguous_values(source, x);
    const DeviceFracs fracs = device_fracs(source, values, mode, grad_x);
    const auto gradient = source.kind == FracSource::Kind::kLsq ? StepGradient::kLsq : StepGradient::kTqt;
    const ChannelLayout layout = fracs.layout;
    int64_t count = (layout.outer * layout.inner + kSumChunk - 1) / kSumChunk;  // partial sums of a channel
    // Lanes, partial sums and one more level of them; the levels then alternate.
    const int64_t partials = layout.channels * count, sums = layout.channels * ((count + kSumGroup - 1) / kSumGroup);
    const Tensor scratch = torch::stable::new_empty(x, {partials * kSumLanes + partials + sums}, ScalarType::Double);
    auto* lanes = static_cast<double*>(scratch.mutable_data_ptr());
    double *from = lanes + partials * kSumLanes, *to = from + partials;
    with_element(x, [&](auto element) {
      using Element = decltype(element);
      using Real = typename Element::Real;
      with_modes(mode.rounding, mode.overflow, [&](auto rounding, auto overflow) {
        constexpr Rounding kRounding = decltype(rounding)::value;
        constexpr Overflow kOverflow = decltype(overflow)::value;
        run_lanes<Element, kRounding>(dy, in, fracs, learned_format<kRounding, kOverflow, Real>(gradient, mode.range),
                                      count, grad_x, reinterpret_cast<Real*>(lanes));
      });
      for_each(x, partials, AddLanes<Real>{reinterpret_cast<const Real*>(lanes), from});
    });
    for (; count > 1; count = (count + kSumGroup - 1) / kSumGroup) {
      const int64_t groups = (count + kSumGroup - 1) / kSumGroup;
      for_each(x, layout.channels * groups, AddGroups{from, count, groups, to});
      std::swap(from, to);
    }
    Tensor dense = torch::stable::contiguous(grad_parameter);
    for_each(x, grad_parameter.numel(),
             WriteGradient{count == 0 ? nullptr : from, fracs, gradient, grad_scale, dense.mutable_data_ptr()});
    if (dense.const_data_ptr() != grad_parameter.const_data_ptr()) {
      torch::stable::copy_(grad_parameter, dense);
    }
  }

 private:
  template <typename Element, Rounding kRounding, typename Real>
  static void run_lanes(const Tensor& grad, const Tensor& x, const DeviceFracs& fracs,
                        const LearnedFormat<Real>& format, int64_t chunks, Tensor& grad_x, Real* lanes) {
    using Stored = typename Element::Stored;
    for_each(x, fracs.layout.channels * chunks * kSumLanes,
             LearnedLane<Element, kRounding>{static_cast<const Stored*>(grad.const_data_ptr()),
                                             static_cast<const Stored*>(x.const_data_ptr()), fracs, format, chunks,
                                             static_cast<Stored*>(grad_x.mutable_data_ptr()), lanes});
  }
};

}  // namespace
}  // namespace yhw

YHW_LIBRARY_CUDA(m) { yhw::register_fake_quant_pow2<yhw::Cuda>(m); }
