# SPDX-License-Identifier: MIT
"""What a server promises to keep when it is killed: clients that send changes, and what each block may contain afterwards.

For tests that import it.
"""
import contextlib
import selectors
import struct
import threading

from support import K, PATIENCE

CONNECTIONS, DEPTH = 4, 16
BLOCK, SECTOR = 4 * K, 512
BLOCKS = 2048

READ, WRITE, FLUSH, ZERO = 0, 1, 3, 6
FUA = 1
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

    def check(self, keeps_acknowledged=True):
        """Compares the file with the promises and takes it as the new state. Returns the number of promised blocks.
        `keeps_acknowledged`: the server had no data of its own, so that acknowledged changes are there without a flush."""
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
            if keeps_acknowledged:
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

    def __init__(self, server, disk, source, numbers, kill_after_promises=None):
        self.disk, self.source, self.numbers = disk, source, numbers
        self.connections = [Connection(server) for _ in range(CONNECTIONS)]
        assert all(connection.flags & 1 << 8 for connection in self.connections), "CAN_MULTI_CONN is not set"
        self.replies = self.promises = 0
        # The timer starts after a number of replies, so that a slow server has promised something, too.
        self.kill_after = source.randrange(1, 160)
        self.kill_after_promises = kill_after_promises  # instead, for a server whose flush is slow
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
        if isinstance(answered, dict):
            self.disk.keep(answered)
            self.promises += 1
        else:
            change, flags = answered
            self.disk.answered(change)
            if flags:
                self.disk.keep_change(change)
                self.promises += 1
        enough = (self.replies >= self.kill_after if self.kill_after_promises is None
                  else self.promises >= self.kill_after_promises)
        if enough and self.killer.ident is None:
            self.killer.start()

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
