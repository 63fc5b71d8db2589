# SPDX-License-Identifier: MIT
"""A server whose address space is limited (prlimit --as). Clients that make it hold more than fits harm only themselves."""
import resource

from support import *

nbd = require_libnbd()
if SMALL:
    skip_file("the sanitizers reserve more address space than the limit of these cases")

DISKS = ["mem", "null", "file"] + ([] if why_no_uring() else ["uring"])
ROOM = 340 * M  # besides what the program and its libraries have at the start
CONTENT = bytes(range(256)) * 256  # 64 KiB


def connect(server):
    h = nbd.NBD()
    h.connect_uri(server.uri)
    return h


def address_space(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


@contextlib.contextmanager
def limited(disk, policy):
    with directory() as where:
        if disk in ("mem", "null"):
            arguments = [f"{disk}:64M"]
        else:
            arguments = [f"{disk}:{where}/disk", "--create", "64M"]
        with serve(*arguments, policy=policy) as server:
            limit = address_space(server.pid) + ROOM
            resource.prlimit(server.pid, resource.RLIMIT_AS, (limit, limit))
            yield server


def one_client_asks_for_much(server, lengths):
    """64 READs, and no reply is read."""
    connection = greeted(server)
    connection.settimeout(0.5)
    with contextlib.suppress(OSError):  # the server may disconnect it
        connection.sendall(b"".join(read_request(lengths[at % len(lengths)]) for at in range(64)))
    return connection


@for_each([(disk, policy) for disk in DISKS for policy in POLICIES])
def test_greedy_clients_harm_only_themselves(disk, policy):
    with limited(disk, policy) as server:
        steady = connect(server)
        content = bytes(len(CONTENT)) if disk == "null" else CONTENT
        steady.pwrite(content, 0)
        for _ in range(3):
            greedy = []
            for _ in range(12):
                with contextlib.suppress(OSError, AssertionError):  # the server may refuse it
                    greedy.append(one_client_asks_for_much(server, [4 * M, 64 * K, 1 * M, 4 * K, 3 * M]))
                assert steady.pread(64 * K, 0) == content
            for _ in range(50):
                assert steady.pread(64 * K, 0) == content
            for connection in greedy:
                connection.close()
        assert steady.pread(64 * K, 0) == content

        def another_is_served():
            with contextlib.suppress(nbd.Error):  # the memory of the others may not be free yet
                return connect(server).pread(64 * K, 0) == content
        wait_until(another_is_served, "another client is served")


run_cases(globals())
