#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""readme.py COMPILE_COMMANDS FILE: checks README.md and docs/*.md.

All C++ in them compiles, with the command that compiles FILE. A piece that begins with an #include is a whole program. A
piece that begins with `class`, `struct` or `template` is compiled in a namespace of its file. Any other piece is the body
of a function, in which `my_disk` is the last class with a `read` before it.
No cell of a table is longer than two lines of text, and every relative link leads to a file.
"""
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HEADERS = ["algorithm", "atomic", "chrono", "csignal", "iostream", "nbd/forward.hpp", "nbd/server.hpp",
           "nbd/transport/any_of.hpp", "boost/asio/awaitable.hpp", "boost/asio/deferred.hpp", "boost/asio/detached.hpp",
           "boost/asio/io_context.hpp", "boost/asio/signal_set.hpp", "boost/asio/steady_timer.hpp", "boost/asio/this_coro.hpp"]
LONGEST_CELL = 160  # characters: two lines
LIBNL = Path("/usr/include/libnl3/netlink/genl/genl.h")


def sources():
    """Each program, and all pieces together, with the lines that they come from."""
    has_openssl = Path("/usr/include/openssl/ssl.h").exists()
    has_librbd = Path("/usr/include/rbd/librbd.h").exists()
    has_libnl = LIBNL.exists()
    headers = HEADERS + ["nbd/transport/tls_transport.hpp"] * has_openssl + ["nbd/kernel/attach.hpp"] * has_libnl
    pieces = "".join(f"#include <{header}>\n" for header in headers)
    for index, file in enumerate(TEXTS):
        text, name, my_disk = file.read_text(), file.relative_to(ROOT), None
        pieces += f"namespace text_{index} {{\n"
        for number, fence in enumerate(re.finditer(r"^```cpp\n(.*?)^```$", text, re.M | re.S)):
            code = fence.group(1)
            if ("tls_" in code and not has_openssl or "attach" in code and not has_libnl
                    or "rbd_" in code and not has_librbd):
                continue
            place = f'#line {text.count(chr(10), 0, fence.start(1)) + 1} "{name}"\n'
            if code.startswith("#include"):
                yield place + code
            elif code.startswith("template"):
                pieces += place + code
            elif named := re.match(r"(?:class|struct) (\w+)", code):
                pieces += place + code
                if " read(" in code or my_disk and f"public {my_disk}" in code:
                    pieces += f"static_assert(nbd::has_read<{named[1]}>);\n"
                    my_disk = named[1]
            else:
                disk = f"using my_disk = {my_disk}; " if my_disk and my_disk != "my_disk" else ""
                pieces += f"{place}[[maybe_unused]] inline void piece_{number}() {{ {disk}\n{place}{code}}}\n"
        pieces += "}\n"
    yield pieces


def faults_in_text():
    for file in TEXTS:
        name = file.relative_to(ROOT)
        in_code = False
        for number, line in enumerate(file.read_text().splitlines(), 1):
            in_code ^= line.startswith("```")
            if in_code:  # a lambda looks like a link
                continue
            if line.startswith("|"):
                for cell in line.strip("|").split("|"):
                    shown = re.sub(r"\]\([^)]*\)", "", cell.strip()).replace("[", "")
                    if len(shown) > LONGEST_CELL:
                        yield f"{name}:{number}: a cell of {len(shown)} characters; {LONGEST_CELL} are allowed"
            for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", line):
                if "://" not in target and not (file.parent / target).exists():
                    yield f"{name}:{number}: the link {target} leads nowhere"


def main():
    database, example = sys.argv[1], os.path.realpath(sys.argv[2])
    entry = next(e for e in json.load(open(database)) if os.path.realpath(e["file"]) == example)
    command = [part for part in shlex.split(entry["command"]) if os.path.realpath(part) != example]
    command += ["-isystem", str(LIBNL.parents[2])]
    out = command.index("-o")
    del command[out:out + 2]
    faults = list(faults_in_text())
    for source in sources():
        with tempfile.NamedTemporaryFile("w", suffix=".cpp") as program:
            program.write(source)
            program.flush()
            if subprocess.run([*command, "-fsyntax-only", program.name], cwd=entry["directory"]).returncode != 0:
                faults.append("C++ in README.md or docs/*.md does not compile")
    sys.exit("\n".join(faults) or None)


if __name__ == "__main__":
    main()
