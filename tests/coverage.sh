#!/bin/sh
# SPDX-License-Identifier: MIT
set -eu

usage="sh tests/coverage.sh [LABEL-REGEX]

Builds the tests with clang's source coverage in build/coverage, runs those with these labels (by default unit, tls, grid and
faults) and prints the lines and branches of include/nbd that they reach, by folder, and the lines that none reaches."

[ "${1-}" != --help ] || { echo "$usage"; exit 0; }
labels=${1:-^(unit|tls|grid|faults)\$}
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
build=build/coverage
cmake -S . -B $build -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_COMPILER=clang++ -DNBD_BUILD_TESTS=ON -DNBD_BUILD_EXAMPLES=OFF \
    -DNBD_BUILD_BENCH=OFF -DNBD_CCACHE=ON \
    -DCMAKE_CXX_FLAGS_DEBUG='-O0 -g0 -fprofile-instr-generate -fcoverage-mapping' >/dev/null
cmake --build $build --target nbd-unit-tests nbd-tls-tests nbd-uring-tests nbd-grid-tests nbd-faults-tests
rm -rf $build/profiles
NBD_FAULTS=11 LLVM_PROFILE_FILE="$here/$build/profiles/%p-%m.profraw" \
    ctest --test-dir $build -L "$labels" --output-on-failure -j 2 -Q || echo "some tests have failed" >&2
llvm-profdata merge -sparse -o $build/all.profdata $build/profiles/*.profraw
objects=
for program in unit tls uring grid faults; do
    [ ! -x $build/tests/nbd-$program-tests ] || objects="$objects -object $build/tests/nbd-$program-tests"
done
# shellcheck disable=SC2086
llvm-cov export -format=lcov -instr-profile=$build/all.profdata $objects "$here/include/nbd" > $build/all.lcov
python3 -B tests/coverage.py $build/all.lcov
