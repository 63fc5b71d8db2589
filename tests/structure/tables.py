#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks POINTS.md and FAULTS.md of tests/conformance: all rows, no empty cell, and every named file and test exists. Checks
the limits in SECURITY.md: each is a setting with this default, and no setting that limits clients is missing."""
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFORMANCE = ROOT / "tests/conformance"

NAMED = re.compile(r"`([^`]+)`")
STRING = r'"(?:\\.|[^"\\])*"'
TITLE = re.compile(rf"\b(?:TEMPLATE_)?TEST_CASE\w*\(\s*({STRING}(?:\s*{STRING})*)")

CASES = {"C": 18, "O": 33, "T": 18, "R": 31, "S": 14, "B": 19, "L": 11, "D": 14}
VULNERABILITIES = """2005-3534 2011-0530 2011-1925 2013-1922 2013-6410 2013-7441 2015-0847 2017-7539 2017-9524 2017-10664 2017-15118
    2017-15119 2019-14850 2019-14851 2020-10761 2021-3716 2022-26495 2022-26496 2024-7409 2025-47711 2025-47712"""
BUGS = [number for number in range(5, 35) if number != 25]


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


def client_tests():
    """clients/FILE, and clients/FILE.CASE; soak/… likewise."""
    for file in (*(ROOT / "tests/clients").glob("*.test.py"), *(ROOT / "tests/soak").glob("*.test.py")):
        name = file.parent.name + "/" + file.name[:-len(".test.py")]
        yield name
        yield from (name + "." + case for case in re.findall(r"^def (test_\w+)", file.read_text(), re.M))


def table(file):
    """The rows of all tables of a file, without their heads."""
    above = ""
    for line in file.read_text().splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            row = [cell.strip() for cell in line.strip("|").split("|")]
            if above.startswith("|"):
                yield row
        above = line


def faults(name, keys, columns, tests):
    """`keys`: the first cell of each row. The last column names tests, and a column "where" names headers."""
    rows = list(table(CONFORMANCE / name))
    found = [row[0] for row in rows]
    for key in keys:
        if found.count(key) != 1:
            yield f"{name}: {key} has {found.count(key)} rows"
    for row in rows:
        at = f"{name}, row {row[0]}"
        if row[0] not in keys:
            yield f"{at}: it is not known"
        if len(row) != len(columns):
            yield f"{at}: {len(row)} cells"
            continue
        for column, cell in zip(columns, row):
            named = NAMED.findall(cell)
            if not cell:
                yield f'{at}: nothing under "{column}"'
            elif column in ("where", "tested by") and not named:
                yield f'{at}: nothing is named under "{column}"'
            if column == "where":
                yield from (f"{at}: no file include/nbd/{file}" for file in named
                            if not (ROOT / "include/nbd" / file).is_file())
            if column == "tested by":
                yield from (f'{at}: no test "{test}"' for test in named if test not in tests)


SETTING = re.compile(r"^ +(std::size_t|std::uint64_t|std::chrono::milliseconds) (\w+)(?: = (.+)|\{(.+)\});", re.M)
TRANSPORT_LIMIT = re.compile(r"^`(\w+)` of `(\w+)`$")


def default(kind, text):
    """As SECURITY.md writes it."""
    shift = re.fullmatch(r"(?:std::size_t|std::uint64_t)\{(\d+)\} << (10|20|30)", text)
    if shift:
        return f"{shift[1]} {dict(zip(('10', '20', '30'), ('KiB', 'MiB', 'GiB')))[shift[2]]}"
    number = int(text.replace("'", ""))
    return str(number) if kind != "std::chrono::milliseconds" else f"{number // 1000} s" if number else "off"


def defaults(header):
    """The numbers in a header's settings, by their names."""
    text = (ROOT / "include/nbd" / header).read_text().split("struct export_settings")[0]
    return {name: default(kind, plain or braced) for kind, name, plain, braced in SETTING.findall(text)}


def limits(tests):
    known = defaults("settings.hpp")
    rows = [row for row in table(ROOT / "SECURITY.md") if len(row) == 3]
    if missing := set(known) - {row[0].strip("`") for row in rows}:
        yield f"SECURITY.md: no limit {', '.join(sorted(missing))}"
    for name, value, shown in rows:
        of = TRANSPORT_LIMIT.match(name)
        actual = defaults(f"transport/{of[2]}.hpp").get(of[1]) if of else known.get(name.strip("`"))
        if actual is None or actual != value.removesuffix("/s"):
            yield f"SECURITY.md: {name} is {value}, but {actual} in the code"
        named = NAMED.findall(shown)
        if not named:
            yield f"SECURITY.md: no test shows {name}"
        yield from (f'SECURITY.md: no test "{test}" for {name}' for test in named if test not in tests)


def main():
    tests = conformance_cases() | unit_tests() | set(client_tests())
    points = [str(number) for number in range(1, 101)]
    hostile = [f"{family}{number:02}" for family, count in CASES.items() for number in range(1, count + 1)]
    hostile += ["CVE-" + number for number in VULNERABILITIES.split()] + [f"N-{number:02}" for number in BUGS]
    found = [*faults("POINTS.md", points, ["point", "rule", "implemented", "where", "tested by"], tests),
             *faults("FAULTS.md", hostile, ["id", "rule", "outcome", "tested by"], tests), *limits(tests)]
    print("\n".join(found) if found else f"100 points and {len(hostile)} cases of faults, each with its tests; the limits in SECURITY.md")
    return 1 if found else 0


sys.exit(main())
