#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""compile_fail.py COMPILE_COMMANDS FILE: checks that a program does not compile, with the expected message.

FILE has lines `// expect MACRO: SENTENCE`. With the project's compile command and MACRO defined, it must fail with one
error, which contains SENTENCE, and with at most MAX_LINES lines in all. Without a macro it must compile, which proves that
nothing else is wrong with it. Half of the messages must have at most MAX_MEDIAN lines.

compile_fail.py COMPILE_COMMANDS FILE --precompile HEADER: compiles HEADER as FILE is compiled. The tests of files that
begin with it are faster then.
"""
import json
import os
import re
import shlex
import statistics
import subprocess
import sys

MAX_LINES = 20
MAX_MEDIAN = 12


def main():
    database, file = sys.argv[1], os.path.realpath(sys.argv[2])
    entry = next((e for e in json.load(open(database)) if os.path.realpath(e["file"]) == file), None)
    if entry is None:
        sys.exit(f"{file}: is not in {database}; configure again")
    command = shlex.split(entry["command"])
    out = command.index("-o")
    folder = os.path.join(os.path.dirname(database), "precompiled")
    del command[out:out + 2]
    if sys.argv[3:4] == ["--precompile"]:
        header = os.path.join(folder, sys.argv[4])
        os.makedirs(os.path.dirname(header), exist_ok=True)
        with open(header, "w") as only:
            only.write(f"#include <{sys.argv[4]}>\n")
        command[command.index(entry["file"])] = header
        command[1:1] = ["-x", "c++-header"]
        sys.exit(subprocess.run([*command, "-o", header + ".gch"], cwd=entry["directory"]).returncode)

    source = open(file).read()
    if first := re.search(r"^#include <(\S+)>", source, re.M):
        if os.path.exists(os.path.join(folder, first[1] + ".gch")):
            command += ["-include", os.path.join(folder, first[1])]
    expected = re.findall(r"^// expect (\w+): (.*\S)\s*$", source, re.M)
    if not expected:
        sys.exit(f"{file}: has no line '// expect MACRO: SENTENCE'")

    command += ["-fsyntax-only"]
    environment = {**os.environ, "LC_ALL": "C"}

    def compiled(*more):
        return subprocess.run([*command, *more], cwd=entry["directory"], env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    faults, lines = [], []
    for macro, sentence in expected:
        refused = compiled(f"-D{macro}")
        errors = re.findall(r"^\S.*\berror:.*", refused.stdout, re.M)
        lines.append(len(refused.stdout.splitlines()))
        found = []
        if refused.returncode == 0:
            found.append("it compiles")
        if not any(sentence in error for error in errors):
            found.append(f"the compiler does not say: {sentence}")
        if len(errors) > 1:
            found.append(f"the compiler prints {len(errors)} errors")
        if lines[-1] > MAX_LINES:
            found.append(f"the compiler prints {lines[-1]} lines; {MAX_LINES} are allowed")
        if found:
            print(refused.stdout)
        print(f"{macro}: {lines[-1]} lines")
        faults += [f"{macro}: {fault}" for fault in found]
    if statistics.median(lines) > MAX_MEDIAN:
        faults.append(f"the compiler prints {statistics.median(lines)} lines in the median; {MAX_MEDIAN} are allowed")
    right = compiled()
    if right.returncode != 0:
        print(right.stdout)
        faults.append("it does not compile without a macro either")
    for fault in faults:
        print(f"{os.path.basename(file)}: {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
