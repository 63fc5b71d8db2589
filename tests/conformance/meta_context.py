# SPDX-License-Identifier: MIT
"""Meta contexts and BLOCK_STATUS: points 39 to 43, 66, 81 to 85, O26 to O30, R24, N-18, N-19.

wire.py checks each status chunk: one for each selected context, extents of non-zero length that run on from the offset
and stay inside the export, all but the last inside the request, one extent with REQ_ONE, only HOLE and ZERO set.
"""
import struct

import wire
from harness import NAME, SLOWER, Skip, case
from transmission import SIZE, SPOT, has, pattern
from wire import (ACK, DF, EINVAL, ERR_EXT_HEADER_REQD, ERR_INVALID, ERR_TOO_BIG, ERR_UNKNOWN, FUA, GIB, KIB, LIST_META, MIB,
                  NO_HOLE, READ, REQ_ONE, SET_META, STATUS, TIB, TRIM, WRITE, ZEROES, meta_data)

BASE = b"base:allocation"
HOLE, ZERO = 1, 2


def meta(kind="rw", **more):
    return case(kind=kind, needs="meta", **more)


def shs(t, **more):
    """A client in negotiation, with structured replies negotiated."""
    client = t.hs(**more)
    t.equal(client.structured(), ACK, "STRUCTURED_REPLY")
    return client


def btx(t, queries=(BASE,), name=b"", **more):
    """Transmission with base:allocation selected."""
    client = t.tx(name, mode="structured", contexts=list(queries), **more)
    t.check(BASE in client.contexts.values(), "base:allocation selected", repr(client.contexts))
    return client


def listed(client, queries, name=b""):
    reply, found = client.set_meta(queries, name, option=LIST_META)
    return reply.kind, sorted(found.values())


def extents(result):
    return next(iter(result.contexts.values()))


def no_status(t, client):
    t.error(client.do(STATUS, 0, 512), EINVAL, "BLOCK_STATUS without a selected context")
    t.sync(client)


# -- LIST_META_CONTEXT ------------------------------------------------------------------------------------------------

@meta()
def P41_list_without_structured_replies(t):
    """LIST_META_CONTEXT before STRUCTURED_REPLY: ERR_INVALID, or an answer; sync."""
    client = t.hs()
    t.equal(client.set_meta([], option=LIST_META)[0].kind, {ACK, ERR_INVALID, ERR_EXT_HEADER_REQD}, "LIST_META_CONTEXT")
    t.finish(client)


@meta()
def P41_list_all(t):
    """LIST_META_CONTEXT with no query: all contexts, base:allocation once, id 0."""
    client = shs(t)
    got = client.negotiate(LIST_META, meta_data())
    t.equal(got[-1].kind, ACK, "LIST_META_CONTEXT")
    names = [reply.data[4:] for reply in got[:-1]]
    t.equal(names.count(BASE), 1, "mentions of base:allocation")
    t.check(all(reply.data[:4] == bytes(4) for reply in got[:-1]), "ids of 0", repr([r.data[:4] for r in got[:-1]]))
    t.finish(client)


@meta()
def P82_list_base_wildcard(t):
    """LIST_META_CONTEXT of base: MUST be a wildcard."""
    kind, names = listed(shs(t), [b"base:"])
    t.equal(kind, ACK, "LIST_META_CONTEXT")
    t.check(names == [BASE], "base:allocation", repr(names))


@meta()
def P41_list_base_allocation(t):
    """LIST_META_CONTEXT of base:allocation lists it."""
    kind, names = listed(shs(t), [BASE])
    t.equal(kind, ACK, "LIST_META_CONTEXT")
    t.check(names == [BASE], "base:allocation", repr(names))


@meta()
def P41_list_twice_the_same_query(t):
    """A query that is repeated, or covered by a wildcard, lists a context once."""
    for queries in ([BASE, BASE], [b"base:", BASE], [b"base:", b"base:"]):
        kind, names = listed(shs(t), queries)
        t.equal(kind, ACK, "LIST_META_CONTEXT")
        t.check(names == [BASE], "base:allocation once", repr(names))


@meta()
def P41_list_no_match(t):
    """Queries that match nothing: a single ACK."""
    got = shs(t).negotiate(LIST_META, meta_data(b"", [b"x-unknown:nothing", b"x-unknown:"]))
    t.check(len(got) == 1 and got[0].kind == ACK, "a single ACK", repr(got))


@meta()
def P40_list_unknown_namespace_beside_a_known(t):
    """Queries of unknown namespaces MUST be ignored."""
    kind, names = listed(shs(t), [b"x-unknown:a", BASE, b"other:b"])
    t.equal(kind, ACK, "LIST_META_CONTEXT")
    t.check(names == [BASE], "base:allocation", repr(names))


@meta()
def P82_list_unknown_base_leaf(t):
    """An unknown leaf of base: MUST be ignored."""
    for leaf in (b"base:nothing", b"base:allocation2", b"base:allocatio", b"base:ALLOCATION", b"base: allocation"):
        got = shs(t).negotiate(LIST_META, meta_data(b"", [leaf]))
        t.check(len(got) == 1 and got[0].kind == ACK, "a single ACK to %r" % leaf, repr(got))


@meta()
def P40_query_without_colon(t):
    """A query without a colon: ERR_INVALID or ignored; sync."""
    for option in (LIST_META, SET_META):
        client = shs(t)
        for query in (b"base", b"", b"allocation"):
            got = client.negotiate(option, meta_data(b"", [query]))
            t.check(len(got) == 1, "no context for %r" % query, repr(got))
            t.equal(got[0].kind, {ACK, ERR_INVALID}, "option %d with %r" % (option, query))
        t.finish(client)


@meta()
def O27_query_of_4097_bytes(t):
    """A query above 4096 bytes: ERR_INVALID, ERR_TOO_BIG or ignored; sync."""
    for option in (LIST_META, SET_META):
        client = shs(t)
        got = client.negotiate(option, meta_data(b"", [b"base:" + b"a" * 4092]))
        t.check(len(got) == 1, "no context", repr(got))
        t.equal(got[0].kind, {ACK, ERR_INVALID, ERR_TOO_BIG}, "option %d" % option)
        t.finish(client)


@meta()
def P41_list_unknown_export(t):
    """LIST and SET_META_CONTEXT of an unknown export: ERR_UNKNOWN, or nothing found; sync."""
    for option in (LIST_META, SET_META):
        client = shs(t)
        got = client.negotiate(option, meta_data(b"no-such-export", [BASE]))
        t.check(len(got) == 1, "no context", repr(got))
        t.equal(got[0].kind, {ERR_UNKNOWN, ACK}, "option %d" % option)
        t.finish(client)


@meta()
def P41_list_changes_no_selection(t):
    """LIST_META_CONTEXT does not change the selection."""
    client = shs(t)
    client.set_meta([BASE])
    client.negotiate(LIST_META, meta_data())
    client.negotiate(LIST_META, meta_data(b"no-such-export"))
    client.go()
    t.error(client.do(STATUS, 0, 512), 0, "BLOCK_STATUS")


# -- SET_META_CONTEXT -------------------------------------------------------------------------------------------------

@meta()
def O26_set_before_structured_replies(t):
    """SET_META_CONTEXT before STRUCTURED_REPLY: ERR_INVALID, and nothing is selected."""
    client = t.hs()
    t.equal(client.set_meta([BASE])[0].kind, {ERR_INVALID, ERR_EXT_HEADER_REQD}, "SET_META_CONTEXT")
    client.structured()
    client.go()
    no_status(t, client)


@meta()
def P42_set_base_allocation(t):
    """SET_META_CONTEXT of base:allocation: one META_CONTEXT, ACK; BLOCK_STATUS uses its id."""
    client = btx(t)
    t.equal(len(client.contexts), 1, "contexts")
    result = client.do(STATUS, 0, 4096)
    t.error(result, 0, "BLOCK_STATUS")
    t.check(list(result.contexts) == list(client.contexts), "the id selected", repr(list(result.contexts)))


@meta()
def P42_set_with_no_query(t):
    """SET_META_CONTEXT with no query MUST select none."""
    client = shs(t)
    reply, found = client.set_meta([])
    t.equal(reply.kind, ACK, "SET_META_CONTEXT")
    t.check(not found, "no contexts", repr(found))
    client.go()
    no_status(t, client)


@meta()
def P82_set_base_is_ignored(t):
    """base: alone MUST be ignored by SET_META_CONTEXT."""
    client = shs(t)
    reply, found = client.set_meta([b"base:"])
    t.equal(reply.kind, ACK, "SET_META_CONTEXT")
    t.check(not found, "no contexts", repr(found))
    client.go()
    no_status(t, client)


@meta()
def P82_set_unknown_leaf_is_ignored(t):
    """Unknown leaves of base: and unknown namespaces MUST be ignored: ACK, nothing selected."""
    client = shs(t)
    reply, found = client.set_meta([b"base:nothing", b"x-unknown:thing", b"qemu:dirty-bitmap:none"])
    t.equal(reply.kind, ACK, "SET_META_CONTEXT")
    t.check(not found, "no contexts", repr(found))
    client.go()
    no_status(t, client)


@meta()
def P42_set_known_beside_unknown(t):
    """Known contexts are selected beside unknown ones."""
    client = btx(t, [b"x-unknown:thing", BASE, b"base:nothing"])
    t.equal(len(client.contexts), 1, "contexts")
    t.error(client.do(STATUS, 0, 4096), 0, "BLOCK_STATUS")


@meta()
def P42_set_twice_the_same_query(t):
    """A context that is requested twice is selected once."""
    client = btx(t, [BASE, BASE])
    t.equal(len(client.contexts), 1, "contexts")
    t.error(client.do(STATUS, 0, 4096), 0, "BLOCK_STATUS")


@meta()
def P42_set_replaces(t):
    """A later SET_META_CONTEXT replaces the earlier selection."""
    client = shs(t)
    client.set_meta([BASE])
    client.set_meta([])
    client.go()
    no_status(t, client)
    client = shs(t)
    client.set_meta([])
    client.set_meta([BASE])
    client.go()
    t.error(client.do(STATUS, 0, 512), 0, "BLOCK_STATUS")


def failed_set_clears(t, data, kinds):
    client = shs(t)
    t.equal(client.set_meta([BASE])[0].kind, ACK, "SET_META_CONTEXT")
    got = client.negotiate(SET_META, data)
    t.equal(got[-1].kind, kinds, "the second SET_META_CONTEXT")
    client.contexts = {}
    client.go()
    no_status(t, client)


@meta()
def O29_failed_set_clears_overrun(t):
    """SET_META_CONTEXT that fails (a query overruns) clears the earlier selection."""
    failed_set_clears(t, struct.pack(">III", 0, 1, 99) + BASE, ERR_INVALID)


@meta()
def O29_failed_set_clears_count(t):
    """SET_META_CONTEXT that fails (too many queries counted) clears the earlier selection."""
    failed_set_clears(t, struct.pack(">II", 0, 0xFFFFFFFF) + bytes(8), ERR_INVALID)


@meta()
def O29_failed_set_clears_short(t):
    """SET_META_CONTEXT that fails (no data at all) clears the earlier selection."""
    failed_set_clears(t, b"", ERR_INVALID)


@meta()
def O29_failed_set_clears_trailing(t):
    """SET_META_CONTEXT that fails (bytes behind the last query) clears the earlier selection."""
    failed_set_clears(t, meta_data(b"", [BASE]) + b"x", ERR_INVALID)


@meta()
def O29_failed_set_clears_unknown_export(t):
    """SET_META_CONTEXT of an unknown export clears the earlier selection."""
    failed_set_clears(t, meta_data(b"no-such-export", [BASE]), {ERR_UNKNOWN, ACK})


@meta()
def O29_failed_set_clears_too_big(t):
    """SET_META_CONTEXT above the option cap clears the earlier selection."""
    failed_set_clears(t, meta_data(b"", [b"x:" + b"y" * 4000] * 40), {ERR_TOO_BIG, ERR_INVALID, ACK})


@meta()
def P43_set_by_name_then_go_by_name(t):
    """SET_META_CONTEXT and GO with the same name: selected."""
    client = btx(t, name=NAME)
    t.error(client.do(STATUS, 0, 512), 0, "BLOCK_STATUS")


@meta()
def P43_set_then_export_name(t):
    """SET_META_CONTEXT, then EXPORT_NAME of the same export: selected."""
    client = shs(t)
    client.set_meta([BASE], NAME)
    client.option(wire.EXPORT_NAME, NAME)
    client.size, client.tflags = struct.unpack(">QH", client.recv(10, "export data"))
    t.error(client.do(STATUS, 0, 512), 0, "BLOCK_STATUS")


@meta()
def P43_default_name_and_its_canonical_name(t):
    """SET_META_CONTEXT by name and GO of the default (the same export): selected or not, and consistent."""
    client = shs(t)
    client.set_meta([BASE], NAME)
    client.go(b"")
    t.error(client.do(STATUS, 0, 512), (0, EINVAL), "BLOCK_STATUS")
    t.sync(client)


@meta()
def O30_set_for_another_export(t):
    """SET_META_CONTEXT for another (unknown) export, then GO: BLOCK_STATUS is EINVAL (N-18)."""
    client = shs(t)
    client.negotiate(SET_META, meta_data(b"other", [BASE]))
    client.go()
    no_status(t, client)


@meta()
def P43_selection_survives_info_and_failed_go(t):
    """INFO, LIST and a failed GO between SET_META_CONTEXT and GO do not change the selection."""
    client = shs(t)
    client.set_meta([BASE])
    client.info()
    client.final(wire.LIST)
    client.negotiate(wire.GO, wire.info_data(b"no-such-export"))
    client.go()
    t.error(client.do(STATUS, 0, 512), 0, "BLOCK_STATUS")


@meta()
def P43_selection_is_of_one_connection(t):
    """A selection applies to one connection."""
    client = btx(t)
    other = t.tx(mode="structured")
    t.error(other.do(STATUS, 0, 512), EINVAL, "BLOCK_STATUS of another connection")
    t.error(client.do(STATUS, 0, 512), 0, "BLOCK_STATUS")


@meta()
def P41_set_name_of_4097_bytes(t):
    """An export name above 4096 bytes: an error, sync."""
    client = shs(t)
    t.equal(client.final(SET_META, meta_data(b"n" * 4097, [BASE])), {ERR_INVALID, ERR_TOO_BIG, ERR_UNKNOWN}, "SET_META_CONTEXT")
    t.finish(client)


# -- BLOCK_STATUS -----------------------------------------------------------------------------------------------------

def walk(t, client, offset, length, flags=0):
    """The map of a range by repeated BLOCK_STATUS: [(offset, length, status)]."""
    found, end = [], offset + length
    while offset < end:
        result = client.do(STATUS, offset, min(end - offset, 0xFFFFF000), flags)
        t.error(result, 0, "BLOCK_STATUS at %#x" % offset)
        for size, status in extents(result):
            size = min(size, end - offset)
            found.append((offset, size, status))
            offset += size
            if offset >= end:
                break
        t.check(len(found) < 100000, "progress", "100000 extents")
    return found


def true_to_content(t, client, found):
    """ZERO is reported only where the content is zero."""
    for offset, length, status in found:
        if status & ZERO:
            for at in range(offset, offset + length, 8 * MIB):
                size = min(8 * MIB, offset + length - at)
                t.check(client.read(at, size) == bytes(size), "zeroes at %#x+%#x, as its status says" % (at, size), "data")


@meta()
def P66_status_of_written_data(t):
    """Written data is not reported as ZERO, and not as HOLE."""
    client = btx(t)
    t.error(client.write(SPOT, pattern(1, 65536)), 0, "WRITE")
    for offset, length, status in walk(t, client, SPOT, 65536):
        t.check(not status & (ZERO | HOLE), "allocated data", "status %d at %#x+%#x" % (status, offset, length))


@meta()
def P66_status_is_true(t):
    """Every extent that is reported as ZERO reads as zero."""
    client = btx(t, delivery="whole")
    if has(client, ZEROES):
        t.error(client.do(ZEROES, SPOT, 4 * MIB), 0, "WRITE_ZEROES")
    for i in range(0, 4 * MIB, MIB):
        t.error(client.write(SPOT + i + 5000, pattern(i, 3000)), 0, "WRITE")
    true_to_content(t, client, walk(t, client, SPOT, 4 * MIB))


@meta()
def N19_status_with_and_without_req_one(t):
    """BLOCK_STATUS with and without REQ_ONE gives the same map."""
    client = btx(t, delivery="whole")
    if has(client, ZEROES):
        t.error(client.do(ZEROES, SPOT, MIB), 0, "WRITE_ZEROES")
    for i in range(0, MIB, 128 * KIB):
        t.error(client.write(SPOT + i, pattern(i, 8192)), 0, "WRITE")

    def merged(found):
        out = []
        for offset, length, status in found:
            if out and out[-1][2] == status:
                out[-1] = (out[-1][0], out[-1][1] + length, status)
            else:
                out.append((offset, length, status))
        return out
    one, all_ = merged(walk(t, client, SPOT, MIB, REQ_ONE)), merged(walk(t, client, SPOT, MIB))
    t.check(one == all_, "the same map: %r" % all_[:4], repr(one[:4]))


@meta(kind="big")
def P84_fresh_export_is_a_hole(t):
    """A sparse export that was never written is reported as HOLE and ZERO."""
    client = btx(t)
    result = client.do(STATUS, 600 * GIB, GIB)
    t.error(result, 0, "BLOCK_STATUS")
    t.check(all(status == HOLE | ZERO for _, status in extents(result)), "HOLE and ZERO", repr(extents(result)[:3]))


@meta(kind="big", twice=False)
def P84_data_between_holes(t):
    """1 MiB written in the middle of a hole: hole, data, hole, with borders at most a page or two off."""
    client = btx(t)
    place = 620 * GIB
    t.error(client.write(place, pattern(84, MIB)), 0, "WRITE")
    found = walk(t, client, place - 64 * MIB, 129 * MIB)
    data = [(offset, length) for offset, length, status in found if not status & ZERO]
    t.check(data and data[0][0] <= place and data[-1][0] + data[-1][1] >= place + MIB, "the MiB as data", repr(found[:5]))
    total = sum(length for _, length in data)
    t.check(total <= 4 * MIB, "about 1 MiB of data", "%d bytes" % total)
    true_to_content(t, client, found)


@meta()
def P66_status_after_write_zeroes(t):
    """After WRITE_ZEROES the range reads as zero whatever its status; NO_HOLE keeps it from being a hole."""
    client = btx(t)
    if not has(client, ZEROES):
        raise Skip("WRITE_ZEROES is not advertised")
    t.error(client.write(SPOT, pattern(2, 256 * KIB)), 0, "WRITE")
    t.error(client.do(ZEROES, SPOT, 256 * KIB, NO_HOLE), 0, "WRITE_ZEROES with NO_HOLE")
    for offset, length, status in walk(t, client, SPOT, 256 * KIB):
        t.check(not status & HOLE, "no hole after NO_HOLE", "status %d at %#x+%#x" % (status, offset, length))
    t.error(client.do(ZEROES, SPOT, 256 * KIB), 0, "WRITE_ZEROES")
    true_to_content(t, client, walk(t, client, SPOT, 256 * KIB))


@meta()
def P66_status_after_trim(t):
    """After TRIM the map matches the content."""
    client = btx(t)
    if not has(client, TRIM):
        raise Skip("TRIM is not advertised")
    t.error(client.write(SPOT, pattern(3, 256 * KIB)), 0, "WRITE")
    t.error(client.do(TRIM, SPOT + 65536, 65536), 0, "TRIM")
    true_to_content(t, client, walk(t, client, SPOT, 256 * KIB))


@meta()
def P66_one_byte(t):
    """BLOCK_STATUS of one byte, anywhere."""
    client = btx(t)
    for offset in (0, 1, 4095, 4096, SIZE - 1):
        t.error(client.do(STATUS, offset, 1), 0, "BLOCK_STATUS")
        t.error(client.do(STATUS, offset, 1, REQ_ONE), 0, "BLOCK_STATUS with REQ_ONE")


@meta()
def P66_whole_export(t):
    """BLOCK_STATUS of the whole export: at least one extent, none past the end."""
    client = btx(t)
    t.error(client.do(STATUS, 0, SIZE), 0, "BLOCK_STATUS")
    t.error(client.do(STATUS, 0, SIZE, REQ_ONE), 0, "BLOCK_STATUS with REQ_ONE")


@meta()
def R03_length_0(t):
    """BLOCK_STATUS of length 0: EINVAL, sync."""
    client = btx(t)
    t.error(client.do(STATUS, 0, 0), EINVAL, "BLOCK_STATUS of length 0")
    t.error(client.do(STATUS, SPOT, 0, REQ_ONE), EINVAL, "BLOCK_STATUS of length 0")
    t.sync(client)


@meta()
def R07_past_the_end(t):
    """BLOCK_STATUS past the end: EINVAL with a text, sync."""
    client = btx(t)
    for offset, length in ((SIZE, 1), (SIZE - 1, 2), (0, 0xFFFFFFFF), (0xFFFFFFFFFFFFFFFF, 1), (1 << 63, 0xFFFFFFFF)):
        result = client.do(STATUS, offset, length)
        t.error(result, EINVAL, "BLOCK_STATUS %#x+%#x" % (offset, length))
        t.sync(client)


@meta()
def P58_flags(t):
    """BLOCK_STATUS takes REQ_ONE (and FUA where it is advertised), and no other flag."""
    client = btx(t)
    for flags in range(64):
        legal = REQ_ONE | (FUA if client.tflags & wire.T_FUA else 0)
        t.error(client.do(STATUS, 0, 512, flags), EINVAL if flags & ~legal else 0, "BLOCK_STATUS with flags %#x" % flags)


@meta(kind="ro")
def P66_read_only(t):
    """BLOCK_STATUS works on a read-only export."""
    client = btx(t)
    t.error(client.do(STATUS, 0, SIZE), 0, "BLOCK_STATUS")
    true_to_content(t, client, walk(t, client, 0, 4 * MIB))


@meta(kind="bs")
def P66_min_block_multiples(t):
    """Extents are multiples of an advertised minimum block size; misaligned requests are EINVAL."""
    client = btx(t)
    t.error(client.write(SPOT, pattern(4, 512)), 0, "WRITE")
    t.error(client.write(SPOT + 1536, pattern(4, 512)), 0, "WRITE")
    for offset, length, _ in walk(t, client, SPOT - 4096, 65536):
        t.check(length % 512 == 0, "multiples of 512", "%#x+%#x" % (offset, length))
    t.error(client.do(STATUS, 1, 512), EINVAL, "a misaligned BLOCK_STATUS")
    t.error(client.do(STATUS, 0, 511), EINVAL, "a misaligned BLOCK_STATUS")
    t.sync(client)


@meta(twice=False, scratch=True)
def R24_many_extents(t):
    """A map of thousands of extents: at most 131072 in a chunk, correct, with progress to the end."""
    client = btx(t)
    if has(client, ZEROES):
        t.error(client.do(ZEROES, 0, 32 * MIB), 0, "WRITE_ZEROES")
    for begin in range(0, 32 * MIB, 16 * 8192):
        client.wait_all([client.request(WRITE, begin + i * 8192, 4096, payload=b"\x01" * 4096) for i in range(16)])
    result = client.do(STATUS, 0, 32 * MIB)
    t.error(result, 0, "BLOCK_STATUS")
    t.check(len(extents(result)) <= 131072, "at most 131072 extents", "%d" % len(extents(result)))
    found = walk(t, client, 0, 32 * MIB)
    t.check(sum(length for _, length, _ in found) == 32 * MIB, "a map of all", "less")
    for offset, length, status in found:
        if status & ZERO:
            t.check(client.read(offset, length) == bytes(length), "zeroes at %#x" % offset, "data")


@meta()
def P66_pipelined(t):
    """BLOCK_STATUS, READ and WRITE pipelined: each answered in its own way."""
    client = btx(t, delivery="whole")
    results = []
    for i in range(20):
        results.append(client.request(STATUS, SPOT + i * 4096, 4096))
        results.append(client.request(READ, t.witness_offset, 512))
        results.append(client.request(WRITE, SPOT + i * 4096, 16, payload=bytes(16)))
    for result in client.wait_all(results):
        t.error(result, 0, wire.COMMAND_NAMES[result.command])
    t.sync(client)
