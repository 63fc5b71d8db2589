#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""compile_fail.py COMPILE_COMMANDS FILE: checks that a program does not compile, with the expected message.

FILE has lines `// expect MACRO: SENTENCE`. With MACRO defined, the compiler must print one error, which contains
SENTENCE, or names a deleted function whose line has SENTENCE as a comment. Without a macro, FILE must compile, which
proves that nothing else is wrong with it. All variants are compiled at once, each in a namespace, because most of the time
goes into the headers. In the mean, a variant may cause MAX_LINES lines.

compile_fail.py COMPILE_COMMANDS FILE --precompile HEADER: compiles HEADER as FILE is compiled. The tests of files that
begin with it are faster then.

--compiler CXX: with another compiler than that of the build; skipped (status 77) if it is not installed, or the same.
"""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

MAX_LINES = 12


def variant(lines, macro):
    """The lines that the preprocessor leaves if only `macro` is defined."""
    state = []  # for each open #if: whether a branch was taken, and whether this branch is
    for line in lines:
        if line.startswith(("#if", "#elif")):
            name = re.search(r"(\w+)\)?$", line)[1]
            holds = (name == macro) != (line.startswith("#ifndef") or "!" in line)
            taken = line.startswith("#elif") and state.pop()[0]
            state.append((taken or holds, holds and not taken))
        elif line.startswith("#else"):
            state.append((True, not state.pop()[0]))
        elif line.startswith("#endif"):
            state.pop()
        elif all(here for _, here in state):
            yield line


def main():
    database, file = sys.argv[1], os.path.realpath(sys.argv[2])
    entry = next((e for e in json.load(open(database)) if os.path.realpath(e["file"]) == file), None)
    if entry is None:
        sys.exit(f"{file}: is not in {database}; configure again")
    command = shlex.split(entry["command"])
    out = command.index("-o")
    del command[out:out + 2]
    compiler = next(i for i, part in enumerate(command) if re.search(r"(\+\+|cc|clang)(-[\d.]+)?$", part))
    if "--compiler" in sys.argv:
        other = shutil.which(sys.argv[sys.argv.index("--compiler") + 1])
        if other is None or ("clang" in command[compiler]) == ("clang" in other):
            print("that compiler is not installed, or is that of the build")
            sys.exit(77)
        command[compiler] = other
    folder = os.path.join(os.path.dirname(database), "precompiled", os.path.basename(command[compiler]))
    if sys.argv[3:4] == ["--precompile"]:
        header = os.path.join(folder, sys.argv[4])
        os.makedirs(os.path.dirname(header), exist_ok=True)
        with open(header, "w") as only:
            only.write(f"#include <{sys.argv[4]}>\n")
        command[command.index(entry["file"])] = header
        command[compiler + 1:compiler + 1] = ["-x", "c++-header"]
        sys.exit(subprocess.run([*command, "-o", header + ".gch"], cwd=entry["directory"]).returncode)

    source = open(file).read()
    if first := re.search(r"^#include <(\S+)>", source, re.M):
        if os.path.exists(os.path.join(folder, first[1] + ".gch")):
            command += ["-include", os.path.join(folder, first[1])]
    expected = re.findall(r"^// expect (\w+): (.*\S)\s*$", source, re.M)
    if not expected:
        sys.exit(f"{file}: has no line '// expect MACRO: SENTENCE'")

    command += ["-fsyntax-only"]
    if "clang" in os.path.basename(command[compiler]):
        command += ["-ferror-limit=0"]
    lines = source.splitlines()
    includes = [line for line in lines if line.startswith("#include")]
    rest = [line for line in lines if not line.startswith(("#include", "//"))]

    def compiled(text):
        with tempfile.NamedTemporaryFile("w", suffix=".cpp") as program:
            program.write("\n".join([*includes, *text, ""]))
            program.flush()
            return subprocess.run([program.name if part == entry["file"] else part for part in command],
                                  cwd=entry["directory"], env={**os.environ, "LC_ALL": "C"}, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    faults = []
    wrong = []
    for macro, _ in expected:
        wrong += [f"namespace of_{macro} {{", *variant(rest, macro), "}"]
    wrong = [line.replace("int main()", "void run()") for line in wrong]
    refused = compiled(wrong)
    errors = []
    for line in refused.stdout.splitlines():
        if re.match(r"\S.*\berror:", line):
            errors.append(line)
        elif errors and "= delete;" in line:
            errors[-1] += line
    for macro, sentence in expected:
        said = next((error for error in errors if sentence in error), None)
        if said:
            errors.remove(said)
        else:
            faults.append(f"{macro}: the compiler does not say: {sentence}")
    faults += [f"the compiler also says: {error}" for error in errors]
    length = sum(1 for line in refused.stdout.splitlines()
                 if folder not in line and not re.match(r"\d+ errors? generated", line))
    if length > MAX_LINES * len(expected):
        faults.append(f"the compiler prints {length} lines for {len(expected)} errors; {MAX_LINES} for each are allowed")
    print(f"{len(expected)} errors, {length} lines")
    if faults:
        print(refused.stdout)
    right = compiled(variant(rest, None))
    if right.returncode != 0:
        print(right.stdout)
        faults.append("it does not compile without a macro either")
    for fault in faults:
        print(f"{os.path.basename(file)}: {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
