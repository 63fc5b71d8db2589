# SPDX-License-Identifier: MIT
"""Slow, dead and hostile clients in transmission: S01 to S13, scaled down to seconds."""
import random
import socket
import struct
import threading
import time

import wire
from harness import SLOWER, Skip, case, eventually, scaled
from wire import DISC, KIB, MIB, READ, WRITE, Client, Failure, pack_request

SPOT = 8 * MIB


def fill(client, offset=SPOT, length=4 * MIB, seed=1):
    data = random.Random(seed).randbytes(length)
    for begin in range(0, length, MIB):
        if client.write(offset + begin, data[begin:begin + MIB]):
            raise Failure("a WRITE to succeed", "an error")
    return data


@case(twice=False)
def S01_many_large_reads_not_read(t):
    """1000 x READ 1 MiB from a client that reads nothing: the server stops reading; memory stays in budget."""
    client = t.tx()
    rss = t.server.rss()
    client.socket.settimeout(0.5)
    try:
        for i in range(1000):
            client.socket.sendall(pack_request(READ, (i % 32) * MIB, MIB, cookie=i))
    except OSError:
        pass
    time.sleep(0.5)
    t.check(t.run.sanitized or t.server.rss() - rss < 128 * MIB, "at most 64 MiB in flight for one client (and the "
            "export's pages)", "%d MiB more" % ((t.server.rss() - rss) >> 20))


@case(twice=False)
def S02_twenty_clients_that_do_not_read(t):
    """The same from 20 clients at once: a good client is still served."""
    for _ in range(20):
        client = t.tx()
        client.socket.settimeout(0.1)
        try:
            for i in range(200):
                client.socket.sendall(pack_request(READ, (i % 32) * MIB, MIB, cookie=i))
        except OSError:
            pass
    good = t.tx()
    begin = time.monotonic()
    for _ in range(20):
        t.sync(good)
    t.prompt(begin, "20 answers")


@case()
def S03_reads_late_but_all(t):
    """A client that asks for 64 MiB, pauses, and then reads: all replies are right, and DISC is still seen (N-34)."""
    client = t.tx(delivery="whole")
    data = fill(client)
    results = [client.request(READ, SPOT + (i % 4) * MIB, MIB) for i in range(64)]
    client.request(DISC, expect=False)
    time.sleep(1.0)
    for i, result in enumerate(results):
        client.wait(result, timeout=10 * SLOWER)
        at = result.offset - SPOT
        t.check(result.data == data[at:at + MIB], "the data of READ %d" % i, "other data")
    t.drop(client, what="the end after DISC")


@case()
def S04_reads_abandoned_while_others_verify(t):
    """4 x READ 2 MiB, then close at once, again and again: other clients get only their own bytes (N-14)."""
    watch = t.tx(delivery="whole")
    data = fill(watch)
    failed = []
    stop = threading.Event()

    def verify(seed):
        generator = random.Random(seed)
        try:
            while not stop.is_set():
                client = Client(t.server.address, timeout=5.0 * SLOWER).start().go()
                for _ in range(5):
                    at = generator.randrange(0, 3 * MIB)
                    length = generator.choice((1, 512, 4096, 100000))
                    if client.read(SPOT + at, length) != data[at:at + length]:
                        raise Failure("right data", "foreign bytes")
                client.close()
        except Failure as problem:
            failed.append(problem)

    threads = [threading.Thread(target=verify, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(scaled(150)):
            bad = t.client(delivery="whole").start().go()
            bad.socket.sendall(b"".join(pack_request(READ, 32 * MIB + 8192, 2 * MIB, cookie=i) for i in range(4)))
            bad.close()
            if failed:
                break
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]


@case(tcp_only=True)
def S05_reset_in_the_middle_of_a_reply(t):
    """RST while a large reply is on its way: no SIGPIPE, freed."""
    for _ in range(scaled(30)):
        client = t.tx(receive_buffer=4096)
        client.request(READ, 0, 16 * MIB)
        client.socket.recv(1000)
        client.reset()


@case(tcp_only=True)
def S05_reset_in_the_middle_of_a_payload(t):
    """RST in the middle of a WRITE's payload: freed."""
    for _ in range(scaled(30)):
        client = t.tx()
        client.request(WRITE, SPOT, 4 * MIB, expect=False)
        client.send(bytes(100000))
        client.reset()


@case()
def S05_close_in_the_middle_of_a_reply(t):
    """close() while a large reply is on its way: no SIGPIPE, freed."""
    for _ in range(scaled(30)):
        client = t.tx(delivery="whole")
        client.request(READ, 0, 16 * MIB)
        client.socket.recv(1000)
        client.close()


@case()
def S06_half_close_behind_requests(t):
    """N requests, then SHUT_WR: N replies, then the end (N-30)."""
    for count in (1, 16, 100):
        client = t.tx(delivery="whole")
        results = [client.request(READ, t.witness_offset, 4096) for _ in range(count)]
        client.shutdown_write()
        for result in client.wait_all(results):
            t.check(result.data == t.witness_block, "right data", "other data")
        t.drop(client, what="the end after %d replies" % count)


@case()
def S06_half_close_behind_a_large_read(t):
    """A READ of 16 MiB, then SHUT_WR: all 16 MiB."""
    client = t.tx(delivery="whole")
    result = client.request(READ, 0, 16 * MIB)
    client.shutdown_write()
    t.error(client.wait(result, timeout=10 * SLOWER), 0, "READ")
    t.equal(len(result.data), 16 * MIB, "length")
    t.drop(client, what="the end after the reply")


@case()
def S06_half_close_when_idle(t):
    """SHUT_WR on an idle connection: closed."""
    client = t.tx()
    client.shutdown_write()
    t.drop(client)


@case()
def S07_half_close_during_negotiation(t):
    """SHUT_WR behind the client flags: closed."""
    client = t.hs()
    client.shutdown_write()
    t.drop(client)


@case()
def S09_client_that_dies_with_16_writes_in_flight(t):
    """A client that disconnects after 16 WRITEs: each is written completely or not at all, the last perhaps in part."""
    watch = t.tx(delivery="whole")
    for turn in range(scaled(10)):
        old, new = bytes([turn + 1]) * 65536, bytes([turn + 101]) * 65536
        for i in range(16):
            t.error(watch.write(SPOT + i * 65536, old), 0, "WRITE")
        client = t.tx(delivery="whole")
        client.socket.sendall(b"".join(pack_request(WRITE, SPOT + i * 65536, 65536, cookie=i, payload=new)
                                       for i in range(16)))
        client.close()
        t.check(eventually(lambda: settled(watch)), "writes to settle", "changes without end")
        partial = 0
        for i in range(16):
            data = watch.read(SPOT + i * 65536, 65536)
            written = len(data) - len(data.lstrip(new[:1]))
            t.check(data == new[:written] + old[written:], "new bytes in front of old", "a mixture")
            partial += written not in (0, 65536)
        t.check(partial <= 1, "at most one WRITE in part", "%d" % partial)


def settled(watch):
    first = watch.read(SPOT, MIB)
    time.sleep(0.02)
    return watch.read(SPOT, MIB) == first


@case()
def S10_client_that_pauses(t):
    """A client that stops reading in the middle of a reply and continues later loses nothing."""
    client = t.tx(delivery="whole", receive_buffer=8192)
    data = fill(client)
    result = client.request(READ, SPOT, 4 * MIB)
    head = client.recv(16)
    t.check(head[:8] == struct.pack(">II", wire.SIMPLE_REPLY, 0), "a simple reply", wire.short(head))
    got = b""
    while len(got) < 4 * MIB:
        got += client.recv(min(900 * KIB, 4 * MIB - len(got)), timeout=10 * SLOWER)
        time.sleep(0.2)
    t.check(got == data, "right data", "other data")
    client.complete(result)
    t.sync(client)


def steady_readers(t, others, seconds, limit):
    """Small READs while `others` keep the server busy: half of them must stay below the limit.

    Not the slowest few: on a busy machine those wait for a processor, whatever the server does."""
    stop = threading.Event()
    threads = [threading.Thread(target=other, args=(stop,)) for other in others]
    for thread in threads:
        thread.start()
    times = []
    try:
        client = t.tx(delivery="whole")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begin = time.monotonic()
            t.sync(client)
            times.append(time.monotonic() - begin)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    times.sort()
    median = times[len(times) // 2]
    t.check(median < limit * SLOWER, "half of the READs within %g s" % limit, "%.3f s (%d READs)" % (median, len(times)))


@case(twice=False)
def S11_small_writes_at_full_rate(t):
    """4 KiB WRITEs at full rate from one client do not starve a reader."""
    def writer(stop):
        client = Client(t.server.address, timeout=10.0 * SLOWER).start().go()
        while not stop.is_set():
            client.wait_all([client.request(WRITE, SPOT + i * 4096, 4096, payload=bytes(4096)) for i in range(16)])
        client.close()
    steady_readers(t, [writer], 1.5, 0.25)


@case(twice=False)
def S12_maximum_writes_beside_small_reads(t):
    """WRITEs of 8 MiB on one connection do not delay READs of another for long."""
    def writer(offset):
        def run(stop):
            client = Client(t.server.address, timeout=20.0 * SLOWER).start().go()
            data = bytes(8 * MIB)
            while not stop.is_set():
                client.write(offset, data, timeout=20 * SLOWER)
            client.close()
        return run
    steady_readers(t, [writer(SPOT), writer(SPOT + 8 * MIB)], 1.5, 0.3)


@case()
def S13_random_bytes_after_go(t):
    """Noise in place of requests: dropped, no effect on others."""
    for seed in range(scaled(60)):
        client = t.tx(delivery="whole")
        client.delivery = t.delivery
        noise = random.Random(seed).randbytes(2000)
        client.send(b"\x00" + noise, "2000 bytes of noise, seed %d" % seed)
        t.drop(client)
        client.close()


@case(twice=False)
def S13_mutated_requests(t):
    """Valid sessions with a few bytes changed: answered or dropped, never a hang or a crash, no effect on others."""
    for seed in range(scaled(200)):
        generator = random.Random(seed)
        client = t.tx()
        blob = bytearray(b"".join(pack_request(generator.choice((READ, wire.TRIM, wire.FLUSH, wire.ZEROES, 9)),
                                               SPOT + generator.randrange(4096), generator.randrange(4096), cookie=i)
                                  for i in range(8)))
        for _ in range(3):
            # not the flags, type, and offset of a request: a WRITE might hit the witness's block
            at = generator.randrange(8) * 28 + generator.choice((0, 1, 2, 3, 8, 12, 24, 25, 26, 27))
            blob[at] = generator.randrange(256)
        client.send(bytes(blob), "mutated requests, seed %d" % seed)
        client.shutdown_write()
        deadline = time.monotonic() + 5 * SLOWER
        while client.recv_some(1 << 20, timeout=deadline - time.monotonic()):
            pass
        client.close()


@case()
def S14_idle_in_transmission_is_kept(t):
    """An idle client in transmission is not subject to the handshake's deadline."""
    client = t.tx()
    t.quiet(client, 1.0)
    t.sync(client)


@case(kind="slow", slow=True)
def S14_idle_longer_than_the_handshake_deadline(t):
    """A client that is idle in transmission for 12 s is served afterwards."""
    client = t.tx()
    time.sleep(12)
    t.check(len(client.read(0, 512)) == 512, "service after 12 idle seconds", "none")
