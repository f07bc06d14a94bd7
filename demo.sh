#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs yolo_hw into a virtual environment and runs the whole flow on the embedded network.
# Arguments go to `yolo-hw demo`; see tools/setup_env.sh for the environment.
set -eu
cd "$(dirname "$0")"
. tools/setup_env.sh

ensure_system g++ make
ensure_installed demo .
exec "$venv/bin/yolo-hw" demo "$@"
