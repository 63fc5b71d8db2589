#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The cost of idle connections: memory and processor time of nbd-serve with many idle clients, and after one client
that was busy until a moment ago, for which the server may still poll."""
import argparse
import contextlib
import re
import resource
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
import servers

ROOT = Path(__file__).resolve().parents[1]
K, M = 1 << 10, 1 << 20
READ, WRITE = 0, 1
MOST_KIB = 16       # for a connection
MOST_PERCENT = 0.1  # of a processor


def receive(connection, length):
    data = bytearray()
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise ConnectionError("the server has closed the connection")
        data += piece
    return bytes(data)


def connect(path):
    """A connection in transmission, to the default export."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(servers.PATIENCE)
    connection.connect(path)
    receive(connection, 18)
    connection.sendall(struct.pack(">IQIIIH", 3, 0x49484156454F5054, 7, 6, 0, 0))
    kind = 3
    while kind == 3:
        _, _, kind, length = struct.unpack(">QIII", receive(connection, 20))
        receive(connection, length)
    if kind != 1:
        raise ConnectionError(f"the server refuses GO: {kind:x}")
    return connection


def ask(connection, command, offset, length):
    payload = bytes(length) if command == WRITE else b""
    connection.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, 1, offset, length) + payload)
    error = struct.unpack(">IIQ", receive(connection, 16))[1]
    if error:
        raise ConnectionError(f"the server answers with error value {error}")
    if command == READ:
        receive(connection, length)


def kib(path, *names):
    text = Path(path).read_text()
    return [int(re.search(rf"^{name}:\s+(\d+) kB", text, re.M)[1]) for name in names]


def memory(pid):
    """(proportional and private memory of the process; of the whole kernel), in KiB."""
    return kib(f"/proc/{pid}/smaps_rollup", "Pss", "Rss") + [sum(kib("/proc/meminfo", "SUnreclaim", "KernelStack"))]


def many(a, policy, folder, verdicts):
    serve = str(a.build / "examples" / "nbd-serve")
    kind = servers.Kind(policy, lambda path: [serve, f"mem:{64 * M}", "--unix", path, "--max-connections", "0",
                                              "--policy", policy, *(["--threads", "2"] if policy == "pool" else [])])
    with servers.Running(kind, folder) as server, contextlib.ExitStack() as open_connections:
        new = lambda: open_connections.enter_context(connect(server.socket))
        first = new()
        ask(first, WRITE, 0, 4 * K)  # the first client costs more than the next ones
        ask(first, READ, 0, 4 * K)
        before = memory(server.pid)

        def tell(what):
            time.sleep(a.settle)
            pss, rss, kernel = ((now - then) / a.connections for now, then in zip(memory(server.pid), before))
            print(f"  {what:<48} {pss:8.2f} {rss:8.2f} {kernel:8.2f}")
            return max(pss, rss)

        connections = [new() for _ in range(a.connections)]
        worst = tell("after the handshake")
        for connection in connections:
            ask(connection, WRITE, 0, 4 * K)
            ask(connection, READ, 0, 4 * K)
        worst = max(worst, tell("after 4 KiB were written and read on each"))
        for connection in connections[:a.connections // 10]:
            ask(connection, READ, 0, 4 * M)
        worst = max(worst, tell("after 4 MiB were read on every tenth"))

        begin = servers.processor_seconds(server.pid)
        time.sleep(a.seconds)
        percent = (servers.processor_seconds(server.pid) - begin) / a.seconds * 100
        print(f"  processor time in {a.seconds:g} idle seconds: {percent:.4f} % of one processor")
        if policy == "pool":
            verdicts.append((f"at most {MOST_KIB} KiB for an idle connection", worst <= MOST_KIB))
        verdicts.append((f"{policy}: no processor time for {a.connections} idle connections", percent <= MOST_PERCENT))


def after_traffic(a, policy, folder, verdicts):
    """One client sends requests as fast as it can, then stops."""
    serve = str(a.build / "examples" / "nbd-serve")
    kind = servers.Kind(policy, lambda path: [serve, f"mem:{64 * M}", "--unix", path, "--policy", policy])
    with servers.Running(kind, folder) as server, connect(server.socket) as connection:
        ask(connection, WRITE, 0, 4 * K)
        clock = time.monotonic
        begin, requests = clock(), 0
        while clock() - begin < min(a.seconds, 1):
            ask(connection, READ, 0, 4 * K)
            requests += 1
        rest = clock()
        used = [servers.processor_seconds(server.pid)]
        for until in (0.01, 0.1, a.seconds):
            time.sleep(max(0, rest + until - clock()))
            used.append(servers.processor_seconds(server.pid))
        soon, later, long = ((now - used[0]) * 1e6 for now in used[1:])
        print(f"  {policy:<12} {requests:>8} {soon:14.0f} {later:14.0f} {long:14.0f}")
        verdicts.append((f"{policy}: no processor time for a client that has stopped",
                         long / 1e6 / a.seconds * 100 <= MOST_PERCENT))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--build", type=Path, default=ROOT / "build" / "release", metavar="DIR",
                   help="where the programs were built; default: build/release")
    p.add_argument("--connections", type=int, default=10_000, metavar="N", help="default: 10000")
    p.add_argument("--policy", choices=["pool", "per-client", "both"], default="pool", help="default: pool")
    p.add_argument("--seconds", type=float, default=5, metavar="S", help="seconds without requests; default: 5")
    p.add_argument("--settle", type=float, default=1, metavar="S", help="seconds before memory is measured; default: 1")
    p.add_argument("--strict", action="store_true", help="exit with 3 unless every bar is met")
    a = p.parse_args()
    if a.connections < 10 or a.seconds <= 0 or a.settle < 0:
        p.error("--connections must be at least 10, the times positive")

    most = servers.allow_many_descriptors()
    if most != resource.RLIM_INFINITY and most < a.connections + 100:
        print(f"SKIPPED: {a.connections} connections need as many descriptors, and this system allows {most}")
        return 77

    verdicts = []
    with tempfile.TemporaryDirectory(prefix="nbd-idle-") as folder:
        for policy in ["pool", "per-client"] if a.policy == "both" else [a.policy]:
            print(f"{a.connections} connections to nbd-serve --policy {policy}, KiB for each of them:")
            print(f"  {'':<48} {'PSS':>8} {'RSS':>8} {'kernel':>8}")
            many(a, policy, folder, verdicts)
        print("Processor time, µs, after a client that kept the server busy has stopped:")
        print(f"  {'policy':<12} {'requests':>8} {'within 10 ms':>14} {'100 ms':>14} {f'{a.seconds:g} s':>14}")
        for policy in ("per-client", "pool"):
            after_traffic(a, policy, folder, verdicts)
    for what, met in verdicts:
        print(f"{'met' if met else 'NOT met'}: {what}")
    return 0 if all(met for _, met in verdicts) or not a.strict else 3


if __name__ == "__main__":
    sys.exit(main())
