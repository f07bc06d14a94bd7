// SPDX-License-Identifier: Apache-2.0
#include "engine.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "../isa.h"

namespace yhw {
namespace {

void require(bool condition, const std::string& message) {
  if (!condition) {
    throw std::invalid_argument("engine: " + message);
  }
}

constexpr int kMaxThreads = 256;
constexpr int kMaxShift = 62;
constexpr int kMaxExtent = 1 << 16;
constexpr int64_t kMaxCodes = int64_t{1} << 31;

int checked_threads(int threads) {
  require(threads >= 0 && threads <= kMaxThreads, "threads must be in [0, " + std::to_string(kMaxThreads) + "]");
  return threads;
}

void check_window(const Window& w, const Shape& out) {
  const int sizes[] = {w.size_y, w.size_x, w.stride_y, w.stride_x, w.dilation_y, w.dilation_x};
  require(*std::min_element(std::begin(sizes), std::end(sizes)) > 0 && w.pad_y >= 0 && w.pad_x >= 0,
          "window sizes must be positive");
  require(*std::max_element(std::begin(sizes), std::end(sizes)) <= kMaxExtent && w.pad_y <= kMaxExtent &&
              w.pad_x <= kMaxExtent,
          "window sizes must be at most 65536");
  require(out.c > 0 && out.h > 0 && out.w > 0, "a map must not be empty");
}

// Codes of a map with everything its windows touch around it, see PaddedInput.
int64_t padded_codes(const Window& w, const Shape& in, const Shape& out) {
  const auto extent = [](int64_t outputs, int64_t stride, int64_t dilation, int64_t size, int64_t least) {
    return std::max((outputs - 1) * stride + dilation * (size - 1) + 1, least);
  };
  const int64_t rows = extent(out.h, w.stride_y, w.dilation_y, w.size_y, int64_t{in.h} + w.pad_y);
  const int64_t columns = extent(out.w, w.stride_x, w.dilation_x, w.size_x, int64_t{in.w} + w.pad_x);
  return rows >= kMaxCodes || columns >= kMaxCodes || rows * columns >= kMaxCodes ? kMaxCodes
                                                                                  : rows * columns * (in.c + 1);
}

const Kernels& kernels_of(const std::string& path) {
#if defined(YHW_X86)
  if (path == "avx2") {
    return avx2_kernels();
  }
#endif
  require(path == "scalar", "unknown path '" + path + "'");
  return scalar_kernels();
}

std::string choose_path(const std::string& wanted) {
  const auto available = Engine::paths();
  if (wanted == "auto") {
    return available.front();
  }
  require(std::find(available.begin(), available.end(), wanted) != available.end(),
          "path '" + wanted + "' is not one this processor and build can run");
  return wanted;
}

}  // namespace

std::vector<std::string> Engine::paths() {
  std::vector<std::string> result;
#if defined(YHW_X86)
  if (cpu_has_avx2()) {
    result.push_back("avx2");
  }
#endif
  result.push_back("scalar");
  return result;
}

Engine::Engine(const std::string& path, int threads, Shape input)
    : path_(choose_path(path)), kernels_(&kernels_of(path_)), pool_(checked_threads(threads)) {
  worker_scratch_.resize(static_cast<size_t>(pool_.size()));
  new_tensor(input);
}

const Engine::Tensor& Engine::at(int tensor) const {
  require(tensor >= 0 && tensor < tensors(), "no tensor " + std::to_string(tensor));
  return tensors_[static_cast<size_t>(tensor)];
}

Shape Engine::shape(int tensor) const { return at(tensor).shape; }

int Engine::new_tensor(Shape shape) {
  require(shape.c > 0 && shape.h > 0 && shape.w > 0, "a map must not be empty");
  const int64_t codes = static_cast<int64_t>(shape.c) * shape.h * shape.w;
  require(codes < kMaxCodes, "a map must have fewer than 2^31 codes");
  Tensor tensor{shape, {}, std::vector<Code>(static_cast<size_t>(codes) + kLanes)};
  tensor.view = {tensor.memory.data(), shape.c, shape.h, shape.w, shape.c};
  tensors_.push_back(std::move(tensor));
  return tensors() - 1;
}

void Engine::push(std::unique_ptr<Op> op) {
  const ScratchNeed need = op->scratch();
  for (auto& scratch : worker_scratch_) {
    scratch.resize(std::max(scratch.size(), need.worker_words));
  }
  shared_scratch_.resize(std::max(shared_scratch_.size(), need.shared_codes));
  ops_.push_back(std::move(op));
}

void Engine::check_requant(const Requantiser& requant, int channels) const {
  require(requant.shift.size() == static_cast<size_t>(channels), "one shift per channel is needed");
  const auto& p = requant.params;
  for (const int32_t shift : requant.shift) {
    require(std::abs(int64_t{shift}) <= kMaxShift && std::abs(int64_t{shift} + p.shift_neg) <= kMaxShift,
            "shifts must be in [-62, 62]");
  }
  require(p.code_bits >= 2 && p.code_bits <= 16, "codes must have 2 to 16 bits");
  require(requant.table.empty() || requant.table.size() == size_t{1} << p.code_bits,
          "a table must have 2^bits entries");
  require(p.code_hi - p.code_lo + 1 == int64_t{1} << p.code_bits, "code_lo and code_hi must span 2^bits codes");
}

int Engine::conv(int in, Shape out, const ConvSpec& spec, Requantiser requant) {
  const View source = at(in).view;
  require(spec.groups > 0 && source.c % spec.groups == 0 && out.c % spec.groups == 0,
          "groups must divide the channels");
  check_window(spec.window, out);
  require(padded_codes(spec.window, at(in).shape, out) < kMaxCodes, "a padded map must have fewer than 2^31 codes");
  check_requant(requant, out.c);
  const int result = new_tensor(out);
  push(make_conv(spec, source, at(result).view, std::move(requant)));
  return result;
}

int Engine::add(const std::vector<int>& inputs, const std::vector<int>& left_shifts, Requantiser requant) {
  require(!inputs.empty() && inputs.size() == left_shifts.size(), "add needs one shift per input");
  const Shape shape = at(inputs[0]).shape;
  std::vector<View> views;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Shape other = at(inputs[i]).shape;
    require(other.c == shape.c && other.h == shape.h && other.w == shape.w, "inputs of add must have one shape");
    require(left_shifts[i] >= 0 && left_shifts[i] < 32, "input shifts must be in [0, 31]");
    views.push_back(at(inputs[i]).view);
  }
  check_requant(requant, shape.c);
  const int result = new_tensor(shape);
  push(make_add(std::move(views), left_shifts, at(result).view, std::move(requant)));
  return result;
}

int Engine::mul(int map, int factors, Requantiser requant) {
  const Shape shape = at(map).shape, other = at(factors).shape;
  const bool per_channel = other.c == shape.c && other.h == 1 && other.w == 1;
  const bool per_pixel = other.c == 1 && other.h == shape.h && other.w == shape.w;
  const bool same = other.c == shape.c && other.h == shape.h && other.w == shape.w;
  require(per_channel || per_pixel || same, "the factors of mul do not fit the map");
  check_requant(requant, shape.c);
  const int result = new_tensor(shape);
  push(make_mul(at(map).view, at(factors).view, at(result).view, std::move(requant)));
  return result;
}

int Engine::avgpool(int in, Requantiser requant) {
  const Shape shape{at(in).shape.c, 1, 1};
  check_requant(requant, shape.c);
  const int result = new_tensor(shape);
  push(make_avgpool(at(in).view, at(result).view, std::move(requant)));
  return result;
}

int Engine::maxpool(int in, Shape out, const Window& window) {
  const View source = at(in).view;
  require(out.c == source.c, "a pool keeps the channels");
  check_window(window, out);
  require(window.dilation_y == 1 && window.dilation_x == 1, "a pool has dilation 1");
  require(window.size_y > window.pad_y && window.size_x > window.pad_x &&
              int64_t{out.h - 1} * window.stride_y - window.pad_y < source.h &&
              int64_t{out.w - 1} * window.stride_x - window.pad_x < source.w,
          "pool windows must touch the map");
  const int result = new_tensor(out);
  push(make_maxpool(window, source, at(result).view));
  return result;
}

int Engine::concat(const std::vector<int>& inputs) {
  require(!inputs.empty(), "concat needs inputs");
  Shape shape = at(inputs[0]).shape;
  shape.c = 0;
  for (int input : inputs) {
    const Shape other = at(input).shape;
    require(other.h == shape.h && other.w == shape.w, "inputs of concat must have one size");
    shape.c += other.c;
  }
  const int result = new_tensor(shape);
  View part = at(result).view;
  for (int input : inputs) {
    const View source = at(input).view;
    part.c = source.c;
    push(make_upsample(1, source, part));
    part.data += source.c;
  }
  return result;
}

int Engine::slice(int in, int start, int stop) {
  View view = at(in).view;
  require(0 <= start && start < stop && stop <= view.c, "a slice must lie inside of the map");
  view.data += start;
  view.c = stop - start;
  tensors_.push_back({{view.c, view.h, view.w}, view, {}});
  return tensors() - 1;
}

int Engine::upsample(int in, int stride) {
  const Shape shape = at(in).shape;
  require(stride > 0 && stride <= 64, "an upsample stride must be in [1, 64]");
  const int result = new_tensor({shape.c, shape.h * stride, shape.w * stride});
  push(make_upsample(stride, at(in).view, at(result).view));
  return result;
}

int Engine::permute(int in, Shape out, std::vector<int32_t> sources) {
  const Shape shape = at(in).shape;
  const int64_t size = static_cast<int64_t>(shape.c) * shape.h * shape.w;
  require(static_cast<int64_t>(out.c) * out.h * out.w == size && static_cast<int64_t>(sources.size()) == size,
          "a permutation keeps the number of codes");
  for (int32_t source : sources) {
    require(source >= 0 && source < size, "a permutation's sources must lie inside of the map");
  }
  const int result = new_tensor(out);
  push(make_permute(std::move(sources), at(in).view, at(result).view));
  return result;
}

void Engine::run(const Code* input) {
  const View& view = tensors_[0].view;
  const int64_t plane = static_cast<int64_t>(view.h) * view.w;
  for (int64_t p = 0; p < plane; ++p) {
    for (int c = 0; c < view.c; ++c) {
      view.data[p * view.stride + c] = input[c * plane + p];
    }
  }
  RunContext context{*kernels_, pool_, worker_scratch_, shared_scratch_};
  for (const auto& op : ops_) {
    op->run(context);
  }
}

void Engine::read(int tensor, Code* out) const {
  const View& view = at(tensor).view;
  const int64_t plane = static_cast<int64_t>(view.h) * view.w;
  for (int64_t p = 0; p < plane; ++p) {
    for (int c = 0; c < view.c; ++c) {
      out[c * plane + p] = view.data[p * view.stride + c];
    }
  }
}

}  // namespace yhw
