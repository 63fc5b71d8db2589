#!/bin/sh
# SPDX-License-Identifier: MIT
set -u

usage="sh tests/fuzz/run.sh [--keep] [--jobs N] [--no-install] [SECONDS] [TARGET]...

Fuzzes each TARGET (handshake, transmission, session, windowed, meta_context; all by default) for SECONDS (60 by default) with
libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer. Inputs that are new, and those that end the program, go to
build/fuzz/. Exit status 1 if there is one of the latter, 77 if clang++ or its runtime is missing.

  --keep         adds what reaches new code to the corpus of this folder, minimised, as found-HASH
  --jobs N       so many targets at a time; as many as processors by default
  --no-install   never call the package manager
  A long run of one target:  sh tests/fuzz/run.sh 36000 transmission"

here=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
. "$here/tests/packages.sh"
cd "$here" || die "cannot enter $here"

all="handshake transmission session windowed meta_context"
keep=no
install=yes
seconds=60
targets=
at_a_time=$(nproc 2>/dev/null || echo 2)
while [ $# -gt 0 ]; do
    case $1 in
        --keep) keep=yes ;;
        --jobs)
            [ $# -gt 1 ] || die "--jobs needs a number"
            at_a_time=$2 && shift
            ;;
        --no-install) install=no ;;
        -h | --help) echo "$usage" && exit 0 ;;
        handshake | transmission | session | windowed | meta_context) targets="$targets $1" ;;
        *[!0-9]* | '') die "unknown argument '$1' (try --help)" ;;
        *) seconds=$1 ;;
    esac
    shift
done
targets=${targets:-$all}

compiler=${CXX:-clang++}
out=build/fuzz
mkdir -p "$out" || exit 1
fuzzes() {
    echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
        "$compiler" -x c++ - -fsanitize=fuzzer,address,undefined -o "$out/probe" >/dev/null 2>&1
}
if [ $install = yes ]; then
    install_missing <<END
clang           clang++
libclang-rt-dev /usr/share/doc/libclang-rt-dev
llvm            llvm-symbolizer
boost           boost
END
fi
fuzzes || { echo "SKIPPED: $compiler with libFuzzer is not installed (Debian: clang, libclang-rt-dev)" && exit 77; }
command -v ccache >/dev/null 2>&1 && ccache=ccache || ccache=

# clang 14 cannot compile coroutines with the check of functions' types.
flags="-std=c++20 -O2 -g1 -fno-omit-frame-pointer -Iinclude -Itests ${CXXFLAGS:-}
    -fsanitize=address,undefined -fno-sanitize=function,vptr -fno-sanitize-recover=all"
say "building"
for source in targets libfuzzer; do
    # shellcheck disable=SC2086
    $ccache "$compiler" $flags -fsanitize=fuzzer-no-link -fsanitize-coverage-ignorelist=tests/fuzz/uninstrumented.txt -c tests/fuzz/$source.cpp -o "$out/$source.o" || exit 1
done
# shellcheck disable=SC2086
"$compiler" $flags -fsanitize=fuzzer "$out/targets.o" "$out/libfuzzer.o" -o "$out/nbd-fuzz" || exit 1

# Freed memory is reused soon: fresh pages would take most of the time. The replay looks for leaks.
export ASAN_OPTIONS=max_malloc_fill_size=0:quarantine_size_mb=1:thread_local_quarantine_size_kb=64:malloc_context_size=8

say "fuzzing$(printf ' %s' $targets) for $seconds s, $at_a_time at a time"
rm -f "$out"/failed-*
# shellcheck disable=SC2016,SC2086 # expanded by the inner shell; a list of words
printf '%s\n' $targets | seconds=$seconds out=$out xargs -P "$at_a_time" -n 1 sh -c '
    mkdir -p "$out/$1"
    NBD_FUZZ_TARGET=$1 "$out/nbd-fuzz" -max_total_time="$seconds" -max_len=1500 -timeout=10 -detect_leaks=0 -entropic=0 \
        -print_final_stats=1 -dict=tests/fuzz/nbd.dict -artifact_prefix="$out/$1-" "$out/$1" "tests/fuzz/corpus/$1" \
        >"$out/$1.log" 2>&1 || : >"$out/failed-$1"' fuzz
failed=
for target in $targets; do
    say "$target"
    grep -aE '^Done|average_exec|difference from the model|^==.*ERROR|runtime error|Test unit written|deadly signal' "$out/$target.log"
    [ ! -e "$out/failed-$target" ] || failed="$failed $target"
    if [ $keep = yes ]; then
        corpus=tests/fuzz/corpus/$target
        rm -rf "$out/minimal" && mkdir "$out/minimal"
        find "$corpus" -name 'found-*' -delete
        NBD_FUZZ_TARGET=$target "$out/nbd-fuzz" -merge=1 -detect_leaks=0 "$out/minimal" "$corpus" "$out/$target" \
            >"$out/$target.merge.log" 2>&1 || failed="$failed $target"
        for file in "$out/minimal"/*; do
            [ -e "$file" ] || continue
            # Seeds stay under their names.
            same=no
            for seed in "$corpus"/*; do ! cmp -s "$file" "$seed" || same=yes; done
            [ $same = yes ] || cp "$file" "$corpus/found-$(basename "$file" | cut -c1-12)"
        done
    fi
done
[ -z "$failed" ] || die "fuzzing has failed, see the logs in $out/:$failed"
