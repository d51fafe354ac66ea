#!/usr/bin/env bash
# What a graphics card does with cellxlate, in at most eight minutes, as one JSON: tests/bench/gpu.sh --help
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu.py" "$@"
