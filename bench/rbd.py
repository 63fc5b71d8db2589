#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""An image of Ceph: nbd-serve beside qemu-nbd, with the same librbd and the same load, over a UNIX socket.

Starts a cluster on this machine (tests/ceph/cluster.sh; its data are in memory), or uses that of --ceph-conf. The
servers take turns with one image, which is written before. A round measures every case with each server, and begins with
another server than the round before. The table shows the median of the rounds, and the ratio to qemu-nbd in the same round.
On a small machine the cluster's processor time is the limit, so the processor time of the server itself says more than the
rate.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import servers

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "tests" / "ceph" / "cluster.sh"
IMAGE = "bench"
OURS = ("nbd-serve", "nbd-serve pool")
CASES = {
    "4 KiB random READ, depth 16": ("--block", "4K", "--depth", "16"),
    "4 KiB random READ, depth 64": ("--block", "4K", "--depth", "64"),
    "4 KiB random WRITE, depth 16": ("--block", "4K", "--depth", "16", "--mix", "0"),
    "4 KiB random WRITE, depth 64": ("--block", "4K", "--depth", "64", "--mix", "0"),
    "1 MiB READ, depth 8": ("--block", "1M", "--depth", "8", "--pattern", "seq"),
}


def kinds(build, conf, pool):
    def ours(*more):
        return lambda path: [str(build / "examples" / "nbd-serve"), f"rbd:{pool}/{IMAGE}", "--ceph-conf", conf, "--unix", path,
                             *more]

    return [
        servers.Kind("qemu-nbd", lambda path: [
            "qemu-nbd", "--persistent", "--shared=0", f"--socket={path}", "--image-opts",
            f"driver=rbd,pool={pool},image={IMAGE},conf={conf}"]),
        servers.Kind(OURS[0], ours()),
        servers.Kind(OURS[1], ours("--policy", "pool", "--threads", "2")),
    ]


def rbd(conf, *words):
    subprocess.run(["rbd", "--conf", conf, "--no-progress", *map(str, words)], check=True)


def load(build, server, shape, seconds):
    done = subprocess.run([build / "bench" / "nbd-load", server.uri, *shape, "--seconds", str(seconds), "--warm-up",
                           str(seconds / 4), "--server-pid", str(server.pid), "--json"],
                          stdout=subprocess.PIPE, check=True, text=True)
    figures = json.loads(done.stdout)
    return {"rate": figures["requests_per_second"], "cpu": figures["server_cpu_us_per_request"]}


def measure(arguments, conf, where):
    all_kinds = kinds(arguments.build, conf, arguments.pool)
    found, missing = {}, {}
    with open(Path(where) / "content", "wb") as file:
        for _ in range(arguments.size):
            file.write(os.urandom(1 << 20))
    rbd(conf, "import", Path(where) / "content", f"{arguments.pool}/{IMAGE}")
    try:
        for number in range(arguments.rounds):
            begin = number % len(all_kinds)
            for kind in all_kinds[begin:] + all_kinds[:begin]:
                if kind.name in missing:
                    continue
                try:
                    with servers.Running(kind, where) as server:
                        for case, shape in CASES.items():
                            figures = load(arguments.build, server, shape, arguments.seconds)
                            found.setdefault((case, kind.name), []).append(figures)
                except servers.Missing as why:
                    missing[kind.name] = str(why)
    finally:
        rbd(conf, "rm", f"{arguments.pool}/{IMAGE}")
    for name, why in missing.items():
        print(f"{name} is left out: {why}")
    return found


def report(found):
    names = [name for name in ("qemu-nbd", *OURS) if any(server == name for _, server in found)]
    heads = ["", *names, *(f"{name} / qemu-nbd" for name in OURS)]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for case in CASES:
        row = [case]
        for name in names:
            results = found[case, name]
            row.append(f"{statistics.median(r['rate'] for r in results):,.0f}/s "
                       f"({statistics.median(r['cpu'] for r in results):.0f} µs)")
        for name in OURS:
            ratios = [own["rate"] / other["rate"]
                      for own, other in zip(found.get((case, name), []), found.get((case, "qemu-nbd"), []))]
            row.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "")
        print("| " + " | ".join(row) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "release", help="directory of the programs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--size", type=int, default=256, metavar="MIB", help="size of the image (256)")
    parser.add_argument("--ceph-conf", help="use this cluster; its image bench is made and removed")
    parser.add_argument("--pool", default="rbd", help="of the cluster (rbd)")
    arguments = parser.parse_args()
    for tool in ("rbd", "qemu-nbd"):
        if not servers.find_tool(tool):
            sys.exit(f"rbd.py: {tool} is not installed")
    with tempfile.TemporaryDirectory() as where:
        if arguments.ceph_conf:
            found = measure(arguments, arguments.ceph_conf, where)
        else:
            folder = Path(where) / "cluster"
            subprocess.run(["sh", CLUSTER, "start", folder, "--with", str(os.getpid())], check=True,
                           stdout=subprocess.DEVNULL)
            try:
                found = measure(arguments, str(folder / "ceph.conf"), where)
            finally:
                subprocess.run(["sh", CLUSTER, "stop", folder], check=True)
    report(found)


if __name__ == "__main__":
    main()
