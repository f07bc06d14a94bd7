// SPDX-License-Identifier: Apache-2.0
// What this processor can run. A source file named *_<instruction set>.cpp is compiled for that instruction set
// (setup.py, CMakeLists.txt), and its functions are called only where the question of that name here says yes.
#ifndef YHW_ISA_H_
#define YHW_ISA_H_

#if defined(__x86_64__) && defined(__GNUC__)
#define YHW_X86 1
#endif

namespace yhw {

inline bool cpu_has_avx2() {
#if defined(YHW_X86)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

inline bool cpu_has_avxvnni() {
#if defined(YHW_X86)
  return cpu_has_avx2() && __builtin_cpu_supports("avxvnni");
#else
  return false;
#endif
}

inline bool cpu_has_avx512() {
#if defined(YHW_X86)
  return cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

inline bool cpu_has_avx512vnni() {
#if defined(YHW_X86)
  return cpu_has_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
#else
  return false;
#endif
}

}  // namespace yhw

#endif  // YHW_ISA_H_
