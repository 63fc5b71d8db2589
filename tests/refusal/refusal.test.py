# SPDX-License-Identifier: MIT
"""nbd-serve on systems that refuse one system call: it serves by other calls, or does not start and says why.

A cell is a system call, an error (EPERM, ENOSYS, EOPNOTSUPP or EINVAL), a kind of disk and a policy. The outcomes other
than "serves" are in outcomes.txt. Usage: refusal.test.py [--all] [CALL...]; without --all, each call is refused once, calls on
files once for each kind of disk, and kinds, errors and policies take turns.
"""
import collections
import concurrent.futures
import errno
import itertools
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "conformance"), str(HERE.parent / "clients")]

import wire  # noqa: E402
from support import SMALL, end_with_parent, require_program, skip_file, find_tool  # noqa: E402

PROGRAM = require_program("NBD_SERVE")
REFUSE_CALL = require_program("NBD_REFUSE_CALL")
ERRORS = ["EPERM", "ENOSYS", "EOPNOTSUPP", "EINVAL"]
POLICIES = ["per-client", "pool"]
PATIENCE = 60 if SMALL else 20
KIB, MIB = 1 << 10, 1 << 20
SIZE = 8 * MIB
# Calls that a program makes before its first line, or that return nothing that could be refused.
CALLS_OF_LIBC = {"arch_prctl", "execve", "exit_group", "restart_syscall", "rseq", "rt_sigreturn", "set_robust_list",
                 "set_tid_address"}
OF_THE_DISK = {"fadvise64", "fallocate", "fdatasync", "fsync", "io_uring_enter", "io_uring_setup", "lseek", "memfd_create",
               "preadv2", "pwrite64", "pwritev2", "sendfile", "splice", "statx", "sync_file_range"}


def read_outcomes():
    """Returns {call: [(kinds, errors, outcome)]}."""
    rows = {}
    for line in (HERE / "outcomes.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        call, kinds, errors, told = re.split(r"  +", line, maxsplit=3)
        rows.setdefault(call, []).append((kinds.split(","), errors.split(","), told))
    return rows


def expected(rows, call, error, kind):
    for kinds, errors, told in rows[call]:
        if (kind in kinds or kinds == ["any"]) and (error in errors or errors == ["any"]):
            return told
    raise AssertionError(f"outcomes.txt has no row for {call} {error} {kind}")


class Unserved(Exception):
    """What a client got instead of service."""


def talk(path):
    """Uses every command, and compares the data."""
    client = wire.Client(("unix", path), timeout=PATIENCE)
    model = bytearray(SIZE)
    try:
        client.start()
        client.structured()
        client.set_meta([b"base:allocation"])
        client.go()

        def do(command, offset, length, flags=0, data=b""):
            result = client.do(command, offset, length, flags=flags, payload=data)
            if result.error:
                raise Unserved(f"{wire.COMMAND_NAMES[command]} fails with {wire.ERROR_NAMES[result.error]}")
            return result

        def write(offset, data, flags=0):
            do(wire.WRITE, offset, len(data), flags, data)
            model[offset:offset + len(data)] = data

        def zero(command, offset, length, flags=0):
            do(command, offset, length, flags)
            model[offset:offset + length] = bytes(length)

        write(0, b"a" * MIB)
        write(MIB, b"b" * 4096, wire.FUA)
        do(wire.FLUSH, 0, 0)
        write(3 * MIB, os.urandom(128 * KIB), wire.FUA)
        do(wire.TRIM, 4096, 64 * KIB)
        write(4096, b"c" * 64 * KIB)
        zero(wire.ZEROES, 128 * KIB, 64 * KIB)
        zero(wire.ZEROES, 256 * KIB, 64 * KIB, wire.NO_HOLE)
        zero(wire.ZEROES, 5, 7)
        do(wire.CACHE, 0, MIB)
        if client.contexts:
            do(wire.STATUS, 0, MIB)
        do(wire.FLUSH, 0, 0)
        if path.endswith("null"):
            model = bytearray(SIZE)
        for offset, length in (0, 512), (MIB, 4096), (0, MIB), (2 * MIB, 2 * MIB), (0, 4 * MIB):
            result = do(wire.READ, offset, length)
            if bytes(result.data) != model[offset:offset + length]:
                raise Unserved("READ returns other data")
        client.request(wire.DISC, expect=False)
    except wire.Failure as why:
        raise Unserved(f"a client is not served: {why}") from None
    finally:
        client.close()


def start(call, error, kind, policy, where):
    disk = {"mem": f"mem:{SIZE}", "null": f"null:{SIZE}"}.get(kind, f"{kind}:{where}/disk")
    options = ["--create", str(SIZE)] if kind in ("file", "uring") else []
    environment = dict(os.environ)
    if call:
        environment |= {"LD_PRELOAD": REFUSE_CALL, "NBD_REFUSE": f"{call}:{getattr(errno, error)}",
                        "ASAN_OPTIONS": environment.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}
    return subprocess.Popen([PROGRAM, disk, *options, "--unix", f"{where}/{kind}", "--policy", policy],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=environment, preexec_fn=end_with_parent)


def outcome(call, error, kind, policy):
    """Runs a cell. Returns "serves", "does not start: …", "skip" or what went wrong."""
    with tempfile.TemporaryDirectory(prefix="nbd.") as where:
        server = start(call, error, kind, policy, where)
        told = []
        try:
            if not select.select([server.stdout], [], [], PATIENCE)[0]:
                told.append("neither starts nor ends")
            elif server.stdout.readline():
                try:
                    talk(f"{where}/{kind}")
                    talk(f"{where}/{kind}")  # a second client, after the first
                except (Unserved, OSError) as why:
                    told.append(str(why))
                server.send_signal(signal.SIGTERM)
                try:
                    server.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    told.append("does not end")
                else:
                    if server.returncode != 0:
                        told.append(f"ends with {server.returncode}")
                    if os.path.exists(f"{where}/{kind}") and call != "unlink":
                        told.append("leaves its socket")
            else:
                said = server.stderr.read().decode(errors="replace")
                if server.wait(PATIENCE) == 77:
                    return "skip"
                # glibc ends a program whose futex is refused by SIGABRT.
                if server.returncode in (1, 2, -signal.SIGABRT) and said.count("\n") == 1:
                    return "does not start: " + said.strip()
                told.append(f"ends with {server.returncode} before it starts: {said[:200]!r}")
        finally:
            server.kill()
            rest = server.communicate()[1].decode(errors="replace").strip()
    return "; ".join(told) + (f" ({rest[:300]})" if rest and told else "") or "serves"


def calls_seen(kind, policy):
    """The system calls of a run, or nothing where strace is missing or may not trace."""
    strace = find_tool("strace")
    if not strace or SMALL:
        return set()
    with tempfile.TemporaryDirectory(prefix="nbd.") as where:
        done = subprocess.run([strace, "-c", "true"], capture_output=True)
        if done.returncode != 0:
            return set()
        server = start(None, None, kind, policy, where)
        try:
            if not server.stdout.readline():
                return set()
            tracer = subprocess.Popen([strace, "-f", "-c", "-S", "name", "-o", f"{where}/calls", "-p", str(server.pid)],
                                      stderr=subprocess.PIPE)
            tracer.stderr.readline()  # "attached"
            talk(f"{where}/{kind}")
            server.send_signal(signal.SIGTERM)
            tracer.wait(PATIENCE)
            lines = pathlib.Path(f"{where}/calls").read_text().splitlines()[2:]
            return {line.split()[-1] for line in lines if line and line.split()[-1] not in ("total",) and "--" not in line}
        finally:
            server.kill()
            server.communicate()


def chosen(calls, kinds, every):
    """Yields the cells."""
    if every:
        yield from itertools.product(calls, ERRORS, kinds, POLICIES)
        return
    errors, policies = itertools.cycle(ERRORS), itertools.cycle(POLICIES)
    for number, call in enumerate(calls):
        for kind in kinds if call in OF_THE_DISK else [kinds[number % len(kinds)]]:
            yield call, next(errors), kind, next(policies)
        next(errors)  # otherwise each policy would meet half of the errors


def main(arguments):
    rows = read_outcomes()
    every = "--all" in arguments
    named = [name for name in arguments if name != "--all"]
    # Sanitizers make many calls of their own.
    calls = named or [call for call in rows if not SMALL or call in OF_THE_DISK]
    if outcome("sysinfo", "EPERM", "null", "pool") == "skip":
        skip_file("this system has no seccomp filters, or nbd-serve cannot preload a library")
    kinds = []
    for kind in "mem", "null", "file", "uring":
        told = outcome(None, None, kind, "per-client")
        if told == "serves":
            kinds.append(kind)
        else:
            assert kind == "uring" and told.startswith("does not start"), f"{kind}, with no call refused: {told}"
    if every:
        seen = set().union(*(calls_seen(kind, policy) for kind in kinds for policy in POLICIES))
        assert seen <= set(rows) | CALLS_OF_LIBC, f"missing in outcomes.txt: {sorted(seen - set(rows) - CALLS_OF_LIBC)}"
    cells = list(chosen(calls, kinds, every))
    counts = collections.Counter()
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for cell, told in zip(cells, pool.map(lambda cell: outcome(*cell), cells)):
            should = expected(rows, *cell[:3])
            if told == "skip" or re.fullmatch(should, told):
                counts[told.partition(":")[0]] += 1
            else:
                counts["FAILED"] += 1
                print(f"FAILED: {' '.join(cell)}: expected {should!r}, but it {told}", flush=True)
    print(f"{len(cells)} cells in {time.monotonic() - begin:.0f} s: "
          + ", ".join(f"{count} {told}" for told, count in sorted(counts.items())))
    return 1 if counts["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
