# SPDX-License-Identifier: MIT
"""Requests and simple replies: R01 to R30 and points 47 to 91."""
import random
import struct
import threading
import time

import wire
from harness import SLOWER, Skip, case, eventually, scaled
from wire import (CACHE, COMMAND_NAMES, DF, DISC, EINVAL, ENOSPC, ENOTSUP, EOVERFLOW, EPERM, FAST_ZERO, FLUSH, FUA, KIB,
                  MIB, NO_HOLE, PAYLOAD_LEN, READ, REQ_ONE, STATUS, TRIM, WRITE, ZEROES, Dropped, Failure, Silent,
                  pack_request)

SIZE = 64 * MIB
SPOT = 4 * MIB           # where cases write; the witness's block is at 48 MiB
HUGE = [(0xFFFFFFFFFFFFFFFF, 1), (0xFFFFFFFFFFFFF000, 0x1001), (1 << 63, 0x1000), (0xFFFFFFFFFFFFFE00, 0x200),
        (SIZE, 1), (SIZE - 1, 2), (SIZE + 4096, 4096), (1 << 32, 512)]
ADVERTISED = {FLUSH: wire.T_FLUSH, TRIM: wire.T_TRIM, CACHE: wire.T_CACHE, ZEROES: wire.T_ZEROES}


def has(client, command):
    return command not in ADVERTISED or client.tflags & ADVERTISED[command]


def need(client, command):
    if not has(client, command):
        raise Skip("%s is not advertised" % COMMAND_NAMES[command])


def pattern(seed, length):
    return random.Random(seed).randbytes(length)


def max_payload(client):
    return max(32 * MIB, client.block_sizes[2] if client.block_sizes and client.block_sizes[2] < 1 << 31 else 0)


# -- headers ----------------------------------------------------------------------------------------------------------

def wrong_magic(t, magic):
    client = t.tx()
    client.send(pack_request(READ, 0, 512, magic=magic), "a request with magic %#x" % magic)
    t.drop(client, what="a drop on magic %#x" % magic)
    client.close()


@case()
def R01_each_flipped_bit_of_the_request_magic(t):
    """A wrong request magic cannot be resynchronised: drop, no reply."""
    for bit in range(32):
        wrong_magic(t, wire.REQUEST ^ 1 << bit)


@case()
def R01_extended_magic(t):
    """The extended request magic without negotiation: drop."""
    wrong_magic(t, wire.EXT_REQUEST)


@case()
def R01_reply_magics(t):
    """A reply's magic from a client: drop."""
    for magic in (wire.SIMPLE_REPLY, wire.CHUNK, wire.EXT_REPLY):
        wrong_magic(t, magic)


@case()
def P51_reserved_magics(t):
    """The reserved magics 12560953, 96744668 and 25609514: drop."""
    for magic in (0x12560953, 0x96744668, 0x25609514):
        wrong_magic(t, magic)


@case()
def R02_header_cut_by_fin(t):
    """A request header that ends after k of 28 bytes: closed, no reply."""
    for k in range(1, 28):
        client = t.tx(delivery="whole")
        client.delivery = t.delivery
        client.send(pack_request(READ, 0, 512)[:k])
        client.shutdown_write()
        t.drop(client)
        client.close()


@case(tcp_only=True)
def R02_header_cut_by_rst(t):
    """A request header cut by a RST: freed."""
    for k in range(1, 28):
        client = t.tx()
        client.send(pack_request(READ, 0, 512)[:k])
        client.reset()


@case()
def R02_header_in_two_halves(t):
    """A header may arrive in two parts with a pause."""
    client = t.tx()
    message = pack_request(READ, t.witness_offset, 512, cookie=9)
    for k in (1, 4, 13, 27):
        client.send(message[:k])
        time.sleep(0.02)
        client.send(message[k:])
        reply = client.recv(16 + 512)
        t.check(reply[:16] == struct.pack(">IIQ", wire.SIMPLE_REPLY, 0, 9), "a simple reply", wire.short(reply))
        t.check(reply[16:] == t.witness_block[:512], "right data", "other data")


# -- reading and writing ----------------------------------------------------------------------------------------------

@case()
def P48_read_simple_reply(t):
    """READ without negotiation: a simple reply of 16 bytes with the cookie, then the data."""
    client = t.tx()
    client.send(pack_request(READ, t.witness_offset, 100, cookie=0xFEDCBA9876543210))
    reply = client.recv(116)
    t.check(reply[:16] == bytes.fromhex("6744669800000000fedcba9876543210"), "the reply header", wire.short(reply[:16]))
    t.check(reply[16:] == t.witness_block[:100], "right data", wire.short(reply[16:]))
    t.quiet(client, 0.1)


@case()
def P60_write_then_read(t):
    """Written data are read back, for lengths around the powers of two."""
    client = t.tx()
    for length in (1, 2, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537, 300001):
        data = pattern(length, length)
        t.error(client.write(SPOT + 7, data), 0, "WRITE of %d bytes" % length)
        t.check(client.read(SPOT + 7, length) == data, "the %d bytes written" % length, "other bytes")


@case()
def P60_first_and_last_byte(t):
    """The first and the last byte of the export can be written and read."""
    client = t.tx()
    for offset in (0, SIZE - 1):
        t.error(client.write(offset, b"\xa5"), 0, "WRITE")
        t.check(client.read(offset, 1) == b"\xa5", "the byte written", "another")


@case()
def R03_zero_length_requests(t):
    """Length 0 inside the export: READ, WRITE, TRIM, WRITE_ZEROES succeed and change nothing; no drop."""
    client = t.tx()
    client.write(SPOT, b"abcdefgh")
    for command in (READ, WRITE, TRIM, ZEROES):
        if has(client, command):
            t.error(client.do(command, SPOT + 4, 0), 0, "%s of length 0" % COMMAND_NAMES[command])
    t.check(client.read(SPOT, 8) == b"abcdefgh", "unchanged data", "other data")


@case()
def R03_zero_length_cache(t):
    """CACHE of length 0: success or EINVAL, no drop."""
    client = t.tx()
    t.error(client.do(CACHE, SPOT, 0), (0, EINVAL), "CACHE of length 0")
    t.sync(client)


@case()
def R03_zero_length_block_status(t):
    """BLOCK_STATUS of length 0: EINVAL, no drop."""
    client = t.tx()
    t.error(client.do(STATUS, SPOT, 0), EINVAL, "BLOCK_STATUS of length 0")
    t.sync(client)


@case()
def R04_read_at_the_end(t):
    """READ at the size or over the end: EINVAL; of length 0 at the size: success or EINVAL; sync."""
    client = t.tx()
    t.error(client.do(READ, SIZE, 1), EINVAL, "READ of the byte behind the end")
    t.error(client.do(READ, SIZE - 1, 2), EINVAL, "READ over the end")
    t.error(client.do(READ, 0, SIZE + 1), EINVAL, "READ of more than all")
    t.error(client.do(READ, SIZE, 0), (0, EINVAL), "READ of nothing at the end")
    t.sync(client)


@case()
def R04_zero_length_far_outside(t):
    """Length 0 outside the export: success or an error, no drop."""
    client = t.tx()
    for offset in (SIZE + 1, 1 << 63, 0xFFFFFFFFFFFFFFFF):
        for command in (READ, WRITE, TRIM, ZEROES, CACHE):
            t.error(client.do(command, offset, 0), (0, EINVAL, ENOSPC), "%s" % COMMAND_NAMES[command])
    t.sync(client)


@case()
def R05_read_offset_plus_length_wraps(t):
    """READ whose end wraps 64 bits or lies outside: EINVAL, sync."""
    client = t.tx()
    for offset, length in HUGE + [(1 << 63, 0xFFFFFFFF)]:
        t.error(client.do(READ, offset, length), EINVAL, "READ %#x+%#x" % (offset, length))
    t.sync(client)


@case()
def R06_write_past_the_end_is_enospc(t):
    """WRITE past the end: ENOSPC, payload consumed, nothing written, sync (also when the sum wraps)."""
    client = t.tx()
    before = client.read(SIZE - 8192, 8192)
    for offset, length in HUGE:
        t.error(client.write(offset, b"\x5a" * length), ENOSPC, "WRITE %#x+%#x" % (offset, length))
        t.sync(client)
    t.check(client.read(SIZE - 8192, 8192) == before, "nothing written", "changed data")


@case()
def P87_write_past_end_is_enospc(t):
    """A WRITE that is half inside: ENOSPC, and the half inside is not written."""
    client = t.tx()
    t.error(client.write(SIZE - 4096, bytes(4096)), 0, "WRITE")
    t.error(client.write(SIZE - 4096, b"\x77" * 8192), ENOSPC, "WRITE over the end")
    t.check(client.read(SIZE - 4096, 4096) == bytes(4096), "nothing written", "changed data")
    t.sync(client)


@case()
def R06_payload_that_looks_like_requests(t):
    """The payload of a refused WRITE is consumed, not parsed."""
    client = t.tx()
    inner = b"".join(pack_request(WRITE, SPOT, 4, cookie=i, payload=b"BAD!") for i in range(100))
    client.write(SPOT, b"good")
    t.error(client.write(SIZE - 1, inner), ENOSPC, "WRITE")
    t.error(client.do(WRITE, SPOT, len(inner), PAYLOAD_LEN << 1, inner), EINVAL, "WRITE with an unknown flag")
    t.check(client.read(SPOT, 4) == b"good", "nothing executed from a payload", "changed data")


def past_end(t, command, allowed):
    client = t.tx()
    need(client, command)
    before = client.read(SIZE - 8192, 8192)
    for offset, length in HUGE + [(1 << 63, 0xFFFFFFFF), (SIZE - 4096, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF)]:
        t.error(client.do(command, offset, length), allowed, "%s %#x+%#x" % (COMMAND_NAMES[command], offset, length))
    t.sync(client)
    t.check(client.read(SIZE - 8192, 8192) == before, "nothing changed", "changed data")


@case()
def R07_trim_past_the_end(t):
    """TRIM past the end: EINVAL, nothing trimmed."""
    past_end(t, TRIM, EINVAL)


@case()
def R07_cache_past_the_end(t):
    """CACHE past the end: EINVAL."""
    past_end(t, CACHE, EINVAL)


@case()
def R07_write_zeroes_past_the_end(t):
    """WRITE_ZEROES past the end: ENOSPC, nothing zeroed."""
    past_end(t, ZEROES, ENOSPC)


@case()
def R07_block_status_past_the_end(t):
    """BLOCK_STATUS past the end: EINVAL."""
    past_end(t, STATUS, EINVAL)


@case(twice=False)
def R08_read_of_the_maximum(t):
    """READ of the maximum payload (32 MiB): all of it, right."""
    client = t.tx()
    client.write(SPOT, pattern(8, 1 * MIB))
    data = client.read(0, 32 * MIB, timeout=20)
    t.check(data[SPOT:SPOT + MIB] == pattern(8, 1 * MIB), "right data", "other data")
    t.check(len(data) == 32 * MIB, "32 MiB", "%d" % len(data))


@case()
def R08_read_above_the_maximum(t):
    """READ above the maximum payload: EINVAL, no drop, no allocation."""
    client = t.tx()
    rss = t.server.rss()
    if client.block_sizes and client.block_sizes[2] > 48 * MIB:
        raise Skip("the advertised maximum payload is above 48 MiB")
    for length in (max_payload(client) + 1, 48 * MIB, 1 << 31, 0xFFFFFFFF):
        t.error(client.do(READ, 0, length), EINVAL, "READ of %d bytes" % length)
    t.check(t.run.sanitized or t.server.rss() - rss < 24 * MIB, "no allocation", "%d MiB more" %
            ((t.server.rss() - rss) >> 20))
    t.sync(client)


@case(kind="bs")
def R08_read_above_a_small_maximum(t):
    """READ above an advertised maximum of 1 MiB: EINVAL, sync; of the maximum: served."""
    client = t.tx()
    t.error(client.do(READ, 0, MIB + 512), EINVAL, "READ of 1 MiB + 512")
    t.error(client.do(READ, 0, MIB), 0, "READ of 1 MiB")
    t.sync(client)


@case(twice=False)
def R09_write_of_the_maximum(t):
    """WRITE of 32 MiB: written."""
    client = t.tx()
    data = pattern(9, 32 * MIB)
    t.error(client.write(0, data, timeout=20), 0, "WRITE of 32 MiB")
    t.check(client.read(0, 32 * MIB, timeout=20) == data, "the data written", "other data")


@case(kind="bs")
def R09_write_above_a_small_maximum(t):
    """WRITE above the advertised maximum but not above 32 MiB: payload consumed, EINVAL, nothing written, sync."""
    client = t.tx()
    client.write(0, bytes(4096))
    for length in (MIB + 512, 2 * MIB):
        t.error(client.write(0, b"\x99" * length, timeout=20), EINVAL, "WRITE of %d bytes" % length)
    t.check(client.read(0, 4096) == bytes(4096), "nothing written", "changed data")
    t.sync(client)


@case(kind="bs", twice=False)
def P78_write_of_32_mib_above_a_small_maximum(t):
    """A payload of up to 2^25 bytes is not treated as an attack: 32 MiB are consumed, EINVAL, sync."""
    client = t.tx()
    t.error(client.write(0, b"\x98" * (32 * MIB), timeout=20), EINVAL, "WRITE of 32 MiB")
    t.sync(client)


@case(twice=False)
def R09_write_above_32_mib_drops(t):
    """WRITE longer than max(32 MiB, advertised maximum): drop, nothing written."""
    client = t.tx()
    other = t.tx()
    other.write(0, bytes(4096))
    if max_payload(client) >= SIZE:
        raise Skip("the advertised maximum payload is above the export's size")
    client.request(WRITE, 0, max_payload(client) + 1, expect=False)
    client.send(b"\x97" * 65536)
    t.drop(client)
    t.check(other.read(0, 4096) == bytes(4096), "nothing written", "changed data")


@case()
def R10_write_of_4_gib_without_payload(t):
    """WRITE of ffffffff bytes: drop without allocation."""
    for length in (0xFFFFFFFF, 1 << 31, 3 << 30):
        client = t.tx()
        rss = t.server.rss()
        client.request(WRITE, 0, length, expect=False)
        t.drop(client)
        t.check(t.run.sanitized or t.server.rss() - rss < 16 * MIB, "no allocation", "%d MiB more" %
                ((t.server.rss() - rss) >> 20))


def cut_payload(t, sent, end):
    """A WRITE of 64 KiB of which only `sent` bytes arrive."""
    watch = t.tx(delivery="whole")
    old, new = b"\x31" * 65536, b"\x32" * 65536
    t.error(watch.write(SPOT, old), 0, "WRITE")
    client = t.tx(delivery="whole")
    client.request(WRITE, SPOT, 65536, expect=False)
    client.send(new[:sent])
    end(client)
    time.sleep(0.05)
    data = watch.read(SPOT, 65536)
    written = len(data) - len(data.lstrip(b"\x32"))
    t.check(written <= sent and data == new[:written] + old[written:],
            "old data, or a part of the %d bytes sent in front of it" % sent, "something else")


@case()
def R11_payload_cut_by_fin(t):
    """A WRITE whose payload ends early with FIN: closed; nothing but a prefix of what was sent is written."""
    for sent in (0, 1, 4096, 65535):
        def end(client):
            client.shutdown_write()
            t.drop(client)
        cut_payload(t, sent, end)


@case(tcp_only=True)
def R11_payload_cut_by_rst(t):
    """A WRITE whose payload ends early with RST: freed; nothing but a prefix of what was sent is written."""
    for sent in (0, 1, 4096, 65535):
        cut_payload(t, sent, lambda client: client.reset())


@case(twice=False)
def R12_payload_that_trickles(t):
    """A payload that comes byte by byte with pauses does not delay other clients."""
    client, other = t.tx(), t.tx()
    client.request(WRITE, SPOT, 8)
    for i in range(8):
        client.send(bytes([65 + i]))
        begin = time.monotonic()
        t.sync(other)
        t.prompt(begin, "service for others")
        time.sleep(0.15)
    t.error(client.next_result(), 0, "WRITE")
    t.check(client.read(SPOT, 8) == b"ABCDEFGH", "the bytes sent", "others")


# -- block sizes ------------------------------------------------------------------------------------------------------

def misaligned(t, command):
    client = t.tx()
    need(client, command)
    for offset, length in ((1, 512), (512, 1), (511, 513), (0, 511), (256, 256), (SIZE - 1, 1)):
        payload = b"\x44" * length if command == WRITE else b""
        t.error(client.do(command, offset, length, payload=payload), EINVAL,
                "%s %#x+%#x at minimum 512" % (COMMAND_NAMES[command], offset, length))
        t.sync(client)
    t.error(client.do(command, 512, 512, payload=bytes(512) if command == WRITE else b""), 0, "an aligned request")


@case(kind="bs")
def R13_misaligned_read(t):
    """READ against a minimum of 512: EINVAL, sync."""
    misaligned(t, READ)


@case(kind="bs")
def R13_misaligned_write(t):
    """WRITE against a minimum of 512: EINVAL, payload consumed, nothing written, sync."""
    client = t.tx()
    client.write(0, bytes(2048))
    misaligned(t, WRITE)
    t.check(client.read(0, 2048) == bytes(2048), "nothing written", "changed data")


@case(kind="bs")
def R13_misaligned_trim(t):
    """TRIM against a minimum of 512: EINVAL, sync."""
    misaligned(t, TRIM)


@case(kind="bs")
def R13_misaligned_write_zeroes(t):
    """WRITE_ZEROES against a minimum of 512: EINVAL, sync."""
    misaligned(t, ZEROES)


@case(kind="bs")
def R13_misaligned_cache(t):
    """CACHE against a minimum of 512: EINVAL, sync."""
    misaligned(t, CACHE)


@case(kind="bs")
def P80_misaligned_and_outside(t):
    """A request that is misaligned and outside: READ and TRIM EINVAL, WRITE EINVAL or ENOSPC, sync."""
    client = t.tx()
    t.error(client.do(READ, SIZE + 1, 3), EINVAL, "READ")
    t.error(client.write(SIZE + 1, b"abc"), (EINVAL, ENOSPC), "WRITE")
    t.error(client.do(READ, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF), EINVAL, "READ")
    t.sync(client)


@case(kind="bs")
def P79_trim_and_zeroes_above_the_maximum_payload(t):
    """TRIM and WRITE_ZEROES carry no payload: they may exceed the maximum; success, EOVERFLOW or EINVAL, no drop."""
    client = t.tx()
    for command in (TRIM, ZEROES):
        if has(client, command):
            t.error(client.do(command, 0, 8 * MIB), (0, EOVERFLOW, EINVAL), COMMAND_NAMES[command])
            t.sync(client)


@case(kind="bs")
def P76_block_sizes_apply_with_and_without_asking(t):
    """A client that did not ask for sizes gets an error for requests that violate them."""
    client = t.hs()
    got = client.negotiate(wire.GO, wire.info_data())
    if got[-1].kind != wire.ACK:
        raise Skip("the server demands that sizes are requested")
    client.take_infos(got)
    t.error(client.write(3, b"abc"), EINVAL, "a misaligned WRITE")
    t.sync(client)


# -- unknown commands and flags ---------------------------------------------------------------------------------------

@case()
def P67_resize_is_off_by_default(t):
    """RESIZE of an export that does not allow it is not advertised: EINVAL, the size stays, sync."""
    client = t.tx()
    t.check(not client.tflags & wire.T_RESIZE, "SEND_RESIZE clear", "%#x" % client.tflags)
    for size in (0, 32 * MIB, 128 * MIB):
        t.error(client.do(wire.RESIZE, size, 0), EINVAL, "RESIZE to %d" % size)
    t.equal(t.tx().size, 64 * MIB, "size")
    t.sync(client)


@case()
def R14_unknown_commands(t):
    """Unknown commands: EINVAL, no payload consumed, sync."""
    client = t.tx()
    for command in (8, 9, 10, 0x7FFF, 0x8000, 0xFFFF):
        for length in (0, 4096):
            t.error(client.do(command, 0, length), EINVAL, "command %#x of length %d" % (command, length))
            t.sync(client)


@case(kind="ro")
def R14_unknown_commands_on_read_only(t):
    """Unknown commands on a read-only export: EINVAL, sync."""
    client = t.tx()
    for command in (8, 99, 0xFFFF):
        t.error(client.do(command, 0, 512), EINVAL, "command %#x" % command)
    t.sync(client)


def each_undefined_flag(t, command):
    client = t.tx()
    payload = b"\x66" * 512 if command == WRITE else b""
    client.write(SPOT, bytes(512))
    length = 0 if command == FLUSH else 512
    for bit in range(6, 16):
        t.error(client.do(command, 0 if command == FLUSH else SPOT, length, 1 << bit, payload), EINVAL,
                "%s with flag bit %d" % (COMMAND_NAMES[command], bit))
        t.sync(client)
    t.check(client.read(SPOT, 512) == bytes(512), "nothing written", "changed data")


@case()
def R15_undefined_flags_on_read(t):
    """Each undefined flag on READ: EINVAL, sync."""
    each_undefined_flag(t, READ)


@case()
def R15_undefined_flags_on_write(t):
    """Each undefined flag on WRITE: EINVAL, payload consumed, nothing written, sync."""
    each_undefined_flag(t, WRITE)


@case()
def R15_undefined_flags_on_flush(t):
    """Each undefined flag on FLUSH: EINVAL, sync."""
    each_undefined_flag(t, FLUSH)


@case()
def R15_undefined_flags_on_trim(t):
    """Each undefined flag on TRIM: EINVAL, sync."""
    each_undefined_flag(t, TRIM)


@case()
def R15_undefined_flags_on_cache(t):
    """Each undefined flag on CACHE: EINVAL (a MUST where CACHE is advertised), sync."""
    each_undefined_flag(t, CACHE)


@case()
def R15_undefined_flags_on_write_zeroes(t):
    """Each undefined flag on WRITE_ZEROES: EINVAL, nothing zeroed, sync."""
    each_undefined_flag(t, ZEROES)


@case()
def R15_undefined_flags_on_block_status(t):
    """Each undefined flag on BLOCK_STATUS: EINVAL, sync."""
    each_undefined_flag(t, STATUS)


def refused_flag(t, command, flag):
    client = t.tx()
    client.write(SPOT, b"\x12" * 512)
    payload = b"\x66" * 512 if command == WRITE else b""
    t.error(client.do(command, 0 if command == FLUSH else SPOT, 0 if command == FLUSH else 512, flag, payload), EINVAL,
            "%s with flag %#x" % (COMMAND_NAMES[command], flag))
    t.sync(client)
    t.check(client.read(SPOT, 512) == b"\x12" * 512, "nothing changed", "changed data")


@case()
def R16_df_without_structured_replies(t):
    """DF on READ without structured replies (SEND_DF is clear): EINVAL."""
    refused_flag(t, READ, DF)


@case()
def R16_df_on_write(t):
    """DF on WRITE: EINVAL, payload consumed."""
    refused_flag(t, WRITE, DF)


@case()
def R16_req_one_on_read(t):
    """REQ_ONE on READ: EINVAL."""
    refused_flag(t, READ, REQ_ONE)


@case()
def R16_no_hole_on_write(t):
    """NO_HOLE on WRITE: EINVAL, payload consumed."""
    refused_flag(t, WRITE, NO_HOLE)


@case()
def R16_no_hole_on_trim(t):
    """NO_HOLE on TRIM: EINVAL."""
    refused_flag(t, TRIM, NO_HOLE)


@case()
def R16_fast_zero_on_write(t):
    """FAST_ZERO on WRITE: EINVAL, payload consumed."""
    refused_flag(t, WRITE, FAST_ZERO)


@case()
def R16_df_on_flush(t):
    """DF on FLUSH: EINVAL."""
    refused_flag(t, FLUSH, DF)


@case()
def R16_fua_not_advertised(t):
    """FUA where SEND_FUA is clear: EINVAL."""
    if t.tx().tflags & wire.T_FUA:
        raise Skip("SEND_FUA is set")
    refused_flag(t, WRITE, FUA)


@case()
def R16_fast_zero_not_advertised(t):
    """FAST_ZERO where SEND_FAST_ZERO is clear: EINVAL."""
    if t.tx().tflags & wire.T_FAST_ZERO:
        raise Skip("SEND_FAST_ZERO is set")
    refused_flag(t, ZEROES, FAST_ZERO)


@case()
def R17_payload_len_without_extended_headers(t):
    """PAYLOAD_LEN without extended headers: EINVAL, sync; no payload is expected on READ, WRITE's is consumed."""
    refused_flag(t, READ, PAYLOAD_LEN)
    refused_flag(t, WRITE, PAYLOAD_LEN)
    refused_flag(t, TRIM, PAYLOAD_LEN)


@case()
def P58_fua_is_accepted_on_every_command(t):
    """Where SEND_FUA is set, FUA MUST be accepted on every command."""
    client = t.tx()
    if not client.tflags & wire.T_FUA:
        raise Skip("SEND_FUA is clear")
    t.error(client.do(READ, 0, 512, FUA), 0, "READ with FUA")
    t.error(client.do(WRITE, SPOT, 4, FUA, b"fua!"), 0, "WRITE with FUA")
    t.check(client.read(SPOT, 4) == b"fua!", "the data written", "other data")
    for command in (FLUSH, TRIM, CACHE, ZEROES):
        if has(client, command):
            at = (0, 0) if command == FLUSH else (SPOT, 4096)
            t.error(client.do(command, *at, FUA), 0, "%s with FUA" % COMMAND_NAMES[command])


# -- read-only --------------------------------------------------------------------------------------------------------

def refused_write(t, command, offset, length, flags=0):
    client = t.tx()
    payload = b"\x13" * length if command == WRITE else b""
    t.error(client.do(command, offset, length, flags, payload, timeout=20), EPERM,
            "%s %#x+%#x on a read-only export" % (COMMAND_NAMES[command], offset, length))
    t.sync(client)
    t.check(client.read(0, 4096) == bytes(4096), "unchanged data", "changed data")


@case(kind="ro")
def R22_write_of_0_bytes_on_read_only(t):
    """WRITE of nothing on a read-only export: EPERM."""
    refused_write(t, WRITE, 0, 0)


@case(kind="ro")
def R22_write_of_1_byte_on_read_only(t):
    """WRITE of a byte on a read-only export: EPERM, payload consumed, unchanged."""
    refused_write(t, WRITE, 0, 1)


@case(kind="ro")
def R22_write_of_1_mib_on_read_only(t):
    """WRITE of 1 MiB on a read-only export: EPERM, payload consumed, unchanged."""
    refused_write(t, WRITE, 0, MIB)


@case(kind="ro", twice=False)
def R22_write_of_32_mib_on_read_only(t):
    """WRITE of the maximum on a read-only export: EPERM, payload consumed, unchanged."""
    refused_write(t, WRITE, 0, 32 * MIB)


@case(kind="ro")
def R22_trim_on_read_only(t):
    """TRIM on a read-only export: EPERM."""
    refused_write(t, TRIM, 0, 4096)


@case(kind="ro")
def R22_write_zeroes_on_read_only(t):
    """WRITE_ZEROES on a read-only export: EPERM."""
    refused_write(t, ZEROES, 0, 4096)


@case(kind="ro")
def P97_permission_comes_before_range(t):
    """Write-like commands past the end of a read-only export: EPERM, payload consumed."""
    refused_write(t, WRITE, SIZE, 16)
    refused_write(t, WRITE, 0xFFFFFFFFFFFFFFFF, 512)
    refused_write(t, TRIM, SIZE, 16)
    refused_write(t, ZEROES, SIZE - 1, 16)


@case(kind="ro")
def R22_reads_and_flush_on_read_only(t):
    """READ works on a read-only export; FLUSH succeeds, or is EINVAL where it is not advertised."""
    client = t.tx()
    t.check(client.read(12345, 54321) == bytes(54321), "zeroes", "other data")
    t.error(client.do(FLUSH), 0 if has(client, FLUSH) else (0, EINVAL), "FLUSH")


# -- the other commands -----------------------------------------------------------------------------------------------

@case()
def P62_flush(t):
    """FLUSH succeeds where it is advertised, is EINVAL where it is not; sync."""
    client = t.tx()
    client.write(SPOT, b"flushed")
    t.error(client.do(FLUSH), 0 if has(client, FLUSH) else EINVAL, "FLUSH")
    t.check(client.read(SPOT, 7) == b"flushed", "the data written", "other data")


@case()
def R23_flush_with_offset(t):
    """FLUSH with an offset: EINVAL, sync."""
    client = t.tx()
    t.error(client.do(FLUSH, 4096, 0), EINVAL, "FLUSH with an offset")
    t.sync(client)


@case()
def R23_flush_with_length(t):
    """FLUSH with a length: EINVAL, no payload expected, sync."""
    client = t.tx()
    t.error(client.do(FLUSH, 0, 4096), EINVAL, "FLUSH with a length")
    t.error(client.do(FLUSH, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF), EINVAL, "FLUSH with both")
    t.sync(client)


@case()
def R24_block_status_without_context(t):
    """BLOCK_STATUS without a selected context: EINVAL (a simple reply), sync."""
    client = t.tx()
    for length in (1, 512, SIZE, 0xFFFFFFFF):
        t.error(client.do(STATUS, 0, length), EINVAL, "BLOCK_STATUS")
    t.error(client.do(STATUS, 0, 512, REQ_ONE), EINVAL, "BLOCK_STATUS with REQ_ONE")
    t.sync(client)


@case(kind="big4k")
def R25_lengths_near_4_gib_at_odd_offsets(t):
    """CVE-2025-47712: TRIM, ZEROES, CACHE of nearly 4 GiB, misaligned at minimum 4096: EINVAL, no overflow."""
    client = t.tx()
    for command in (TRIM, ZEROES, CACHE):
        for offset, length in ((1, 0xFFFFFFFF), (512, 0xFFFFFE00), (4095, 0xFFFFF001), (0, 0xFFFFFFFF),
                               ((1 << 40) - 4096, 0xFFFFFFFF)):
            t.error(client.do(command, offset, length), (EINVAL, ENOSPC),
                    "%s %#x+%#x" % (COMMAND_NAMES[command], offset, length))
    t.sync(client)


@case(kind="big4k")
def P79_trim_and_zeroes_of_nearly_4_gib(t):
    """Aligned TRIM and WRITE_ZEROES of fffff000 bytes: success, EOVERFLOW or EINVAL, in time, sync."""
    client = t.tx()
    for command in (TRIM, ZEROES):
        if has(client, command):
            t.error(client.do(command, 1 << 33, 0xFFFFF000, timeout=20), (0, EOVERFLOW, EINVAL), COMMAND_NAMES[command])
            t.sync(client)


@case()
def R26_cache(t):
    """CACHE: success where it is advertised, EINVAL where it is not; never changes data; sync."""
    client = t.tx()
    client.write(SPOT, b"cached")
    t.error(client.do(CACHE, SPOT, 4096), 0 if has(client, CACHE) else EINVAL, "CACHE")
    t.check(client.read(SPOT, 6) == b"cached", "the same data", "other data")


@case()
def P63_trim(t):
    """TRIM: success where it is advertised, EINVAL where it is not; data outside its range stays."""
    client = t.tx()
    data = pattern(63, 3 * 65536)
    client.write(SPOT, data)
    t.error(client.do(TRIM, SPOT + 65536, 65536), 0 if has(client, TRIM) else EINVAL, "TRIM")
    after = client.read(SPOT, len(data))
    t.check(after[:65536] == data[:65536] and after[131072:] == data[131072:], "data outside to stay", "changed data")


@case()
def P63_trim_at_odd_borders(t):
    """TRIM of a range that is not page-aligned leaves every byte outside alone."""
    client = t.tx()
    need(client, TRIM)
    data = pattern(64, 40000)
    for begin, length in ((1, 4096), (4095, 2), (5000, 20000), (4096, 8192), (8191, 1)):
        client.write(SPOT, data)
        t.error(client.do(TRIM, SPOT + begin, length), 0, "TRIM")
        after = client.read(SPOT, len(data))
        t.check(after[:begin] == data[:begin] and after[begin + length:] == data[begin + length:],
                "data outside %d+%d to stay" % (begin, length), "changed data")


def zeroes_read_back(t, flags):
    client = t.tx()
    need(client, ZEROES)
    data = pattern(65, 40000)
    for begin, length in ((0, 4096), (1, 4096), (4095, 2), (5000, 20000), (4096, 8192), (8191, 1), (0, 40000)):
        client.write(SPOT, data)
        t.error(client.do(ZEROES, SPOT + begin, length, flags), 0, "WRITE_ZEROES")
        want = data[:begin] + bytes(length) + data[begin + length:]
        t.check(client.read(SPOT, len(data)) == want, "zeroes in %d+%d and nowhere else" % (begin, length), "other data")


@case()
def P65_write_zeroes(t):
    """WRITE_ZEROES MUST read back as zeroes, and changes nothing outside."""
    zeroes_read_back(t, 0)


@case()
def P65_write_zeroes_no_hole(t):
    """WRITE_ZEROES with NO_HOLE MUST be supported where WRITE_ZEROES is."""
    zeroes_read_back(t, NO_HOLE)


@case()
def P65_write_zeroes_fua(t):
    """WRITE_ZEROES with FUA and NO_HOLE."""
    if not t.tx().tflags & wire.T_FUA:
        raise Skip("SEND_FUA is clear")
    zeroes_read_back(t, FUA | NO_HOLE)


@case()
def P65_fast_zero(t):
    """FAST_ZERO: success with zeroes, or ENOTSUP with unchanged content; EINVAL where it is not advertised."""
    client = t.tx()
    need(client, ZEROES)
    for flags in (FAST_ZERO, FAST_ZERO | NO_HOLE):
        client.write(SPOT, b"\x21" * 8192)
        error = client.do(ZEROES, SPOT, 8192, flags).error
        t.error(error, (0, ENOTSUP) if client.tflags & wire.T_FAST_ZERO else EINVAL, "WRITE_ZEROES with FAST_ZERO")
        want = bytes(8192) if error == 0 else b"\x21" * 8192
        t.check(client.read(SPOT, 8192) == want, "content that matches the reply", "other content")


@case(scratch=True)
def P79_whole_export_zeroed_and_trimmed(t):
    """WRITE_ZEROES and TRIM of the whole export, twice the maximum payload: success, EOVERFLOW or EINVAL; no drop."""
    client = t.tx()
    for command in (ZEROES, TRIM):
        if has(client, command):
            t.error(client.do(command, 0, SIZE, timeout=20), (0, EOVERFLOW, EINVAL), COMMAND_NAMES[command])
    client.read(0, 512)


@case()
def P100_unadvertised_commands_are_einval(t):
    """FLUSH, TRIM, CACHE, WRITE_ZEROES without their flag: EINVAL, sync."""
    client = t.tx()
    for command in (FLUSH, TRIM, CACHE, ZEROES):
        if not has(client, command):
            t.error(client.do(command, 0, 0 if command == FLUSH else 512), EINVAL, COMMAND_NAMES[command])
    t.sync(client)


# -- many requests, and the end ---------------------------------------------------------------------------------------

@case()
def R27_equal_cookies(t):
    """16 requests with one cookie: each is answered once, with that cookie."""
    for cookie in (0, 0xFFFFFFFFFFFFFFFF, 0x6744669825609513):
        client = t.tx()
        results = [client.request(READ, t.witness_offset, 512, cookie=cookie) for _ in range(16)]
        for result in client.wait_all(results):
            t.check(result.data == t.witness_block[:512], "right data", "other data")
        t.quiet(client, 0.05)


@case()
def P52_cookies_are_echoed(t):
    """Different requests in flight are answered with their own cookies."""
    client = t.tx()
    results = [client.request(READ, t.witness_offset + i * 16, 16, cookie=i << 56 | 0xABC) for i in range(64)]
    for i, result in enumerate(results):
        client.wait(result)
        t.check(result.data == t.witness_block[i * 16:i * 16 + 16], "the data of request %d" % i, "other data")


@case()
def R28_disc_with_reads_in_flight(t):
    """DISC behind 16 READs: all 16 replies, then the connection is closed."""
    client = t.tx()
    results = [client.request(READ, t.witness_offset, 4096) for _ in range(16)]
    client.request(DISC, expect=False)
    for result in client.wait_all(results):
        t.check(result.data == t.witness_block, "right data", "other data")
    t.drop(client, what="the end after DISC")


@case()
def R28_disc_with_writes_in_flight(t):
    """DISC behind 16 WRITEs: all are handled and answered, then the connection is closed."""
    client, other = t.tx(), t.tx()
    results = [client.request(WRITE, SPOT + i * 64, 64, payload=bytes([i + 1]) * 64) for i in range(16)]
    client.request(DISC, expect=False)
    for result in client.wait_all(results):
        t.error(result, 0, "WRITE")
    t.drop(client, what="the end after DISC")
    t.check(other.read(SPOT, 1024) == b"".join(bytes([i + 1]) * 64 for i in range(16)), "all written", "other data")


@case()
def R28_disc_with_offset_and_length(t):
    """DISC with offset or length: closed all the same, no reply."""
    for offset, length, flags in ((4096, 0, 0), (0, 4096, 0), (0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF, 0), (0, 0, 0xFFFF)):
        client = t.tx()
        client.request(DISC, offset, length, flags, expect=False)
        t.drop(client)


@case()
def R28_bytes_after_disc_are_ignored(t):
    """Requests behind a DISC are not executed."""
    client, other = t.tx(delivery="whole"), t.tx()
    other.write(SPOT, b"before")
    client.send(pack_request(DISC, 0, 0) + pack_request(WRITE, SPOT, 6, payload=b"after!"))
    t.drop(client)
    t.check(other.read(SPOT, 6) == b"before", "nothing executed after DISC", "changed data")


@case(twice=False)
def R29_many_invalid_requests(t):
    """Tens of thousands of invalid and empty requests pipelined: each is answered, in bounded memory."""
    client = t.tx()
    rss = t.server.rss()
    count = scaled(20000)
    kinds = [pack_request(READ, SIZE, 1, cookie=1), pack_request(99, 0, 0, cookie=1), pack_request(READ, 0, 0, cookie=1),
             pack_request(WRITE, 0, 0, cookie=1), pack_request(READ, 1 << 63, 1, cookie=1)]
    blob = b"".join(kinds) * 50

    def feed():
        try:
            for _ in range(count // 250):
                client.socket.sendall(blob)
        except OSError:
            pass        # the reading side reports the failure
    thread = threading.Thread(target=feed)
    client.socket.settimeout(30 * SLOWER)
    thread.start()
    for _ in range(count // 250 * 250):
        magic, error, cookie = struct.unpack(">IIQ", client_read(client, 16))
        t.check(magic == wire.SIMPLE_REPLY and cookie == 1 and error in (0, EINVAL), "a simple reply",
                "%#x %d %#x" % (magic, error, cookie))
    thread.join()
    t.check(t.run.sanitized or t.server.rss() - rss < 16 * MIB, "bounded memory", "%d MiB more" %
            ((t.server.rss() - rss) >> 20))
    client.socket.settimeout(client.timeout)
    t.sync(client)


def client_read(client, count):
    data = b""
    while len(data) < count:
        more = client.socket.recv(count - len(data))
        if not more:
            raise Dropped("a reply", "end of stream")
        data += more
    return data


def oracle(client, command, flags, inside):
    """The error values that the specification allows for a command, its flags and range; simple replies, writable."""
    tflags = client.tflags
    legal = FUA if tflags & wire.T_FUA else 0
    if command == ZEROES:
        legal |= NO_HOLE | (FAST_ZERO if tflags & wire.T_FAST_ZERO else 0)
    bad = flags & ~legal
    out = {WRITE: ENOSPC, ZEROES: ENOSPC}.get(command, EINVAL)
    if command == STATUS or not has(client, command):
        return {EINVAL}
    if command == FLUSH:
        return {EINVAL} if bad or not inside else {0}
    if bad:
        return {EINVAL} if inside else {EINVAL, out}
    if not inside:
        return {out, ENOTSUP} if flags & FAST_ZERO else {out}
    return {0, ENOTSUP} if flags & FAST_ZERO else {0}


@case()
def R30_every_command_with_every_flag_combination(t):
    """7 commands x 64 flag combinations x {inside, outside}: the error value of the specification."""
    client = t.tx(delivery="whole")
    for command in (READ, WRITE, FLUSH, TRIM, CACHE, ZEROES, STATUS):
        batch = []
        for flags in range(64):
            for inside in (True, False):
                length = 512
                offset = SPOT if inside else SIZE
                if command == FLUSH:
                    offset, length = (0, 0) if inside else (0, 512)
                payload = b"\x01" * length if command == WRITE else b""
                batch.append((client.request(command, offset, length, flags, payload), flags, inside))
        for result, flags, inside in batch:
            client.wait(result)
            t.error(result, oracle(client, command, flags, inside),
                    "%s with flags %#x %s" % (COMMAND_NAMES[command], flags, "inside" if inside else "outside"))
    t.sync(client)


@case()
def P89_errors_do_not_disconnect(t):
    """The connection stays open after many refused requests."""
    client = t.tx()
    for _ in range(200):
        t.error(client.do(READ, SIZE, 512), EINVAL, "READ")
        t.error(client.do(200, 0, 0), EINVAL, "command 200")
        t.error(client.write(SIZE, b"x"), ENOSPC, "WRITE")
    t.sync(client)


@case()
def P61_disc_closes_without_reply(t):
    """DISC: no reply, the connection is closed."""
    client = t.tx()
    client.request(DISC, expect=False)
    t.drop(client)


@case()
def P47_pipelined_requests_of_every_kind(t):
    """A mixture of requests in one segment: all answered, data right, in sync."""
    client = t.tx(delivery="whole")
    blob, results = b"", []
    for i in range(40):
        at = SPOT + i * 512
        for command, payload in ((WRITE, bytes([i]) * 512), (READ, b""), (READ, b"")):
            cookie = client.cookie()
            result = wire.Result(command, at, 512, 0, cookie)
            client.pending[cookie] = [result]
            results.append((result, i))
            blob += pack_request(command, at, 512, 0, cookie, payload)
    client.send(blob, "40 x (WRITE, READ, READ)")
    for result, i in results:
        client.wait(result)
        t.error(result, 0, COMMAND_NAMES[result.command])
    for i in range(40):
        t.check(client.read(SPOT + i * 512, 512) == bytes([i]) * 512, "the data written", "other data")
