#!/bin/sh
# SPDX-License-Identifier: MIT
# Compares this project's servers with others. bench/README.md explains the output, --help the arguments.
exec "${PYTHON:-python3}" "$(dirname "$0")/compare.py" "$@"
