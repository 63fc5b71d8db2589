#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Shows which checks of the server no test needs.

Copies the project, and makes each condition of the chosen rooms of include/nbd switchable at run time. One build then has every
mutant: `NBD_MUTANT=17-` makes condition 17 false, `NBD_MUTANT=17+` makes it true. The tests run once for each mutant. A mutant
that no test notices is a survivor: its condition is superfluous, or a test is missing. survivors.txt lists those that are known,
each with the reason why no test can notice it.

    tests/mutation/mutate.py                      # all rooms
    tests/mutation/mutate.py --part 1/8           # every eighth mutant of them
    tests/mutation/mutate.py protocol handshake   # these rooms
    tests/mutation/mutate.py --list session       # the conditions and their numbers
    tests/mutation/mutate.py --only 17- --only 30+
"""
import argparse
import concurrent.futures
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("protocol", "handshake", "transmission", "session")
SWITCH = """// SPDX-License-Identifier: MIT
#pragma once

#include <cstdlib>
#include <type_traits>

namespace nbd::mutation {

/// The chosen mutant: a number, negative for a condition that is false; 0 for none.
inline const int chosen = [] {
    const char* const text = std::getenv("NBD_MUTANT");
    if (text == nullptr)
        return 0;
    char* sign = nullptr;
    const auto number = static_cast<int>(std::strtol(text, &sign, 10));
    return *sign == '-' ? -number : number;
}();

[[nodiscard]] constexpr bool condition(int number, bool value) noexcept
{
    if (std::is_constant_evaluated() || (chosen != number && chosen != -number))
        return value;
    return chosen > 0;
}

}  // namespace nbd::mutation
"""


TOKEN = re.compile(r"""(?P<comment>//[^\n]*|/\*.*?\*/)|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'""", re.S)


def blanked(text, literals):
    """The text with comments, and perhaps literals, blanked, so that positions stay."""
    blank = lambda found: re.sub(r"[^\n]", " ", found.group()) if literals or found["comment"] else found.group()
    return TOKEN.sub(blank, text)


def closing(text, at):
    """The position of the parenthesis that closes the one at `at`."""
    depth = 0
    for i in range(at, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    raise ValueError("unbalanced parentheses")


def top_level(text):
    """The text with everything in brackets blanked."""
    out, depth = [], 0
    for letter in text:
        depth -= letter in ")]}"
        out.append(letter if depth == 0 else " ")
        depth += letter in "([{"
    return "".join(out)


class Condition:
    """A condition at text[begin:end]; or the variable that is declared in its place before `end`."""

    def __init__(self, begin, end, declared=None, number=0):
        self.begin, self.end, self.declared, self.number = begin, end, declared, number


def operands(code, begin, end):
    """The operands of || or, without one, of && in code[begin:end]."""
    inside = top_level(code[begin:end])
    marks = [begin + found.start() for found in re.finditer(r"\|\|" if "||" in inside else "&&", inside)]
    for first, last in zip([begin, *(mark + 2 for mark in marks)], [*marks, end]):
        yield Condition(first, last)


def conditions(text):
    """Those of `if`, and results that are a comparison or a combination of conditions."""
    code = blanked(text, True)
    for found in re.finditer(r"\bif \(", code):
        begin, end = found.end(), closing(code, found.end() - 1)
        inside = top_level(code[begin:end])
        if ";" in inside:  # a statement before the condition
            begin += inside.rindex(";") + 1
            inside = top_level(code[begin:end])
        declared = re.match(r"\s*(?:const )?auto\s?[&*]?\s?(?:const )?(\w+)\s*=[^=]", inside)
        if declared:
            yield Condition(end, end, declared.group(1))
        elif not re.match(r"\s*(?:const )?[\w:<>]+\s+\w+\s*=[^=]|\s*(?:const )?[\w:]+[&*]\s\w+\s*=[^=]", inside):
            yield from operands(code, begin, end)
    for found in re.finditer(r"\breturn\b([^;{}]*);", code):
        begin, end = found.start(1), found.end(1)
        inside = top_level(code[begin:end])
        if re.search(r"&&|\|\||[=!<>]=", inside) and not re.search(r"<=>|\?|\[", inside):
            yield from operands(code, begin, end)


def mutated(text, include, number):
    """The text with switchable conditions, and those conditions; `number` is that of the first."""
    found = sorted(conditions(text), key=lambda c: c.begin)
    kept, end = [], -1
    for condition in found:
        if condition.begin >= end:  # a result in a condition is a part of it
            kept.append(condition)
            end = condition.end
    plain, out, at = blanked(text, False), [], 0
    for condition in kept:
        condition.number = number
        number += 1
        value = condition.declared or plain[condition.begin:condition.end]
        switch = f"nbd::mutation::condition({condition.number}, static_cast<bool>({value}))"
        out += [plain[at:condition.begin], f"; {switch}" if condition.declared else f" {switch} "]
        at = condition.end
    out.append(plain[at:])
    return "".join(out).replace("#pragma once\n", f"#pragma once\n{include}\n", 1), kept


def prepare(where, rooms):
    """Makes the mutated copy of the project. Returns {number: "header:line: text"}."""
    source = where / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    names, number = {}, 1
    for name in filter(None, tracked.split("\0")):
        if not (ROOT / name).is_file():
            continue
        to = source / name
        to.parent.mkdir(parents=True, exist_ok=True)
        text = None
        path = Path(name)
        if path.parts[:2] == ("include", "nbd") and path.parts[2] in rooms:
            original = (ROOT / name).read_text()
            text, found = mutated(original, "#include <nbd/mutation.hpp>", number)
            for condition in found:
                line = original.count("\n", 0, condition.begin) + 1
                what = " ".join(original[condition.begin:condition.end].split()) or original.splitlines()[line - 1].strip()
                names[condition.number] = f"{'/'.join(path.parts[2:])}:{line}: {what}"
            number += len(found)
        data = text.encode() if text is not None else (ROOT / name).read_bytes()
        if not to.is_file() or to.read_bytes() != data:  # the build looks at times
            to.write_bytes(data)
            shutil.copymode(ROOT / name, to)
    switch = source / "include" / "nbd" / "mutation.hpp"
    if not switch.is_file() or switch.read_text() != SWITCH:
        switch.write_text(SWITCH)
    return names


def build(where, slow, jobs):
    # GCC takes twice as long for such a build.
    clang = shutil.which("clang++")
    options = [*([f"-DCMAKE_CXX_COMPILER={clang}"] if clang else []), "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0 -g0",
               "-DCMAKE_CXX_FLAGS=-w", "-DNBD_BUILD_TESTS=ON", f"-DNBD_BUILD_EXAMPLES={'ON' if slow else 'OFF'}",
               "-DNBD_BUILD_BENCH=OFF", "-DNBD_CCACHE=ON", "-DNBD_QUICK_TESTS=OFF"]
    subprocess.run(["cmake", "-S", where / "source", "-B", where / "build", *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", where / "build", "--parallel", str(jobs), "--target", "nbd-unit-tests", "nbd-fuzz-replay",
                    *(["nbd-serve"] if slow else [])], check=True)


def steps(where, room, slow):
    """The commands that may notice a mutant, the fast ones first."""
    unit = where / "build" / "tests" / "nbd-unit-tests"
    replay = where / "build" / "tests" / "fuzz" / "nbd-fuzz-replay"
    corpus = where / "source" / "tests" / "fuzz" / "corpus"
    yield [unit, "--abort", f"{room}/*"]
    for target in sorted(folder.name for folder in corpus.iterdir()):
        yield [replay, target, corpus / target]
    # Those of the rooms above. The backends have tests of their own.
    yield [unit, "--abort", " ".join(f'~"{other}/*"' for other in (room, "backend", "transport", "threading"))]
    if slow:
        for policy in ("pool", "per-client"):
            yield [sys.executable, where / "source" / "tests" / "conformance" / "run.py", "--server",
                   where / "build" / "examples" / "nbd-serve", "--policy", policy, "--transport", "unix", "--delivery", "whole"]


def run(command, seconds, mutant="0+"):
    """*Returns* whether the command succeeds in that time."""
    def limit():  # a mutant may believe any length
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    environment = {**os.environ, "NBD_MUTANT": mutant, "NBD_TEST_SCALE": "small"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=limit,
                               start_new_session=True)
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False


def known_survivors():
    """{"header: condition, sign": reason}; lines move, conditions seldom do."""
    lines = (Path(__file__).parent / "survivors.txt").read_text().splitlines()
    return {line.split(" -- ")[0]: line.split(" -- ")[1] for line in lines if line and not line.startswith("#")}


def key_of(name, sign):
    header, _, condition = name.split(":", 2)
    return f"{header}: {condition.strip()} {sign}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", choices=[*ROOMS, []], default=[], metavar="ROOM", help=" ".join(ROOMS))
    parser.add_argument("--list", action="store_true", help="print the conditions")
    parser.add_argument("--only", action="append", metavar="MUTANT", help="for example 17-")
    parser.add_argument("--part", metavar="K/N", help="one mutant of N only")
    parser.add_argument("--no-build", action="store_true", help="use the programs of the last run")
    parser.add_argument("--slow", action="store_true", help="try also the conformance tests, for what nothing else notices")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "mutation")
    arguments = parser.parse_args()
    rooms = arguments.rooms or ROOMS
    where = arguments.folder.resolve()
    names = prepare(where, ROOMS)
    chosen = {number: name for number, name in names.items() if name.split("/")[0] in rooms}
    if arguments.list:
        print("\n".join(f"{number}: {name}" for number, name in chosen.items()))
        return
    if not arguments.no_build:
        build(where, arguments.slow, arguments.jobs)
    # Each command gets ten times what it takes without a mutant.
    plans = {}
    for room in sorted({name.split("/")[0] for name in chosen.values()}):
        plans[room] = []
        for command in steps(where, room, arguments.slow):
            begun = time.monotonic()
            if not run(command, 900):
                sys.exit(f"without a mutant this fails: {' '.join(map(str, command))}")
            plans[room].append((command, 5 + 10 * (time.monotonic() - begun)))
    mutants = arguments.only or [f"{number}{sign}" for number in chosen for sign in "-+"]
    if arguments.part:
        part, parts = map(int, arguments.part.split("/"))
        mutants = mutants[part - 1::parts]

    def is_noticed(mutant):
        return any(not run(command, seconds, mutant) for command, seconds in plans[names[int(mutant[:-1])].split("/")[0]])

    known, survivors, started = known_survivors(), [], time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        tried = {pool.submit(is_noticed, mutant): mutant for mutant in mutants}
        for done in concurrent.futures.as_completed(tried):
            mutant = tried[done]
            name = names[int(mutant[:-1])]
            if not done.result():
                reason = known.get(key_of(name, mutant[-1]))
                print(f"{'known' if reason else 'SURVIVES'}: {mutant} {name}{f' ({reason})' if reason else ''}", flush=True)
                survivors.append(reason is None)
    print(f"{len(mutants)} mutants in {time.monotonic() - started:.0f} s: {len(mutants) - len(survivors)} noticed, "
          f"{len(survivors)} survive, {sum(survivors)} of them unknown")
    sys.exit(1 if any(survivors) else 0)


if __name__ == "__main__":
    main()
