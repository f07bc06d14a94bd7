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

// The instruction sets of this build, best first.
struct Path {
  const char* name;
  bool (*runs_here)();
  const Kernels& (*kernels)();
};

constexpr Path kPaths[] = {
#if defined(YHW_X86)
    {"avx512vnni", cpu_has_avx512vnni, avx512vnni_kernels},
    {"avxvnni", cpu_has_avxvnni, avxvnni_kernels},
    {"avx2", cpu_has_avx2, avx2_kernels},
#endif
    {"scalar", [] { return true; }, scalar_kernels},
};

const Path& choose_path(const std::string& wanted) {
  for (const Path& path : kPaths) {
    if (path.runs_here() && (wanted == "auto" || wanted == path.name)) {
      return path;
    }
  }
  throw std::invalid_argument("engine: path '" + wanted + "' is not one this processor and build can run");
}

Storage checked_storage(const Format& format) {
  require(format.bits >= 2 && format.bits <= (format.is_signed ? 16 : 15),
          "codes must have 2 to 16 bits, 15 if unsigned");
  return storage_of(format.bits, format.is_signed);
}

}  // namespace

std::vector<std::string> Engine::paths() {
  std::vector<std::string> result;
  for (const Path& path : kPaths) {
    if (path.runs_here()) {
      result.push_back(path.name);
    }
  }
  return result;
}

Engine::Engine(const std::string& path, int threads, Shape input, Format format)
    : path_(choose_path(path).name), kernels_(&choose_path(path).kernels()), pool_(checked_threads(threads)) {
  new_tensor(input, checked_storage(format));
}

const Engine::Tensor& Engine::at(int tensor) const {
  require(tensor >= 0 && tensor < tensors(), "no tensor " + std::to_string(tensor));
  return tensors_[static_cast<size_t>(tensor)];
}

Shape Engine::shape(int tensor) const { return at(tensor).shape; }

int Engine::new_tensor(Shape shape, Storage storage) {
  require(shape.c > 0 && shape.h > 0 && shape.w > 0, "a map must not be empty");
  require(static_cast<int64_t>(shape.c) * shape.h * shape.w < kMaxCodes, "a map must have fewer than 2^31 codes");
  tensors_.push_back({shape, storage});
  return tensors() - 1;
}

int Engine::push(Node node) {
  nodes_.push_back(std::move(node));
  return nodes_.back().output;
}

void Engine::check_open() const { require(!built_, "nothing can be added after build"); }
void Engine::check_built() const { require(built_, "build comes before run"); }

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
  require(requant.acc_bits >= 1 && requant.acc_bits <= 62, "accumulators must have 1 to 62 bits");
  require(p.code_hi - p.code_lo + 1 == int64_t{1} << p.code_bits, "code_lo and code_hi must span 2^bits codes");
}

int Engine::conv(int in, Shape out, Format format, ConvParams conv, Requantiser requant) {
  check_open();
  const Tensor source = at(in);
  require(conv.groups > 0 && source.shape.c % conv.groups == 0 && out.c % conv.groups == 0,
          "groups must divide the channels");
  check_window(conv.window, out);
  const int64_t expected = int64_t{out.c} * (source.shape.c / conv.groups) * conv.window.taps();
  require(static_cast<int64_t>(conv.weight.size()) == expected && static_cast<int>(conv.bias.size()) == out.c,
          "weight or bias does not fit the convolution");
  require(padded_codes(conv.window, source.shape, out) < kMaxCodes, "a padded map must have fewer than 2^31 codes");
  check_requant(requant, out.c);
  const int result = new_tensor(out, checked_storage(format));
  if (requant.acc_bits > 32) {
    return push(
        {{in}, result, [=](const auto& views, const View& y) { return make_wide_conv(conv, requant, views[0], y); }});
  }
  if (conv.groups == source.shape.c && out.c == source.shape.c) {
    return push({{in}, result, [=](const auto& views, const View& y) {
                   return make_depthwise(conv, requant, views[0], y, *kernels_);
                 }});
  }
  const bool bytes = source.storage.bytes == 1 && conv.fits_bytes();
  const int codes = source.storage.bytes == 1 && !bytes ? widened(in) : in;
  const auto node = std::make_shared<ConvNode>();
  node->monotone = is_monotone(requant);
  const bool sparse = bytes && pays_sparse(conv);
  const auto make = [=](const auto& views, const View& y) {
    ConvTail tail = node->tail;
    if (tail.residual) {
      Residual residual = *tail.residual;
      residual.map = views[1];
      tail.residual = std::make_shared<const Residual>(residual);
    }
    return sparse ? make_sparse_conv(conv, requant, tail, views[0], y, *kernels_)
                  : make_conv(conv, requant, tail, views[0], y, *kernels_);
  };
  return push({{codes}, result, make, node});
}

int Engine::widened(int in) {
  const int result = new_tensor(at(in).shape, {2, 0});
  push_copy(in, result);
  return result;
}

int Engine::add(const std::vector<int>& inputs, const std::vector<int>& left_shifts, Format format,
                Requantiser requant) {
  check_open();
  require(!inputs.empty() && inputs.size() == left_shifts.size(), "add needs one shift per input");
  const Shape shape = at(inputs[0]).shape;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Shape other = at(inputs[i]).shape;
    require(other.c == shape.c && other.h == shape.h && other.w == shape.w, "inputs of add must have one shape");
    require(left_shifts[i] >= 0 && left_shifts[i] < 32, "input shifts must be in [0, 31]");
  }
  check_requant(requant, shape.c);
  const auto make = [=](const auto& views, const View& y) { return make_add(views, left_shifts, requant, y); };
  const auto node = std::make_shared<AddNode>(AddNode{left_shifts, requant});
  return push({inputs, new_tensor(shape, checked_storage(format)), make, nullptr, node});
}

int Engine::mul(int map, int factors, Format format, Requantiser requant) {
  check_open();
  const Shape shape = at(map).shape, other = at(factors).shape;
  const bool per_channel = other.c == shape.c && other.h == 1 && other.w == 1;
  const bool per_pixel = other.c == 1 && other.h == shape.h && other.w == shape.w;
  const bool same = other.c == shape.c && other.h == shape.h && other.w == shape.w;
  require(per_channel || per_pixel || same, "the factors of mul do not fit the map");
  check_requant(requant, shape.c);
  return push({{map, factors}, new_tensor(shape, checked_storage(format)), [=](const auto& views, const View& y) {
                 return make_mul(requant, views[0], views[1], y);
               }});
}

int Engine::avgpool(int in, Format format, Requantiser requant) {
  check_open();
  const Shape shape{at(in).shape.c, 1, 1};
  check_requant(requant, shape.c);
  return push({{in}, new_tensor(shape, checked_storage(format)), [=](const auto& views, const View& y) {
                 return make_avgpool(requant, views[0], y);
               }});
}

int Engine::maxpool(int in, Shape out, const Window& window) {
  check_open();
  const Tensor source = at(in);
  require(out.c == source.shape.c, "a pool keeps the channels");
  check_window(window, out);
  require(window.dilation_y == 1 && window.dilation_x == 1, "a pool has dilation 1");
  require(window.size_y > window.pad_y && window.size_x > window.pad_x &&
              int64_t{out.h - 1} * window.stride_y - window.pad_y < source.shape.h &&
              int64_t{out.w - 1} * window.stride_x - window.pad_x < source.shape.w,
          "pool windows must touch the map");
  const auto make = [=](const auto& views, const View& y) { return make_maxpool(window, views[0], y); };
  return push({{in}, new_tensor(out, source.storage), make, nullptr, nullptr, std::make_shared<Window>(window)});
}

int Engine::concat(const std::vector<int>& inputs) {
  check_open();
  require(!inputs.empty(), "concat needs inputs");
  const Tensor first = at(inputs[0]);
  Shape shape = first.shape;
  shape.c = 0;
  for (int input : inputs) {
    const Tensor& other = at(input);
    require(other.shape.h == shape.h && other.shape.w == shape.w, "inputs of concat must have one size");
    require(other.storage == first.storage, "inputs of concat must have one format");
    shape.c += other.shape.c;
  }
  const int result = new_tensor(shape, first.storage);
  int channel = 0;
  for (int input : inputs) {
    if (can_alias(input, result, channel)) {
      tensors_[static_cast<size_t>(input)].parent = result;
      tensors_[static_cast<size_t>(input)].channel = channel;
    } else {
      const int part = new_tensor(at(input).shape, first.storage);
      tensors_.back().parent = result;
      tensors_.back().channel = channel;
      push_copy(input, part);
    }
    channel += at(input).shape.c;
  }
  return result;
}

// Whether a tensor can lie in the concatenation it is a part of, so that nothing is copied. Kernels read up to a vector
// beyond a part; where parts are whole vectors, no thread reads there what another one is writing.
bool Engine::can_alias(int part, int whole, int channel) const {
  const Tensor& tensor = at(part);
  const bool vectors = tensor.shape.c % kLanes == 0 && channel % kLanes == 0;
  return part != 0 && tensor.parent < 0 && tensor.stride() == tensor.shape.c && vectors && part != whole;
}

void Engine::push_copy(int from, int to) {
  push({{from}, to, [](const auto& views, const View& y) { return make_upsample(1, views[0], y); }});
}

int Engine::slice(int in, int start, int stop) {
  check_open();
  const Tensor source = at(in);
  require(0 <= start && start < stop && stop <= source.shape.c, "a slice must lie inside of the map");
  const int result = new_tensor({stop - start, source.shape.h, source.shape.w}, source.storage);
  tensors_.back().parent = in;
  tensors_.back().channel = start;
  return result;
}

int Engine::upsample(int in, int stride) {
  check_open();
  const Tensor source = at(in);
  require(stride > 0 && stride <= 64, "an upsample stride must be in [1, 64]");
  const int result = new_tensor({source.shape.c, source.shape.h * stride, source.shape.w * stride}, source.storage);
  return push({{in}, result, [=](const auto& views, const View& y) { return make_upsample(stride, views[0], y); }});
}

int Engine::permute(int in, Shape out, std::vector<int32_t> sources) {
  check_open();
  const Tensor source = at(in);
  const int64_t size = static_cast<int64_t>(source.shape.c) * source.shape.h * source.shape.w;
  require(static_cast<int64_t>(out.c) * out.h * out.w == size && static_cast<int64_t>(sources.size()) == size,
          "a permutation keeps the number of codes");
  for (int32_t index : sources) {
    require(index >= 0 && index < size, "a permutation's sources must lie inside of the map");
  }
  return push({{in}, new_tensor(out, source.storage), [=](const auto& views, const View& y) {
                 return make_permute(sources, views[0], y);
               }});
}

}  // namespace yhw
