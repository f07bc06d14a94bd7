// SPDX-License-Identifier: Apache-2.0
#include "../fake_quant_pow2.h"

#include <unistd.h>

#include <memory>

#include "fake_quant_pow2_task.h"
#include "path.h"

namespace yhw {
namespace {

// Elements per task of a thread: large enough to be worth one; whole tiles.
constexpr int64_t kGrain = 16 * kFakeQuantTile;

const FakeQuantKernels& kernels() {
#if defined(__x86_64__)
  return kernels_of_path(fake_quant_kernels_baseline, fake_quant_kernels_avx2, fake_quant_kernels_avx512);
#else
  return fake_quant_kernels_baseline;
#endif
}

// Parts that the learned backward is divided into at least, for the threads; more where there are more channels.
constexpr int64_t kParts = 128;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls body(begin, end) for the tiles of [0, count), on all threads where that pays.
template <typename Body>
void for_each_tile(int64_t count, int64_t tile, const Body& body) {
  if (count <= kGrain) {
    return body(0, count);
  }
  torch::stable::parallel_for(0, ceil_div(count, tile), kGrain / tile,
                              [&](int64_t begin, int64_t end) { body(begin * tile, std::min(end * tile, count)); });
}

// Bytes of the last cache, of which a result that shall still be there afterwards takes at most a part.
int64_t last_cache_bytes() {
#if defined(_SC_LEVEL3_CACHE_SIZE)
  static const int64_t bytes = [] {
    const long level3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return static_cast<int64_t>(level3 > 0 ? level3 : 8l << 20);
  }();
  return bytes;
#else
  return int64_t{8} << 20;
#endif
}

ElementType element_type(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Double:
      return ElementType::kFloat64;
    case ScalarType::Half:
      return ElementType::kFloat16;
    case ScalarType::BFloat16:
      return ElementType::kBfloat16;
    default:
      return ElementType::kFloat32;
  }
}

// The fraction bits of every channel, checked.
class Fracs {
 public:
  Fracs(const char* op, const FracSource& source, const FakeQuantMode& mode) {
    if (source.values == nullptr) {
      small_[0] = source.number;
      return;
    }
    const Tensor& values = *source.values;
    const int64_t count = values.numel();
    if (count > kSmall) {
      large_.reset(new int[static_cast<size_t>(count)]);
    }
    switch (values.scalar_type()) {
      case ScalarType::Int:
        read<int32_t>(op, source, mode);
        break;
      case ScalarType::Float:
        read<float>(op, source, mode);
        break;
      default:
        read<double>(op, source, mode);
        break;
    }
  }

  int* data() { return large_ ? large_.get() : small_; }

 private:
  static constexpr int64_t kSmall = 64;

  template <typename Value>
  void read(const char* op, const FracSource& source, const FakeQuantMode& mode) {
    const Tensor& tensor = *source.values;
    const auto* values = static_cast<const Value*>(tensor.const_data_ptr());
    const int64_t count = tensor.numel(), stride = tensor.stride(0);
    int* fracs = data();
    for (int64_t i = 0; i < count; ++i) {
      fracs[i] = frac_from(source.kind, values[i * stride], mode.magnitude_bits);
      STD_TORCH_CHECK(fracs[i] >= -kMaxAbsFrac && fracs[i] <= kMaxAbsFrac, op, ": the fraction bits must be in [",
                      -kMaxAbsFrac, ", ", kMaxAbsFrac, "], got ", fracs[i], " from entry ", i, ", ",
                      values[i * stride]);
    }
  }

  int small_[kSmall];
  std::unique_ptr<int[]> large_;
};

// Scales and steps per element of one row [channels, inner], where runs of one format are short.
template <typename Real>
std::unique_ptr<Real[]> format_rows(const int* fracs, int64_t channels, int64_t inner) {
  const int64_t count = channels * inner;
  std::unique_ptr<Real[]> rows(new Real[static_cast<size_t>(2 * count)]);
  for (int64_t c = 0; c < channels; ++c) {
    std::fill_n(rows.get() + c * inner, inner, power_of_two<Real>(fracs[c]));
    std::fill_n(rows.get() + count + c * inner, inner, power_of_two<Real>(-fracs[c]));
  }
  return rows;
}

// A task and what it points to.
class Job {
 public:
  Job(const char* op, const Tensor& x, const FracSource& source, const FakeQuantMode& mode, Tensor& out)
      : fracs_(op, source, mode) {
    const Geometry dense = geometry(out);
    task.type = element_type(x);
    task.rounding = mode.rounding;
    task.overflow = mode.overflow;
    task.range = mode.range;
    task.gradient = source.kind == FracSource::Kind::kLsq ? StepGradient::kLsq : StepGradient::kTqt;
    task.count = out.numel();
    task.layout = channel_layout(dense, task.count, source.axis, source.single());
    task.fracs = fracs_.data();
    task.scales = task.steps = nullptr;
    task.x = input(x, dense, x_index_);
    task.grad = {nullptr, nullptr};
    task.stream = task.count * element_bytes() > last_cache_bytes() / 2;
    task.out = out.mutable_data_ptr();
    task.partials = nullptr;
  }

  void set_grad(const Tensor& grad, const Tensor& out) { task.grad = input(grad, geometry(out), grad_index_); }

  // Prepares the rows of formats that the kernels for element ranges want.
  void set_rows() {
    const auto [outer, channels, inner] = task.layout;
    if (channels == 1 || inner >= (outer == 1 ? kShortRunOnce : kShortRun)) {
      return;
    }
    if (task.type == ElementType::kFloat64) {
      rows64_ = format_rows<double>(task.fracs, channels, inner);
      task.scales = rows64_.get();
      task.steps = rows64_.get() + channels * inner;
    } else {
      rows32_ = format_rows<float>(task.fracs, channels, inner);
      task.scales = rows32_.get();
      task.steps = rows32_.get() + channels * inner;
    }
  }

  FakeQuantTask task;

 private:
  static FakeQuantInput input(const Tensor& x, const Geometry& dense, std::unique_ptr<StridedIndex>& index) {
    const Geometry own = geometry(x);
    if (!same_layout(own, dense)) {
      index = std::make_unique<StridedIndex>(strided_index(own, dense));
    }
    return {x.const_data_ptr(), index.get()};
  }

  int64_t element_bytes() const {
    return task.type == ElementType::kFloat64 ? 8 : (task.type == ElementType::kFloat32 ? 4 : 2);
  }

  Fracs fracs_;
  std::unique_ptr<StridedIndex> x_index_, grad_index_;
  std::unique_ptr<float[]> rows32_;
  std::unique_ptr<double[]> rows64_;
};

// The sum of values[0, count) in the order of core/learned_step.h; overwrites them.
double add_groups(double* values, int64_t count) {
  while (count > 1) {
    const int64_t groups = (count + kSumGroup - 1) / kSumGroup;
    for (int64_t g = 0; g < groups; ++g) {
      double sum = values[g * kSumGroup];
      for (int64_t i = g * kSumGroup + 1; i < std::min(count, (g + 1) * kSumGroup); ++i) {
        sum += values[i];
      }
      values[g] = sum;
    }
    count = groups;
  }
  return count == 0 ? 0 : values[0];
}

// The gradients of the trained numbers from the sums of their chunks, which it overwrites.
template <typename Value>
void write_step_gradients(const FakeQuantTask& task, double grad_scale, double* partials,
                          // outputs
                          Tensor& grad_parameter) {
  auto* values = static_cast<Value*>(grad_parameter.mutable_data_ptr());
  const int64_t count = grad_parameter.numel(), stride = grad_parameter.stride(0);
  for (int64_t c = 0; c < count; ++c) {  // without elements chunks is 0, and so are the sums
    const double factor = step_gradient_factor(task.gradient, task.fracs[c], grad_scale);
    values[c * stride] = static_cast<Value>(add_groups(partials + c * task.chunks, task.chunks) * factor);
  }
}

struct Cpu {
  static void forward(const Tensor& x, const FracSource& source, const FakeQuantMode& mode,
                      // outputs
                      Tensor& y) {
    Job job("fake_quant_pow2", x, source, mode, y);
    job.set_rows();
    const auto kernel = kernels().forward;
    for_each_tile(job.task.count, kFakeQuantTile, [&](int64_t begin, int64_t end) { kernel(job.task, begin, end); });
  }

  static void backward(const Tensor& grad, const Tensor& x, const FracSource& source, const FakeQuantMode& mode,
                       // outputs
                       Tensor& grad_x) {
    Job job("fake_quant_pow2_backward", x, source, mode, grad_x);
    if (mode.overflow == Overflow::kWrap) {
      torch::stable::copy_(grad_x, grad);
      return;
    }
    job.set_grad(grad, grad_x);
    job.set_rows();
    const auto kernel = kernels().backward;
    for_each_tile(job.task.count, kFakeQuantTile, [&](int64_t begin, int64_t end) { kernel(job.task, begin, end); });
  }

  static void learned_backward(const Tensor& grad, const Tensor& x, const FracSource& source, const FakeQuantMode& mode,
                               double grad_scale,
                               // outputs
                               Tensor& grad_x, Tensor& grad_parameter) {
    Job job("fake_quant_learned_backward", x, source, mode, grad_x);
    job.set_grad(grad, grad_x);
    const auto [outer, channels, inner] = job.task.layout;
    const int64_t chunks = ceil_div(outer * inner, kSumChunk);
    const std::unique_ptr<double[]> partials(new double[static_cast<size_t>(channels * chunks)]);
    job.task.partials = partials.get();
    job.task.chunks = chunks;
    job.task.part_chunks = std::max<int64_t>(1, ceil_div(chunks, ceil_div(kParts, channels)));
    const int64_t parts = channels * ceil_div(chunks, job.task.part_chunks);
    const auto kernel = kernels().learned_backward;
    if (job.task.count <= kGrain) {
      kernel(job.task, 0, parts);
    } else {
      const int64_t part_count = std::max<int64_t>(1, job.task.count / parts);
      torch::stable::parallel_for(0, parts, ceil_div(kGrain, part_count),
                                  [&](int64_t begin, int64_t end) { kernel(job.task, begin, end); });
    }
    if (grad_parameter.scalar_type() == ScalarType::Float) {
      write_step_gradients<float>(job.task, grad_scale, partials.get(), grad_parameter);
    } else {
      write_step_gradients<double>(job.task, grad_scale, partials.get(), grad_parameter);
    }
  }
};

}  // namespace
}  // namespace yhw

STABLE_TORCH_LIBRARY_IMPL(yolo_hw, CPU, m) { yhw::register_fake_quant_pow2<yhw::Cpu>(m); }
