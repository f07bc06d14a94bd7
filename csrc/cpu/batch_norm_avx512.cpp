// SPDX-License-Identifier: Apache-2.0
#include "batch_norm_rows_impl.h"

namespace yhw {

template <typename Real>
NormRows<Real> norm_rows_avx512(bool channels_last) {
  return choose_norm_rows<Real>(channels_last);
}
template NormRows<float> norm_rows_avx512(bool);
template NormRows<double> norm_rows_avx512(bool);

}  // namespace yhw
