#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Crowds of idle, slow and silent clients against nbd-serve. NBD_SOAK=full has the numbers of the soak; otherwise they are
small, and the cases take seconds."""
import contextlib
import faulthandler
import os
import re
import resource
import selectors
import sys
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "clients"))
from support import (G, K, M, PATIENCE, POLICIES, Skip, directory, for_each, greet, greeted, read_request, require_program, run_cases,
                     serve, started, wait_until)

FULL = os.environ.get("NBD_SOAK") == "full"
BASE = 80 * M  # of a server besides its budgets: the program itself, and the free blocks that settings.hpp tells of
HANDSHAKE_DEADLINE = 10


def crowd(full, small):
    """The number of clients; raises the limit of descriptors for both sides."""
    faulthandler.dump_traceback_later(500, exit=True)  # a soak takes longer than other cases
    count = full if FULL else small
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < count + 100:
        raise Skip(f"{count} connections need as many descriptors, and this system allows {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return count


def memory(server, which):
    with open(f"/proc/{server.pid}/status") as status:
        return int(re.search(rf"^{which}:\s+(\d+) kB", status.read(), re.M)[1]) * K


def memory_available():
    with open("/proc/meminfo") as meminfo:
        return int(re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read(), re.M)[1]) * K


def receive(connection, length):
    left = length
    while left:
        piece = connection.recv(min(left, M))
        assert piece, "the server has closed the connection"
        left -= len(piece)


def read(connection, length=4 * K):
    connection.sendall(read_request(length))
    receive(connection, 16 + length)


def slowest_read(server, rounds=200):
    """In seconds, of a client that was not there before."""
    worst = 0
    with greeted(server) as client:
        for _ in range(rounds):
            begin = time.monotonic()
            read(client)
            worst = max(worst, time.monotonic() - begin)
    return worst


@for_each(POLICIES)
def test_idle_connections_are_held(policy):
    """All stay, are served when they ask after a time, and cost little; bench/neighbours.py measures what others notice."""
    count = crowd(10_000, 500)
    with serve("mem:64M", "--max-connections", "0", policy=policy) as server, contextlib.ExitStack() as held:
        before = memory(server, "VmRSS")
        clients = [held.enter_context(greeted(server)) for _ in range(count)]
        alone = slowest_read(server)
        time.sleep(15 if FULL else 1)
        for client in clients:
            read(client, 512)
        each = (memory(server, "VmRSS") - before) / count
        print(f"  {count} idle connections, {policy}: {each / K:.1f} KiB each, the slowest of 200 READs of another one "
              f"{alone * 1e3:.2f} ms")
        assert each < 256 * K
        assert alone < 1


class Reader(threading.Thread):
    """A good client, which reads a little twice a second; `worst` is its slowest READ, in seconds."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.connection, self.over, self.worst, self.count = greeted(server), threading.Event(), 0, 0
        self.start()

    def run(self):
        while not self.over.wait(0.5):
            begin = time.monotonic()
            read(self.connection)
            self.worst = max(self.worst, time.monotonic() - begin)
            self.count += 1

    def end(self):
        self.over.set()
        self.join(PATIENCE)
        self.connection.close()


@for_each(POLICIES)
def test_slow_readers_stay_within_the_budget(policy):
    """Each asks for 512 MiB, in READs of 32 MiB, and takes 64 KiB a second, twice settings.least_transfer_rate. The disk lends no
    memory, so that each reply needs some of settings.server_memory: 2 GiB, so that no good client waits for its 512 KiB of
    working memory, or 128 MiB in the short form."""
    count, seconds, budget = crowd(1_000, 50), 60 if FULL else 5, 2 * G if FULL else 128 * M
    if FULL and memory_available() < 4 * G:
        raise Skip("4 GiB of memory are needed")
    requests = read_request(32 * M) * 16
    with directory() as where, contextlib.ExitStack() as held, selectors.DefaultSelector() as readable, \
            started([require_program("NBD_SOAK_SERVER"), policy, f"{where}/s", str(budget)]) as server:
        good = Reader(server)
        before = memory(server, "VmRSS")
        for _ in range(count):
            client = held.enter_context(greeted(server))
            client.sendall(requests)
            readable.register(client, selectors.EVENT_READ)
        taken, cut, next_look = 0, 0, time.monotonic()
        end = next_look + seconds
        while time.monotonic() < end:
            for key, _ in readable.select(0):
                try:
                    piece = key.fileobj.recv(16 * K)
                except ConnectionResetError:
                    piece = b""
                if not piece:  # it was behind the least rate, which a busy machine can make it
                    cut += 1
                    readable.unregister(key.fileobj)
                taken += len(piece)
            next_look += 0.25
            time.sleep(max(0, next_look - time.monotonic()))
        good.end()
        peak = memory(server, "VmHWM")
        threads = count * 64 * K if policy == "per-client" else 0  # what a thread's stack takes
        most = budget + BASE + count * (24 + 64 * 6) * K + threads
        print(f"  {count} slow readers, {policy}: at most {peak / M:.0f} MiB of {most / M:.0f} MiB, {before / M:.0f} MiB before; "
              f"{taken / M:.0f} MiB were read, {cut} were cut off, and the slowest of {good.count} READs of another client took "
              f"{good.worst * 1e3:.1f} ms")
        assert budget / 4 < peak <= most
        assert good.count >= seconds / 2 and good.worst < 5
        for client in list(readable.get_map().values()):
            client.fileobj.close()
        held.close()
        wait_until(lambda: server.open_sockets() <= 2, "the slow readers are gone")


@for_each(POLICIES)
def test_silent_connections_do_not_keep_a_good_client_out(policy):
    """200 clients that send nothing, at the default limit of 100: a good one is served within the handshake's deadline and a
    second, also while every silent one that is cut off is replaced."""
    count = crowd(200, 200)
    with serve("mem:1M", policy=policy) as server, contextlib.ExitStack() as held:
        for _ in range(count):
            silent = held.enter_context(server.raw_connection())
        begin = time.monotonic()
        with server.raw_connection() as waiting:
            waiting.settimeout(HANDSHAKE_DEADLINE + 1)
            greet(waiting)
            read(waiting)
        took = time.monotonic() - begin
        print(f"  {count} silent connections, {policy}: a good client was served after {took:.2f} s")
        assert took <= HANDSHAKE_DEADLINE + 1
        assert silent.fileno() >= 0


if __name__ == "__main__":
    run_cases(globals())
