# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# What demo.sh and test.sh share: system packages, the virtual environment, the installation. Sourced from the root of
# the repository.
#
# Environment:
#   YOLO_HW_VENV         where the virtual environment lies; .venv by default
#   YOLO_HW_PYTHON       the Python that makes it; python3 by default
#   YOLO_HW_TORCH_INDEX  package index of torch; by default the one of CPU builds, and the default index after it

venv=${YOLO_HW_VENV:-.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
python=${YOLO_HW_PYTHON:-python3}
torch_version=2.13.0 # also in pyproject.toml
torch_cpu_index=https://download.pytorch.org/whl/cpu

say() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die() {
  say "$*"
  exit 1
}

# The Debian packages that are missing, from "what package" pairs of the commands given as arguments.
missing_packages() {
  command -v "$python" >/dev/null || printf ' python3 python3-venv python3-dev'
  if command -v "$python" >/dev/null; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null || printf ' python3-venv'
    "$python" -c 'import os, sysconfig as s; open(os.path.join(s.get_paths()["include"], "Python.h")).close()' \
      2>/dev/null || printf ' python3-dev'
  fi
  for tool in "$@"; do
    command -v "$tool" >/dev/null || printf ' %s' "$tool" # the commands have the names of their packages
  done
}

# Installs what is missing as root, else prints the line to run and exits.
ensure_system() {
  packages=$(missing_packages "$@")
  if [ -n "$packages" ]; then
    line="apt-get update && apt-get install -y --no-install-recommends$packages"
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
      die "system packages are missing; as root, run: $line"
    fi
    say "installing:$packages"
    DEBIAN_FRONTEND=noninteractive sh -c "$line" >&2 || die "this failed: $line"
    packages=$(missing_packages "$@")
    [ -z "$packages" ] || die "still missing:$packages"
  fi
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "Python 3.10 or newer is needed, $python is $("$python" -V 2>&1); set YOLO_HW_PYTHON"
}

ensure_venv() {
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    say "making the virtual environment $venv"
    "$python" -m venv "$venv" || die "cannot make $venv"
  fi
}

pip_install() {
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

# The default index has a CUDA build of several GB for most machines, so the index of CPU builds comes first.
ensure_torch() {
  has="import sys, importlib.metadata as m; sys.exit(m.version('torch').split('+')[0] != '$torch_version')"
  if "$venv/bin/python" -c "$has" 2>/dev/null; then
    return
  fi
  say "installing torch $torch_version"
  if [ -n "${YOLO_HW_TORCH_INDEX:-}" ]; then
    pip_install --index-url "$YOLO_HW_TORCH_INDEX" "torch==$torch_version" || die "cannot install torch"
  elif ! pip_install --retries 1 --timeout 15 --index-url "$torch_cpu_index" "torch==$torch_version" 2>/dev/null; then
    say "$torch_cpu_index does not answer; taking torch from the default index"
    pip_install "torch==$torch_version" || die "cannot install torch"
  fi
}

# Changes whenever the installation has to be repeated.
fingerprint() {
  {
    printf '%s\n' "$PWD" "${YOLO_HW_CUDA:-}" "${YOLO_HW_CUDA_ARCH:-}" "${YOLO_HW_DEBUG:-}" "${CXX:-}"
    "$venv/bin/python" -VV
    cat pyproject.toml setup.py tools/setup_env.sh
    find csrc -type f -exec sha256sum {} + | LC_ALL=C sort
  } | sha256sum
}

# ensure_installed NAME REQUIREMENT: installs the source tree with the extras of REQUIREMENT, once per fingerprint.
ensure_installed() {
  stamp=$venv/.yolo_hw_$1
  ensure_venv
  built=$(find yolo_hw -maxdepth 1 \( -name '_ops.so' -o -name '_engine.*.so' \) | wc -l)
  if [ "$built" -ge 2 ] && [ "$(fingerprint)" = "$(cat "$stamp" 2>/dev/null)" ]; then
    return
  fi
  ensure_torch
  say "building and installing yolo_hw into $venv"
  pip_install 'setuptools>=77' 'pybind11>=2.13' 'ninja>=1.11' || die "cannot install the build tools"
  PATH="$venv/bin:$PATH" pip_install --no-build-isolation -e "$2" || die "cannot install yolo_hw"
  fingerprint >"$stamp"
}
