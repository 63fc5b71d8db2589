#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""readme.py COMPILE_COMMANDS FILE: everything in README.md that is marked as C++ compiles, as FILE of the project does.

What begins with an #include is a whole program. A class is looked at with the headers of the library and some of
Asio's; what is neither stands in a function, where `my_disk` is the class before it.
"""
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
HEADERS = ["algorithm", "chrono", "nbd/server.hpp", "boost/asio/awaitable.hpp", "boost/asio/deferred.hpp",
           "boost/asio/io_context.hpp", "boost/asio/steady_timer.hpp", "boost/asio/this_coro.hpp"]


def sources():
    """The text of each program, with the line of README.md that it begins in."""
    text = README.read_text()
    pieces = "".join(f"#include <{header}>\n" for header in HEADERS)
    found = list(re.finditer(r"^```cpp\n(.*?)^```$", text, re.M | re.S))
    for number, fence in enumerate(found):
        line, code = text.count("\n", 0, fence.start(1)) + 1, fence.group(1)
        if code.startswith("#include"):
            yield f'#line {line} "README.md"\n{code}'
            continue
        pieces += f'#line {line} "README.md"\n'
        if named := re.match(r"class (\w+)", code):
            pieces += f"{code}static_assert(nbd::has_read<{named[1]}>);\n"
            my_disk = named[1]
        else:
            pieces += f"void piece_{number}() {{ using my_disk = {my_disk};\n{code}}}\n"
    yield pieces


def main():
    database, file = sys.argv[1], os.path.realpath(sys.argv[2])
    entry = next(e for e in json.load(open(database)) if os.path.realpath(e["file"]) == file)
    command = [part for part in shlex.split(entry["command"]) if os.path.realpath(part) != file]
    out = command.index("-o")
    del command[out:out + 2]
    failed = 0
    for source in sources():
        with tempfile.NamedTemporaryFile("w", suffix=".cpp") as program:
            program.write(source)
            program.flush()
            failed += subprocess.run([*command, "-fsyntax-only", program.name], cwd=entry["directory"]).returncode != 0
    sys.exit(f"{failed} pieces of README.md do not compile" if failed else 0)


if __name__ == "__main__":
    main()
