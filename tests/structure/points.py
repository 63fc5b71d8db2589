#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks tests/conformance/POINTS.md: 100 rows, no empty cell, and every named file and test exists."""
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFORMANCE = ROOT / "tests/conformance"
TABLE = CONFORMANCE / "POINTS.md"
COLUMNS = ["point", "rule", "implemented", "where", "tested by"]

NAMED = re.compile(r"`([^`]+)`")
STRING = r'"(?:\\.|[^"\\])*"'
TITLE = re.compile(rf"\b(?:TEMPLATE_)?TEST_CASE\w*\(\s*({STRING}(?:\s*{STRING})*)")


def conformance_cases():
    """The names of all cases, also of those that a loop defines."""
    listed = subprocess.run([sys.executable, "-B", CONFORMANCE / "run.py", "--list"],
                            stdout=subprocess.PIPE, text=True, check=True).stdout
    return {line.split()[1] for line in listed.splitlines() if len(line.split()) > 2}


def unit_tests():
    """The titles of Catch2's test cases; adjacent literals are one string."""
    titles = set()
    for file in (ROOT / "tests").rglob("*.[ch]pp"):
        for literals in TITLE.findall(file.read_text()):
            title = "".join(part[1:-1] for part in re.findall(STRING, literals))
            titles.add(title.replace('\\"', '"').replace("\\\\", "\\"))
    return titles


def rows():
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def faults():
    cases, titles = conformance_cases(), unit_tests()
    table = rows()
    points = [row[0] for row in table]
    for point in map(str, range(1, 101)):
        if points.count(point) != 1:
            yield f"point {point} has {points.count(point)} rows"
    for row in table:
        at = f"row {row[0]}"
        if row[0] not in map(str, range(1, 101)):
            yield f"{at}: not a point"
        if len(row) != len(COLUMNS):
            yield f"{at}: {len(row)} cells"
            continue
        for column, cell in zip(COLUMNS, row):
            if not cell:
                yield f"{at}: nothing under \"{column}\""
        for column, cell in zip(COLUMNS[3:], row[3:]):
            if cell and not NAMED.search(cell):
                yield f"{at}: nothing is named under \"{column}\""
        for file in NAMED.findall(row[3]):
            if not (ROOT / "include/nbd" / file).is_file():
                yield f"{at}: no file include/nbd/{file}"
        for test in NAMED.findall(row[4]):
            client = test.startswith("clients/") and (ROOT / f"tests/{test}.test.py").is_file()
            if not (client or test in cases or test in titles):
                yield f"{at}: no test \"{test}\""


found = list(faults())
print("\n".join(found) if found else "100 points, each with its place and its tests")
sys.exit(1 if found else 0)
