# SPDX-License-Identifier: MIT
"""Replays of published vulnerabilities (CVE_*) and of known bugs without a number (Nxx), as seen by a client.

Not here: CVE-2013-6410 (address lists), CVE-2019-14850 (needs a count of backend opens) and CVE-2021-3716 (starttls T05). Others
are replayed by cases in other files: CVE-2015-0847 in lifecycle L08, CVE-2024-7409 in connect C14
and lifecycle L03 and L04, CVE-2025-47712 in transmission R25, N-09, N-10 in integrity, N-14 in slow_clients S04.
"""
import random
import resource
import struct
import threading
import time

import wire
from harness import NAME, SLOWER, Skip, case, eventually, scaled
from wire import (ABORT, ACK, DISC, EINVAL, ENOSPC, ERR_INVALID, ERR_TOO_BIG, ERR_UNKNOWN, ERR_UNSUP, EXPORT_NAME, GIB, GO,
                  INFO, KIB, LIST, LIST_META, MIB, READ, SET_META, STATUS, TRIM, WRITE, ZEROES, Client, Failure, info_data,
                  meta_data, pack_option, pack_request)

SPOT = 4 * MIB
LIMITS = (4 * KIB, 64 * KIB, 256 * KIB, 1 * MIB)
AROUND = (-17, -16, -15, -1, 0, 1, 15, 16, 17)


@case()
def CVE_2005_3534_reads_around_buffer_sizes(t):
    """READ of a buffer's size less or more a reply header: exactly that many bytes, in sync (and CVE-2011-0530)."""
    client = t.tx(delivery="whole")
    data = random.Random(5).randbytes(2 * MIB)
    for at in range(0, len(data), MIB):
        client.write(at, data[at:at + MIB])
    for limit in LIMITS:
        for delta in AROUND:
            t.check(client.read(3, limit + delta) == data[3:3 + limit + delta], "%d right bytes" % (limit + delta),
                    "other bytes")
            t.sync(client)


@case(twice=False)
def CVE_2005_3534_reads_around_32_mib(t):
    """READ of 32 MiB less or more a reply header: all bytes or a clean error, in sync."""
    client = t.tx()
    for delta in AROUND:
        result = client.do(READ, 0, 32 * MIB + delta, timeout=20 * SLOWER)
        t.error(result, 0 if delta <= 0 else (0, EINVAL), "READ of 32 MiB %+d" % delta)
        t.check(result.error or len(result.data) == 32 * MIB + delta, "all bytes", "%d" % len(result.data))
        t.sync(client)


@case()
def CVE_2005_3534_writes_around_buffer_sizes(t):
    """WRITE of a buffer's size less or more a header: exactly those bytes, in sync."""
    client = t.tx(delivery="whole")
    for limit in LIMITS:
        for delta in AROUND:
            length = limit + delta
            data = bytes([delta & 0xFF | 1]) * length
            client.write(SPOT + length, b"guard")
            t.error(client.write(SPOT, data), 0, "WRITE of %d bytes" % length)
            t.check(client.read(SPOT, length + 5) == data + b"guard", "exactly %d bytes written" % length, "others")


@case(twice=False)
def CVE_2005_3534_writes_around_32_mib(t):
    """WRITE of 32 MiB less or more a header: written, or (above) dropped; others unharmed."""
    for delta in AROUND:
        client = t.tx()
        client.request(WRITE, 0, 32 * MIB + delta)
        client.send(bytes(32 * MIB + delta), "%d zeroes" % (32 * MIB + delta))
        try:
            result = client.next_result(20 * SLOWER)
            t.error(result, 0 if delta <= 0 else (0, EINVAL), "WRITE of 32 MiB %+d" % delta)
            t.sync(client)
        except wire.Dropped:
            t.check(delta > 0, "an answer to 32 MiB %+d" % delta, "a drop")
        client.close()


@case()
def CVE_2011_1925_unknown_export_by_export_name(t):
    """CF(0), EXPORT_NAME "xyzzy": that connection is closed, the server continues.""" 
    client = t.hs(flags=0)
    client.option(EXPORT_NAME, b"xyzzy")
    t.drop(client)


@case(twice=False)
def CVE_2013_1922_content_is_never_sniffed(t):
    """A qcow2 header written at offset 0 reads back as written, and the size stays, for new clients too."""
    header = bytes.fromhex("514649fb00000003") + struct.pack(">QIIQ", 72, 11, 16, 1 << 40) + b"/etc/passwd" + bytes(469)
    client = t.tx()
    client.write(0, header)
    client.request(DISC, expect=False)
    t.drop(client, what="the end after DISC")
    again = t.tx()
    t.equal(again.size, 64 * MIB, "size")
    t.check(again.read(0, len(header)) == header, "the bytes written", "others")
    again.write(0, bytes(len(header)))


@case()
def CVE_2013_7441_close_at_every_byte(t):
    """close() at every byte boundary of the handshake, and at once after it: the server continues."""
    session = struct.pack(">I", 3) + pack_option(GO, info_data(NAME)) + pack_request(READ, 0, 65536)
    for k in range(len(session) + 1):
        client = t.client(delivery="whole")
        client.send(session[:k])
        client.close()


@case()
def CVE_2013_7441_unknown_export(t):
    """An unknown export, by every option, does not affect the server."""
    for number in (EXPORT_NAME, INFO, GO):
        client = t.hs()
        client.option(number, b"no-such-export" if number == EXPORT_NAME else info_data(b"no-such-export"))
        client.close()


@case()
def CVE_2017_7539_noise_in_place_of_an_option(t):
    """1 byte to 64 KiB of noise in place of an option: drop (a header that is not complete may wait)."""
    for length in (16, 17, 100, 4096, 65536):
        client = t.hs(delivery="whole")
        client.send(random.Random(length).randbytes(length))
        t.drop(client, what="a drop after %d bytes of noise" % length)
    for length in (1, 7, 15):
        client = t.hs(delivery="whole")
        client.send(random.Random(length).randbytes(length))
        client.shutdown_write()
        t.drop(client)


@case()
def CVE_2017_7539_everything_in_one_segment(t):
    """Flags, GO and a request pipelined before the greeting is read are handled in order."""
    client = t.client(delivery="whole")
    client.send(struct.pack(">I", 3) + pack_option(GO, info_data()) + pack_request(READ, t.witness_offset, 8, cookie=1))
    client.greet()
    t.equal(client.replies(GO)[-1].kind, ACK, "GO")
    t.check(client.recv(24)[16:] == t.witness_block[:8], "right data", "other data")


@case()
def CVE_2017_9524_port_scan(t):
    """Connects that close, reset or speak HTTP, in quick succession: each is closed in any state of the handshake."""
    for i in range(scaled(90)):
        client = t.client(delivery="whole")
        if i % 3 == 1:
            client.reset()
        elif i % 3 == 2:
            client.send(b"GET / HTTP/1.0\r\n\r\n")
        client.close()


@case(tcp_only=True)
def CVE_2017_10664_reset_with_replies_under_way(t):
    """16 x READ 1 MiB, then RST without reading: SIGPIPE is never fatal."""
    for _ in range(scaled(20)):
        client = t.tx()
        client.socket.sendall(b"".join(pack_request(READ, i * MIB, MIB, cookie=i) for i in range(16)))
        client.reset()


@case()
def CVE_2017_10664_close_with_replies_under_way(t):
    """16 x READ 1 MiB, then close without reading."""
    for _ in range(scaled(20)):
        client = t.tx(delivery="whole")
        client.socket.sendall(b"".join(pack_request(READ, i * MIB, MIB, cookie=i) for i in range(16)))
        client.close()


@case()
def CVE_2017_15118_long_names(t):
    """Names of 255 to 4096 bytes: ERR_UNKNOWN; 4097: an error; in sync each time."""
    client = t.hs(delivery="whole")
    for length in (255, 256, 257, 1024, 3000, 4095, 4096, 4097):
        kinds = {ERR_UNKNOWN} if length <= 4096 else {ERR_INVALID, ERR_TOO_BIG}
        for number in (INFO, GO):
            t.equal(client.final(number, info_data(b"n" * length)), kinds, "a name of %d bytes" % length)
    t.finish(client)


@case(twice=False)
def CVE_2017_15119_endless_option_data(t):
    """Ten clients that send options of 32 MiB in a loop: each is dropped, and the latency of others stays low."""
    stop = threading.Event()

    def nuisance():
        while not stop.is_set():
            try:
                client = Client(t.server.address, timeout=2.0 * SLOWER).start()
                client.option(99, length=0x01FFFFFF)
                while not client.send_failed and not stop.is_set():
                    client.send(bytes(65536))
                client.close()
            except Failure:
                pass

    good = t.tx()
    threads = [threading.Thread(target=nuisance) for _ in range(10)]
    for thread in threads:
        thread.start()
    times = []
    try:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            begin = time.monotonic()
            t.sync(good)
            times.append(time.monotonic() - begin)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    times.sort()
    t.check(times[len(times) // 2] < 0.1 * SLOWER, "half of the READs within 100 ms", "%.3f s" % times[len(times) // 2])


@case()
def CVE_2019_14851_info_and_go_in_every_order(t):
    """INFO(A) GO(A); INFO(A) GO(B); INFO(A) x 30 GO(A); INFO(A) ABORT; INFO(A) close."""
    for before in ([NAME], [b"other"], [NAME] * 30, [NAME, b"other", b""]):
        client = t.hs(delivery="whole")
        for name in before:
            t.equal(client.info(name)[1][-1].kind, ERR_UNKNOWN if name == b"other" else ACK, "INFO")
        t.finish(client)
    client = t.hs()
    client.info(NAME)
    t.equal(client.negotiate(GO, info_data(b"other"))[-1].kind, ERR_UNKNOWN, "GO of another export")
    t.equal(client.final(ABORT), ACK, "ABORT")


@case()
def CVE_2020_10761_error_text_of_a_long_name(t):
    """Errors about a name of 4096 bytes: a text of at most 4096 bytes, sync (checked in each error reply)."""
    for number in (INFO, GO, LIST_META, SET_META):
        client = t.hs(delivery="whole")
        client.structured()
        for name in (b"x" * 4096, "€".encode() * 1365):
            data = info_data(name) if number in (INFO, GO) else meta_data(name, [b"base:"])
            kinds = {ERR_UNKNOWN}
            if number in (LIST_META, SET_META):
                kinds |= {ACK} if t.run.offers("meta") else {ERR_UNSUP, ERR_INVALID}
            t.equal(client.final(number, data), kinds, "option %d" % number)
        t.finish(client)


@case()
def CVE_2022_26495_name_length_ffffffff(t):
    """EXPORT_NAME, GO and INFO whose name length is -1 or -2: refused before anything is added to it."""
    client = t.hs()
    client.option(EXPORT_NAME, length=0xFFFFFFFF)
    t.drop(client)
    client = t.hs()
    t.equal(client.final(GO, bytes.fromhex("ffffffff0000")), ERR_INVALID, "GO")
    t.equal(client.final(INFO, bytes.fromhex("fffffffe000000000000")), ERR_INVALID, "INFO")
    t.finish(client)


@case()
def CVE_2022_26496_name_longer_than_its_option(t):
    """INFO and GO of 2048 bytes whose name claims 4000, and of 0 to 5 bytes: ERR_INVALID, consumed, next option works."""
    for number in (INFO, GO):
        client = t.hs()
        t.equal(client.final(number, struct.pack(">I", 4000) + bytes(2044)), ERR_INVALID, "a name of 4000 in 2048 bytes")
        for length in range(6):
            t.equal(client.final(number, b"\xff" * length), ERR_INVALID, "an option of %d bytes" % length)
        t.finish(client)


@case(own=True, twice=False)
def CVE_2024_7409_stop_with_stalled_handshakes(t):
    """50 clients stalled in the handshake; the server stops at once; they close afterwards."""
    server = t.start(["mem:1M"])
    clients = [t.client(server) for _ in range(50)]
    for client in clients[::2]:
        client.greet()
    begin = time.monotonic()
    server.stop()
    t.check(time.monotonic() - begin < 3 * SLOWER, "the end within 3 s", "%.1f s" % (time.monotonic() - begin))


@case(kind="big", needs="meta")
def CVE_2025_47711_block_status_of_4_gib(t):
    """BLOCK_STATUS of ffffffff, fffffffe, 80000000, 7fffffff bytes at unaligned offsets of a sparse export."""
    client = t.tx(mode="structured", contexts=[b"base:allocation"])
    for length in (0xFFFFFFFF, 0xFFFFFFFE, 0x80000000, 0x7FFFFFFF):
        for offset in (0, 1, (1 << 32) - 1, 1 << 32, (1 << 40) - 0xFFFFFFFF):
            for flags in (0, wire.REQ_ONE):
                result = client.do(STATUS, offset, length, flags)
                inside = offset + length <= 1 << 40
                t.error(result, 0 if inside else EINVAL, "BLOCK_STATUS %#x+%#x" % (offset, length))


@case(kind="big4k", needs="meta")
def CVE_2025_47712_block_status_rounding(t):
    """BLOCK_STATUS of nearly 4 GiB on an export with blocks of 4096: an error or progress, never length 0."""
    client = t.tx(mode="structured", contexts=[b"base:allocation"])
    for offset, length in ((0, 0xFFFFF000), (4096, 0xFFFFF000)):
        t.error(client.do(STATUS, offset, length), 0, "an aligned BLOCK_STATUS")
    for offset, length in ((0, 0xFFFFFFFF), (0, 0xFFFFFE00), (1, 0xFFFFF001), (4095, 0xFFFFFFFF)):
        t.error(client.do(STATUS, offset, length), EINVAL, "a misaligned BLOCK_STATUS")
    t.sync(client)


# -- bugs without a number --------------------------------------------------------------------------------------------

def leave(t, server, way):
    client = t.client(server)
    client.start()
    if way == "DISC":
        client.go().request(DISC, expect=False)
    elif way == "close":
        client.go()
    elif way == "RST":
        client.go().reset()
    elif way == "failed GO":
        client.negotiate(GO, info_data(b"no-such-export"))
    elif way == "unknown EXPORT_NAME":
        client.option(EXPORT_NAME, b"no-such-export")
    elif way == "ABORT":
        client.final(ABORT)
    elif way == "bad magic":
        client.go().send(bytes(28))
    elif way == "bad option":
        client.send(bytes(16))
    elif way == "cut payload":
        client.go().request(WRITE, 0, 4096, expect=False)
    client.close()


@case(own=True)
def N05_places_are_free_after_every_kind_of_disconnect(t):
    """At limit 1: connect and disconnect in every way, many times: the place is free again each time."""
    server = t.start(["mem:1M", "--max-connections", "1"])
    for _ in range(scaled(10)):
        for way in ("DISC", "close", "RST", "failed GO", "unknown EXPORT_NAME", "ABORT", "bad magic", "bad option",
                    "cut payload"):
            leave(t, server, way)
    t.check(t.client(server).start().go().read(0, 512) == bytes(512), "a free slot", "none")


@case()
def N08_empty_export_name(t):
    """An empty name by EXPORT_NAME and by GO opens the default export."""
    client = t.hs()
    client.option(EXPORT_NAME)
    client.recv(10, "export data")
    t.sync(client)
    t.finish(t.hs())


@case()
def N17_write_of_3_gib(t):
    """A payload of 3 GiB is not consumed: drop."""
    client = t.tx()
    client.request(WRITE, 0, 3 * GIB, expect=False)
    t.drop(client)


@case()
def N20_trim_with_fua(t):
    """TRIM with FUA: success where both are advertised."""
    client = t.tx()
    if not client.tflags & wire.T_TRIM or not client.tflags & wire.T_FUA:
        raise Skip("TRIM or FUA is not advertised")
    t.error(client.do(TRIM, SPOT, 65536, wire.FUA), 0, "TRIM with FUA")
    t.sync(client)


@case(twice=False)
def N29_hundreds_of_sessions_with_disc(t):
    """Hundreds of connect, GO, READ, DISC: no error and no slowdown."""
    for _ in range(scaled(400)):
        client = Client(t.server.address, timeout=5 * SLOWER).start().go()
        t.sync(client)
        client.request(DISC, expect=False)
        t.drop(client)
        client.close()


@case(own=True, twice=False)
def N29_more_than_1024_descriptors(t):
    """1,100 clients at a time are all served, on descriptors above 1,024, and leave none behind."""
    t.without_tls()     # 1,100 handshakes of TLS take a minute
    count, files = 1100, 4096
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if t.run.sanitized or hard != resource.RLIM_INFINITY and hard < files:
        raise Skip("needs %d descriptors and no sanitizer" % files)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, files), hard))
    try:
        server = t.start(["mem:1M", "--max-connections", "0"], files=files)
        first = t.client(server).start().go()
        base = server.descriptors()
        clients = [t.client(server).start().go() for _ in range(count)]
        t.check(server.descriptors() > count, "a descriptor for each client", "%d" % server.descriptors())
        for client in clients[-100:] + clients[:100]:
            t.check(client.read(0, 512) == bytes(512), "service", "other data")
        for client in clients:
            client.close()
        t.check(eventually(lambda: server.descriptors() <= base), "%d descriptors" % base, "%d" % server.descriptors())
        t.check(first.read(0, 512) == bytes(512), "service for the first client", "other data")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@case()
def N30_close_at_each_stage(t):
    """close at each stage of a session: descriptors return (the oracle counts them)."""
    for _ in range(scaled(20)):
        for way in ("DISC", "close", "failed GO", "ABORT", "bad magic", "cut payload"):
            leave(t, t.server, way)


@case()
def N32_flush_works_where_it_is_advertised(t):
    """FLUSH succeeds exactly where SEND_FLUSH is set."""
    client = t.tx()
    t.error(client.do(wire.FLUSH), 0 if client.tflags & wire.T_FLUSH else EINVAL, "FLUSH")


@case(kind="bs")
def N33_oversize_write_is_still_refused(t):
    """The cap on payloads stays: above 1 MiB EINVAL, above 32 MiB drop."""
    client = t.tx(delivery="whole")
    t.error(client.write(0, bytes(MIB + 4096)), EINVAL, "WRITE above the advertised maximum")
    t.sync(client)
    client.request(WRITE, 0, 33 * MIB, expect=False)
    t.drop(client)
