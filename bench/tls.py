#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""TLS beside nbdkit and qemu-nbd: the same certificates, client and file, over TCP on the loopback interface.

Each round measures every case with each server in turn, and begins with another server. The table shows the median of
the rounds, and the ratio to the better of the two others in the same round. Handshakes: a client connects, starts TLS
and leaves, one connection after another; the processor time of the server for each does not depend on the client.
"""
import argparse
import json
import os
import shutil
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
import servers

ROOT = Path(__file__).resolve().parents[1]
M = 1 << 20
STARTTLS, OPTION_REPLY_ACK = 5, 1
OURS = ("nbd-serve", "nbd-serve pool")
RIVALS = ("nbdkit", "qemu-nbd")
NOBODY = 65534


class OverTcp(servers.Running):
    """A server with TLS on a port of the loopback interface."""

    def __init__(self, kind, folder, port):
        super().__init__(kind, folder)
        self.port = port

    def listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def kinds(build, pki, file, port):
    serve = str(build / "examples" / "nbd-serve")
    ours = [serve, f"file:{file}", "--lock", "off", "--tcp", f"localhost:{port}", "--tls", "require",
            "--tls-certificates", str(pki / "server")]
    return [
        servers.Kind("nbdkit", lambda _: ["nbdkit", "--foreground", "--port", str(port), "--tls=require",
                                          f"--tls-certificates={pki}/server", "file", str(file)]),
        servers.Kind("qemu-nbd", lambda _: ["qemu-nbd", "--persistent", "--shared=0", f"--port={port}", "--format=raw",
                                            "--object", f"tls-creds-x509,id=tls,endpoint=server,dir={pki}/server,"
                                            "verify-peer=no", "--tls-creds=tls", str(file)]),
        servers.Kind(OURS[0], lambda _: ours),
        servers.Kind(OURS[1], lambda _: [*ours, "--policy", "pool", "--threads", "2"]),
    ]


def receive(connection, length):
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise ConnectionError("the server has closed the connection")
        data += piece
    return data


def shake_hands(port, context):
    """One connection: STARTTLS, and the TLS handshake."""
    with socket.create_connection(("127.0.0.1", port), servers.PATIENCE) as connection:
        receive(connection, 18)
        connection.sendall(struct.pack(">IQII", 3, 0x49484156454F5054, STARTTLS, 0))
        kind = struct.unpack(">QIII", receive(connection, 20))[2]
        if kind != OPTION_REPLY_ACK:
            raise ConnectionError(f"the server refuses STARTTLS: {kind:x}")
        with context.wrap_socket(connection, server_hostname="localhost") as secured:
            return secured.cipher()[0], secured.version()


def handshakes(server, pki, seconds):
    context = ssl.create_default_context(cafile=pki / "client" / "ca-cert.pem")
    shake_hands(server.port, context)
    before, started, count = servers.processor_seconds(server.pid), time.monotonic(), 0
    while time.monotonic() - started < seconds:
        shake_hands(server.port, context)
        count += 1
    elapsed = time.monotonic() - started
    return {"rate": count / elapsed, "cpu": (servers.processor_seconds(server.pid) - before) / count * 1e6}


def copy(server, pki, size):
    """MB/s of nbdcopy."""
    started = time.monotonic()
    subprocess.run(["nbdcopy", "--no-extents", f"nbds://localhost:{server.port}/?tls-certificates={pki}/client", "null:"],
                   check=True, stdout=subprocess.DEVNULL)
    return {"rate": size / (time.monotonic() - started) / 1e6}


def fio(server, pki, depth, seconds):
    """Requests per second of 4 KiB random READs. fio's client finds certificates in the folder of its user only."""
    before, warm_up = servers.processor_seconds(server.pid), seconds / 2
    done = subprocess.run(
        ["fio", "--name=tls", "--ioengine=nbd", f"--uri=nbds://localhost:{server.port}/", "--rw=randread", "--bs=4k",
         f"--iodepth={depth}", "--time_based", f"--runtime={seconds * 1000:.0f}ms", f"--ramp_time={warm_up * 1000:.0f}ms",
         "--output-format=json"],
        check=True, stdout=subprocess.PIPE, text=True, cwd=pki, env={**os.environ, "HOME": str(pki / "home")},
        **({"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {})).stdout
    read = json.loads(done[done.index("{"):])["jobs"][0]["read"]
    spent = servers.processor_seconds(server.pid) - before
    return {"rate": read["iops"], "cpu": spent / (read["iops"] * (seconds + warm_up)) * 1e6}


def home_of_fio(pki):
    """A home folder with certificates, which the user of fio may read."""
    folder = pki / "home" / ".pki" / "libnbd"
    shutil.copytree(pki / "client", folder)
    for path in (pki.parent, pki, pki / "home", pki / "home" / ".pki", folder, *folder.iterdir()):
        if os.getuid() == 0:
            path.chmod(0o755)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "release", help="directory of the programs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="size of the file (1024)")
    arguments = parser.parse_args()
    for tool in ("openssl", "nbdcopy", "fio"):
        if not servers.find_tool(tool):
            sys.exit(f"tls.py: {tool} is not installed")

    size, seconds = arguments.size * M, arguments.seconds
    found = {}  # (case, server) -> list of results, one for each round
    with tempfile.TemporaryDirectory() as where:
        pki = Path(where) / "pki"
        subprocess.run(["sh", ROOT / "examples" / "make-certificates.sh", pki], check=True, stdout=subprocess.DEVNULL)
        home_of_fio(pki)
        file = Path(where) / "disk"
        with open(file, "wb") as disk:
            for _ in range(arguments.size):
                disk.write(os.urandom(M))
        cases = {
            f"nbdcopy of {arguments.size} MiB, MB/s": lambda s: copy(s, pki, size),
            **{f"fio, 4 KiB random READ, depth {depth}, requests/s": lambda s, d=depth: fio(s, pki, d, seconds)
               for depth in (1, 16, 64)},
            "handshakes/s": lambda s: handshakes(s, pki, seconds),
        }
        missing = {}
        for number in range(arguments.rounds):
            port = free_port()
            all_kinds = kinds(arguments.build, pki, file, port)
            for kind in all_kinds[number % len(all_kinds):] + all_kinds[:number % len(all_kinds)]:
                try:
                    with OverTcp(kind, where, port) as server:
                        for case, measure in cases.items():
                            found.setdefault((case, kind.name), []).append(measure(server))
                except servers.Missing as why:
                    missing[kind.name] = str(why)
    for name, why in missing.items():
        print(f"{name} is left out: {why}")
    report(cases, found)


def report(cases, found):
    names = [name for name in (*RIVALS, *OURS) if any(server == name for _, server in found)]
    rows = []
    for case in cases:
        row = [case]
        for name in names:
            results = found[case, name]
            cpu = f" ({statistics.median(r['cpu'] for r in results):.1f} µs)" if "cpu" in results[0] else ""
            row.append(f"{statistics.median(r['rate'] for r in results):,.0f}{cpu}")
        rivals = [found[case, name] for name in RIVALS if (case, name) in found]
        for name in OURS:
            ratios = [own["rate"] / max(other["rate"] for other in others)
                      for own, *others in zip(found.get((case, name), []), *rivals)] if rivals else []
            row.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "")
        rows.append(row)
    heads = ["over TLS", *names, *(f"{name}, ratio" for name in OURS)]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
