// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ACCEL_H_
#define YHW_ACCEL_H_

#include "yhw_store.h"

// Runs `count` records of the program, from record `first` on.
//
// params       the image ddr/params.bin
// activations  the memory of ddr/memmap.json: io region, then arena; the image must lie at the input's offset
// descriptors  ddr/descriptors.bin, 64 words per record
// Returns 0, or 1 + the index of the first record this build of the accelerator cannot run (see yhw_check.h): then
// nothing has been written.
extern "C" int yhw_accel(const yhw::word_t* params, yhw::word_t* activations, const int32_t* descriptors, int first,
                         int count);

#endif  // YHW_ACCEL_H_
