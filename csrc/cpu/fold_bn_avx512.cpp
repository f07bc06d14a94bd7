// SPDX-License-Identifier: Apache-2.0
#include "fold_bn_rows_impl.h"

namespace yhw {

template <typename Real>
FoldRows<Real> fold_rows_avx512(bool quantise, Rounding rounding, Overflow overflow) {
  return choose_fold_rows<Real>(quantise, rounding, overflow);
}
template FoldRows<float> fold_rows_avx512(bool, Rounding, Overflow);
template FoldRows<double> fold_rows_avx512(bool, Rounding, Overflow);

}  // namespace yhw
