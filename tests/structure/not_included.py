#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""not_included.py COMPILE_COMMANDS FILE HEADER UNWANTED: checks that HEADER does not include UNWANTED, directly or not.

It runs the preprocessor with the command that compiles FILE, and prints the includes that lead to UNWANTED.
"""
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile


def main():
    database, example, header, unwanted = sys.argv[1], os.path.realpath(sys.argv[2]), *sys.argv[3:]
    entry = next(e for e in json.load(open(database)) if os.path.realpath(e["file"]) == example)
    command = [part for part in shlex.split(entry["command"]) if os.path.realpath(part) != example]
    out = command.index("-o")
    del command[out:out + 2]
    with tempfile.NamedTemporaryFile("w", suffix=".cpp") as program:
        program.write(f"#include <{header}>\n")
        program.flush()
        # -H prints each file when it is opened, with a dot for each level.
        done = subprocess.run([*command, "-M", "-H", program.name], cwd=entry["directory"], text=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    opened = re.findall(r"^(\.+) (.*)$", done.stderr, re.M)
    if done.returncode != 0 or not any(file.endswith("/" + header) for _, file in opened):
        sys.exit(done.stderr)
    path = []
    for dots, file in opened:
        path[len(dots) - 1:] = [file]
        if file.endswith("/" + unwanted):
            sys.exit(f"<{header}> includes <{unwanted}>:\n" + "\n".join(path))


if __name__ == "__main__":
    main()
