# SPDX-License-Identifier: MIT
"""A server that is killed loses nothing that it has promised to keep.

Several connections send writes, flushes and zeroings to a server on a file, many at a time. The server is killed at a
random moment. Then the file is compared with what was acknowledged. The kernel survives, so this tests the order of the
server's system calls and replies, not a power failure. A second test delays fdatasync and pwritev2 with strace, and
checks that the replies wait for them.

NBD_TEST_SEED=N repeats the random choices of a run. The timing still differs.
"""
import fcntl
import random
import selectors
import struct
import threading

from support import *

PROGRAM = require_program("NBD_SERVE")
SEED = int(os.environ.get("NBD_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
KILLS = scaled(40, 10)  # for each kind of disk and each policy
CONNECTIONS, DEPTH = 4, 16
BLOCK, SECTOR = 4 * K, 512
BLOCKS = 2048

READ, WRITE, FLUSH, ZERO = 0, 1, 3, 6
FUA = 1
F_OFD_SETLK = 37  # of Linux; the module fcntl does not have it
REQUEST = struct.Struct(">IHHQQI")


class Connection:
    """A client that sends requests without waiting for their replies."""

    def __init__(self, server):
        self.socket = server.raw_connection()
        assert len(self.receive(18)) == 18
        self.socket.sendall(struct.pack(">IQII", 3, 0x49484156454F5054, 1, 0))  # the default export, without zeroes
        self.flags = struct.unpack(">QH", self.receive(10))[1]
        self.pending, self.incoming, self.outgoing = {}, b"", b""

    def receive(self, count):
        received = b""
        while len(received) < count:
            more = self.socket.recv(count - len(received))
            assert more, "the server closed the connection"
            received += more
        return received

    def ask(self, cookie, command, flags=0, offset=0, length=0, data=b"", about=None):
        self.pending[cookie] = about
        self.outgoing += REQUEST.pack(0x25609513, flags, command, cookie, offset, length) + data

    def send(self):
        if self.outgoing:
            self.outgoing = self.outgoing[self.socket.send(self.outgoing):]

    def replies(self):
        """The `about` of each request whose reply can be received without waiting."""
        self.incoming += self.socket.recv(64 * K)
        while len(self.incoming) >= 16:
            magic, error, cookie = struct.unpack(">IIQ", self.incoming[:16])
            self.incoming = self.incoming[16:]
            assert magic == 0x67446698 and error == 0, f"error {error}, magic {magic:x}"
            yield self.pending.pop(cookie)


class Change:
    """One write or zeroing: its blocks, their content afterwards, and whether it was acknowledged."""

    def __init__(self, number, first, count, zero):
        self.first, self.count, self.acknowledged = first, count, False
        if zero:
            self.blocks = [bytes(BLOCK)] * count
        else:  # every written sector is unique
            self.blocks = [b"".join(struct.pack(">QIHH", number, first + i, s, 0xABCD) * (SECTOR // 16)
                                    for s in range(BLOCK // SECTOR)) for i in range(count)]


class Disk:
    """What each block may contain: the last durable change, or any later one."""

    def __init__(self, path):
        self.path = path
        self.content = bytes(BLOCKS * BLOCK)
        self.begin()

    def begin(self):
        self.history = {}  # block -> its changes, in order; at most one is in progress
        self.kept = {}     # block -> how many of these changes are durable
        self.busy = set()

    def asked(self, change):
        for block in range(change.first, change.first + change.count):
            self.history.setdefault(block, []).append(change)
            self.busy.add(block)

    def answered(self, change):
        change.acknowledged = True
        self.busy.difference_update(range(change.first, change.first + change.count))

    def acknowledged(self):
        """The number of acknowledged changes of each block: a flush that is sent now covers these."""
        return {block: len(changes) - (not changes[-1].acknowledged) for block, changes in self.history.items()}

    def keep(self, counts):
        for block, count in counts.items():
            self.kept[block] = max(self.kept.get(block, 0), count)

    def keep_change(self, change):
        self.keep({block: self.history[block].index(change) + 1
                   for block in range(change.first, change.first + change.count)})

    def check(self):
        """Compares the file with the promises and takes it as the new state. Returns the number of promised blocks."""
        with open(self.path, "rb") as file:
            now = file.read()
        assert len(now) == len(self.content)
        promised = 0
        for block in range(BLOCKS):
            here = slice(block * BLOCK, (block + 1) * BLOCK)
            found, before = now[here], self.content[here]
            changes = self.history.get(block)
            if not changes:
                assert found == before, f"block {block} has changed without a write"
                continue
            kept = self.kept.get(block, 0)
            promised += kept > 0
            contents = [before, *(change.blocks[block - change.first] for change in changes)][kept:]
            # An acknowledged change without a flush is not promised, but the kernel has it and was not killed.
            contents = contents[len(contents) - 1 - (not changes[-1].acknowledged and len(contents) > 1):]
            if found in contents:
                continue
            for at in range(0, BLOCK, SECTOR):
                sector = found[at:at + SECTOR]
                assert any(sector == content[at:at + SECTOR] for content in contents), (
                    f"block {block}, byte {at}: found {sector[:16].hex()}; of {len(changes)} changes {kept} are durable, "
                    f"so expected one of {[content[at:at + 16].hex() for content in contents]}")
        self.content = now
        self.begin()
        return promised


class Load:
    """Sends random changes on several connections until the server ends."""

    def __init__(self, server, disk, source, numbers):
        self.disk, self.source, self.numbers = disk, source, numbers
        self.connections = [Connection(server) for _ in range(CONNECTIONS)]
        assert all(connection.flags & 1 << 8 for connection in self.connections), "CAN_MULTI_CONN is not set"
        self.replies = self.promises = 0
        # The timer starts after a number of replies, so that a slow server has promised something, too.
        self.kill_after = source.randrange(1, 160)
        self.killer = threading.Timer(source.uniform(0, 0.03), server.process.kill)

    def ask_something(self, connection):
        number, choice = next(self.numbers), self.source.random()
        if choice < 0.06:
            connection.ask(number, FLUSH, about=self.disk.acknowledged())
            return
        count = self.source.choice([1, 1, 1, 2, 4, 16])
        first = self.source.randrange(BLOCKS - count)
        if not self.disk.busy.isdisjoint(range(first, first + count)):
            return  # the order of overlapping requests is not defined
        change = Change(number, first, count, zero=choice < 0.12)
        flags = FUA if self.source.random() < 0.15 else 0
        self.disk.asked(change)
        connection.ask(number, ZERO if choice < 0.12 else WRITE, flags, first * BLOCK, count * BLOCK,
                       b"" if choice < 0.12 else b"".join(change.blocks), about=(change, flags))

    def note(self, answered):
        self.replies += 1
        if self.replies == self.kill_after:
            self.killer.start()
        if isinstance(answered, dict):
            self.disk.keep(answered)
            self.promises += 1
        else:
            change, flags = answered
            self.disk.answered(change)
            if flags:
                self.disk.keep_change(change)
                self.promises += 1

    def run(self):
        with selectors.DefaultSelector() as ready:
            for connection in self.connections:
                connection.socket.setblocking(False)
                ready.register(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)
            while ready.get_map():
                events = ready.select(PATIENCE)
                assert events, "the server neither replies nor ends"
                for key, event in events:
                    connection = key.data
                    try:
                        if event & selectors.EVENT_READ:
                            try:
                                had = self.replies
                                for answered in connection.replies():
                                    self.note(answered)
                                if self.replies == had and not connection.incoming:
                                    raise ConnectionError
                            except BlockingIOError:
                                pass
                        while len(connection.pending) < DEPTH and len(connection.outgoing) < 256 * K:
                            before = len(connection.pending)
                            self.ask_something(connection)
                            if len(connection.pending) == before:
                                break
                        connection.send()
                    except (ConnectionError, BlockingIOError) as why:
                        if not isinstance(why, BlockingIOError):
                            self.drain(connection)
                            ready.unregister(connection.socket)
                            connection.socket.close()

    def drain(self, connection):
        """Counts the replies that the server sent before it was killed."""
        with contextlib.suppress(ConnectionError, BlockingIOError):
            while True:
                had = self.replies
                for answered in connection.replies():
                    self.note(answered)
                if self.replies == had:
                    return


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
def serve_under_strace(policy, *inject):
    """A server on a disk of 8 MiB, whose system calls strace delays or makes fail."""
    strace = find_tool("strace")
    if not strace:
        raise Skip("strace is not installed")
    calls = [f"--inject={call}" for call in inject]
    probe = run(strace, "-f", "-o", "/dev/null", *calls, "true", status=None)
    if probe.returncode != 0:
        raise Skip(f"strace cannot be used: {shortened(probe.stderr.strip(), 100)}")
    sanitizer = "ASAN_OPTIONS=" + os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"  # leak detection uses ptrace, too
    with directory() as where:
        with open(f"{where}/disk", "wb") as file:
            file.truncate(8 * M)
        # -D: the server is a child of this process, and strace is a child of the server.
        command = [strace, "-D", "-f", "-o", f"{where}/trace", "-E", sanitizer, "-e", "trace=fdatasync,pwritev2", *calls,
                   PROGRAM, f"file:{where}/disk", "--unix", f"{where}/s", "--policy", policy]
        with started(command, where=where) as server:
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
    with serve_under_strace(policy, f"fdatasync:delay_exit={delay}", f"pwritev2:delay_exit={delay}") as server:
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
    with serve_under_strace(policy, "fdatasync:error=EIO:when=1") as server:  # the first of each thread
        first, second = Connection(server), Connection(server)
        data = b"x" * BLOCK
        assert answered(first, 0, WRITE, FUA, 0, BLOCK, data)[0] == 0
        assert answered(first, 1, WRITE, 0, 0, BLOCK, data)[0] == 0
        assert answered(first, 2, FLUSH)[0] == 5
        for number, connection in enumerate((first, second, first, Connection(server)), 3):
            assert answered(connection, number, FLUSH)[0] == 5
            assert answered(connection, number, WRITE, FUA, 0, BLOCK, data)[0] == 5
            assert answered(connection, number, WRITE, 0, 0, BLOCK, data)[0] == 0


print(f"NBD_TEST_SEED={SEED}")
run_cases(globals())
