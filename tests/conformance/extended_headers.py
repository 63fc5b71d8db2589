# SPDX-License-Identifier: MIT
"""Extended headers: points 44, 50, 55, 57, 59, 66, 85 R18, O31, O32, N-28.

wire.py checks each extended reply: 32 bytes of header with the request's cookie and offset, the chunk rules of
structured replies, BLOCK_STATUS_EXT in place of BLOCK_STATUS, and no simple or structured reply at all.
"""
import random
import struct
import time

import wire
from harness import NAME, SLOWER, Skip, case, scaled
from meta_context import BASE, HOLE, ZERO, extents, walk
from structured import every_flag_combination
from transmission import SIZE, SPOT, has, need, pattern
from wire import (ACK, CACHE, COMMAND_NAMES, DF, DISC, EINVAL, ENOSPC, ENOTSUP, EOVERFLOW, EPERM, ERR_BLOCK_SIZE_REQD,
                  ERR_EXT_HEADER_REQD, ERR_INVALID, ERR_UNKNOWN, ERR_UNSUP, EXPORT_NAME, EXTENDED_HEADERS, FAST_ZERO, FLUSH,
                  FUA, GIB, GO, INFO, KIB, LIST_META, MIB, NO_HOLE, PAYLOAD_LEN, READ, REQ_ONE, SET_META, STATUS,
                  STRUCTURED_REPLY, TIB, TRIM, WRITE, ZEROES, info_data, meta_data, pack_ext_request, pack_request)

MAX64 = 0xFFFFFFFFFFFFFFFF


def extended(kind="rw", **more):
    return case(kind=kind, needs="extended", **more)


def etx(t, **more):
    return t.tx(mode="extended", **more)


def ehs(t, **more):
    client = t.hs(**more)
    t.equal(client.extended(), ACK, "EXTENDED_HEADERS")
    return client


# -- negotiation ------------------------------------------------------------------------------------------------------

@extended()
def P44_without_structured_replies_first(t):
    """EXTENDED_HEADERS works without STRUCTURED_REPLY; READ is answered with extended replies."""
    client = etx(t)
    t.equal(client.do(READ, 0, 512).style, "extended", "style of the READ reply")
    t.sync(client)


@extended()
def P44_overrides_structured_replies(t):
    """EXTENDED_HEADERS after STRUCTURED_REPLY takes precedence."""
    client = t.hs()
    client.structured()
    t.equal(client.extended(), ACK, "EXTENDED_HEADERS")
    client.go()
    t.sync(client)


@extended()
def P38_structured_reply_behind_extended_headers(t):
    """STRUCTURED_REPLY behind EXTENDED_HEADERS: ERR_EXT_HEADER_REQD, and extended headers stay."""
    client = ehs(t)
    t.equal(client.final(STRUCTURED_REPLY), ERR_EXT_HEADER_REQD, "STRUCTURED_REPLY")
    client.go()
    t.sync(client)


@extended()
def P44_with_data_is_invalid(t):
    """EXTENDED_HEADERS with data: ERR_INVALID, and nothing is negotiated."""
    client = t.hs()
    t.equal(client.final(EXTENDED_HEADERS, b"data"), ERR_INVALID, "EXTENDED_HEADERS with data")
    client.go()
    t.equal(client.do(READ, 0, 512).style, "simple", "style of the READ reply")


@extended()
def P44_twice(t):
    """A second EXTENDED_HEADERS: ACK or ERR_INVALID; extended headers stay."""
    client = ehs(t)
    t.equal(client.final(EXTENDED_HEADERS), {ACK, ERR_INVALID}, "a second EXTENDED_HEADERS")
    client.go()
    t.sync(client)


@extended()
def P37_go_is_not_unsup(t):
    """After EXTENDED_HEADERS, GO and INFO are not answered ERR_UNSUP."""
    client = ehs(t)
    t.equal(client.info(b"no-such-export")[1][-1].kind, ERR_UNKNOWN, "INFO of an unknown export")
    t.equal(client.negotiate(GO, info_data(b"no-such-export"))[-1].kind, ERR_UNKNOWN, "GO of an unknown export")
    client.go()
    t.sync(client)


@extended()
def P28_export_name_behind_extended_headers(t):
    """A client must not use EXPORT_NAME behind EXTENDED_HEADERS: drop, or service with extended headers."""
    client = ehs(t)
    client.option(EXPORT_NAME, NAME)
    try:
        client.recv(10, "export data")
    except wire.Dropped:
        return
    t.sync(client)


@extended()
def P44_set_meta_without_structured_replies(t):
    """Meta contexts can be negotiated with extended headers alone."""
    client = ehs(t)
    reply, found = client.set_meta([BASE])
    t.equal(reply.kind, ACK, "SET_META_CONTEXT")
    t.check(list(found.values()) == [BASE], "base:allocation", repr(found))
    t.finish(client)


@extended()
def P44_selection_before_extended_headers(t):
    """SET_META_CONTEXT with structured replies, then EXTENDED_HEADERS: BLOCK_STATUS in extended form, or EINVAL."""
    client = t.hs()
    client.structured()
    client.set_meta([BASE])
    t.equal(client.extended(), ACK, "EXTENDED_HEADERS")
    client.go()
    t.error(client.do(STATUS, 0, 4096), (0, EINVAL), "BLOCK_STATUS")
    t.sync(client)


@extended()
def P44_is_of_one_connection(t):
    """Extended headers apply to one connection."""
    client = etx(t)
    t.equal(t.tx().do(READ, 0, 512).style, "simple", "style of the other connection")
    t.sync(client)


@extended()
def P47_status_payload_flag_only_with_contexts(t):
    """BLOCK_STATUS_PAYLOAD is not set in GO without SET_META_CONTEXT (nor without extended headers)."""
    client = etx(t)
    t.check(not client.tflags & wire.T_STATUS_PAYLOAD, "BLOCK_STATUS_PAYLOAD clear", "%#x" % client.tflags)


@extended()
def P41_base_is_never_refused_for_headers(t):
    """ERR_EXT_HEADER_REQD is never the reply for base: (with structured replies, or with extended headers)."""
    for mode in ("structured", "extended"):
        client = t.hs()
        client.structured() if mode == "structured" else client.extended()
        for option in (LIST_META, SET_META):
            t.equal(client.final(option, meta_data(b"", [BASE])), ACK, "option %d" % option)
        t.finish(client)


# -- framing ----------------------------------------------------------------------------------------------------------

@extended()
def P50_reply_header(t):
    """An extended reply: magic, flags, type, cookie, the request's offset, 64-bit length."""
    client = etx(t)
    client.send(pack_ext_request(WRITE, SPOT + 3, 4, PAYLOAD_LEN, 0x1122334455667788, b"data"))
    reply = client.recv(32)
    want = struct.pack(">IHHQQQ", wire.EXT_REPLY, 1, 0, 0x1122334455667788, SPOT + 3, 0)
    t.check(reply == want, want.hex(), reply.hex())
    t.quiet(client, 0.1)


@extended()
def P53_every_reply_is_extended(t):
    """Success and failure of every command: extended replies only, with the request's offset."""
    client = etx(t)
    for command in (READ, WRITE, FLUSH, TRIM, CACHE, ZEROES, STATUS, 8, 99, 0xFFFF):
        for offset in (SPOT, SIZE, MAX64):
            at = (0 if command == FLUSH and offset == SPOT else offset, 0 if command == FLUSH else 512)
            flags, payload = (PAYLOAD_LEN, bytes(512)) if command == WRITE else (0, b"")
            result = client.do(command, *at, flags, payload)
            t.equal(result.style, "extended", "style of the reply to command %d" % command)
    t.sync(client)


@extended()
def P53_errors_have_texts(t):
    """Errors carry a text."""
    client = etx(t)
    for command, offset in ((READ, SIZE), (TRIM, SIZE), (99, 0), (STATUS, 0)):
        result = client.do(command, offset, 512)
        t.error(result, EINVAL, "command %d" % command)
        t.check(result.text, "a text with the error of command %d" % command, "none")


@extended()
def O32_compact_request_after_negotiation(t):
    """A compact request once extended headers are negotiated: drop."""
    client = etx(t)
    client.send(pack_request(READ, 0, 512) + bytes(4), "a compact request and 4 bytes")
    t.drop(client)


@extended()
def R01_each_flipped_bit_of_the_magic(t):
    """A wrong magic: drop, no reply."""
    for bit in range(0, 32, 3):
        client = etx(t, delivery="whole")
        client.send(pack_ext_request(READ, 0, 512, magic=wire.EXT_REQUEST ^ 1 << bit))
        t.drop(client, what="a drop with bit %d flipped" % bit)
        client.close()


@extended()
def R02_header_cut_by_fin(t):
    """A request header that ends after k of 32 bytes: closed, no reply."""
    for k in range(1, 32):
        client = etx(t, delivery="whole")
        client.send(pack_ext_request(READ, 0, 512)[:k])
        client.shutdown_write()
        t.drop(client)
        client.close()


# -- READ and WRITE ---------------------------------------------------------------------------------------------------

@extended()
def P60_write_then_read(t):
    """Written data are read back, for many lengths."""
    client = etx(t)
    for length in (1, 511, 512, 513, 4096, 4097, 65536, 65537, 300001):
        data = pattern(length, length)
        t.error(client.write(SPOT + 7, data), 0, "WRITE of %d bytes" % length)
        t.check(client.read(SPOT + 7, length) == data, "the %d bytes written" % length, "other bytes")


@extended()
def R18_write_without_payload_len(t):
    """WRITE without PAYLOAD_LEN has no payload: EINVAL, sync, nothing written."""
    client = etx(t)
    t.error(client.write(SPOT, b"before"), 0, "WRITE")
    t.error(client.do(WRITE, SPOT, 6), EINVAL, "WRITE without PAYLOAD_LEN")
    t.check(client.read(SPOT, 6) == b"before", "nothing written", "changed data")
    t.sync(client)


@extended()
def P55_write_of_qemu_without_payload_len(t):
    """qemu 8.2 to 10 sends the payload of a WRITE without PAYLOAD_LEN: such a client is served."""
    client = etx(t)
    for k in range(3):
        t.error(client.do(WRITE, SPOT + 4096 * k, 512, 0, bytes([k + 1]) * 512), 0, "WRITE as qemu sends it")
        t.check(client.read(SPOT + 4096 * k, 512) == bytes([k + 1]) * 512, "the data written", "other data")
    t.sync(client)


@extended()
def R03_write_of_length_0(t):
    """WRITE with PAYLOAD_LEN and length 0: success or EINVAL, sync."""
    client = etx(t)
    t.error(client.do(WRITE, SPOT, 0, PAYLOAD_LEN), (0, EINVAL), "WRITE of length 0")
    t.sync(client)


def payload_on(t, command):
    client = etx(t)
    for length in (1, 16, 512, 65536):
        inner = pack_ext_request(DISC, 0, 0) * (length // 32 + 1)
        t.error(client.do(command, 0 if command == FLUSH else SPOT, length, PAYLOAD_LEN, inner[:length]), EINVAL,
                "%s with a payload of %d bytes" % (COMMAND_NAMES[command], length))
        t.sync(client)


@extended()
def R18_payload_on_read(t):
    """READ with PAYLOAD_LEN: payload consumed, EINVAL, sync."""
    payload_on(t, READ)


@extended()
def R18_payload_on_trim(t):
    """TRIM with PAYLOAD_LEN: payload consumed, EINVAL, sync."""
    payload_on(t, TRIM)


@extended()
def R18_payload_on_write_zeroes(t):
    """WRITE_ZEROES with PAYLOAD_LEN: payload consumed, EINVAL, sync."""
    payload_on(t, ZEROES)


@extended()
def R18_payload_on_cache(t):
    """CACHE with PAYLOAD_LEN: payload consumed, EINVAL, sync."""
    payload_on(t, CACHE)


@extended()
def R18_payload_on_flush(t):
    """FLUSH with PAYLOAD_LEN: payload consumed, EINVAL, sync."""
    payload_on(t, FLUSH)


@extended()
def R18_payload_on_block_status_without_context(t):
    """BLOCK_STATUS with PAYLOAD_LEN and no selected context: payload consumed, EINVAL, sync."""
    payload_on(t, STATUS)


@extended()
def R18_payload_on_unknown_commands(t):
    """Unknown commands with PAYLOAD_LEN: payload consumed, EINVAL, sync; without it no payload is expected."""
    client = etx(t)
    for command in (8, 99, 0xFFFF):
        t.error(client.do(command, 0, 100, PAYLOAD_LEN, bytes(100)), EINVAL, "command %d with a payload" % command)
        t.error(client.do(command, 0, 100), EINVAL, "command %d" % command)
        t.sync(client)


@extended()
def R18_payload_above_the_maximum(t):
    """PAYLOAD_LEN with a length far above the maximum payload, up to 2^64-1: drop without allocation."""
    rss = t.server.rss()
    for command in (WRITE, READ, STATUS, 99):
        for length in (1 << 31, 1 << 32, (1 << 32) + 512, 1 << 63, MAX64):
            client = etx(t)
            client.request(command, 0, length, PAYLOAD_LEN, expect=False)
            t.drop(client, what="a drop on a payload of %#x" % length)
            client.close()
    t.check(t.run.sanitized or t.server.rss() - rss < 16 * MIB, "no allocation", "%d MiB more" %
            ((t.server.rss() - rss) >> 20))


@extended()
def R06_write_past_the_end(t):
    """WRITE past the end: ENOSPC, payload consumed, sync."""
    client = etx(t)
    for offset in (SIZE, SIZE - 1, MAX64, 1 << 63):
        t.error(client.write(offset, bytes(512)), ENOSPC, "WRITE at %#x" % offset)
        t.sync(client)


@extended(kind="ro")
def R22_read_only(t):
    """Write-like commands on read-only: EPERM, payload consumed, also with 64-bit lengths."""
    client = etx(t)
    t.error(client.write(0, bytes(512)), EPERM, "WRITE")
    t.error(client.do(TRIM, 0, 512), EPERM, "TRIM")
    t.error(client.do(ZEROES, 0, 512), EPERM, "WRITE_ZEROES")
    t.error(client.do(ZEROES, 0, MAX64), EPERM, "WRITE_ZEROES of 2^64-1")
    t.sync(client)


@extended(kind="bs")
def R13_misaligned(t):
    """Misaligned requests: EINVAL, payload consumed, sync."""
    client = etx(t)
    t.error(client.do(READ, 1, 512), EINVAL, "READ")
    t.error(client.write(0, bytes(511)), EINVAL, "WRITE")
    t.error(client.do(ZEROES, 0, (1 << 20) + 1), EINVAL, "WRITE_ZEROES")
    t.error(client.do(TRIM, 511, 513), EINVAL, "TRIM")
    t.sync(client)


def long_lengths(t, command, allowed):
    """Lengths whose low 32 bits look harmless (N-28)."""
    client = etx(t)
    need(client, command)
    t.error(client.write(0, b"\x99" * 4096), 0, "WRITE")
    for length in (1 << 32, (1 << 32) + 1, (1 << 32) + 512, 1 << 63, (1 << 63) + 512, MAX64, MAX64 - 511):
        for offset in (0, 512, SIZE - 512):
            t.error(client.do(command, offset, length), allowed, "%s %#x+%#x" % (COMMAND_NAMES[command], offset, length))
    t.check(client.read(0, 4096) == b"\x99" * 4096, "unchanged data", "changed data")
    t.sync(client)


@extended()
def N28_read_of_long_lengths(t):
    """READ of 2^32 to 2^64-1 bytes of a 64 MiB export: EINVAL (or EOVERFLOW), no truncation."""
    long_lengths(t, READ, (EINVAL, EOVERFLOW))


@extended()
def N28_trim_of_long_lengths(t):
    """TRIM of 2^32 to 2^64-1 bytes of a 64 MiB export: EINVAL, no truncation."""
    long_lengths(t, TRIM, EINVAL)


@extended()
def N28_write_zeroes_of_long_lengths(t):
    """WRITE_ZEROES of 2^32 to 2^64-1 bytes of a 64 MiB export: ENOSPC, no truncation."""
    long_lengths(t, ZEROES, ENOSPC)


@extended()
def N28_cache_of_long_lengths(t):
    """CACHE of 2^32 to 2^64-1 bytes of a 64 MiB export: EINVAL, no truncation."""
    long_lengths(t, CACHE, EINVAL)


@extended()
def N28_block_status_of_long_lengths(t):
    """BLOCK_STATUS of 2^32 to 2^64-1 bytes of a 64 MiB export: EINVAL, no truncation."""
    client = etx(t, contexts=[BASE])
    for length in (1 << 32, (1 << 32) + 512, 1 << 63, MAX64):
        for offset in (0, 512, SIZE - 512):
            t.error(client.do(STATUS, offset, length), EINVAL, "BLOCK_STATUS %#x+%#x" % (offset, length))
    t.sync(client)


@extended(kind="big", twice=False)
def P59_read_of_long_lengths_inside(t):
    """READ of 2^32 and 2^33 bytes inside the export: EINVAL or EOVERFLOW, or split chunks; never a wrong length."""
    client = etx(t)
    for length in ((1 << 32) + 512, 1 << 33):
        result = client.do(READ, 0, 40 * MIB, timeout=20 * SLOWER)
        t.error(result, (0, EINVAL, EOVERFLOW), "READ of 40 MiB")
        request = client.request(READ, 640 * GIB, length)
        try:
            client.max_chunk = 1 << 25
            client.wait(request, timeout=30 * SLOWER)
        except MemoryError:
            raise Skip("the server splits a READ of %d bytes, more than this client holds" % length)
        t.error(request, (0, EINVAL, EOVERFLOW), "READ of %#x" % length)
    t.sync(client)


# -- lengths above 4 GiB that work ------------------------------------------------------------------------------------

@extended(kind="big", twice=False)
def P50_write_zeroes_of_16_gib(t):
    """WRITE_ZEROES of 16 GiB and 12345 bytes in one request: zeroes inside, data outside untouched."""
    client = etx(t)
    begin, length = 64 * GIB + 777, 16 * GIB + 12345
    marks = (begin - 4096, begin, begin + (1 << 32), begin + length - 4096, begin + length)
    for place in marks:
        t.error(client.write(place, b"\x42" * 4096), 0, "WRITE")
    t.error(client.do(ZEROES, begin, length, timeout=20 * SLOWER), 0, "WRITE_ZEROES of 16 GiB")
    for place in marks[1:4]:
        t.check(client.read(place, 4096) == bytes(4096), "zeroes at %#x" % place, "other data")
    for place in (marks[0], marks[4]):
        t.check(client.read(place, 4096) == b"\x42" * 4096, "data outside untouched at %#x" % place, "other data")


@extended(kind="big", twice=False, scratch=True)
def P50_write_zeroes_of_the_whole_tebibyte(t):
    """WRITE_ZEROES of a sparse 1 TiB export in one request is fast."""
    client = etx(t)
    for place in (0, 100 * GIB, TIB - 4096):
        t.error(client.write(place, b"\x43" * 4096), 0, "WRITE")
    begin = time.monotonic()
    t.error(client.do(ZEROES, 0, TIB, timeout=30 * SLOWER), 0, "WRITE_ZEROES of 1 TiB")
    t.prompt(begin, "WRITE_ZEROES of 1 TiB")
    for place in (0, 100 * GIB, TIB - 4096):
        t.check(client.read(place, 4096) == bytes(4096), "zeroes at %#x" % place, "other data")


@extended(kind="big", twice=False)
def P50_fast_zero_of_16_gib(t):
    """WRITE_ZEROES with FAST_ZERO of 16 GiB: success or ENOTSUP, quickly, never EOVERFLOW."""
    client = etx(t)
    if not client.tflags & wire.T_FAST_ZERO:
        raise Skip("FAST_ZERO is not advertised")
    begin = time.monotonic()
    t.error(client.do(ZEROES, 100 * GIB, 16 * GIB, FAST_ZERO), (0, ENOTSUP), "WRITE_ZEROES with FAST_ZERO")
    t.prompt(begin, "an answer")


@extended(kind="big", twice=False)
def P50_trim_of_16_gib(t):
    """TRIM of 16 GiB in one request: success; data outside untouched."""
    client = etx(t)
    need(client, TRIM)
    begin, length = 128 * GIB + 4096, 16 * GIB
    for place in (begin - 4096, begin + length):
        t.error(client.write(place, b"\x44" * 4096), 0, "WRITE")
    t.error(client.do(TRIM, begin, length, timeout=20 * SLOWER), 0, "TRIM of 16 GiB")
    for place in (begin - 4096, begin + length):
        t.check(client.read(place, 4096) == b"\x44" * 4096, "data outside untouched", "other data")


@extended(kind="big", twice=False)
def P50_cache_of_16_gib(t):
    """CACHE of 16 GiB: success, or EINVAL or EOVERFLOW if it is too costly or not advertised; sync."""
    client = etx(t)
    t.error(client.do(CACHE, 0, 16 * GIB, timeout=20 * SLOWER), (0, EINVAL, EOVERFLOW), "CACHE of 16 GiB")
    t.sync(client)


@extended(kind="big", twice=False)
def P66_block_status_of_512_gib(t):
    """BLOCK_STATUS of 512 GiB: BLOCK_STATUS_EXT with 64-bit lengths; a hole of more than 4 GiB is one extent."""
    client = etx(t, contexts=[BASE])
    result = client.do(STATUS, 256 * GIB, 512 * GIB, timeout=20 * SLOWER)
    t.error(result, 0, "BLOCK_STATUS")
    t.check(any(length > 1 << 32 for length, _ in extents(result)), "an extent above 4 GiB", repr(extents(result)[:4]))


@extended(kind="big", twice=False)
def P66_block_status_of_the_whole_export(t):
    """BLOCK_STATUS of all: stays inside the export, with and without REQ_ONE."""
    client = etx(t, contexts=[BASE])
    t.error(client.do(STATUS, 0, TIB, timeout=20 * SLOWER), 0, "BLOCK_STATUS")
    t.error(client.do(STATUS, 0, TIB, REQ_ONE, timeout=20 * SLOWER), 0, "BLOCK_STATUS with REQ_ONE")
    t.error(client.do(STATUS, 0, TIB + 1), EINVAL, "BLOCK_STATUS past the end")


# -- READ chunks, DF, BLOCK_STATUS ------------------------------------------------------------------------------------

@extended()
def P57_read_over_data_and_holes(t):
    """READ over data and zeroes: content chunks cover it and are right."""
    client = etx(t)
    want = bytearray(MIB)
    t.error(client.do(ZEROES, SPOT, MIB) if has(client, ZEROES) else client.write(SPOT, bytes(MIB)), 0, "zeroing")
    for i in range(0, MIB, 128 * KIB):
        data = pattern(i, 20000)
        t.error(client.write(SPOT + i + 1000, data), 0, "WRITE")
        want[i + 1000:i + 21000] = data
    for begin, length in ((0, MIB), (1, MIB - 2), (999, 2), (21000, 100000)):
        t.check(client.read(SPOT + begin, length) == want[begin:begin + length], "data as written", "other data")


@extended()
def R19_df_read(t):
    """DF READ of 65536 bytes: exactly one content chunk; above: one, or EOVERFLOW and none."""
    client = etx(t)
    if not client.tflags & wire.T_DF:
        raise Skip("SEND_DF is clear")
    for length in (512, 65536, MIB, 32 * MIB):
        result = client.do(READ, SPOT, length, DF, timeout=20 * SLOWER)
        t.error(result, 0 if length <= 65536 else (0, EOVERFLOW), "READ with DF")
        t.equal(len(result.content), 0 if result.error else 1, "content chunks")


@extended(twice=False)
def P56_read_of_32_mib(t):
    """READ of 32 MiB: right, in chunks of at most the maximum payload."""
    client = etx(t)
    t.error(client.write(SPOT, pattern(5, MIB)), 0, "WRITE")
    t.check(client.read(0, 32 * MIB, timeout=20 * SLOWER)[SPOT:SPOT + MIB] == pattern(5, MIB), "right data", "other data")


@extended()
def P66_block_status(t):
    """BLOCK_STATUS is answered with BLOCK_STATUS_EXT, also for small lengths; the map is correct."""
    client = etx(t, contexts=[BASE])
    t.error(client.write(SPOT, pattern(6, 65536)), 0, "WRITE")
    for length in (1, 512, 65536):
        result = client.do(STATUS, SPOT, length)
        t.error(result, 0, "BLOCK_STATUS")
        t.check(not extents(result)[0][1] & (HOLE | ZERO), "data", "status %d" % extents(result)[0][1])
    t.error(client.do(STATUS, SPOT, 0), EINVAL, "BLOCK_STATUS of length 0")
    t.error(client.do(STATUS, SIZE, 1), EINVAL, "BLOCK_STATUS past the end")
    t.sync(client)


@extended()
def P66_block_status_without_context(t):
    """BLOCK_STATUS without a selected context: EINVAL."""
    client = etx(t)
    t.error(client.do(STATUS, 0, 512), EINVAL, "BLOCK_STATUS")
    t.sync(client)


def status_payload(t, effect, ids, offset=0, flags=0, raw=None):
    """A BLOCK_STATUS of the payload form: (client, result)."""
    client = etx(t, contexts=[BASE])
    if not client.tflags & wire.T_STATUS_PAYLOAD:
        raise Skip("BLOCK_STATUS_PAYLOAD is not advertised")
    ids = list(client.contexts) if ids is None else ids(list(client.contexts))
    payload = struct.pack(">Q%dI" % len(ids), effect, *ids) if raw is None else raw
    result = client.do(STATUS, offset, len(payload), flags | PAYLOAD_LEN, payload, effect=effect)
    return client, result


@extended()
def P66_status_payload_or_einval(t):
    """BLOCK_STATUS with PAYLOAD_LEN: works where BLOCK_STATUS_PAYLOAD is set, is consumed and EINVAL where it is not."""
    client = etx(t, contexts=[BASE])
    payload = struct.pack(">QI", 4096, list(client.contexts)[0])
    result = client.do(STATUS, 0, len(payload), PAYLOAD_LEN, payload, effect=4096)
    t.error(result, 0 if client.tflags & wire.T_STATUS_PAYLOAD else EINVAL, "BLOCK_STATUS with a payload")
    t.sync(client)


@extended()
def P66_status_payload_with_req_one(t):
    """The payload form with REQ_ONE: one extent of at most the effect length."""
    client, result = status_payload(t, 4096, None, flags=REQ_ONE)
    t.error(result, 0, "BLOCK_STATUS")
    t.sync(client)


@extended()
def P66_status_payload_unknown_id(t):
    """The payload form with an unknown id: payload consumed, EINVAL, sync."""
    client, result = status_payload(t, 4096, lambda known: [max(known) + 1000])
    t.error(result, EINVAL, "BLOCK_STATUS with an unknown id")
    t.sync(client)


@extended()
def P66_status_payload_known_and_unknown_id(t):
    """The payload form with a known and an unknown id: EINVAL, sync."""
    client, result = status_payload(t, 4096, lambda known: known + [0xFFFFFFFF])
    t.error(result, EINVAL, "BLOCK_STATUS with an unknown id")
    t.sync(client)


@extended()
def P66_status_payload_duplicate_id(t):
    """The payload form with an id twice: payload consumed, EINVAL, sync."""
    client, result = status_payload(t, 4096, lambda known: [known[0], known[0]])
    t.error(result, EINVAL, "BLOCK_STATUS with an id twice")
    t.sync(client)


@extended()
def P66_status_payload_of_bad_length(t):
    """A payload that is not 8 + 4n bytes: consumed, EINVAL, sync."""
    for raw in (b"x", bytes(7), bytes(9), bytes(13)):
        client, result = status_payload(t, 4096, None, raw=raw)
        t.error(result, EINVAL, "BLOCK_STATUS with a payload of %d bytes" % len(raw))
        t.sync(client)


@extended()
def P66_status_payload_effect_length(t):
    """The effect length of the payload is checked: 0 and past the end are EINVAL, sync."""
    for effect in (0, SIZE + 1, MAX64):
        client, result = status_payload(t, effect, None)
        t.error(result, EINVAL, "an effect length of %#x" % effect)
        t.sync(client)


@extended(twice=False)
def P66_status_payload_of_many_ids(t):
    """A payload of thousands of ids: consumed, EINVAL, sync."""
    client, result = status_payload(t, 4096, lambda known: known + list(range(5000, 15000)))
    t.error(result, EINVAL, "BLOCK_STATUS with 10001 ids")
    t.sync(client)


# -- many -------------------------------------------------------------------------------------------------------------

@extended()
def R27_equal_cookies(t):
    """16 READs with one cookie: 16 complete replies."""
    client = etx(t)
    results = [client.request(READ, t.witness_offset, 512, cookie=MAX64) for _ in range(16)]
    for result in client.wait_all(results):
        t.check(result.data == t.witness_block[:512], "right data", "other data")


@extended()
def R28_disc_with_requests_in_flight(t):
    """DISC behind 16 READs: 16 complete replies, then the end."""
    client = etx(t)
    results = [client.request(READ, t.witness_offset, 4096) for _ in range(16)]
    client.request(DISC, expect=False)
    for result in client.wait_all(results):
        t.check(result.data == t.witness_block, "right data", "other data")
    t.drop(client, what="the end after DISC")


@extended()
def R30_flags_of_every_command(t):
    """7 commands x 64 flag combinations x {inside, outside}: the error value of the specification; payloads consumed."""
    client = etx(t, delivery="whole")
    every_flag_combination(t, client)
    t.sync(client)


@extended()
def D11_random_traffic_extended(t):
    """Random traffic against a shadow copy, 16 in flight, with extended headers."""
    from integrity import random_traffic
    random_traffic(t, etx(t, delivery="whole"), 16 * MIB, MIB + 333, 50, scaled(1500))


@extended()
def S13_noise_after_go(t):
    """Noise in place of extended requests: dropped."""
    for seed in range(scaled(20)):
        client = etx(t, delivery="whole")
        client.send(b"\x00" + random.Random(seed).randbytes(2000), "2000 bytes of noise, seed %d" % seed)
        t.drop(client)
        client.close()
