# SPDX-License-Identifier: MIT
"""A server that is killed loses nothing that it has promised to keep.

Several connections send writes, flushes and zeroings to a server on a file, many at a time. The server is killed at a
random moment. Then the file is compared with what was acknowledged. The kernel survives, so this tests the order of the
server's system calls and replies, not a power failure. A second test delays fdatasync and pwritev2 with strace, and
checks that the replies wait for them. A third one reads a trace of the system calls, and checks what a power failure
would leave at each reply.

NBD_TEST_SEED=N repeats the random choices of a run. The timing still differs.
"""
import fcntl
import random
import struct

from promises import *
from support import *

require_program("NBD_SERVE")
SEED = int(os.environ.get("NBD_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
KILLS = scaled(40, 10)  # for each kind of disk and each policy
F_OFD_SETLK = 37  # of Linux; the module fcntl does not have it


def wait_until_closed(path):
    """Waits until no operation of a killed server uses the file: the kernel completes its last asynchronous writes after
    the process has ended, and holds the server's locks as long."""
    whole = struct.pack("hhxxxxqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with open(path, "r+b") as file:
        def closed():
            try:
                return fcntl.fcntl(file, F_OFD_SETLK, whole) is not None
            except BlockingIOError:
                return False
        wait_until(closed, "the end of a killed server's writes")


def kinds_of_disks():
    return ["file"] if why_no_uring() else ["file", "uring"]


@for_each([(kind, policy) for kind in kinds_of_disks() for policy in POLICIES])
def test_killed_under_writes(kind, policy):
    source = random.Random(f"{SEED} {kind} {policy}")
    numbers = iter(range(1, 1 << 60))
    replies = promises = promised = 0
    with directory() as where:
        disk = Disk(f"{where}/disk")
        with open(disk.path, "wb") as file:
            file.truncate(BLOCKS * BLOCK)
        try:
            os.close(os.open(disk.path, os.O_RDWR | os.O_DIRECT))
            ways = [[], ["--direct"]]
        except OSError:
            ways = [[]]
        for kill in range(KILLS):
            with serve(f"{kind}:{disk.path}", *ways[kill % len(ways)], policy=policy) as server:
                load = Load(server, disk, source, numbers)
                server.expected_status = -signal.SIGKILL
                load.run()
                assert load.replies >= load.kill_after, "the server ended before it was killed"
                load.killer.join()
                server.process.wait()
            wait_until_closed(disk.path)
            try:
                promised += disk.check()
            except AssertionError:
                print(f"after kill {kill} of a run with NBD_TEST_SEED={SEED}", flush=True)
                raise
            replies += load.replies
            promises += load.promises
    print(f"{KILLS} kills: {replies} replies, {promises} of them to flush or FUA; {promised} durable blocks were checked")
    assert promises > 5 * KILLS and promised > 20 * KILLS, "too few durable blocks for a meaningful test"


# -- the order of system calls and replies --------------------------------------------------------------------------------------

DELAY = 0.1


@contextlib.contextmanager
def serve_traced(policy, *inject):
    with serve_under_strace("file:{where}/disk", "--policy", policy, calls="fdatasync,pwritev2", inject=inject) as server:
        yield server


def answered(connection, number, *request, **more):
    """Sends one request and waits for its reply: (error, seconds)."""
    begin = time.monotonic()
    connection.ask(number, *request, **more)
    connection.socket.sendall(connection.outgoing)
    connection.outgoing = b""
    _, error, cookie = struct.unpack(">IIQ", connection.receive(16))
    assert cookie == number
    return error, time.monotonic() - begin


@for_each(POLICIES)
def test_replies_wait_for_the_kernel(policy):
    """While fdatasync or a durable pwritev2 is delayed, the server must not reply."""
    delay = int(DELAY * 1e6)
    with serve_traced(policy, f"fdatasync:delay_exit={delay}", f"pwritev2:delay_exit={delay}") as server:
        connection = Connection(server)
        for number, (what, *request) in enumerate([
                ("a write", WRITE, 0, 0, BLOCK, b"a" * BLOCK), ("a flush", FLUSH),
                ("a durable write", WRITE, FUA, BLOCK, BLOCK, b"b" * BLOCK),
                ("a large one", WRITE, FUA, M, M, b"c" * M), ("durable zeroes", ZERO, FUA, M, BLOCK),
                ("a flush of nothing", FLUSH), ("a write", WRITE, 0, 0, BLOCK, b"d" * BLOCK)]):
            error, seconds = answered(connection, number, *request)
            assert error == 0, f"{what}: error {error}"
            if what != "a write":
                assert seconds >= DELAY, f"{what} was answered after {seconds:.3f} s, before the system call returned"


@for_each(POLICIES)
def test_a_failed_flush_stays_an_error(policy):
    """The kernel reports lost data once; the server reports it to every client from then on."""
    with serve_traced(policy, "fdatasync:error=EIO:when=1") as server:  # the first of each thread
        first, second = Connection(server), Connection(server)
        data = b"x" * BLOCK
        assert answered(first, 0, WRITE, FUA, 0, BLOCK, data)[0] == 0
        assert answered(first, 1, WRITE, 0, 0, BLOCK, data)[0] == 0
        assert answered(first, 2, FLUSH)[0] == 5
        for number, connection in enumerate((first, second, first, Connection(server)), 3):
            assert answered(connection, number, FLUSH)[0] == 5
            assert answered(connection, number, WRITE, FUA, 0, BLOCK, data)[0] == 5
            assert answered(connection, number, WRITE, 0, 0, BLOCK, data)[0] == 0


# -- a power failure ------------------------------------------------------------------------------------------------

CALL = re.compile(r"(\w+)\((\d+)(.*)\) += (-?\d+)")


class Model:
    """A disk that keeps only what was synchronised: what a power failure leaves in the worst case.

    It reads a trace of system calls. A call of another thread can begin before a call and end after it, so a change
    counts from the end of its call, and fdatasync covers what was changed before its beginning.
    """

    def __init__(self, trace):
        self.changes = []           # (number of the line of its end, offset, length), in order
        self.syncs = []             # (begin, end)
        self.durable = []           # (end, offset, length) of durable writes
        self.replies = {}           # cookie -> line
        begun = {}
        for number, line in enumerate(trace):
            thread, _, rest = line.partition(" ")
            rest = rest.strip()
            if rest.endswith("<unfinished ...>"):
                begun[thread] = number, rest[:-len("<unfinished ...>")]
                continue
            begin = number
            if rest.startswith("<... "):
                begin, first = begun.pop(thread)
                rest = first + rest.partition(" resumed>")[2]
            call = CALL.match(rest)
            if call and int(call[4]) >= 0:
                self.note(call[1], call[3], int(call[4]), begin, number)

    def note(self, name, arguments, result, begin, end):
        if name in ("fdatasync", "fsync"):
            self.syncs.append((begin, end))
        elif name == "fallocate":
            offset, length = map(int, arguments.split(",")[-2:])
            self.changes.append((end, offset, length))
        elif name == "pwrite64":
            self.changes.append((end, int(arguments.rsplit(",", 1)[1]), result))
        elif name in ("pwritev", "pwritev2"):
            tail = arguments.rpartition("]")[2].split(",")  # ], count, offset, flags
            change = end, int(tail[2]), result
            self.changes.append(change)
            if "RWF_DSYNC" in tail[-1] or "RWF_SYNC" in tail[-1]:
                self.durable.append(change)
        elif name == "sendmsg":
            for cookie in re.findall(r"gDf\\230\\0\\0\\0\\0cookie(\d\d)", arguments):
                self.replies[int(cookie)] = end

    def kept(self, offset, length, at):
        """Whether a change of this range that was carried out before line `at` survives a power failure there."""
        for end, begin, size in reversed(self.changes):
            if end < at and begin <= offset and offset + length <= begin + size:
                return (end, begin, size) in self.durable or any(end < sync[0] and sync[1] < at for sync in self.syncs)
        return False


@for_each([(kind, policy) for kind in ("write", "zero") for policy in POLICIES])
def test_a_power_failure_at_each_reply(kind, policy):
    """At the reply to a FLUSH or to a request with FUA, every change that it covers is on the disk, also those of another
    connection. There is an fdatasync for each FLUSH that follows a change."""
    with serve_under_strace("file:{where}/disk", "--policy", policy,
                            calls="pwrite64,pwritev,pwritev2,fallocate,fdatasync,fsync,sendmsg") as server:
        first, second = Connection(server), Connection(server)
        changes, promises = {}, []
        number = 10

        def do(connection, command, flags=0, at=0, length=0):
            nonlocal number
            cookie, number = int.from_bytes(b"cookie%d" % number, "big"), number + 1
            data = bytes([number]) * length if command == WRITE else b""
            assert answered(connection, cookie, command, flags, at, length, data)[0] == 0
            if length:
                changes[number - 1] = at, length
            return number - 1
        for round in range(scaled(12, 4)):
            lengths = [512, 4 * K, 100_000, M]
            for i, connection in enumerate((first, second, second)):
                do(connection, WRITE if kind == "write" else ZERO, 0, round * 64 * K + i * 2 * M, lengths[(round + i) % 4])
            promises.append((do(first, FLUSH), set(changes)))
            durable = do(second, WRITE if kind == "write" else ZERO, FUA, 7 * M + round * 4 * K, 4 * K)
            promises.append((durable, {durable}))
        assert number < 100, "two digits for a number"
        server.stop()
        with open(server.trace, errors="replace") as trace:
            model = Model(trace.read().splitlines())
    assert len(model.replies) == number - 10, f"{len(model.replies)} of {number - 10} replies are in the trace"
    for promise, covered in promises:
        at = model.replies[promise]
        for change in covered:
            assert model.kept(*changes[change], at), f"request {change} would be lost after the reply to {promise}"
    flushes = sum(1 for promise, covered in promises if len(covered) > 1)
    assert len(model.syncs) >= flushes, f"{len(model.syncs)} calls of fdatasync for {flushes} flushes"


print(f"NBD_TEST_SEED={SEED}")
run_cases(globals())
