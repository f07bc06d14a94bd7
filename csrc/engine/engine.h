// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ENGINE_ENGINE_H_
#define YHW_ENGINE_ENGINE_H_

#include <memory>
#include <string>
#include <vector>

#include "op.h"

namespace yhw {

// Runs an integer graph. Built node by node in execution order; afterwards `run` any number of images.
//
// Tensors are numbered in the order they are added; tensor 0 is the input. Every argument is checked here, once, so the
// operations themselves trust their views.
class Engine {
 public:
  // `path` is "auto", "scalar" or "avx2"; `threads` counts the caller, 0 means one per processor.
  // Throws std::invalid_argument for an unknown path or one this processor cannot run.
  Engine(const std::string& path, int threads, Shape input);

  // Names of the paths this processor can run, best first.
  static std::vector<std::string> paths();

  const std::string& path() const { return path_; }
  int threads() const { return pool_.size(); }
  int tensors() const { return static_cast<int>(tensors_.size()); }
  Shape shape(int tensor) const;

  int conv(int in, Shape out, const ConvSpec& spec, Requantiser requant);
  int add(const std::vector<int>& inputs, const std::vector<int>& left_shifts, Requantiser requant);
  int mul(int map, int factors, Requantiser requant);
  int avgpool(int in, Requantiser requant);
  int maxpool(int in, Shape out, const Window& window);
  int concat(const std::vector<int>& inputs);
  int slice(int in, int start, int stop);
  int upsample(int in, int stride);
  int permute(int in, Shape out, std::vector<int32_t> sources);

  // Computes all nodes for one image, codes [C, H, W] as int16. Not thread-safe: one run at a time.
  void run(const Code* input);
  // Copies a tensor's codes of the last run to `out`, [C, H, W].
  void read(int tensor, Code* out) const;

 private:
  struct Tensor {
    Shape shape;
    View view;
    std::vector<Code> memory;  // empty for a view into another tensor
  };

  const Tensor& at(int tensor) const;
  int new_tensor(Shape shape);
  void push(std::unique_ptr<Op> op);
  void check_requant(const Requantiser& requant, int channels) const;

  std::string path_;
  const Kernels* kernels_;
  ThreadPool pool_;
  std::vector<Tensor> tensors_;
  std::vector<std::unique_ptr<Op>> ops_;
  std::vector<std::vector<int64_t>> worker_scratch_;
  std::vector<Code> shared_scratch_;
};

}  // namespace yhw

#endif  // YHW_ENGINE_ENGINE_H_
