// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ENGINE_PADDED_INPUT_H_
#define YHW_ENGINE_PADDED_INPUT_H_

#include <vector>

#include "thread_pool.h"
#include "view.h"
#include "window.h"

namespace yhw {

// The input of a convolution as its kernel reads it: the map itself where all windows lie inside, else a zero-padded
// copy.
class PaddedInput {
 public:
  PaddedInput(const Window& window, const View& in, const View& out);

  // Codes the copy needs, 0 if the map itself will do. The last code may be read beyond by one.
  size_t codes() const;

  // Returns the map to read, after filling `buffer` where a copy is needed.
  View prepare(std::vector<Code>& buffer, ThreadPool& pool) const;

 private:
  void fill_row(const View& padded, int y) const;

  Window window_;
  View in_;
  int rows_, columns_, stride_;
  bool needed_;
};

}  // namespace yhw

#endif  // YHW_ENGINE_PADDED_INPUT_H_
