#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""coverage.py FILE.lcov: lines and branches of include/nbd that tests reach, by folder; and where none does, with --missing.

A branch of a template counts as reached if an instance of it takes it: what `if constexpr` and types decide has one branch in
each instance."""
import argparse
import collections
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "include/nbd"


def read(lcov):
    """(file -> line -> hits, file -> (line, number) -> hits)"""
    lines = collections.defaultdict(lambda: collections.defaultdict(int))
    branches = collections.defaultdict(lambda: collections.defaultdict(int))
    file = None
    for text in lcov.read_text().splitlines():
        kind, _, rest = text.partition(":")
        if kind == "SF":
            file = rest.split("include/nbd/")[-1] if "include/nbd/" in rest else None
        elif file and kind == "DA":
            line, hits = rest.split(",")[:2]
            lines[file][int(line)] += int(hits)
        elif file and kind == "BRDA":
            line, block, branch, hits = rest.split(",")
            branches[file][int(line), block, branch] += 0 if hits == "-" else int(hits)
    return lines, branches


def share(reached, all_of):
    return f"{reached:6} of {all_of:6}  {100 * reached / all_of if all_of else 100:5.1f} %"


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("lcov", type=Path)
    p.add_argument("--missing", action="store_true", help="print the lines that no test reaches")
    a = p.parse_args()
    lines, branches = read(a.lcov)
    folders = collections.defaultdict(lambda: [0, 0, 0, 0])
    for file in lines:
        for folder in (file.rpartition("/")[0] or ".", "all of include/nbd"):
            count = folders[folder]
            count[0] += sum(hits > 0 for hits in lines[file].values())
            count[1] += len(lines[file])
            count[2] += sum(hits > 0 for hits in branches[file].values())
            count[3] += len(branches[file])
    print(f"{'':24} {'lines':>24}   {'branches':>24}")
    for folder, count in sorted(folders.items(), key=lambda item: item[0] == "all of include/nbd"):
        print(f"{folder:24} {share(*count[:2]):>24}   {share(*count[2:]):>24}")
    if a.missing:
        for file in sorted(lines):
            source = (ROOT / file).read_text().splitlines()
            for line, hits in sorted(lines[file].items()):
                if hits == 0:
                    print(f"{file}:{line}: {source[line - 1].strip()}")


main()
