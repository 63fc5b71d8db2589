#!/bin/sh
# SPDX-License-Identifier: MIT
set -u

usage="sh tests/fuzz/run.sh [--keep] [SECONDS] [TARGET]...

Fuzzes each TARGET (handshake, transmission, session, meta_context; all by default) for SECONDS (60 by default) with libFuzzer,
AddressSanitizer and UndefinedBehaviorSanitizer. Needs clang++ and its runtime (Debian: clang, libclang-rt-14-dev). Inputs that
are new, and those that end the program, go to build/fuzz/. Exit status 1 if there is one of the latter.

  --keep   adds what reaches new code to the corpus of this folder, minimised, as found-HASH
  A long run of one target:  sh tests/fuzz/run.sh 36000 transmission"

here=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
cd "$here" || exit 1

keep=no
seconds=60
targets=
for argument; do
    case $argument in
        --keep) keep=yes ;;
        -h | --help) echo "$usage" && exit 0 ;;
        handshake | transmission | session | meta_context) targets="$targets $argument" ;;
        *[!0-9]* | '') echo "unknown argument '$argument' (try --help)" >&2 && exit 2 ;;
        *) seconds=$argument ;;
    esac
done
targets=${targets:-handshake transmission session meta_context}

compiler=${CXX:-clang++}
command -v "$compiler" >/dev/null 2>&1 || { echo "SKIPPED: $compiler is not installed" && exit 77; }
command -v ccache >/dev/null 2>&1 && ccache=ccache || ccache=
out=build/fuzz
mkdir -p "$out" || exit 1

# clang 14 cannot compile coroutines with the check of functions' types.
flags="-std=c++20 -O1 -g1 -fno-omit-frame-pointer -Iinclude -Itests ${CXXFLAGS:-}
    -fsanitize=address,undefined -fno-sanitize=function,vptr -fno-sanitize-recover=all"
for source in targets libfuzzer; do
    # shellcheck disable=SC2086
    $ccache "$compiler" $flags -fsanitize=fuzzer-no-link -fsanitize-coverage-ignorelist=tests/fuzz/uninstrumented.txt -c tests/fuzz/$source.cpp -o "$out/$source.o" || exit 1
done
# shellcheck disable=SC2086
"$compiler" $flags -fsanitize=fuzzer "$out/targets.o" "$out/libfuzzer.o" -o "$out/nbd-fuzz" || exit 1

# Freed memory is reused soon: fresh pages would take most of the time. The replay looks for leaks.
export ASAN_OPTIONS=max_malloc_fill_size=0:quarantine_size_mb=1:thread_local_quarantine_size_kb=64:malloc_context_size=8

failed=
for target in $targets; do
    export NBD_FUZZ_TARGET="$target"
    corpus=tests/fuzz/corpus/$target
    work=$out/$target
    mkdir -p "$work"
    log=$out/$target.log
    echo "== $target: $seconds s"
    "$out/nbd-fuzz" -max_total_time="$seconds" -max_len=1500 -timeout=10 -detect_leaks=0 -entropic=0 -print_final_stats=1 \
        -dict=tests/fuzz/nbd.dict -artifact_prefix="$out/$target-" "$work" "$corpus" >"$log" 2>&1 || failed="$failed $target"
    grep -aE '^Done|average_exec|difference from the model|^==.*ERROR|runtime error|Test unit written|deadly signal' "$log"
    if [ $keep = yes ]; then
        rm -rf "$out/minimal" && mkdir "$out/minimal"
        find "$corpus" -name 'found-*' -delete
        "$out/nbd-fuzz" -merge=1 -detect_leaks=0 "$out/minimal" "$corpus" "$work" >"$log.merge" 2>&1 || failed="$failed $target"
        for file in "$out/minimal"/*; do
            [ -e "$file" ] || continue
            # Seeds stay under their names.
            same=no
            for seed in "$corpus"/*; do ! cmp -s "$file" "$seed" || same=yes; done
            [ $same = yes ] || cp "$file" "$corpus/found-$(basename "$file" | cut -c1-12)"
        done
    fi
done
[ -z "$failed" ] || { echo "FAILED:$failed (see $out/)" && exit 1; }
