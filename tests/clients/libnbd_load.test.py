# SPDX-License-Identifier: MIT
"""libnbd: many requests in flight, many clients, very large disks, and clients that disconnect without notice."""
import errno
import random
import socket
import threading

from support import *

nbd = require_libnbd()


def connect(server):
    h = nbd.NBD()
    h.connect_uri(server.uri)
    return h


class Deep:
    """Keeps up to `depth` commands in flight on one connection."""

    def __init__(self, h, depth):
        self.h = h
        self.depth = depth
        self.in_flight = 0
        self.errors = []

    def start(self, command, *arguments, then=lambda: None, **keywords):
        while self.in_flight >= self.depth:
            self.wait()

        def completed(error):
            # libnbd prints exceptions from here and ignores them.
            self.in_flight -= 1
            if error.value:
                self.errors.append(errno.errorcode.get(error.value, error.value))
            then()
            return 1  # the command is retired

        self.in_flight += 1
        command(*arguments, completion=completed, **keywords)

    def wait(self):
        assert self.h.poll(PATIENCE * 1000) == 1, f"no progress, with {self.in_flight} commands in flight"
        assert not self.errors, self.errors

    def finish(self):
        while self.in_flight:
            self.wait()
        assert not self.errors, self.errors


def random_load(h, base, size, seed, requests, depth=64):
    """Random reads, writes and zeroes at `depth`, each read compared with a shadow copy of the region."""
    source = random.Random(seed)
    noise = source.randbytes(1 * M)
    block = 4 * K
    shadow = bytearray(size)
    busy = set()  # blocks of the commands in flight: overlapping commands have no defined order
    deep = Deep(h, depth)
    differences = []

    for _ in range(requests):
        count = source.choice([1, 1, 1, 1, 2, 3, 8, 24, 64])
        while True:
            first = source.randrange(size // block - count + 1)
            blocks = range(first, first + count)
            if busy.isdisjoint(blocks):
                break
            deep.wait()
        busy.update(blocks)
        # Not always whole blocks, but always inside the blocks that are reserved for this command.
        offset = first * block + source.choice([0, 0, 1, 100])
        length = count * block - source.choice([0, 0, 1, 200]) - (offset - first * block)
        kind = source.random()

        def release(blocks=blocks):
            busy.difference_update(blocks)

        if kind < 0.5:
            start = source.randrange(len(noise) - length)
            data = noise[start:start + length]
            shadow[offset:offset + length] = data
            flags = nbd.CMD_FLAG_FUA if kind < 0.02 else 0
            deep.start(h.aio_pwrite, nbd.Buffer.from_bytearray(bytearray(data)), base + offset, then=release, flags=flags)
        elif kind < 0.55:
            shadow[offset:offset + length] = bytes(length)
            deep.start(h.aio_zero, length, base + offset, then=release)
        else:
            buffer = nbd.Buffer(length)

            def compare(buffer=buffer, offset=offset, length=length, release=release):
                if buffer.to_bytearray() != shadow[offset:offset + length]:
                    differences.append((offset, length))
                release()

            deep.start(h.aio_pread, buffer, base + offset, then=compare)
    deep.finish()
    assert not differences, f"{len(differences)} reads differ, the first (offset, length) is {differences[0]}"
    h.flush()
    for offset in range(0, size, M):
        assert h.pread(M, base + offset) == shadow[offset:offset + M], f"differs in the MiB at {offset}"


def in_threads(work, count):
    """Runs work(0) … work(count - 1), each on a thread, and raises the first failure."""
    failures = []

    def guarded(number):
        try:
            work(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@for_each(GRID)
def test_random_load_at_depth_64(policy, transport):
    with serve("mem:16M", policy=policy, transport=transport) as server:
        random_load(connect(server), 0, 16 * M, seed=11, requests=scaled(6000, 1500))


@for_each(GRID)
def test_sixteen_connections(policy, transport):
    count, share = 16, 2 * M
    with serve(f"mem:{count * share}", policy=policy, transport=transport) as server:
        connections = [connect(server) for _ in range(count)]
        in_threads(lambda n: random_load(connections[n], n * share, share, seed=n, requests=scaled(300, 100), depth=16), count)
        for h in connections:
            h.shutdown()


@for_each(GRID)
def test_a_client_reads_what_another_has_flushed(policy, transport):
    with serve("mem:1M", policy=policy, transport=transport) as server:
        writer, reader = connect(server), connect(server)
        assert writer.can_multi_conn()
        for number in range(scaled(500, 100)):
            data = number.to_bytes(8, "big") * 512
            writer.pwrite(data, 4096 * (number % 256))
            writer.flush()
            assert reader.pread(4096, 4096 * (number % 256)) == data


@for_each(GRID)
def test_a_thousand_reads_at_once(policy, transport):
    """More requests and replies than the socket buffers hold."""
    with serve("mem:16M", policy=policy, transport=transport) as server:
        h = connect(server)
        content = random.Random(5).randbytes(16 * M)
        h.pwrite(content, 0)
        deep = Deep(h, 1000)
        buffers = [(offset, nbd.Buffer(64 * K)) for offset in random.Random(6).choices(range(16 * M - 64 * K), k=1000)]
        for offset, buffer in buffers:
            deep.start(h.aio_pread, buffer, offset)
        deep.finish()
        for offset, buffer in buffers:
            assert buffer.to_bytearray() == content[offset:offset + 64 * K], offset


@for_each(GRID)
def test_shutdown_waits_for_requests_in_flight(policy, transport):
    """DISC after many writes: all of them are executed before the server closes."""
    with serve("mem:16M", policy=policy, transport=transport) as server:
        h = connect(server)
        content = random.Random(5).randbytes(16 * M)
        for offset in range(0, 16 * M, 256 * K):
            h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(content[offset:offset + 256 * K])), offset)
        h.shutdown()
        h = connect(server)
        assert h.pread(16 * M, 0) == content


@for_each(GRID)
def test_clients_come_and_go(policy, transport):
    with serve("mem:1M", policy=policy, transport=transport) as server:
        before = server.open_sockets()
        for number in range(scaled(300, 60)):
            h = connect(server)
            h.pwrite(b"x" * 512, 512 * number)
            assert h.pread(512, 512 * number) == b"x" * 512
            if number % 3 == 0:
                h.shutdown()
            del h  # closes without DISC, unless it was shut down
        wait_until(lambda: server.open_sockets() <= before, "the sockets of disconnected clients are closed")


@for_each(GRID)
def test_clients_that_disconnect_without_notice(policy, transport):
    """They close with requests in flight and replies unread; other clients are not affected."""
    with serve("mem:64M", policy=policy, transport=transport) as server:
        steady = connect(server)
        steady.pwrite(b"steady" * 1000, 0)
        before = server.open_sockets()
        for number in range(scaled(30, 10)):
            h = connect(server)
            for _ in range(16):
                h.aio_pread(nbd.Buffer(512 * K), 0)
                h.aio_pwrite(nbd.Buffer(512 * K), 32 * M)
            del h
            assert steady.pread(6000, 0) == b"steady" * 1000
        wait_until(lambda: server.open_sockets() <= before, "the sockets of disconnected clients are closed")


@for_each(GRID)
def test_very_large_disk(policy, transport):
    """Offsets and lengths around multiples of 4 GiB; only written data take memory."""
    source = random.Random(8)
    size = scaled(T, T // 4)  # ThreadSanitizer uses most of the address space
    with serve(f"mem:{size}", policy=policy, transport=transport) as server:
        h = connect(server)
        assert h.get_size() == size
        borders = [2**31, 2**32, 2**33, size // 2, 3 * size // 4 + 12345, size - 64 * K]
        data = {border: source.randbytes(128 * K) for border in borders}
        for border in borders:
            h.pwrite(data[border], border - 64 * K)
        assert h.pread(64 * K, 0) == bytes(64 * K), "an offset was truncated to 32 bits"
        for border in borders:
            assert h.pread(128 * K, border - 64 * K) == data[border], border
        # The longest lengths of a request without a payload.
        h.zero(2**32 - 4096, 2**33 - 64 * K + 4096)
        assert h.pread(128 * K, 2**33 - 64 * K) == data[2**33][:4096] + bytes(124 * K)
        h.trim(2**32 - 4096, size // 2 - 2**31)
        for border in (2**31, 2**32, 3 * size // 4 + 12345, size - 64 * K):
            assert h.pread(128 * K, border - 64 * K) == data[border], "a long command reached too far"
        h.flush()


@for_each(POLICIES)
def test_trim_gives_memory_back(policy):
    with serve("mem:1G", policy=policy) as server:
        h = connect(server)
        for part in range(64):
            h.pwrite(b"\x55" * M, part * M)
        full = server.memory_in_use()
        assert full >= 64 * M, full
        h.trim(64 * M, 0)
        h.flush()
        after = server.memory_in_use()
        assert full - after >= 60 * M, f"{full} before, {after} after"
        assert h.pread(M, 0) == bytes(M)


@for_each(POLICIES)
def test_idle_clients_do_not_delay_others(policy):
    with serve("mem:1M", transport="tcp", policy=policy) as server:
        silent = [server.raw_connection() for _ in range(20)]
        idle = [connect(server) for _ in range(20)]
        h = connect(server)
        h.pwrite(b"x" * 4096, 0)
        assert h.pread(4096, 0) == b"x" * 4096
        for h in idle:
            assert h.pread(4096, 0) == b"x" * 4096
        for connection in silent:
            connection.close()


run_cases(globals())
