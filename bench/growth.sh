#!/bin/sh
# SPDX-License-Identifier: MIT
# Measures how costs grow with numbers and sizes. bench/README.md explains the output, --help the arguments.
exec "${PYTHON:-python3}" "$(dirname "$0")/growth.py" "$@"
