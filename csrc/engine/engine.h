// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ENGINE_ENGINE_H_
#define YHW_ENGINE_ENGINE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "arena.h"
#include "op.h"

namespace yhw {

// Word length of the codes of a tensor.
struct Format {
  int bits = 8;
  bool is_signed = true;
};

// Memory of a built engine in bytes.
struct MemoryUse {
  size_t weights = 0;  // packed, biases included
  size_t arena = 0;    // all tensors; maps that are not alive together share memory
  size_t scratch = 0;
};

// Runs an integer graph. Described node by node in execution order, then built, then run any number of times.
//
// Tensors are numbered in the order they are added; tensor 0 is the input. Every argument is checked here, once, so the
// operations themselves trust their views. A run allocates nothing.
class Engine {
 public:
  // `path` is "auto" or one of `paths`; `threads` counts the caller, 0 means one per processor.
  // Throws std::invalid_argument for an unknown path or one this processor cannot run.
  Engine(const std::string& path, int threads, Shape input, Format format);

  // Names of the paths this processor can run, best first.
  static std::vector<std::string> paths();

  const std::string& path() const { return path_; }
  int threads() const { return pool_.size(); }
  int tensors() const { return static_cast<int>(tensors_.size()); }
  Shape shape(int tensor) const;

  // Each adds a node and returns the number of its output. Nodes that compute take the output's format; the others keep
  // their input's.
  int conv(int in, Shape out, Format format, ConvParams conv, Requantiser requant);
  int add(const std::vector<int>& inputs, const std::vector<int>& left_shifts, Format format, Requantiser requant);
  int mul(int map, int factors, Format format, Requantiser requant);
  int avgpool(int in, Format format, Requantiser requant);
  int maxpool(int in, Shape out, const Window& window);
  int concat(const std::vector<int>& inputs);
  int slice(int in, int start, int stop);
  int upsample(int in, int stride);
  int permute(int in, Shape out, std::vector<int32_t> sources);

  // Places all tensors in one arena and packs the weights. `kept` are the tensors that can be read after a run.
  void build(const std::vector<int>& kept);
  MemoryUse memory() const;

  // Computes all nodes for one image, codes [C, H, W], or [H, W, C] where `channels_last`; bytes hold codes of at most
  // 8 bits, signed if the format is. Not thread-safe: one run at a time.
  template <typename T>
  void run(const T* image, bool channels_last = false) {
    check_built();
    load(image, channels_last);
    run_ops();
  }
  // Seconds that the last run spent on each tensor, 0 for those that took none.
  std::vector<double> seconds() const;
  // Copies a kept tensor's codes of the last run to `out`, [C, H, W].
  void read(int tensor, Code* out) const;

 private:
  using MakeOp = std::function<std::unique_ptr<Op>(const std::vector<View>& inputs, const View& out)>;

  struct Tensor {
    Shape shape;
    Storage storage;
    int parent = -1;     // a view of some channels of another tensor
    int channel = 0;     // first of them
    int64_t offset = 0;  // bytes into the arena, of a tensor without parent
    bool kept = false;

    int stride() const { return shape.c * storage.bytes < kStepBytes ? kStepBytes / storage.bytes : shape.c; }
  };
  // What `fuse` has to know of a node.
  struct ConvNode {
    bool monotone = false;  // its requantisation
    ConvTail tail;          // the second input, if there is one, is the residual's map
  };
  struct AddNode {
    std::vector<int> left_shifts;
    Requantiser requant;
  };
  struct Node {
    std::vector<int> inputs;
    int output;
    MakeOp make;
    std::shared_ptr<ConvNode> conv = nullptr;  // only of a convolution in tiles
    std::shared_ptr<AddNode> add = nullptr;
    std::shared_ptr<Window> pool = nullptr;
  };

  const Tensor& at(int tensor) const;
  int new_tensor(Shape shape, Storage storage);
  int push(Node node);
  void push_copy(int from, int to);
  int widened(int in);
  bool can_alias(int part, int whole, int channel) const;
  int root_of(int tensor) const;
  View view_of(int tensor) const;
  // Moves max pools and additions into the convolutions that feed them alone.
  void fuse();
  std::vector<int> fusable_readers() const;
  bool fuse_pool(const Node& conv, const Node& pool) const;
  bool fuse_add(Node& conv, const Node& add) const;
  void place_tensors();
  void make_ops();
  void check_requant(const Requantiser& requant, int channels) const;
  void check_open() const;
  void check_built() const;
  void load(const Code* image, bool channels_last);
  void load(const uint8_t* image, bool channels_last);
  void load(const int8_t* image, bool channels_last);
  void run_ops();

  std::string path_;
  const Kernels* kernels_;
  ThreadPool pool_;
  std::vector<Tensor> tensors_;
  std::vector<Node> nodes_;
  bool built_ = false;
  std::vector<std::unique_ptr<Op>> ops_;
  std::vector<double> seconds_;  // of each operation's last run
  AlignedBytes arena_, worker_scratch_, shared_scratch_;
  size_t worker_bytes_ = 0;
};

}  // namespace yhw

#endif  // YHW_ENGINE_ENGINE_H_
