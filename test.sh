#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs yolo_hw with its test tools and runs every check. Arguments go to pytest: ./test.sh -k numerics
set -eu
cd "$(dirname "$0")"
. tools/setup_env.sh

ensure_system g++ make cmake
ensure_installed test '.[test]'
# Xilinx's ap_int.h, for the simulation with the HLS tool's own number types; its own dependencies are not needed.
"$venv/bin/python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("hls4ml") is None)' ||
  pip_install --no-deps hls4ml==1.3.0 || say "hls4ml cannot be installed: tests with ap_int.h are skipped"

export PATH="$venv/bin:$PATH" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
failed=

# step NAME COMMAND...: runs a check and goes on after a failure.
step() {
  name=$1
  shift
  say "$name"
  "$@" || failed="$failed $name"
}

cpp_tests() {
  cmake -S . -B build/cmake -G Ninja -DYOLO_HW_WERROR=ON >/dev/null &&
    cmake --build build/cmake &&
    ctest --test-dir build/cmake --output-on-failure
}

cpp_format() {
  find csrc hls_export/engine tests/cpp \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) \
    -exec clang-format --dry-run -Werror {} +
}

step ruff ruff check .
step format ruff format --check .
step clang-format cpp_format
step mypy mypy
step ctest cpp_tests
step pytest python -m pytest -n 2 --dist loadgroup "$@"
[ -z "$failed" ] || die "failed:$failed"
say "all checks passed"
