# SPDX-License-Identifier: MIT
"""What the operating system does badly: accept fails, calls are interrupted, a device has errors, a file disappears.

strace makes the system calls fail. Each case ends with a client that is served.
"""
import struct

from support import *

require_program("NBD_SERVE")
SECTOR = bytes(range(256)) * 2


def request(connection, command, offset=0, length=0, data=b""):
    """One request of a raw connection, and its reply: (error, data)."""
    connection.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, 7, offset, length) + data)
    magic, error, cookie = struct.unpack(">IIQ", received(connection, 16))
    assert magic == 0x67446698 and cookie == 7, f"{magic:x}"
    return error, received(connection, length) if command == READ and not error else b""


READ, WRITE, FLUSH, ZERO = 0, 1, 3, 6


def received(connection, count):
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        assert more, "the server closed the connection"
        data += more
    return data


def assert_serves(server):
    with greeted(server) as connection:
        assert request(connection, READ, 0, 512)[0] == 0


def calls_in(server, *names):
    with open(server.trace, errors="replace") as trace:
        return [line for line in trace if any(f" {name}(" in line for name in names)]


# -- accept ---------------------------------------------------------------------------------------------------------

@for_each([(error, policy) for error in ("ECONNABORTED", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM", "EPROTO")
           for policy in POLICIES])
def test_accept_fails_a_few_times(error, policy):
    """The server goes on to accept: the client that waits is served."""
    failing = [f"{call}:error={error}:when=1..3" for call in ("accept4", "accept")]
    with serve_under_strace("mem:1M", "--policy", policy, calls="accept4,accept", inject=failing) as server:
        assert_serves(server)
        assert_serves(server)
        assert len([line for line in calls_in(server, "accept4", "accept") if "INJECTED" in line]) >= 3


@for_each([(error, policy) for error in ("EMFILE", "ENOBUFS", "EPERM") for policy in POLICIES])
def test_accept_keeps_failing(error, policy):
    """While a client waits in vain the server tries again ten times a second, not at once; others are served."""
    failing = [f"accept4:error={error}:when=4+", f"accept:error={error}:when=1+"]  # EPERM of the first asks the second
    with serve_under_strace("mem:1M", "--policy", policy, calls="accept4,accept", inject=failing) as server:
        with greeted(server) as good, contextlib.ExitStack() as waiting:
            for _ in range(4):  # an attempt that finds no client counts, too
                waiting.enter_context(server.raw_connection())
            wait_until(lambda: any("INJECTED" in line for line in calls_in(server, "accept4", "accept")), "an error")
            begin = time.monotonic()
            before = len(calls_in(server, "accept4"))
            time.sleep(1)
            tried, seconds = len(calls_in(server, "accept4")) - before, time.monotonic() - begin
            assert 1 <= tried <= 12 * seconds, f"{tried} attempts in {seconds:.1f} s"
            assert request(good, READ, 0, 512)[0] == 0


# -- a file ---------------------------------------------------------------------------------------------------------

@for_each(POLICIES)
def test_interrupted_calls(policy):
    """EINTR is no error of a request."""
    calls = ["pread64", "pwrite64", "pwritev", "pwritev2", "fallocate"]
    with serve_under_strace("file:{where}/disk", "--policy", policy, calls=",".join(calls),
                            inject=[f"{call}:error=EINTR:when=5+2" for call in calls]) as server:
        with greeted(server) as connection:
            for at in range(0, M, 8 * K):  # strace counts the calls of each thread
                assert request(connection, WRITE, at, 512, SECTOR)[0] == 0
                assert request(connection, READ, at, 512) == (0, SECTOR)
                assert request(connection, ZERO, at + 4096, 4096)[0] == 0
        assert any("INJECTED" in line for line in calls_in(server, *calls))


@for_each(POLICIES)
def test_a_device_with_errors(policy):
    """A READ or WRITE that the device fails is EIO; the same one later, and those of other clients, succeed."""
    calls = ["pread64", "preadv", "preadv2", "sendfile", "splice", "pwrite64", "pwritev", "pwritev2"]
    with serve_under_strace("file:{where}/disk", "--policy", policy, calls=",".join(calls),
                            inject=[f"{call}:error=EIO:when=5+5" for call in calls]) as server:
        with greeted(server) as connection:
            for command, data in ((READ, b""), (WRITE, SECTOR)):
                errors = [request(connection, command, 4096 * i, 512, data)[0] for i in range(40)]
                assert set(errors) == {0, 5} and errors.count(5) <= 20, errors
        for _ in range(10):  # each has its own connection, which stays
            with greeted(server) as connection:
                assert {request(connection, READ, 0, 512)[0] for _ in range(12)} <= {0, 5}


@for_each(POLICIES)
def test_a_file_that_is_removed(policy):
    """Its content is served as before, to old clients and to new ones."""
    with directory() as where:
        path = f"{where}/disk"
        with serve(f"file:{path}", "--create", 8 * M, policy=policy) as server, greeted(server) as connection:
            assert request(connection, WRITE, 4096, 512, SECTOR)[0] == 0
            os.chmod(path, 0)
            os.unlink(path)
            assert request(connection, READ, 4096, 512) == (0, SECTOR)
            assert request(connection, WRITE, 8192, 512, SECTOR)[0] == 0
            assert request(connection, FLUSH)[0] == 0
            with greeted(server) as other:
                assert request(other, READ, 8192, 512) == (0, SECTOR)


run_cases(globals())
