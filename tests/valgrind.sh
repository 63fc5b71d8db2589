#!/bin/sh
# SPDX-License-Identifier: MIT
set -eu

usage="sh tests/valgrind.sh PROGRAM [CATCH-FILTER]...

Runs the tests of PROGRAM, such as build/dev/tests/nbd-unit-tests, with valgrind's memcheck. Each CATCH-FILTER is a run of its
own, because a test that forks or replaces operator new is not for valgrind; without one, all tests of files that are about
bytes, rules and scripted streams are run. The first error or leak ends it with 1."

[ $# -ge 1 ] && [ "$1" != --help ] || { echo "$usage"; exit 2; }
program=$1
shift
[ $# -gt 0 ] || set -- 'protocol/*' 'handshake/*' 'transmission/*' 'session/*' 'vocabulary/*' 'exports/*' 'acceptance/*' 'io/*'
for filter; do
    echo "$filter"
    valgrind --quiet --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=definite --fair-sched=yes "$program" "$filter" |
        tail -n 2
done
