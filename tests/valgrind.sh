#!/bin/sh
# SPDX-License-Identifier: MIT
set -eu

usage="sh tests/valgrind.sh PROGRAM [CATCH-FILTER]...

Runs the tests of PROGRAM, such as build/dev/tests/nbd-unit-tests, with valgrind's memcheck; without a filter, those of bytes,
rules and scripted streams. Ends with 1 if memcheck reports an error or a leak. A failed assertion is printed, and is no error:
some tests measure time, and valgrind is slow. Tests that fork or replace operator new are not for valgrind."

[ $# -ge 1 ] && [ "$1" != --help ] || { echo "$usage"; exit 2; }
command -v valgrind >/dev/null 2>&1 || { echo "valgrind is not installed (Debian: valgrind)"; exit 2; }
program=$1
[ -x "$program" ] || { echo "PROGRAM: expected a program of tests, got '$program'"; exit 2; }
shift
[ $# -gt 0 ] || set -- 'protocol/*' 'handshake/*' 'transmission/*' 'session/*' 'vocabulary/*' 'exports/*' 'acceptance/*' 'io/*'
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for filter; do
    echo "$filter"
    status=0
    valgrind --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite --fair-sched=yes \
        "$program" "$filter" >"$log" || status=$?
    grep -E "^(TEST_CASE|.*FAILED:)" -A 3 "$log" || true
    tail -n 2 "$log"
    [ $status -ne 99 ] || exit 1
done
