#!/bin/sh
# SPDX-License-Identifier: MIT
# Prints how many lines and branches of include/nbd/{protocol,handshake,transmission} the corpus alone reaches. With
# `--show` also the lines with a branch that it does not reach. Needs clang++, llvm-cov and llvm-profdata (Debian: clang, llvm).
set -eu
cd "$(dirname "$0")/../.."

compiler=${CXX:-clang++}
cov=$("$compiler" -print-prog-name=llvm-cov)
profdata=$("$compiler" -print-prog-name=llvm-profdata)
command -v "$compiler" "$cov" "$profdata" >/dev/null || { echo "SKIPPED: clang++ or llvm-cov is not installed" && exit 77; }
out=build/fuzz-coverage
mkdir -p "$out"
# shellcheck disable=SC2086
"$compiler" -std=c++20 -O1 -Iinclude -Itests ${CXXFLAGS:-} -fprofile-instr-generate -fcoverage-mapping \
    tests/fuzz/targets.cpp tests/fuzz/replay.cpp -o "$out/replay"
rm -f "$out"/*.profraw
for target in handshake transmission session meta_context; do
    LLVM_PROFILE_FILE=$out/$target.profraw "$out/replay" $target tests/fuzz/corpus/$target
done
"$profdata" merge "$out"/*.profraw -o "$out/all.profdata"
rooms="include/nbd/protocol include/nbd/handshake include/nbd/transmission"
# shellcheck disable=SC2086
"$cov" export -format=lcov -instr-profile="$out/all.profdata" "$out/replay" $rooms >"$out/all.lcov"
python3 - "$out/all.lcov" "${1:-}" <<'END'
import collections
import os
import sys

lines = collections.defaultdict(dict)
branches = collections.defaultdict(dict)
for row in open(sys.argv[1]):
    kind, _, rest = row.strip().partition(":")
    if kind == "SF":
        file = os.path.relpath(rest)
    elif kind == "DA":
        line, count = rest.split(",")[:2]
        lines[file][line] = max(lines[file].get(line, 0), int(count))
    elif kind == "BRDA":
        line, block, branch, count = rest.split(",")
        # Of a template, what any of its instantiations reaches.
        key = (int(line), block, branch)
        branches[file][key] = max(branches[file].get(key, 0), 0 if count == "-" else int(count))


def percent(all):
    hit = sum(1 for count in all if count)
    return f"{hit:5}/{len(all):<5}{100 * hit / max(len(all), 1):6.1f} %"


print(f"{'':48}{'lines':>19}{'branches':>20}")
for file in sorted(lines):
    print(f"{file:48}{percent(lines[file].values())}  {percent(branches[file].values())}")
    if sys.argv[2] == "--show":
        missed = sorted({key[0] for key, count in branches[file].items() if not count})
        text = open(file).read().splitlines()
        for line in missed:
            print(f"    {line}: {text[line - 1].strip()}")
print(f"{'all':48}{percent([c for f in lines.values() for c in f.values()])}"
      f"  {percent([c for f in branches.values() for c in f.values()])}")
END
