// SPDX-License-Identifier: Apache-2.0
#include "fake_quant_pow2_kernel.h"

const yhw::FakeQuantKernels yhw::fake_quant_kernels_baseline = yhw::kFakeQuantKernels;
