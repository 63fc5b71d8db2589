#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the structure of the project by reading its files.

    house.py CHECK      one of the checks below; exit status 0: passed, 77: cannot run here, 1: failed
    house.py all        all of them
    house.py format --fix   formats the files with clang-format
"""
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "include"

# The floors. A room is a folder of include/nbd/, or a single header in it. It may include its own headers and
# those listed here: a room, or one header of a room.
BASICS = ["error.hpp", "settings.hpp", "version.hpp"]
ROOMS = {
    # floor 0: std and Boost.Endian
    "protocol": [],
    # floor 1
    "requirements.hpp": [],
    "version.hpp": [],
    "error.hpp": ["protocol"],
    "settings.hpp": ["protocol"],
    "vocabulary": ["protocol", *BASICS],
    "concepts": ["protocol", "vocabulary", *BASICS],
    # floor 2: no sockets, no clock, no Asio
    "handshake": ["protocol", "vocabulary", "concepts", *BASICS],
    "transmission": ["protocol", "vocabulary", "concepts", *BASICS],
    # floor 3: their own concept, and not each other
    "backend": ["protocol", "vocabulary", "concepts/backend.hpp", *BASICS],
    "transport": ["protocol", "vocabulary", "concepts/transport.hpp", "tls", *BASICS],
    "tls": ["vocabulary", *BASICS],  # and OpenSSL
    "authorise": ["vocabulary", *BASICS],
    "threading": ["protocol", "vocabulary", "concepts/threading_policy.hpp", *BASICS],
    # floor 4: Boost.Asio only
    "io": [],
    "on.hpp": ["vocabulary"],
    "forward.hpp": ["vocabulary", "concepts", *BASICS],
    # floor 5
    "exports": ["protocol", "vocabulary", "concepts", "handshake", "transmission", "io", *BASICS],
    "session": ["protocol", "vocabulary", "concepts", "handshake", "transmission", "io", "exports", *BASICS],
    "acceptance": ["protocol", "vocabulary", "concepts", "handshake", "transmission", "io", "exports", "session", *BASICS],
}
# floor 6: these may include everything
FRONT_DOORS = {"server.hpp", "basic_server.hpp", "server_options.hpp", "kernel"}

# Headers that a room must not include, directly or through another header.
ASIO = r"boost/asio"
SOCKETS = r"sys/socket\.h|sys/un\.h|netinet/.*|arpa/inet\.h|netdb\.h"
CLOCK = r"chrono|ctime|time\.h|sys/time\.h"
FORBIDDEN = {
    "protocol": rf"boost/(?!endian)|{SOCKETS}|{CLOCK}|unistd\.h",
    "handshake": rf"{ASIO}|{SOCKETS}",
    "transmission": rf"{ASIO}|{SOCKETS}",
}
# Headers that a room must not include directly.
FORBIDDEN_HERE = {"handshake": CLOCK, "transmission": CLOCK}

# Headers without their own test file, and where they are tested.
TESTED_ELSEWHERE = {
    # macros and sentences: tested by the compiler's messages
    "concepts/diagnosis.hpp": "tests/concepts/backend_members.fail.cpp",
    "concepts/member_names.hpp": "tests/concepts/backend_members.fail.cpp",
    "concepts/misspelled.hpp": "tests/concepts/backend_promises.fail.cpp",
    "concepts/offers.hpp": "tests/concepts/backend_promises.fail.cpp",
    "concepts/shapes.hpp": "tests/concepts/backend_members.fail.cpp",
    "concepts/wide_integer.hpp": "tests/concepts/backend_narrow.fail.cpp",
    "concepts/inheritance.hpp": "tests/concepts/backend_members.fail.cpp",
    "concepts/kinds.hpp": "tests/concepts/backend_kinds.fail.cpp",
    "concepts/draining.hpp": "tests/concepts/backend.test.cpp",
    "concepts/facts.hpp": "tests/concepts/backend.test.cpp",
    "concepts/opening.hpp": "tests/session/negotiate.test.cpp",
    "concepts/lending.hpp": "tests/concepts/backend.test.cpp",
    "acceptance/unfit_server.hpp": "tests/concepts/server_arguments.fail.cpp",
    "acceptance/wrong_arguments.hpp": "tests/concepts/server_arguments.fail.cpp",
    "exports/unfit_exports.hpp": "tests/concepts/export_arguments.fail.cpp",
    "requirements.hpp": "tests/consume/first_include.test.py",
    "concepts/names_member.hpp": "tests/concepts/backend_members.fail.cpp",
    "concepts/outcome.hpp": "tests/concepts/backend.test.cpp",
    "concepts/promises.hpp": "tests/concepts/backend.test.cpp",
    # plain types, tested with their users
    "vocabulary/backend_types.hpp": "tests/concepts/backend.test.cpp",
    "vocabulary/established.hpp": "tests/handshake/negotiator_begun.test.cpp",
    "vocabulary/client.hpp": "tests/concepts/observer.test.cpp",
    "vocabulary/permission.hpp": "tests/authorise/access_rule.test.cpp",
    "vocabulary/ip_address.hpp": "tests/authorise/address_prefix.test.cpp",
    "vocabulary/outcome_of.hpp": "tests/transmission/execution_outcome.test.cpp",
    "vocabulary/offloaded_call.hpp": "tests/threading/call_threads.test.cpp",
    "vocabulary/tls.hpp": "tests/handshake/negotiator_tls.test.cpp",
    # parts of credentials and stream
    "tls/context.hpp": "tests/tls/credentials.test.cpp",
    "tls/secret_file.hpp": "tests/tls/credentials.test.cpp",
    "tls/error.hpp": "tests/tls/stream.test.cpp",
    "tls/wire.hpp": "tests/tls/stream.test.cpp",
    "tls/peer_info.hpp": "tests/transport/tls_transport.test.cpp",
    # an enumeration, a plain type, and parts of negotiator and export_set
    "handshake/action.hpp": "tests/handshake/negotiator.test.cpp",
    "handshake/export_info.hpp": "tests/exports/export_set.test.cpp",
    "handshake/option_answers.hpp": "tests/handshake/negotiator_refusals.test.cpp",
    "handshake/export_listing.hpp": "tests/session/negotiate.test.cpp",
    "exports/authorisation.hpp": "tests/grid/authorise.test.cpp",
    "exports/async_resize.hpp": "tests/grid/awaited_open.test.cpp",
    "exports/export_record.hpp": "tests/exports/export_set.test.cpp",
    "exports/export_table.hpp": "tests/exports/export_set.test.cpp",
    "exports/shared_backend.hpp": "tests/exports/export_set.test.cpp",
    "exports/opened_export.hpp": "tests/exports/export_set_clients.test.cpp",
    # tested with a cluster, and a plain type
    "backend/rbd_backend.hpp": "tests/ceph/rbd.test.py",
    "backend/rbd_settings.hpp": "tests/backend/basic_rbd_backend.test.cpp",
    # tested with a whole server and clients
    "session/buffers/request_memory.hpp": "tests/grid/memory.test.cpp",
    "session/windowed/awaited_calls.hpp": "tests/grid/waiting.test.cpp",
    "session/windowed/callback_calls.hpp": "tests/grid/callbacks.test.cpp",
    "session/windowed/offloaded_calls.hpp": "tests/grid/waiting.test.cpp",
    "session/authorise_call.hpp": "tests/grid/authorise.test.cpp",
    "session/program_call.hpp": "tests/grid/lookup.test.cpp",
    "session/awaited_open.hpp": "tests/grid/awaited_open.test.cpp",
    "acceptance/drains.hpp": "tests/grid/draining.test.cpp",
    "exports/drain_order.hpp": "tests/grid/draining.test.cpp",
    "exports/removal_watchers.hpp": "tests/grid/draining.test.cpp",
    "session/draining.hpp": "tests/grid/draining.test.cpp",
    "session/private_context.hpp": "tests/grid/waiting.test.cpp",
    "session/windowed/windowed_loop.hpp": "tests/grid/waiting.test.cpp",
    # the kernel: tested with one in tests/kernel/run.sh, and without one here
    "kernel/error.hpp": "tests/kernel/device.test.cpp",
    "kernel/attached.hpp": "tests/kernel/attach.test.cpp",
    "kernel/linux_system.hpp": "tests/kernel/attach.test.cpp",
    # parts of a server, tested with a whole server
    "acceptance/adoption.hpp": "tests/grid/adopted.test.cpp",
    "acceptance/serving.hpp": "tests/grid/adopted.test.cpp",
    "acceptance/connection.hpp": "tests/server.test.cpp",
    "session/context.hpp": "tests/session/serve.test.cpp",
    "session/requests/observed_request.hpp": "tests/session/requests/replies.test.cpp",
    "acceptance/control.hpp": "tests/grid/hosted.test.cpp",
    "acceptance/operation.hpp": "tests/grid/hosted.test.cpp",
    "acceptance/server_state.hpp": "tests/grid/hosted.test.cpp",
    "basic_server.hpp": "tests/server.test.cpp",
    "server_options.hpp": "tests/grid/embedding.test.cpp",
    "acceptance/accept_loop.hpp": "tests/grid/lifetime.test.cpp",
    "acceptance/accept_loops.hpp": "tests/grid/any_of.test.cpp",
    "acceptance/addresses.hpp": "tests/grid/any_of.test.cpp",
    "acceptance/connection_info.hpp": "tests/grid/embedding.test.cpp",
    "acceptance/end_waiter.hpp": "tests/grid/embedding.test.cpp",
    "acceptance/parts_fit.hpp": "tests/concepts/server_arguments.fail.cpp",
    "threading/awaiting.hpp": "examples/awaited.cpp",
    "threading/on_executor.hpp": "tests/grid/hosted.test.cpp",
    "threading/launch.hpp": "tests/threading/strand_pool.test.cpp",
    "acceptance/listener.hpp": "tests/grid/lifetime.test.cpp",
}

MAX_LINES = 350
MAX_COLUMNS = 100
MAX_MEDIAN = 120
MAX_MACROS = 3

TOP_LEVEL = {
    "CMakeLists.txt", "include", "examples", "tests", "bench", "conan", "README.md", "LICENSE",
    "CMakePresets.json", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", "docs",
}

COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.S)
INCLUDE_LINE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


class CannotJudge(Exception):
    pass


def headers():
    return sorted(INCLUDE.rglob("*.hpp"))


def name_of(header):
    """include/nbd/protocol/request.hpp -> protocol/request.hpp"""
    return str(header.relative_to(INCLUDE / "nbd"))


def room_of(name):
    return name.split("/")[0]


def code_of(header):
    """The text without comments and strings, line numbers kept."""
    blank = lambda match: " " + "\n" * match.group().count("\n")
    return COMMENT_OR_STRING.sub(blank, header.read_text())


def includes():
    """name -> (headers of ours, headers of others), as written"""
    graph = {}
    for header in headers():
        ours, others = [], []
        for quote, target in INCLUDE_LINE.findall(header.read_text()):
            if target.startswith("nbd/"):
                ours.append(target[len("nbd/"):])
            elif quote == '"':
                ours.append(os.path.normpath(os.path.join(os.path.dirname(name_of(header)), target)))
            else:
                others.append(target)
        graph[name_of(header)] = (ours, others)
    return graph


def reach(graph, name, seen=None):
    seen = set() if seen is None else seen
    if name in graph and name not in seen:
        seen.add(name)
        for target in graph[name][0]:
            reach(graph, target, seen)
    return seen


def check_floors():
    """headers include only lower floors, or their own room"""
    graph = includes()
    for name, (ours, others) in graph.items():
        room = room_of(name)
        if room not in ROOMS and room not in FRONT_DOORS:
            yield f"{name}: the room '{room}' is on no floor; give it one in tests/structure/house.py"
            continue
        for target in ours:
            if target not in graph:
                yield f"{name}: includes {target}, which does not exist"
            elif room in FRONT_DOORS or room_of(target) == room:
                pass
            elif room_of(target) not in ROOMS[room] and target not in ROOMS[room]:
                yield f"{name}: must not include {target}; '{room}' may include {', '.join(ROOMS[room]) or 'nothing of ours'}"
        for other in others:
            if re.match(FORBIDDEN_HERE.get(room, "$^"), other):
                yield f"{name}: must not include <{other}>"
        for below in sorted(reach(graph, name)):
            for other in graph[below][1]:
                if re.match(FORBIDDEN.get(room, "$^"), other):
                    yield f"{name}: must not reach <{other}>" + (f" (through {below})" if below != name else "")


def check_cycles():
    """no header includes itself, directly or not"""
    graph = includes()
    for name, (ours, _) in graph.items():
        for target in ours:
            if name in reach(graph, target):
                yield f"{name}: includes {target}, which leads back to it"


def check_sizes():
    """no header and no line is too long, and the median header is short"""
    sizes = {name_of(h): len(h.read_text().splitlines()) for h in headers()}
    for name, size in sizes.items():
        if size > MAX_LINES:
            yield f"{name}: {size} lines; {MAX_LINES} are allowed"
    if sizes and statistics.median(sizes.values()) >= MAX_MEDIAN:
        yield f"the median header has {statistics.median(sizes.values()):g} lines; it must be under {MAX_MEDIAN}"
    # clang-format does not break comments. It cannot break a row of a table, or an expected message.
    for folder in ("include", "examples", "tests", "bench"):
        for file in sorted((ROOT / folder).rglob("*.?pp")):
            for number, line in enumerate(file.read_text().splitlines(), 1):
                if len(line) > MAX_COLUMNS and not re.match(r"\s*///? (\||expect)", line):
                    yield f"{file.relative_to(ROOT)}:{number}: {len(line)} columns; {MAX_COLUMNS} are allowed"


def check_words():
    """no virtual function, few macros, no .ipp, include guards by pragma"""
    macros = []
    for header in headers():
        code = code_of(header)
        for number, line in enumerate(code.splitlines(), 1):
            if re.search(r"\bvirtual\b", line):
                yield f"{name_of(header)}:{number}: virtual"
            if found := re.match(r"\s*#\s*define\s+(\w+)", line):
                macros.append(f"{found.group(1)} ({name_of(header)}:{number})")
        if "#pragma once" not in code:
            yield f"{name_of(header)}: has no #pragma once"
    if len(macros) > MAX_MACROS:
        yield f"{len(macros)} macros are defined, {MAX_MACROS} are allowed: {', '.join(macros)}"
    for other in sorted(p for p in INCLUDE.rglob("*") if p.is_file() and p.suffix != ".hpp"):
        yield f"{other.relative_to(ROOT)}: only .hpp files live in include/"


def check_licence():
    """every source file names its licence in its first line (after a #! line)"""
    files = [ROOT / "CMakeLists.txt", ROOT / ".ci" / "run", ROOT / ".clang-format"]
    for folder in ("include", "tests", "examples", "bench", "conan", ".vcpkg-port"):
        for suffix in ("hpp", "cpp", "py", "sh", "cmake", "txt"):
            files += (ROOT / folder).rglob(f"*.{suffix}")
    for file in sorted(files):
        lines = file.read_text(errors="replace").splitlines()[:2] + ["", ""]
        first = lines[1] if lines[0].startswith("#!") else lines[0]
        if "SPDX-License-Identifier: MIT" not in first:
            yield f"{file.relative_to(ROOT)}: the first line is not 'SPDX-License-Identifier: MIT'"


def check_lists():
    """the lists of headers and of test files are complete"""
    text = (ROOT / "CMakeLists.txt").read_text()
    listed = re.findall(r"^\s*(include/nbd/\S+\.hpp)$", text, re.M)
    present = [str(h.relative_to(ROOT)) for h in headers()]
    for header in sorted(set(present) - set(listed)):
        yield f"{header}: is missing in the list of headers in CMakeLists.txt"
    for header in sorted(set(listed) - set(present)):
        yield f"{header}: is listed in CMakeLists.txt and does not exist"
    if listed != sorted(set(listed)):
        yield "the list of headers in CMakeLists.txt is not sorted, or names one twice"

    text = (ROOT / "tests" / "CMakeLists.txt").read_text()
    listed = re.findall(r"^\s*(\S+\.test\.cpp)$", text, re.M)
    present = [str(t.relative_to(ROOT / "tests")) for t in sorted((ROOT / "tests").rglob("*.test.cpp"))]
    for test in sorted(set(present) - set(listed)):
        yield f"tests/{test}: is missing in tests/CMakeLists.txt"
    for test in sorted(set(listed) - set(present)):
        yield f"tests/{test}: is listed in tests/CMakeLists.txt and does not exist"


def check_mirror():
    """a header include/nbd/X.hpp has a test tests/X.test.cpp"""
    for header in headers():
        name = name_of(header)
        test = ROOT / "tests" / name.replace(".hpp", ".test.cpp")
        if not test.exists() and name not in TESTED_ELSEWHERE:
            yield f"{name}: has no {test.relative_to(ROOT)}"
        if name in TESTED_ELSEWHERE and not (ROOT / TESTED_ELSEWHERE[name]).exists():
            yield f"{name}: {TESTED_ELSEWHERE[name]}, said to test it, does not exist"
    for name in TESTED_ELSEWHERE:
        if not (ROOT / "include/nbd" / name).exists():
            yield f"{name}: named as tested elsewhere, does not exist"


def check_version():
    """the version is the same wherever it is stated"""
    stated = {}
    for file, pattern in (("CMakeLists.txt", r"project\(nbd VERSION ([0-9.]+)"),
                          ("include/nbd/version.hpp", r'version = "([^"]*)"'),
                          (".vcpkg-port/nbd/vcpkg.json", r'"version": "([^"]*)"')):
        found = re.search(pattern, (ROOT / file).read_text())
        stated[file] = found.group(1) if found else "nothing"
    if len(set(stated.values())) != 1:
        yield "; ".join(f"{file} says {version}" for file, version in stated.items())


def check_top_level():
    """the top level contains only the allowed entries"""
    for entry in sorted(os.listdir(ROOT)):
        if not entry.startswith(".") and entry not in TOP_LEVEL | {"build", "CMakeUserPresets.json"}:
            yield f"{entry}: does not belong to the top level"


def check_format():
    """clang-format 16 would change nothing"""
    tool = next((t for t in ("clang-format-16", "clang-format") if shutil.which(t)), None)
    version = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout if tool else ""
    if not re.search(r"version 16\.", version):
        raise CannotJudge("clang-format 16 is not installed")
    files = [f for folder in ("include", "tests", "examples", "bench", "conan")
             for suffix in ("hpp", "cpp") for f in sorted((ROOT / folder).rglob(f"*.{suffix}"))]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / ".clang-format", folder)
        copies = {file: Path(folder) / file.relative_to(ROOT) for file in files}
        for file, copy in copies.items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
        # One process for all files: clang-format takes longer to start than to format.
        subprocess.run([tool, "-i", *map(str, copies.values())], check=True)
        for file, copy in copies.items():
            before, after = file.read_text(), copy.read_text()
            # `{ expression } -> concept;` stays on one line; clang-format does that only since version 18.
            # (A list of enumerators looks similar, but has comments or a last comma.)
            after = re.sub(r"{\n +([^{};]*?)\n +}( noexcept)?( ->|;)",
                           lambda m: m[0] if "//" in m[1] or m[1].endswith(",") else f"{{ {m[1]} }}{m[2] or ''}{m[3]}",
                           after)
            if before == after:
                continue
            if "--fix" in sys.argv:
                file.write_text(after)
                continue
            pairs = zip(before.splitlines(), after.splitlines())
            line = next((n for n, (old, new) in enumerate(pairs, 1) if old != new), 1)
            yield f"{file.relative_to(ROOT)}:{line}: is not formatted (house.py format --fix)"


def main():
    checks = {name[len("check_"):]: function for name, function in globals().items() if name.startswith("check_")}
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    if wanted != "all" and wanted not in checks:
        sys.exit(f"usage: house.py all|{'|'.join(checks)}")
    status = 0
    for name, function in checks.items():
        if wanted not in ("all", name):
            continue
        try:
            faults = list(dict.fromkeys(function()))
        except CannotJudge as reason:
            print(f"SKIPPED: {reason}")
            status = status or 77
            continue
        print(f"{name}: {function.__doc__}: {'no' if faults else 'yes'}")
        print("".join(f"  {fault}\n" for fault in faults), end="")
        status = 1 if faults else status
    sys.exit(status)


if __name__ == "__main__":
    main()
