// SPDX-License-Identifier: Apache-2.0
#include "path.h"

#include <torch/csrc/stable/library.h>

#include <atomic>
#include <string>

#include "../isa.h"

namespace yhw {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

bool available(CpuPath path) {
  switch (path) {
    case CpuPath::kAvx512:
      return cpu_has_avx512();
    case CpuPath::kAvx2:
      return cpu_has_avx2();
    default:
      return true;
  }
}

CpuPath best_path() {
  for (const CpuPath path : {CpuPath::kAvx512, CpuPath::kAvx2}) {
    if (available(path)) {
      return path;
    }
  }
  return CpuPath::kBaseline;
}

std::atomic<CpuPath>& chosen() {
  static std::atomic<CpuPath> path{best_path()};
  return path;
}

std::string path_name() { return kNames[static_cast<int>(cpu_path())]; }

// name: "baseline", "avx2", "avx512", or "best".
void set_path(const std::string& name) {
  if (name == "best") {
    chosen() = best_path();
    return;
  }
  for (int i = 0; i < 3; ++i) {
    if (name == kNames[i]) {
      STD_TORCH_CHECK(available(static_cast<CpuPath>(i)), "set_cpu_path: this processor has no ", name);
      chosen() = static_cast<CpuPath>(i);
      return;
    }
  }
  STD_TORCH_CHECK(false, "set_cpu_path: must be best, baseline, avx2 or avx512, got ", name);
}

}  // namespace

CpuPath cpu_path() { return chosen().load(std::memory_order_relaxed); }

}  // namespace yhw

STABLE_TORCH_LIBRARY_IMPL(yolo_hw, CompositeExplicitAutograd, m) {
  m.impl("cpu_path", TORCH_BOX(&yhw::path_name));
  m.impl("set_cpu_path", TORCH_BOX(&yhw::set_path));
}
