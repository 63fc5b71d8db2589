# SPDX-License-Identifier: MIT
"""Structured replies: points 38, 49, 53 to 59, R19 to R21 and R27 to R30 for chunks.

Every chunk that any case receives is checked in wire.py: known flags and types, lengths, DONE last, content inside the
request and not overlapping, complete when successful, error values and texts.
"""
import random
import time

import wire
from harness import NAME, SLOWER, Skip, case, scaled
from transmission import ADVERTISED, SIZE, SPOT, has, need, pattern
from wire import (ACK, CACHE, COMMAND_NAMES, DF, DISC, EINVAL, ENOSPC, ENOTSUP, EOVERFLOW, EPERM, ERR_INVALID, EXPORT_NAME,
                  FAST_ZERO, FLUSH, FUA, GIB, GO, INFO, KIB, MIB, NO_HOLE, PAYLOAD_LEN, READ, REQ_ONE, STATUS, STRUCTURED_REPLY,
                  TRIM, WRITE, ZEROES, info_data)


def structured(kind="rw", **more):
    return case(kind=kind, needs="structured", **more)


def stx(t, **more):
    return t.tx(mode="structured", **more)


def failed_structured(t, result, allowed, what, text=True):
    """An error in a structured reply, with a text."""
    t.error(result, allowed, what)
    t.equal(result.style, "structured", "style of the reply to %s" % what)
    if text:
        t.check(result.text, "a text with the error of %s" % what, "none")


# -- negotiation ------------------------------------------------------------------------------------------------------

@structured()
def P38_structured_reply_is_acknowledged(t):
    """STRUCTURED_REPLY: ACK, and READ is answered in chunks."""
    client = stx(t)
    t.equal(client.do(READ, 0, 512).style, "structured", "style of the READ reply")
    t.sync(client)


@structured()
def P38_with_data_is_invalid(t):
    """STRUCTURED_REPLY with data: ERR_INVALID, and nothing is negotiated."""
    client = t.hs()
    t.equal(client.final(STRUCTURED_REPLY, b"data"), ERR_INVALID, "STRUCTURED_REPLY with data")
    client.go()
    t.equal(client.do(READ, 0, 512).style, "simple", "style of the READ reply")


@structured()
def P38_with_data_does_not_undo(t):
    """A refused STRUCTURED_REPLY after an accepted one changes nothing."""
    client = t.hs()
    client.structured()
    t.equal(client.final(STRUCTURED_REPLY, b"data"), ERR_INVALID, "STRUCTURED_REPLY with data")
    client.go()
    t.sync(client)


@structured()
def P38_twice(t):
    """A second STRUCTURED_REPLY: ACK or ERR_INVALID; structured replies stay."""
    client = t.hs()
    client.structured()
    t.equal(client.final(STRUCTURED_REPLY), {ACK, ERR_INVALID}, "a second STRUCTURED_REPLY")
    client.go()
    t.sync(client)


@structured()
def P38_survives_other_options(t):
    """Structured replies stay after INFO, LIST, unknown options and a failed GO."""
    client = t.hs()
    client.structured()
    client.info()
    client.final(wire.LIST)
    client.final(1234)
    t.equal(client.negotiate(GO, info_data(b"no-such-export"))[-1].kind, wire.ERR_UNKNOWN, "GO of an unknown export")
    client.go()
    t.sync(client)


@structured()
def P38_with_export_name(t):
    """STRUCTURED_REPLY, then EXPORT_NAME: READ is answered in chunks."""
    client = t.hs()
    client.structured()
    client.option(EXPORT_NAME, NAME)
    client.recv(10, "export data")
    t.sync(client)


@structured()
def P38_does_not_leak_to_other_connections(t):
    """Structured replies apply to one connection."""
    client = stx(t)
    t.equal(t.tx().do(READ, 0, 512).style, "simple", "style of the other connection")
    t.sync(client)


@structured()
def P47_df_flag_needs_structured_replies(t):
    """SEND_DF is clear before STRUCTURED_REPLY; afterwards it says whether DF works."""
    client = t.hs()
    client.info()
    client.structured()
    client.go()
    result = client.do(READ, 0, 512, DF)
    t.error(result, 0 if client.tflags & wire.T_DF else EINVAL, "READ with DF")


@structured()
def P36_info_and_go_agree(t):
    """INFO and GO give the same flags after STRUCTURED_REPLY."""
    client = t.hs()
    client.structured()
    client.info()
    flags = client.tflags
    client.go(b"", [])
    t.equal(client.tflags, flags, "transmission flags")


# -- READ -------------------------------------------------------------------------------------------------------------

@structured()
def P49_read(t):
    """READ of many lengths and offsets: the content is complete and right."""
    client = stx(t)
    data = pattern(49, 300 * KIB)
    t.error(client.write(SPOT, data), 0, "WRITE")
    generator = random.Random(49)
    for length in (1, 2, 511, 512, 513, 4095, 4096, 4097, 65536, 65537, 200000):
        at = generator.randrange(len(data) - length)
        t.check(client.read(SPOT + at, length) == data[at:at + length], "the %d bytes at %d" % (length, at), "others")


@structured()
def P57_read_over_data_and_holes(t):
    """READ of a range with data and zeroes: content chunks cover it, do not overlap, and are right."""
    client = stx(t)
    want = bytearray(2 * MIB)
    if has(client, ZEROES):
        t.error(client.do(ZEROES, SPOT, 2 * MIB), 0, "WRITE_ZEROES")
    else:
        t.error(client.write(SPOT, bytes(2 * MIB)), 0, "WRITE")
    for i in range(0, 2 * MIB, 128 * KIB):
        data = pattern(i, 20000)
        t.error(client.write(SPOT + i + 1000, data), 0, "WRITE")
        want[i + 1000:i + 21000] = data
    for begin, length in ((0, 2 * MIB), (1, 2 * MIB - 2), (999, 2), (21000, 100000), (65536, 65536)):
        t.check(client.read(SPOT + begin, length) == want[begin:begin + length], "data and zeroes as written", "others")


@structured(kind="big")
def P57_read_of_a_hole(t):
    """READ of a region that was never written: zeroes, as holes or as data."""
    client = stx(t)
    for begin, length in ((200 * GIB, 1), (200 * GIB, 4096), (200 * GIB + 1, MIB), (200 * GIB, 32 * MIB)):
        result = client.do(READ, begin, length, timeout=20 * SLOWER)
        t.error(result, 0, "READ of a hole")
        t.check(result.data == bytes(length), "zeroes", "other data")


@structured(kind="big", twice=False)
def P59_sparse_reads_are_cheap(t):
    """READ of 32 MiB of a hole is answered with holes, not with 32 MiB of zeroes."""
    client = stx(t)
    result = client.do(READ, 300 * GIB, 32 * MIB, timeout=20 * SLOWER)
    t.error(result, 0, "READ")
    sent = sum(len(chunk.payload) for chunk in result.chunks)
    t.check(sent < 64 * KIB, "a few OFFSET_HOLE chunks", "%d bytes of payload" % sent)


@structured()
def P59_chunks_start_and_end_at_512(t):
    """An aligned READ is split at multiples of 512 bytes, if it is split."""
    client = stx(t)
    t.error(client.write(SPOT + 300, b"x" * 70000), 0, "WRITE")
    result = client.do(READ, SPOT, MIB)
    for at, length in result.content:
        t.check(at % 512 == 0 and length % 512 == 0, "multiples of 512", "%#x+%#x" % (at, length))


@structured(twice=False)
def P56_read_of_32_mib(t):
    """READ of 32 MiB: chunks of at most the maximum payload and 8 bytes."""
    client = stx(t)
    t.error(client.write(SPOT, pattern(56, MIB)), 0, "WRITE")
    data = client.read(0, 32 * MIB, timeout=20 * SLOWER)
    t.check(data[SPOT:SPOT + MIB] == pattern(56, MIB), "right data", "other data")


@structured(twice=False)
def P59_read_above_32_mib(t):
    """READ of 48 MiB: split into chunks of at most 32 MiB, or EINVAL or EOVERFLOW; sync."""
    client = stx(t)
    result = client.do(READ, 0, 48 * MIB, timeout=20 * SLOWER)
    t.error(result, (0, EINVAL, EOVERFLOW), "READ of 48 MiB")
    t.sync(client)


@structured()
def P59_read_of_4_gib(t):
    """READ of ffffffff bytes of a 64 MiB export: an error chunk, sync."""
    client = stx(t)
    failed_structured(t, client.do(READ, 0, 0xFFFFFFFF), (EINVAL, EOVERFLOW), "READ of 4 GiB")
    t.sync(client)


@structured(kind="big", twice=False)
def P59_read_of_4_gib_inside_the_export(t):
    """READ of ffffffff bytes inside the export: rejected, or split so that no chunk is above 32 MiB."""
    client = stx(t)
    result = client.do(READ, 400 * GIB, 0xFFFFFFFF, timeout=60 * SLOWER)
    t.error(result, (0, EINVAL, EOVERFLOW), "READ of 4 GiB")
    t.sync(client)


@structured()
def R03_zero_length_read(t):
    """READ of length 0: success without content, or EINVAL; never an empty content chunk."""
    client = stx(t)
    result = client.do(READ, SPOT, 0)
    t.error(result, 0, "READ of length 0")
    t.check(not result.content, "no content chunk", "%d" % len(result.content))
    t.sync(client)


# -- DF ---------------------------------------------------------------------------------------------------------------

def df(t, length, offset=SPOT, **more):
    client = stx(t, **more)
    if not client.tflags & wire.T_DF:
        raise Skip("SEND_DF is clear")
    return client, client.do(READ, offset, length, DF, timeout=20 * SLOWER)


@structured()
def R19_df_read_of_64_kib(t):
    """DF READ of 65536 bytes MUST be served in exactly one content chunk."""
    _, result = df(t, 65536)
    t.error(result, 0, "READ with DF")
    t.equal(len(result.content), 1, "content chunks")


@structured()
def P59_df_over_data_and_holes(t):
    """DF READ over data and holes: one chunk with explicit zeroes."""
    client, _ = df(t, 512)
    if has(client, ZEROES):
        t.error(client.do(ZEROES, SPOT, 65536), 0, "WRITE_ZEROES")
    t.error(client.write(SPOT + 30000, b"data" * 100), 0, "WRITE")
    result = client.do(READ, SPOT, 65536, DF)
    t.error(result, 0, "READ with DF")
    kinds = [chunk.kind for chunk in result.chunks]
    t.check([kind for kind in kinds if kind in (1, 2)] == [wire.OFFSET_DATA], "one OFFSET_DATA chunk", repr(kinds))
    t.check(result.data[30000:30400] == b"data" * 100, "right data", "other data")


@structured(kind="big")
def P59_df_of_a_hole(t):
    """DF READ of nothing but hole: one OFFSET_DATA chunk of zeroes."""
    client, result = df(t, 65536, 210 * GIB)
    t.error(result, 0, "READ with DF")
    t.check(result.data == bytes(65536) and not result.holes, "explicit zeroes", "holes or other data")


@structured()
def R20_df_read_of_larger_lengths(t):
    """DF READ of 65537 bytes to 32 MiB: one content chunk, or EOVERFLOW and no content."""
    for length in (65537, MIB, 8 * MIB, 32 * MIB):
        client, result = df(t, length)
        t.error(result, (0, EOVERFLOW), "READ of %d bytes with DF" % length)
        t.check(len(result.content) == (0 if result.error else 1), "one chunk or none", "%d" % len(result.content))
        client.close()


@structured()
def R20_df_read_above_the_maximum(t):
    """DF READ above 32 MiB: EOVERFLOW or EINVAL, no content chunk."""
    client, result = df(t, 40 * MIB, 0)
    t.error(result, (EOVERFLOW, EINVAL), "READ of 40 MiB with DF")
    t.check(not result.content, "no content", "%d chunks" % len(result.content))
    t.sync(client)


@structured()
def R16_df_on_other_commands(t):
    """DF on WRITE, TRIM, FLUSH, CACHE, WRITE_ZEROES, BLOCK_STATUS: EINVAL, sync."""
    client = stx(t)
    for command in (WRITE, TRIM, FLUSH, CACHE, ZEROES, STATUS):
        at = (0, 0) if command == FLUSH else (SPOT, 512)
        t.error(client.do(command, *at, DF, bytes(512) if command == WRITE else b""), EINVAL,
                "%s with DF" % COMMAND_NAMES[command])
        t.sync(client)


# -- errors -----------------------------------------------------------------------------------------------------------

@structured()
def R21_read_error_is_a_chunk(t):
    """READ out of range: an error chunk, never a simple reply; with a text; sync."""
    client = stx(t)
    for offset, length in ((SIZE, 1), (SIZE - 1, 2), (0xFFFFFFFFFFFFFFFF, 1), (1 << 63, 4096)):
        failed_structured(t, client.do(READ, offset, length), EINVAL, "READ out of range")
        t.sync(client)


@structured()
def P53_early_einval_is_structured(t):
    """READ with bad flags: a structured EINVAL, not a simple one."""
    client = stx(t)
    for flags in (NO_HOLE, REQ_ONE, FAST_ZERO, PAYLOAD_LEN, 0x40, 0x8000):
        failed_structured(t, client.do(READ, 0, 512, flags), EINVAL, "READ with flags %#x" % flags)
    t.sync(client)


@structured(kind="bs")
def P53_misaligned_read_is_structured(t):
    """A misaligned READ: a structured EINVAL."""
    client = stx(t)
    failed_structured(t, client.do(READ, 1, 512), EINVAL, "a misaligned READ")
    t.sync(client)


@structured()
def P53_write_error_has_a_text(t):
    """WRITE past the end: ENOSPC as an error chunk with text, payload consumed."""
    client = stx(t)
    failed_structured(t, client.do(WRITE, SIZE, 512, 0, bytes(512)), ENOSPC, "WRITE past the end")
    t.sync(client)


@structured(kind="ro")
def P53_eperm_has_a_text(t):
    """WRITE, TRIM, WRITE_ZEROES on read-only: EPERM as error chunks with text."""
    client = stx(t)
    for command in (WRITE, TRIM, ZEROES):
        failed_structured(t, client.do(command, 0, 512, 0, bytes(512) if command == WRITE else b""), EPERM,
                          COMMAND_NAMES[command])
    t.sync(client)


@structured()
def P53_unknown_command_has_a_text(t):
    """An unknown command: EINVAL as an error chunk with text."""
    client = stx(t)
    failed_structured(t, client.do(77, 0, 0), EINVAL, "command 77")
    t.sync(client)


@structured()
def P53_trim_zeroes_cache_flush_errors_have_texts(t):
    """TRIM, WRITE_ZEROES, CACHE past the end and FLUSH with a length: error chunks with text."""
    client = stx(t)
    failed_structured(t, client.do(TRIM, SIZE, 512), EINVAL, "TRIM")
    failed_structured(t, client.do(ZEROES, SIZE, 512), (ENOSPC, EINVAL), "WRITE_ZEROES")
    failed_structured(t, client.do(CACHE, SIZE, 512), EINVAL, "CACHE")
    failed_structured(t, client.do(FLUSH, 0, 1), EINVAL, "FLUSH")
    t.sync(client)


@structured()
def P53_successes_without_payload(t):
    """WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES succeed with a simple reply or a NONE chunk."""
    client = stx(t)
    for command in (WRITE, FLUSH, TRIM, CACHE, ZEROES):
        if has(client, command):
            at = (0, 0) if command == FLUSH else (SPOT, 512)
            result = client.do(command, *at, 0, bytes(512) if command == WRITE else b"")
            t.error(result, 0, COMMAND_NAMES[command])
            t.check(result.style == "simple" or [c.kind for c in result.chunks] == [wire.NONE], "simple or NONE",
                    repr([c.kind for c in result.chunks]))


@structured()
def P54_nothing_behind_done(t):
    """No chunk of a request follows its chunk with DONE."""
    client = stx(t)
    client.do(READ, 0, 4096)
    client.do(READ, SIZE, 4096)
    t.quiet(client, 0.1)


@structured()
def R24_block_status_without_context(t):
    """BLOCK_STATUS without a selected context: EINVAL, sync."""
    client = stx(t)
    t.error(client.do(STATUS, 0, 512), EINVAL, "BLOCK_STATUS")
    t.sync(client)


# -- many -------------------------------------------------------------------------------------------------------------

@structured()
def R27_equal_cookies(t):
    """16 READs with one cookie: 16 complete replies."""
    client = stx(t)
    results = [client.request(READ, t.witness_offset, 512, cookie=7) for _ in range(16)]
    for result in client.wait_all(results):
        t.check(result.data == t.witness_block[:512], "right data", "other data")


@structured()
def R28_disc_with_reads_in_flight(t):
    """DISC behind 16 READs: 16 complete replies, then the end."""
    client = stx(t)
    results = [client.request(READ, t.witness_offset, 4096) for _ in range(16)]
    client.request(DISC, expect=False)
    for result in client.wait_all(results):
        t.check(result.data == t.witness_block, "right data", "other data")
    t.drop(client, what="the end after DISC")


@structured()
def R30_flags_of_every_command(t):
    """7 commands x 64 flag combinations x {inside, outside} in structured mode: the error value of the specification."""
    client = stx(t, delivery="whole")
    every_flag_combination(t, client)
    t.sync(client)


def every_flag_combination(t, client, status_works=False, payloads=False):
    """Also for extended headers, where PAYLOAD_LEN announces a payload."""
    tflags = client.tflags
    extended = client.mode == "extended"
    for command in (READ, WRITE, FLUSH, TRIM, CACHE, ZEROES, STATUS):
        batch = []
        for flags in range(64):
            for inside in (True, False):
                offset, length = (SPOT, 512) if inside else (SIZE, 512)
                if command == FLUSH:
                    offset, length = (0, 0) if inside else (0, 512)
                carries = flags & PAYLOAD_LEN if extended else command == WRITE
                payload = bytes(length) if carries else b""
                batch.append((client.request(command, offset, length, flags, payload), flags, inside))
        for result, flags, inside in batch:
            client.wait(result)
            t.error(result, allowed_errors(client, tflags, command, flags, inside, extended, status_works),
                    "%s with flags %#x %s" % (COMMAND_NAMES[command], flags, "inside" if inside else "outside"))


def allowed_errors(client, tflags, command, flags, inside, extended, status_works):
    legal = FUA if tflags & wire.T_FUA else 0
    if command == READ and tflags & wire.T_DF:
        legal |= DF
    if command == ZEROES:
        legal |= NO_HOLE | (FAST_ZERO if tflags & wire.T_FAST_ZERO else 0)
    if command == STATUS:
        legal |= REQ_ONE
    if command == WRITE and extended:
        legal |= PAYLOAD_LEN
    bad = flags & ~legal or command == WRITE and extended and not flags & PAYLOAD_LEN
    out = {WRITE: ENOSPC, ZEROES: ENOSPC}.get(command, EINVAL)
    if not has(client, command) or command == STATUS and not status_works:
        return {EINVAL}
    if command == FLUSH:
        return {EINVAL} if bad or not inside else {0}
    if bad:
        return {EINVAL} if inside else {EINVAL, out}
    if not inside:
        return {out, ENOTSUP} if flags & FAST_ZERO else {out}
    return {0, ENOTSUP} if flags & FAST_ZERO else {0}


@structured()
def D11_random_traffic_structured(t):
    """Random traffic against a shadow copy, 16 in flight, with structured replies."""
    from integrity import random_traffic
    random_traffic(t, stx(t, delivery="whole"), 16 * MIB, MIB + 333, 38, scaled(1500))


@structured()
def S03_reads_late_but_all(t):
    """64 READs of 512 KiB from a client that pauses before it reads: all complete and right."""
    client = stx(t, delivery="whole")
    data = pattern(3, MIB)
    t.error(client.write(SPOT, data), 0, "WRITE")
    results = [client.request(READ, SPOT + (i % 2) * 512 * KIB, 512 * KIB) for i in range(64)]
    time.sleep(0.7)
    for i, result in enumerate(results):
        client.wait(result, timeout=10 * SLOWER)
        t.check(result.data == data[i % 2 * 512 * KIB:][:512 * KIB], "right data", "other data")
