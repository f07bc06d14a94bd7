// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ENGINE_PADDED_MAP_H_
#define YHW_ENGINE_PADDED_MAP_H_

#include "op.h"

namespace yhw {

// The input of a convolution as its windows see it: the map itself, or a copy with its edges around it, in which every
// window lies inside. A copy pays where the map is read many times.
class PaddedMap {
 public:
  // Copies if it pays (`many_reads`) and windows reach over the edge.
  PaddedMap(const Window& window, const View& in, const View& out, bool many_reads);

  bool copies() const { return copies_; }
  const Window& window() const { return window_; }
  // Without an address if it is a copy: that is the shared scratch memory.
  const View& view() const { return view_; }
  size_t scratch() const;
  void fill(const RunContext& context) const;

 private:
  void fill_row(int y, uint8_t* to) const;

  View in_;
  Window window_;
  View view_;
  int pad_y_, pad_x_;
  bool copies_;
};

}  // namespace yhw

#endif  // YHW_ENGINE_PADDED_MAP_H_
