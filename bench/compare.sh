#!/bin/sh
# SPDX-License-Identifier: MIT
# Measures our servers beside others; bench/README.md tells how to read it, --help what it can do.
exec "${PYTHON:-python3}" "$(dirname "$0")/compare.py" "$@"
