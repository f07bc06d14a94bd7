// SPDX-License-Identifier: Apache-2.0
// What tests set and read; the library of emulated kernels exports nothing else.
#include "runtime.h"

extern "C" {

// Chooses the order of threads and blocks of all following launches.
__attribute__((visibility("default"))) void yhw_emulation_set_seed(uint64_t seed) {
  yhw::emulation::state().seed = seed;
}

// Kernels launched so far.
__attribute__((visibility("default"))) uint64_t yhw_emulation_launches() { return yhw::emulation::state().launches; }
}
