# SPDX-License-Identifier: MIT
"""Data: D05 to D12 scaled down, N-09, N-10 and random traffic against a shadow copy (R31)."""
import os
import random
import tempfile
import threading
import time

import wire
from harness import SLOWER, Skip, case, scaled
from wire import (ENOTSUP, FAST_ZERO, FLUSH, FUA, GIB, KIB, MIB, NO_HOLE, READ, TIB, TRIM, WRITE, ZEROES, Client, Failure)

SPOT = 16 * MIB


@case()
def D05_flush_covers_other_connections(t):
    """FLUSH on one connection after an acknowledged WRITE on another succeeds, and both see the data."""
    a, b = t.tx(), t.tx()
    for i in range(16):
        t.error(a.write(SPOT + i * 100, bytes([i + 1]) * 100), 0, "WRITE")
        if b.tflags & wire.T_FLUSH:
            t.error(b.do(FLUSH), 0, "FLUSH")
        t.check(b.read(SPOT + i * 100, 100) == bytes([i + 1]) * 100, "the data of the other connection", "other data")


@case()
def D06_read_after_write_across_connections(t):
    """With CAN_MULTI_CONN an acknowledged WRITE is seen by every connection at once."""
    clients = [t.tx() for _ in range(4)]
    if not clients[0].tflags & wire.T_MULTI_CONN:
        raise Skip("CAN_MULTI_CONN is clear")
    generator = random.Random(6)
    for i in range(scaled(100)):
        data = generator.randbytes(1000)
        t.error(clients[i % 4].write(SPOT + 333, data), 0, "WRITE")
        for client in clients:
            t.check(client.read(SPOT + 333, 1000) == data, "the data acknowledged", "other data")


def in_parallel(*functions):
    failed = []

    def guard(function):
        try:
            function()
        except Failure as problem:
            failed.append(problem)
    threads = [threading.Thread(target=guard, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def writer(t, offset, length, value, count, flags=0):
    client = t.tx(delivery="whole")

    def run():
        for _ in range(count):
            t.error(client.write(offset, bytes([value]) * length, flags), 0, "WRITE")
    return run


@case()
def D07_overlapping_writes(t):
    """Two clients write the same range at once: every byte is from one of them, bytes outside are untouched."""
    watch = t.tx(delivery="whole")
    t.error(watch.write(SPOT, bytes(3 * 65536)), 0, "WRITE")
    in_parallel(writer(t, SPOT + 65536, 65536, 0xAA, scaled(100)), writer(t, SPOT + 65536, 65536, 0xBB, scaled(100)))
    data = watch.read(SPOT, 3 * 65536)
    t.check(set(data[65536:131072]) <= {0xAA, 0xBB}, "bytes of the two writers", "others")
    t.check(data[:65536] == bytes(65536) == data[131072:], "bytes outside untouched", "changed")


@case()
def D08_neighbouring_unaligned_writes(t):
    """Clients that write adjacent unaligned ranges of the same blocks lose no data (N-21)."""
    watch = t.tx(delivery="whole")
    for turn in range(scaled(8)):
        t.error(watch.write(SPOT, bytes(16384)), 0, "WRITE")
        in_parallel(writer(t, SPOT + 1, 4094, 1, 10), writer(t, SPOT + 4095, 2, 2, 10), writer(t, SPOT + 4097, 5000, 3, 10),
                    writer(t, SPOT + 9097, 1, 4, 10), writer(t, SPOT + 9098, 4096, 5, 10))
        want = bytes(1) + b"\1" * 4094 + b"\2" * 2 + b"\3" * 5000 + b"\4" + b"\5" * 4096
        t.check(watch.read(SPOT, len(want)) == want, "all acknowledged bytes", "others")


@case(kind="big", twice=False)
def N09_trim_of_an_exact_range(t):
    """TRIM of 67109888+8388608 changes nothing outside that range."""
    client = t.tx()
    if not client.tflags & wire.T_TRIM:
        raise Skip("TRIM is not advertised")
    begin, length = 67109888, 8388608
    low, high = begin - MIB, begin + length + MIB
    data = random.Random(9).randbytes(high - low)
    for at in range(0, len(data), MIB):
        t.error(client.write(low + at, data[at:at + MIB]), 0, "WRITE")
    t.error(client.do(TRIM, begin, length), 0, "TRIM")
    t.check(client.read(low, MIB) == data[:MIB], "the MiB in front of the range", "changed data")
    t.check(client.read(begin + length, MIB) == data[-MIB:], "the MiB behind the range", "changed data")
    inside = client.read(begin, length)
    t.check(all(inside[i:i + 512] in (data[MIB + i:MIB + i + 512], bytes(512)) for i in range(0, length, 512)),
            "old data or zeroes inside", "something else")


@case(kind="big", twice=False)
def D09_zeroes_of_an_exact_range(t):
    """WRITE_ZEROES of an odd large range, with and without NO_HOLE: zero inside, untouched outside."""
    client = t.tx()
    if not client.tflags & wire.T_ZEROES:
        raise Skip("WRITE_ZEROES is not advertised")
    base, size = 5 * GIB + 4096, 6 * MIB
    for flags in (0, NO_HOLE):
        data = random.Random(flags).randbytes(size)
        for at in range(0, size, MIB):
            t.error(client.write(base + at, data[at:at + MIB]), 0, "WRITE")
        begin, length = MIB + 777, 4 * MIB + 1111
        t.error(client.do(ZEROES, base + begin, length, flags), 0, "WRITE_ZEROES")
        got = client.read(base, size)
        t.check(got == data[:begin] + bytes(length) + data[begin + length:], "zeroes in the range and nowhere else",
                "other data")


def tag(block):
    return block.to_bytes(8, "big") * 64


@case()
def N10_16_tagged_writes_in_flight(t):
    """16 random writes in flight, each block tagged with its number: all are written at their offset."""
    client = t.tx(delivery="whole")
    blocks = list(range(scaled(4000)))
    random.Random(10).shuffle(blocks)
    window = []
    for block in blocks:
        window.append(client.request(WRITE, SPOT + block * 512, 512, payload=tag(block)))
        if len(window) == 16:
            t.error(client.wait(window.pop(0)), 0, "WRITE")
    client.wait_all(window)
    data = client.read(SPOT, len(blocks) * 512)
    for block in range(len(blocks)):
        t.check(data[block * 512:block * 512 + 512] == tag(block), "block %d at its place" % block,
                "block %d" % int.from_bytes(data[block * 512:block * 512 + 8], "big"))


class Shadow:
    """The expected content of the export, where it is known."""

    def __init__(self, t, client, base, size, seed):
        self.t, self.client, self.base, self.size = t, client, base, size
        self.generator = random.Random(seed)
        self.data = bytearray(client.read(base, size))
        self.known = bytearray(b"\1" * size)
        self.window = []

    def overlaps(self, at, length):
        return any(at < begin + size and begin < at + length for _, _, begin, size, _ in self.window)

    def settle(self):
        result, command, at, length, content = self.window.pop(0)
        self.client.wait(result, timeout=10 * SLOWER)
        if result.flags & FAST_ZERO and result.error == ENOTSUP:
            return
        self.t.error(result, 0, wire.COMMAND_NAMES[command])
        if command == READ:
            self.t.check(len(result.data) == length, "%d bytes" % length, "%d" % len(result.data))
            if result.data != bytes(self.data[at:at + length]):
                for i in range(length):
                    if self.known[at + i] and result.data[i] != self.data[at + i]:
                        raise Failure("byte %#x to be %#x" % (self.base + at + i, self.data[at + i]),
                                      "%#x" % result.data[i])
        elif command == TRIM:
            self.known[at:at + length] = bytes(length)
        elif command in (WRITE, ZEROES):
            self.data[at:at + length] = content
            self.known[at:at + length] = b"\1" * length

    def step(self, depth=16):
        tflags = self.client.tflags
        command = self.generator.choice((READ, READ, READ, WRITE, WRITE, WRITE, ZEROES, TRIM, FLUSH))
        if command == ZEROES and not tflags & wire.T_ZEROES or command == TRIM and not tflags & wire.T_TRIM or \
                command == FLUSH and not tflags & wire.T_FLUSH:
            command = READ
        length = self.generator.choice((1, 7, 512, 513, 4096, 4096, 10000, 65536, 100001))
        at = self.generator.randrange(self.size - length)
        flags = FUA if tflags & wire.T_FUA and self.generator.random() < 0.1 else 0
        if command == ZEROES and self.generator.random() < 0.3:
            flags |= NO_HOLE
        if command == ZEROES and tflags & wire.T_FAST_ZERO and self.generator.random() < 0.3:
            flags |= FAST_ZERO
        content = b""
        if command == FLUSH:
            at = length = 0
        if command == WRITE:
            content = self.generator.randbytes(length)
        if command == ZEROES:
            content = bytes(length)
        while self.window and (len(self.window) >= depth or length and self.overlaps(at, length)):
            self.settle()
        request = self.client.request(command, self.base + at if length else 0, length,
                                      flags | (wire.PAYLOAD_LEN if command == WRITE and self.client.mode == "extended" else 0),
                                      content if command == WRITE else b"")
        self.window.append((request, command, at, length, content))

    def finish(self):
        while self.window:
            self.settle()


def random_traffic(t, client, base, size, seed, count):
    shadow = Shadow(t, client, base, size, seed)
    for _ in range(count):
        shadow.step()
    shadow.finish()
    for at in range(0, size, 256 * KIB):
        got = client.read(base + at, min(256 * KIB, size - at))
        for i, byte in enumerate(got):
            if byte != shadow.data[at + i] and shadow.known[at + i]:
                raise Failure("byte %#x to be %#x at the end" % (base + at + i, shadow.data[at + i]), "%#x" % byte)
        if got == bytes(shadow.data[at:at + len(got)]):
            continue


@case()
def D11_random_traffic_at_depth_16(t):
    """Random READ, WRITE, WRITE_ZEROES, TRIM, FLUSH, 16 in flight, against a shadow copy: no mismatch."""
    random_traffic(t, t.tx(delivery="whole"), SPOT, 1 * MIB + 777, 11, scaled(3000))


@case()
def D11_random_traffic_of_four_clients(t):
    """The same from four clients at once, each in a range of its own that ends inside a block."""
    clients = [t.tx(delivery="whole") for _ in range(4)]
    size = 300 * KIB + 123
    in_parallel(*[lambda i=i: random_traffic(t, clients[i], SPOT + i * size, size, 100 + i, scaled(700))
                  for i in range(4)])


@case()
def D11_random_traffic_with_lost_connections(t):
    """Random tagged writes and lost connections: acknowledged writes are present, others are old or new."""
    watch = t.tx(delivery="whole")
    blocks = 256
    old = [bytes([0]) * 4096] * blocks
    for block in range(0, blocks, 16):
        t.error(watch.write(SPOT + block * 4096, bytes(65536)), 0, "WRITE")
    generator = random.Random(12)
    for turn in range(scaled(20)):
        client = t.tx(delivery="whole")
        chosen = generator.sample(range(blocks), 24)
        value = bytes([turn + 1]) * 4096
        requests = [client.request(WRITE, SPOT + block * 4096, 4096, payload=value) for block in chosen]
        acknowledged = generator.randrange(len(chosen))
        for request in requests[:acknowledged]:
            t.error(client.wait(request), 0, "WRITE")
        client.reset()
        time.sleep(0.01)
        for i, block in enumerate(chosen):
            got = watch.read(SPOT + block * 4096, 4096)
            fresh = len(got) - len(got.lstrip(value[:1]))
            t.check(got == value or i >= acknowledged and got == value[:fresh] + old[block][fresh:],
                    "the block acknowledged" if i < acknowledged else "the block old or new", "something else")
        for i, block in enumerate(chosen):          # reads back the writes that were not acknowledged
            t.error(watch.write(SPOT + block * 4096, value), 0, "WRITE")
            old[block] = value


@case(kind="big", twice=False)
def D12_around_powers_of_two(t):
    """I/O around 2^31, 2^32, 2^39 and at the end of a 1 TiB export is exact and does not alias."""
    client = t.tx()
    places = [1 << 31, 1 << 32, (1 << 32) + (1 << 31), (1 << 39) - 64 * KIB, TIB - 8192]
    for i, place in enumerate(places):
        t.error(client.write(place - 300, bytes([i + 1]) * 600), 0, "WRITE at %#x" % place)
    for i, place in enumerate(places):
        t.check(client.read(place - 300, 600) == bytes([i + 1]) * 600, "the data written at %#x" % place, "other data")
        t.check(client.read(place - 4396, 4096) == bytes(4096), "zeroes in front of %#x" % place, "other data")
        t.check(client.read(place + 300, 4096) == bytes(4096), "zeroes behind %#x" % place, "other data")
    t.check(client.read(300, 4096) == bytes(4096), "no alias at 0", "other data")
    t.error(client.do(READ, TIB - 1, 2), wire.EINVAL, "READ over the end")
    t.error(client.write(TIB - 1, b"z"), 0, "WRITE of the last byte")
    t.check(client.read(TIB - 1, 1) == b"z", "the last byte", "another")


@case(own=True, twice=False)
def D12_beyond_16_tib(t):
    """I/O around 2^41 and 2^44, and at the end of an export of 17 TiB, is exact and does not alias."""
    if t.run.sanitized:
        raise Skip("no room for 17 TiB beside a sanitizer")
    client = t.client(t.start(["mem:17T"])).start().go()
    places = [1 << 32, 1 << 41, (1 << 41) + (1 << 32), 1 << 44, 17 * TIB - 300]
    for i, place in enumerate(places):
        t.error(client.write(place - 300, bytes([i + 1]) * 600), 0, "WRITE at %#x" % place)
    for i, place in enumerate(places):
        t.check(client.read(place - 4396, 4096 + 600) == bytes(4096) + bytes([i + 1]) * 600, "the data written at %#x" % place,
                "other data")
    t.check(client.read(0, 8192) == bytes(8192), "no alias at 0", "other data")
    t.error(client.write(17 * TIB - 1, b"zz"), wire.ENOSPC, "WRITE over the end")


@case(own=True, twice=False)
def D13_a_read_only_file_stays_as_it_is(t):
    """After every kind of request that could change it, a file that is exported read-only has its bytes and its times."""
    with tempfile.NamedTemporaryFile(prefix="nbd-conformance-") as file:
        file.write(random.Random(13).randbytes(MIB))
        file.flush()
        os.utime(file.name, (1, 1))
        before = os.stat(file.name)
        server = t.start(["file:" + file.name, "--read-only"])
        client = t.client(server).start().go()
        t.check(client.tflags & wire.T_READ_ONLY, "READ_ONLY", "%#x" % client.tflags)
        for command in (WRITE, TRIM, ZEROES, FLUSH, wire.CACHE, wire.RESIZE):
            for flags in range(64):
                for offset, length in ((0, 0), (0, 512), (4096, 65536), (MIB - 1, 2), (MIB, 512), (1 << 63, 1)):
                    payload = bytes(length) if command == WRITE else b""
                    client.do(command, offset, length, flags, payload)
        t.check(client.read(0, MIB) == random.Random(13).randbytes(MIB), "the same bytes", "others")
        server.stop()
        after = os.stat(file.name)
        t.check((before.st_size, before.st_mtime_ns, before.st_blocks) == (after.st_size, after.st_mtime_ns, after.st_blocks),
                "the same size, time and blocks", "%r, then %r" % (before, after))
        with open(file.name, "rb") as again:
            t.check(again.read() == random.Random(13).randbytes(MIB), "the same bytes", "others")


@case(kind="big", twice=False)
def D12_sparse_export_stays_sparse(t):
    """Reading and zeroing a 1 TiB export does not allocate that memory."""
    client = t.tx()
    rss = t.server.rss()
    for place in range(0, TIB, TIB // 64):
        client.read(place, 4096)
    if client.tflags & wire.T_ZEROES:
        t.error(client.do(ZEROES, 100 * GIB, 2 * GIB, timeout=20 * SLOWER), (0, wire.EOVERFLOW, wire.EINVAL), "WRITE_ZEROES")
    t.check(t.run.sanitized or t.server.rss() - rss < 64 * MIB, "little memory", "%d MiB more" %
            ((t.server.rss() - rss) >> 20))
