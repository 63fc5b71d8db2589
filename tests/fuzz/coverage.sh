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
for target in handshake transmission session windowed meta_context; do
    LLVM_PROFILE_FILE=$out/$target.profraw "$out/replay" $target tests/fuzz/corpus/$target
done
"$profdata" merge "$out"/*.profraw -o "$out/all.profdata"
rooms="include/nbd/protocol include/nbd/handshake include/nbd/transmission"
# shellcheck disable=SC2086
"$cov" export -instr-profile="$out/all.profdata" "$out/replay" $rooms >"$out/all.json"
python3 - "$out/all.json" "${1:-}" <<'END'
import collections
import json
import os
import sys

# Of a template, what any of its instantiations reaches.
lines = collections.defaultdict(collections.Counter)
branches = collections.defaultdict(lambda: collections.defaultdict(lambda: [0, 0]))
for function in json.load(open(sys.argv[1]))["data"][0]["functions"]:
    files = [os.path.relpath(name) for name in function["filenames"]]
    for row in function["regions"]:
        start, _, end, _, count, file, _, kind = row
        if kind == 0 and files[file].startswith("include/"):
            # The inner regions, which come later, decide about their lines.
            for line in range(start, end + 1):
                function.setdefault("lines", {})[files[file], line] = count
    for (file, line), count in function.get("lines", {}).items():
        lines[file][line] += count
    for start, column, end, last, true, false, file, *_ in function["branches"]:
        reached = branches[files[file]][start, column, end, last]
        reached[0] += true
        reached[1] += false

rooms = ("include/nbd/protocol/", "include/nbd/handshake/", "include/nbd/transmission/")
total = [0, 0, 0, 0]
print(f"{'':44}{'lines':>20}{'branches':>20}")
for file in sorted(lines):
    if not file.startswith(rooms):
        continue
    text = open(file).read().splitlines()
    missed = []
    sums = [0, len(lines[file]), 0, 0]
    sums[0] = sum(1 for count in lines[file].values() if count)
    for (line, column, end, last), ways in sorted(branches[file].items()):
        condition = " ".join(text[line - 1:end])[column - 1:] if line != end else text[line - 1][column - 1:last - 1]
        if condition.startswith(("has_", "promises_", "!has_")) and not any(ways):
            continue  # a constant of the instantiation
        sums[2] += sum(1 for way in ways if way)
        sums[3] += 2
        if not all(ways):
            missed.append(f"    {line}: {'never true' if not ways[0] else 'never false'}: {condition}")
    total = [a + b for a, b in zip(total, sums)]
    for name, (hit, all_, branch, all_branches) in ((file, sums),):
        print(f"{name:44}{hit:6}/{all_:<5}{100 * hit / max(all_, 1):6.1f} %{branch:6}/{all_branches:<5}"
              f"{100 * branch / max(all_branches, 1):6.1f} %")
    if sys.argv[2] == "--show":
        print("\n".join(missed))
hit, all_, branch, all_branches = total
print(f"{'all':44}{hit:6}/{all_:<5}{100 * hit / all_:6.1f} %{branch:6}/{all_branches:<5}{100 * branch / all_branches:6.1f} %")
END
