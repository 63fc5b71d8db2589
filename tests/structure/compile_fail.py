#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""compile_fail.py COMPILE_COMMANDS FILE: checks that a program does not compile, with the expected message.

FILE has lines `// expect: SENTENCE`. With the project's compile command it must fail, the compiler's output must contain
every SENTENCE, and must have at most three errors. With NBD_FIXED defined it must compile, which proves that nothing else
is wrong with it.

Or FILE has lines `// expect MACRO: SENTENCE`: with MACRO defined it must fail with SENTENCE and no other sentence of the
library.

compile_fail.py COMPILE_COMMANDS FILE --precompile HEADER: compiles HEADER as FILE is compiled. The tests of files that
begin with it are faster then.
"""
import json
import os
import re
import shlex
import subprocess
import sys

MAX_ERRORS = 3


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
    expected = {}
    for macro, sentence in re.findall(r"^// expect(?: (\w+))?: (.*\S)\s*$", source, re.M):
        expected.setdefault(macro, []).append(sentence)
    if not expected:
        sys.exit(f"{file}: has no line '// expect: SENTENCE'")

    command += ["-fsyntax-only"]
    environment = {**os.environ, "LC_ALL": "C"}

    def compiled(*more):
        return subprocess.run([*command, *more], cwd=entry["directory"], env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def faults_of(macro, sentences):
        refused = compiled(*[f"-D{macro}"] if macro else [])
        if refused.returncode == 0:
            yield "it compiles"
        errors = re.findall(r"^\S.*\berror:.*", refused.stdout, re.M)
        text = "\n".join(errors) if macro else refused.stdout
        yield from (f"the compiler does not say: {sentence}" for sentence in sentences if sentence not in text)
        if len(errors) > MAX_ERRORS:
            yield f"the compiler prints {len(errors)} errors; {MAX_ERRORS} are allowed"
        for error in errors if macro else []:
            if "nbd: " in error and not any(sentence in error for sentence in sentences):
                yield f"the compiler also says: {error}"

    faults = []
    for macro, sentences in expected.items():
        found = list(faults_of(macro, sentences))
        if found:
            print(compiled(*[f"-D{macro}"] if macro else []).stdout)
        faults += [f"{macro}: {fault}" if macro else fault for fault in found]
    fixed = compiled("-DNBD_FIXED")
    if fixed.returncode != 0:
        print(fixed.stdout)
        faults.append("it does not compile with NBD_FIXED either")
    for fault in faults:
        print(f"{os.path.basename(file)}: {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
