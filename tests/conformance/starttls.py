# SPDX-License-Identifier: MIT
"""The change to TLS, and how a connection with TLS ends: N-06, N-13, N-16, T04 to T17 as seen by a client.

These cases run over the transport "tls" alone, on servers that demand TLS.
"""
import socket
import ssl
import struct
import time

import wire
from harness import SLOWER, case
from wire import (ABORT, ACK, DISC, ERR_INVALID, ERR_TLS_REQD, EXPORT_NAME, GO, INFO, KIB, LIST, LIST_META, MIB, READ, SET_META,
                  STARTTLS, STRUCTURED_REPLY, WRITE, Client, info_data, meta_data, pack_option, pack_request)


def before_tls(t, server=None):
    """A client that has sent its flags, and says everything in plain text until secure()."""
    client = t.client(server)
    client.plain = False
    client.receive_greeting()
    client.send_flags(3)
    return client


REFUSED = [(LIST, b""), (LIST, b"data"), (INFO, info_data()), (GO, info_data()), (SET_META, meta_data(b"", [b"base:allocation"])),
           (LIST_META, meta_data()), (STRUCTURED_REPLY, b""), (0x1234, bytes(60000))]


@case(only="tls")
def N16_options_before_starttls(t):
    """Forced TLS: each option gets ERR_TLS_REQD, its data are consumed, and STARTTLS then works (T06)."""
    client = before_tls(t)
    for number, data in REFUSED:
        t.equal(client.final(number, data), ERR_TLS_REQD, "option %#x" % number)
    client.secure()
    t.finish(client)


@case(only="tls")
def T03_starttls_inside_tls(t):
    """STARTTLS inside TLS: ERR_INVALID, with data and without, and TLS goes on."""
    client = t.hs()
    t.equal(client.final(STARTTLS), ERR_INVALID, "STARTTLS")
    t.equal(client.final(STARTTLS, b"data"), ERR_INVALID, "STARTTLS with data")
    t.finish(client)


@case(only="tls")
def N13_starttls_with_data(t):
    """STARTTLS with data in plain text: ERR_INVALID, the data are consumed, and STARTTLS then works (T02)."""
    client = before_tls(t)
    t.equal(client.final(STARTTLS, b"\xde\xad\xbe\xef"), ERR_INVALID, "STARTTLS with data")
    client.secure()
    t.finish(client)


@case(only="tls")
def T04_plain_text_behind_starttls(t):
    """An option in one segment with STARTTLS is taken for TLS, which fails: ACK, then no reply to it, and a drop."""
    client = before_tls(t)
    client.send(pack_option(STARTTLS) + pack_option(ABORT) + pack_option(GO, info_data()))
    t.equal(client.replies(STARTTLS)[-1].kind, ACK, "STARTTLS")
    seen = b""
    while True:
        data = client.recv_some(timeout=2 * SLOWER)
        if not data:
            break
        seen += data
    t.check(struct.pack(">Q", wire.OPTION_REPLY) not in seen, "no reply in plain text", wire.short(seen))


@case(only="tls", own=True)
def T05_nothing_before_tls_counts(t):
    """What is negotiated before TLS, where that is allowed, selects nothing inside it: READ has a simple reply
    (CVE-2021-3716)."""
    server = t.start(["mem:1M"], tls="on")
    for option, data in ((STRUCTURED_REPLY, b""), (wire.EXTENDED_HEADERS, b"")):
        client = before_tls(t, server)
        t.equal(client.final(option, data), ACK, "option %d in plain text" % option)
        t.equal(client.final(SET_META, meta_data(b"", [b"base:allocation"])), ACK, "SET_META_CONTEXT in plain text")
        t.equal(client.final(INFO, info_data()), ACK, "INFO in plain text")
        client.secure()
        client.go()
        t.check(client.read(0, 4096) == bytes(4096), "a simple reply with zeroes", "other data")
        t.error(client.do(wire.STATUS, 0, 4096), wire.EINVAL, "BLOCK_STATUS")


@case(only="tls")
def T07_export_name_before_tls(t):
    """Forced TLS: EXPORT_NAME has no error reply, so the connection is dropped."""
    client = before_tls(t)
    client.option(EXPORT_NAME)
    t.drop(client)


@case(only="tls")
def T09_abort_before_tls(t):
    """Forced TLS: ABORT is acknowledged, and the connection closed."""
    client = before_tls(t)
    t.equal(client.final(ABORT), ACK, "ABORT")
    t.drop(client)


@case(only="tls")
def T10_noise_in_place_of_the_client_hello(t):
    """Bytes that are not TLS behind STARTTLS: drop."""
    for noise in (b"GET / HTTP/1.0\r\n\r\n", bytes(1000), b"\xff" * 65536, pack_request(READ, 0, 512)):
        client = before_tls(t)
        client.option(STARTTLS)
        t.equal(client.replies(STARTTLS)[-1].kind, ACK, "STARTTLS")
        client.send(noise)
        t.drop(client, silent=False)


@case(only="tls")
def T12_close_in_the_tls_handshake(t):
    """The connection ends after any part of the ClientHello: freed (the oracle counts descriptors)."""
    outgoing = ssl.MemoryBIO()
    hello = t.hs().tls_context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    try:
        hello.do_handshake()
    except ssl.SSLWantReadError:
        pass
    message = outgoing.read()
    for k in range(0, len(message) + 1, 16):
        for end in (Client.close, Client.reset, Client.shutdown_write):
            client = before_tls(t)
            client.delivery = "whole"
            client.option(STARTTLS)
            client.replies(STARTTLS)
            client.send(message[:k])
            end(client)
            if end is Client.shutdown_write:
                t.drop(client, silent=False, what="the end after %d bytes of the ClientHello" % k)
            client.close()


def mid_payload(t):
    client = t.tx()
    client.send(pack_request(WRITE, 8 * KIB, 64 * KIB) + bytes(1000))
    return client


def mid_reply(t):
    client = t.tx(receive_buffer=2304)
    client.send(b"".join(pack_request(READ, i * MIB, MIB, cookie=i) for i in range(4)))
    client.recv_some(100)
    return client


def mid_option(t):
    client = t.hs()
    client.send(pack_option(INFO, info_data(b"disk"))[:19])
    return client


PLACES = {"negotiation": lambda t: t.hs(), "mid_option": mid_option, "idle": lambda t: t.tx(), "mid_payload": mid_payload,
          "mid_reply": mid_reply}


def fin_alone(client):
    client.socket.plain.shutdown(socket.SHUT_WR)


def end_of_tls_alone(client):
    try:
        client.socket.tls.unwrap()
    except ssl.SSLError:
        pass
    client.socket.flush()


def ended(place, end):
    def body(t):
        client = PLACES[place](t)
        begin = t.server.cpu()
        end(client)
        client.socket.settimeout(5 * SLOWER)
        t.drop(client, within=3, silent=False)
        client.close()
        time.sleep(0.3)
        used = t.server.cpu() - begin
        t.check(used < 0.25 * SLOWER, "no processor time for a connection that is gone", "%.2f s" % used)
    return body


for _place in PLACES:
    for _end in (fin_alone, end_of_tls_alone):
        _body = ended(_place, _end)
        _body.__name__ = "N06_%s_%s" % (_end.__name__, _place)
        _body.__doc__ = ("TLS that ends by %s, at stage %s: closed and freed, without processor time (T13)."
                         % ("a FIN without the end of TLS" if _end is fin_alone else "the end of TLS without a FIN", _place))
        case(only="tls", twice=False)(_body)


@case(only="tls")
def T13_a_write_that_tls_cuts_is_not_acknowledged(t):
    """A WRITE whose TLS ends in its payload: no reply, and nothing but a prefix of what was sent is written."""
    watch = t.tx(delivery="whole")
    for end in (fin_alone, end_of_tls_alone):
        t.error(watch.write(8 * KIB, b"\x11" * 4096), 0, "WRITE")
        client = t.tx()
        client.send(pack_request(WRITE, 8 * KIB, 4096, cookie=5) + b"\x22" * 1000)
        end(client)
        t.drop(client)
        data = watch.read(8 * KIB, 4096)
        fresh = len(data) - len(data.lstrip(b"\x22"))
        t.check(fresh <= 1000 and data == b"\x22" * fresh + b"\x11" * (4096 - fresh), "old bytes behind at most 1000 new ones",
                wire.short(data))


@case(only="tls")
def T15_records_of_every_size(t):
    """A WRITE in records of 1 byte to 16 KiB, which do not keep to its borders, is read back as it was sent."""
    client = t.tx()
    payload = bytes(range(256)) * 256
    message = pack_request(WRITE, 8 * KIB, len(payload), payload=payload, cookie=1) + pack_request(READ, 8 * KIB, 64, cookie=2)
    at, size = 0, 1
    while at < len(message):
        client.socket.sendall(message[at:at + size])
        at, size = at + size, min(size * 2 + 1, 16 * KIB)
    got = client.recv(16 + 16 + 64)
    t.check(got[:16] == struct.pack(">IIQ", wire.SIMPLE_REPLY, 0, 1) and got[32:] == payload[:64], "both replies", wire.short(got))
    t.check(client.read(8 * KIB, len(payload)) == payload, "the payload", "other bytes")


@case(only="tls")
def T17_invalid_write_over_tls(t):
    """A WRITE past the end over TLS: ENOSPC, the payload consumed, sync."""
    client = t.tx()
    t.error(client.write(1 << 40, bytes(100000)), wire.ENOSPC, "WRITE")
    t.sync(client)
    client.request(DISC, expect=False)
    t.drop(client)
