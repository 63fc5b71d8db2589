# SPDX-License-Identifier: MIT
"""Connections and the greeting: C01 to C18 and points 10 to 16."""
import random
import select
import socket
import struct
import time

import wire
from harness import SLOWER, Skip, case, eventually, loopback6, scaled
from wire import (ABORT, ACK, DISC, ERR_INVALID, EXPORT_NAME, FLUSH, GO, INFO, KIB, LIST, MIB, READ, SET_META, STATUS,
                  STRUCTURED_REPLY, WRITE, Failure, Silent, info_data, pack_option, pack_request)

DEADLINE = 10.0      # handshake, counted from accept


def in_time(t, begin, least=DEADLINE - 1.5, most=DEADLINE + 5):
    took = time.monotonic() - begin
    t.check(least <= took <= most * SLOWER, "a drop between %g and %g s after the connection" % (least, most),
            "%.1f s" % took)


def dropped_at_deadline(t, client, begin):
    t.drop(client, within=DEADLINE + 5, what="a drop at the handshake deadline", silent=False)
    in_time(t, begin)


@case()
def P10_greeting_is_18_bytes(t):
    """Server opens with NBDMAGIC, IHAVEOPT and 16 bits of handshake flags, then waits for the client."""
    client = t.client()
    client.greet()
    t.quiet(client)


@case()
def P12_handshake_flags(t):
    """FIXED_NEWSTYLE is set, and no bit but FIXED_NEWSTYLE and NO_ZEROES."""
    flags = t.client().greet()
    t.check(flags & 1, "FIXED_NEWSTYLE", "%#x" % flags)
    t.check(not flags & ~3, "no other handshake flag", "%#x" % flags)


@case()
def P08_oldstyle_is_not_offered(t):
    """No size and no flags word follow the first magic, as in oldstyle: IHAVEOPT, two bytes of flags, and silence."""
    client = t.client()
    first, second, _ = struct.unpack(">QQH", client.recv(18, "the greeting"))
    t.check(first == 0x4E42444D41474943 and second == 0x49484156454F5054, "NBDMAGIC and IHAVEOPT", "%#x" % second)
    t.quiet(client)


@case()
def P14_each_unknown_client_flag_drops(t):
    """A client flag that is unknown or was not advertised: the server MUST drop the connection."""
    for bit in range(2, 32):
        client = t.hs(flags=1 << bit | 3)
        t.drop(client, what="a drop on client flag bit %d" % bit)
        client.close()


@case()
def C09_client_flag_4_alone_drops(t):
    """CF(00000004): MUST drop."""
    t.drop(t.hs(flags=4))


@case()
def C09_client_flag_bit_31_drops(t):
    """CF(80000003): MUST drop."""
    t.drop(t.hs(flags=0x80000003))


@case()
def C09_all_client_flags_drop(t):
    """CF(ffffffff): MUST drop."""
    t.drop(t.hs(flags=0xFFFFFFFF))


@case()
def P14_no_zeroes_must_match_the_offer(t):
    """C_NO_ZEROES is a known flag when the server offered it, a reason to drop when it did not."""
    client = t.client()
    offered = client.greet() & 2
    client.send_flags(3)
    if offered:
        t.sync_options(client)
    else:
        t.drop(client)


@case()
def C01_connect_and_close(t):
    """Connections that close at once have no effect."""
    for _ in range(scaled(60)):
        t.client().close()


@case()
def C01_connect_read_greeting_and_close(t):
    """Connections that close behind the greeting have no effect."""
    for _ in range(scaled(60)):
        client = t.client()
        client.greet()
        client.close()


@case(tcp_only=True)
def C02_connect_and_reset(t):
    """A RST before the greeting is read: no SIGPIPE, everything freed."""
    for _ in range(scaled(60)):
        t.client().reset()


@case(tcp_only=True)
def C02_reset_after_greeting(t):
    """A RST after the greeting and after the flags: everything freed."""
    for _ in range(scaled(30)):
        client = t.client()
        client.greet()
        client.reset()
        client = t.hs()
        client.reset()


@case(kind="slow", slow=True)
def C03_silence_after_greeting(t):
    """A client that reads the greeting and sends nothing is dropped at the deadline (10 s from accept)."""
    begin = time.monotonic()
    client = t.client()
    client.greet()
    dropped_at_deadline(t, client, begin)


@case(kind="slow", slow=True)
def C03_silence_after_client_flags(t):
    """A client that sends its flags and no option is dropped at the deadline."""
    begin = time.monotonic()
    dropped_at_deadline(t, t.hs(), begin)


@case(kind="slow", slow=True)
def C03_silence_between_options(t):
    """An answered option does not restart the deadline."""
    begin = time.monotonic()
    client = t.hs()
    client.info()
    time.sleep(3)
    client.info()
    dropped_at_deadline(t, client, begin)


@case(kind="slow", slow=True)
def C04_never_reads(t):
    """A client that reads nothing and sends nothing is dropped at the deadline."""
    begin = time.monotonic()
    client = t.client(receive_buffer=2304)
    poll = select.poll()
    poll.register(client.socket, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    t.check(poll.poll(int((DEADLINE + 5) * SLOWER * 1000)), "a drop at the deadline", "an open connection")
    in_time(t, begin)


SPOT, OLD, NEW = 8 * KIB, b"\x11" * 32, b"\x22" * 32


def whole_session():
    """The messages of a session with every phase, in order; the WRITE of NEW at SPOT has number WRITE_AT."""
    return [struct.pack(">I", 3), pack_option(0x1234, b"data"), pack_option(LIST), pack_option(INFO, info_data(b"", (3,))),
            pack_option(STRUCTURED_REPLY), pack_option(SET_META, wire.meta_data(b"", [b"base:allocation"])),
            pack_option(GO, info_data(b"", (1, 2, 3))), pack_request(WRITE, SPOT, len(NEW), payload=NEW, cookie=1),
            pack_request(READ, SPOT, 4 * KIB, cookie=2), pack_request(STATUS, 0, MIB, cookie=3),
            pack_request(FLUSH, 0, 0, cookie=4), pack_request(DISC, 0, 0)]


WRITE_AT = 7


def prefixes(t):
    """(k, session) for every k; TLS begins behind the client flags."""
    session = b"".join(whole_session())
    begin = 4 if t.transport == "tls" else 0
    return [(k - begin, session) for k in range(begin + 1, len(session) + 1)]


def after_prefix(t, end):
    """C05, C06: sends the first k bytes of a session, ends it, and compares the written range with old and new data."""
    client = t.tx(delivery="whole")
    begin = 4 if t.transport == "tls" else 0
    header = len(b"".join(whole_session()[:WRITE_AT])) + 28 - begin
    payload_sent = False
    for k, session in prefixes(t):
        if not payload_sent:
            t.error(client.write(SPOT, OLD), 0, "WRITE")
        other = t.cut(session, k)
        end(other, k)
        if not payload_sent:
            arrived = max(k - header, 0)
            allowed = {NEW[:n] + OLD[n:] for n in range(arrived + 1)}
            t.check(eventually(lambda: client.read(SPOT, 32) in allowed),
                    "old bytes, or the %d bytes that were sent in front of old ones" % arrived,
                    wire.short(client.read(SPOT, 32)))
            payload_sent = arrived == len(NEW)
        other.close()
    t.check(client.read(SPOT, 32) in (OLD, NEW), "all or nothing of a whole WRITE", "a mixture")


@case()
def C05_fin_after_each_prefix(t):
    """A session cut after any byte and ended with FIN: closed, freed, and no byte written that was not sent."""
    def end(client, k):
        client.shutdown_write()
        t.drop(client, what="the connection to be closed after FIN at byte %d" % k, silent=False)
    after_prefix(t, end)


@case(tcp_only=True)
def C06_reset_after_each_prefix(t):
    """A session cut after any byte and ended with RST: freed, and no byte written that was not sent."""
    after_prefix(t, lambda client, k: client.reset())


@case(own=True, slow=True, twice=False)
def C07_silence_after_each_prefix(t):
    """A session cut after any byte and followed by silence: dropped in the handshake, and in a message; kept between
    requests."""
    server = t.server = t.start(["mem:1M", "--handshake-deadline", "5", "--progress-timeout", "1", "--max-connections", "0"])
    messages = whole_session()
    ends, end = set(), 0
    for message in messages:
        end += len(message)
        ends.add(end)
    greeted = len(b"".join(messages[:WRITE_AT]))
    clients = []
    for k, session in prefixes(t):
        sent = k + 4 if t.transport == "tls" else k
        clients.append((sent, t.cut(session, k)))
    limit = time.monotonic() + 10 * SLOWER
    for sent, client in clients:
        if sent < greeted or sent not in ends or sent == end:
            t.drop(client, within=max(limit - time.monotonic(), 0.1) / SLOWER, silent=False,
                   what="a drop after byte %d" % sent)
    for sent, client in clients:
        if greeted <= sent < end and sent in ends:
            client.send(pack_request(READ, 0, 512, cookie=9))
            reply = b""
            while struct.pack(">Q", 9) not in reply:
                last = client.recv_some()
                t.check(last, "an answer to a READ after byte %d" % sent, "the end of the stream")
                reply = reply[-600:] + last
            client.send(pack_request(DISC, 0, 0))
            t.drop(client, what="the end after DISC behind byte %d" % sent, silent=False)
    for _, client in clients:
        client.close()
    t.check(eventually(lambda: server.threads() < 20 and server.descriptors() < 30), "all clients freed",
            "%d threads, %d descriptors" % (server.threads(), server.descriptors()))


@case(kind="slow", slow=True)
def C07_silence_after_prefixes(t):
    """A handshake cut after any byte and followed by silence is dropped at the deadline."""
    begin = time.monotonic()
    session = struct.pack(">I", 3) + pack_option(GO, info_data(b"disk"))
    clients = []
    for k in (1, 2, 3, 5, 11, 12, 16, 19, 20, 21, 24, len(session) - 1):
        client = t.client()
        client.greet()
        client.send(session[:k])
        clients.append(client)
    for client in clients:
        dropped_at_deadline(t, client, begin)


@case()
def C08_list_without_fixed_newstyle(t):
    """LIST from a client without C_FIXED_NEWSTYLE: ERR_INVALID or drop."""
    client = t.hs(flags=0)
    client.option(LIST)
    try:
        kind = client.replies(LIST)[-1].kind
    except (wire.Dropped, Silent) as problem:
        t.check(isinstance(problem, wire.Dropped), "ERR_INVALID or drop", "silence")
        return
    t.equal(kind, ERR_INVALID, "LIST")


@case()
def C08_export_name_without_fixed_newstyle(t):
    """EXPORT_NAME must work without C_FIXED_NEWSTYLE: 134 bytes, then transmission."""
    client = t.hs(flags=0)
    client.option(EXPORT_NAME)
    data = client.recv(134, "export data")
    t.check(data[10:] == bytes(124), "124 zeroes", wire.short(data[10:]))
    t.sync(client)


@case()
def C08_no_zeroes_without_fixed_newstyle(t):
    """CF(2) is legal: EXPORT_NAME gives 10 bytes."""
    client = t.client()
    if not client.greet() & 2:
        raise Skip("NO_ZEROES is not offered")
    client.send_flags(2)
    client.option(EXPORT_NAME)
    client.recv(10, "export data")
    t.quiet(client, 0.1)
    t.sync(client)


def not_nbd(t, data, after_greeting):
    client = t.client()
    if after_greeting:
        client.greet()
    client.send(data)
    t.drop(client, allow=0 if after_greeting else 18)


@case()
def C10_http_request(t):
    """An HTTP request in place of the client flags: drop, nothing echoed."""
    not_nbd(t, b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n", True)


@case()
def C10_http_request_before_greeting(t):
    """An HTTP request before the greeting is read: drop, nothing but the greeting sent."""
    not_nbd(t, b"GET / HTTP/1.0\r\n\r\n", False)


@case()
def C10_tls_client_hello(t):
    """A TLS ClientHello in place of the client flags: drop."""
    not_nbd(t, bytes.fromhex("16030100c8010000c40303") + bytes(range(200)), True)


@case()
def C10_ssh_banner(t):
    """An SSH banner in place of the client flags: drop."""
    not_nbd(t, b"SSH-2.0-OpenSSH_9.2p1\r\n", True)


@case()
def C10_oldstyle_client_bytes(t):
    """A request magic in place of the client flags: drop."""
    not_nbd(t, pack_request(READ, 0, 512), True)


@case()
def C10_random_64k(t):
    """64 KiB of noise in place of the client flags: drop."""
    client = t.client()
    client.greet()
    client.send(b"\xff" + random.Random(1).randbytes(65535))
    t.drop(client)


@case()
def C11_everything_before_greeting_is_read(t):
    """Flags, options and requests sent before the greeting is read, in one segment, are handled in order."""
    client = t.client()
    client.send(struct.pack(">I", 3) + pack_option(0x1234, b"xyz") + pack_option(INFO, info_data()) +
                pack_option(GO, info_data()) + pack_request(READ, t.witness_offset, 64, cookie=7) +
                pack_request(DISC, 0, 0))
    client.greet()
    t.equal(client.replies(0x1234)[-1].kind, wire.ERR_UNSUP, "an unknown option")
    t.equal(client.replies(INFO)[-1].kind, ACK, "INFO")
    t.equal(client.replies(GO)[-1].kind, ACK, "GO")
    reply = client.recv(16 + 64)
    t.check(reply == struct.pack(">IIQ", wire.SIMPLE_REPLY, 0, 7) + t.witness_block[:64], "a right READ reply",
            wire.short(reply))
    t.drop(client, what="the connection to be closed after DISC")


@case(kind="slow", slow=True)
def C12_slowloris(t):
    """Single bytes with pauses do not extend the handshake: the deadline counts from accept."""
    begin = time.monotonic()
    client = t.client()
    client.greet()
    for byte in struct.pack(">I", 3) + pack_option(GO, info_data(b"disk")):
        client.send(bytes([byte]))
        try:
            data = client.recv_some(timeout=0.7)
        except Silent:
            continue
        t.check(not data, "no answer to half an option", wire.short(data))
        break
    in_time(t, begin)


@case(own=True, twice=False)
def C13_connection_above_the_limit_waits(t):
    """limit+1: the new client waits in the backlog, the others are served, and a free place is used at once."""
    server = t.start(["mem:1M", "--max-connections", "4"])
    first = [t.client(server).start().go() for _ in range(4)]
    late = t.client(server)
    t.quiet(late, 1.5)
    for client in first:
        t.check(client.read(0, 512) == bytes(512), "service for earlier clients", "other data")
    first[0].request(DISC, expect=False)
    late.start().go()
    t.check(late.read(0, 512) == bytes(512), "service for the new client", "other data")
    for client in first[1:]:
        t.check(client.read(0, 512) == bytes(512), "service for earlier clients", "other data")


@case(own=True, twice=False)
def C13_client_in_handshake_gives_way(t):
    """A client that is in the handshake for over a second gives way to a new client; clients in transmission do not."""
    server = t.start(["mem:1M", "--max-connections", "2"])
    good = t.client(server).start().go()
    silent = t.client(server)
    silent.greet()
    begin = time.monotonic()
    late = t.client(server)
    late.start().go()
    t.prompt(begin, "a place")
    t.check(late.read(0, 512) == bytes(512), "service for the new client", "other data")
    t.check(good.read(0, 512) == bytes(512), "service for the client in transmission", "other data")
    t.drop(silent, what="the silent client to be dropped")


def begun(server):
    """A connection that may still be in progress."""
    sock = socket.socket(socket.AF_UNIX if server.address[0] == "unix" else socket.AF_INET)
    sock.setblocking(False)
    try:
        sock.connect(server.address[1] if server.address[0] == "unix" else server.address[1:])
    except OSError:
        pass        # in progress, or the backlog is full: both occupy the server
    return sock


def crowd(t, arguments, count):
    server = t.start(["mem:1M"] + arguments)
    silent = [begun(server) for _ in range(count)]
    try:
        begin = time.monotonic()
        while True:
            try:
                good = t.client(server)
                good.timeout = (DEADLINE + 5) * SLOWER
                good.start().go()
                break
            except Failure:
                t.check(time.monotonic() - begin < (DEADLINE + 5) * SLOWER, "service within deadline + 5 s", "none")
                time.sleep(0.05)
        took = time.monotonic() - begin
        t.check(took < (DEADLINE + 5) * SLOWER, "service within deadline + 5 s", "%.1f s" % took)
        t.check(good.read(0, 512) == bytes(512), "right data", "other data")
    finally:
        for sock in silent:
            sock.close()
    t.check(eventually(lambda: server.threads() < 20 and server.descriptors() < 30), "the crowd freed",
            "%d threads, %d descriptors" % (server.threads(), server.descriptors()))


@case(own=True, slow=True, twice=False)
def C14_200_silent_clients_at_the_default_limit(t):
    """200 silent connections, then a good client: served within the deadline and one second."""
    crowd(t, ["--max-connections", "100"], 200)


@case(own=True, slow=True, twice=False)
def C14_40_silent_clients_at_limit_8(t):
    """40 silent connections at limit 8, then a good client: served within the deadline and one second."""
    crowd(t, ["--max-connections", "8"], 40)


@case(own=True, twice=False)
def C15_many_idle_clients(t):
    """Hundreds of idle clients: little memory each, and a busy client is served without delay."""
    count = scaled(240)
    server = t.start(["mem:1M", "--max-connections", "300"])
    steady = t.client(server).start().go()
    base = server.rss()
    for _ in range(count):
        t.client(server).start().go()
    each = (server.rss() - base) // count
    t.check(t.run.sanitized or each < 256 * KIB, "at most 256 KiB a client", "%d KiB" % (each // KIB))
    for _ in range(50):
        begin = time.monotonic()
        steady.read(0, 512)
        t.prompt(begin, "an answer")
    t.check(all(c.read(0, 512) == bytes(512) for c in t.clients), "service for all", "other data")


@case(own=True, twice=False)
def C16_few_file_descriptors(t):
    """With no descriptor left, accept retries without using much CPU, and recovers."""
    if t.run.sanitized:
        raise Skip("the sanitizers' own checks need descriptors")
    server = t.start(["mem:1M", "--max-connections", "1000"], files=40)
    good = t.client(server).start().go()
    crowd_ = []
    for _ in range(80):
        crowd_.append(begun(server))
    time.sleep(0.3)
    begin = server.cpu()
    time.sleep(1.0)
    used = server.cpu() - begin
    for sock in crowd_:
        sock.close()
    t.check(used <= 0.15 * SLOWER, "under 15 % CPU while out of descriptors", "%.0f %%" % (used * 100))
    t.check(good.read(0, 512) == bytes(512), "service for the earlier client", "other data")
    begin = time.monotonic()
    late = t.client(server)
    late.start().go()
    t.check(late.read(0, 512) == bytes(512) and time.monotonic() - begin < 4 * SLOWER, "service after recovery",
            "%.1f s" % (time.monotonic() - begin))


@case(twice=False)
def C17_many_short_sessions(t):
    """Hundreds of connect, GO, DISC: memory and descriptors do not grow."""
    def session():
        client = wire.Client(t.server.address).start().go()
        client.request(DISC, expect=False)
        t.drop(client, what="the end after DISC")
        client.close()
    for _ in range(50):
        session()
    base, descriptors = t.server.rss(), t.server.descriptors()
    for _ in range(scaled(600)):
        session()
    t.check(t.run.sanitized or t.server.rss() - base < 4 * MIB, "less than 4 MiB growth",
            "%d KiB" % ((t.server.rss() - base) // KIB))
    t.check(eventually(lambda: t.server.descriptors() <= descriptors + 1), "flat descriptors",
            "%d, then %d" % (descriptors, t.server.descriptors()))


@case(own=True, twice=False)
def C18_ipv6_loopback(t):
    """TCP listens on IPv6 as well."""
    if not loopback6():
        raise Skip("no ::1 on this machine")
    server = t.start(["mem:1M"], transport="tcp", endpoint="[::1]:0")
    t.equal(server.address[1], "::1", "the host of the URI")
    t.check(t.client(server).start().go().read(0, 512) == bytes(512), "right data", "other data")


@case()
def P23_errors_do_not_end_negotiation(t):
    """The server answers each unsupported option with an error, and does not disconnect."""
    client = t.hs()
    for number in range(0x100, 0x110):
        t.equal(client.final(number, b"data"), wire.ERR_UNSUP, "option %#x" % number)
    t.equal(client.final(ABORT), ACK, "ABORT")
