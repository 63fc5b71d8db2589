#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a client notices of others: the latency of one that reads 4 KiB at a time, alone, beside many idle connections, and
beside a greedy client. For comparison, the same greedy client uses another server: that shows what the load of the machine costs."""
import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
import idle
import servers

ROOT = Path(__file__).resolve().parents[1]
M = 1 << 20
POLICIES = {"per-client": ["--policy", "per-client"], "pool": ["--policy", "pool", "--threads", "2"],
            "pool of one": ["--policy", "pool", "--threads", "1"]}
GREEDY = {"4 KiB at depth 1,024": ["--block", "4K", "--depth", "1024", "--pattern", "random"],
          "32 MiB at depth 4": ["--block", "32M", "--depth", "4", "--pattern", "seq"]}
DISK = 128 * M


class Server(servers.Running):
    """nbd-serve with a memory disk, whose folder is its own."""

    def __init__(self, a, policy, folder):
        serve = str(a.build / "examples" / "nbd-serve")
        Path(folder).mkdir(exist_ok=True)
        super().__init__(servers.Kind(policy, lambda path: [serve, f"mem:{DISK}", "--unix", path, "--max-connections", "0",
                                                            *POLICIES[policy]]), folder)

    def fill(self):
        with idle.connect(self.socket) as connection:
            for at in range(0, DISK, M):
                idle.ask(connection, idle.WRITE, at, M)


def load(a, server, *arguments):
    return [str(a.build / "bench" / "nbd-load"), server.uri, "--json", *arguments]


def latency(a, server):
    """(median, 99th percentile), in microseconds, of one READ of 4 KiB after the other."""
    done = subprocess.run(load(a, server, "--block", "4K", "--pattern", "random", "--seconds", str(a.seconds), "--warm-up", "0.2"),
                          check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)["latency_us"]
    return found["p50"], found["p99"]


@contextlib.contextmanager
def greedy(a, server, arguments):
    command = load(a, server, *arguments, "--seconds", str(a.seconds + 60), "--warm-up", "0")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               preexec_fn=servers.end_with_parent)
    try:
        time.sleep(0.5)
        if process.poll() is not None:
            raise RuntimeError("the greedy client has ended")
        yield
    finally:
        process.kill()
        process.wait()


def measure(a, policy, folder, found):
    """One round of all cases; `found`: case -> list of latencies."""
    add = lambda case, server: found.setdefault((policy, case), []).append(latency(a, server))
    with Server(a, policy, f"{folder}/one") as server, Server(a, policy, f"{folder}/other") as other:
        server.fill()
        other.fill()
        add("alone", server)
        for name, arguments in GREEDY.items():
            with greedy(a, other, arguments):
                add(f"{name}, at another server", server)
            with greedy(a, server, arguments):
                add(name, server)
        with contextlib.ExitStack() as open_connections:
            for _ in range(a.connections):
                open_connections.enter_context(idle.connect(server.socket))
            add(f"{a.connections} idle connections", server)
        add("alone again", server)


def report(found):
    for policy in dict.fromkeys(policy for policy, _ in found):
        of = {case: results for (p, case), results in found.items() if p == policy}
        print(f"\n--policy {policy}\n\n| beside | p50, µs | p99, µs | p99 / alone |\n|---|---|---|---|")
        for case, results in of.items():
            ratios = [own[1] / alone[1] for own, alone in zip(results, of["alone"])]
            print(f"| {case} | {statistics.median(r[0] for r in results):.1f} | {statistics.median(r[1] for r in results):.1f} | "
                  f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--build", type=Path, default=ROOT / "build" / "release", metavar="DIR",
                   help="where the programs were built; default: build/release")
    p.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    p.add_argument("--seconds", type=float, default=2, metavar="S", help="of each measurement; default: 2")
    p.add_argument("--connections", type=int, default=10_000, metavar="N", help="idle connections; default: 10000")
    p.add_argument("--policies", choices=POLICIES, nargs="+", default=list(POLICIES), metavar="POLICY",
                   help="default: " + ", ".join(POLICIES))
    a = p.parse_args()

    most = servers.allow_many_descriptors()
    if most != resource.RLIM_INFINITY and most < a.connections + 100:
        print(f"SKIPPED: {a.connections} connections need as many descriptors, and this system allows {most}")
        return 77
    found = {}
    with tempfile.TemporaryDirectory(prefix="nbd-near-") as folder:
        for _ in range(a.rounds):
            for policy in a.policies:
                measure(a, policy, folder, found)
    report(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
