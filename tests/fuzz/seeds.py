#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The readable part of the corpus: seeds, and the replay of each published CVE of NBD servers that bytes can express.

    seeds.py            writes them to corpus/TARGET/NAME
    seeds.py --check    exit status 1 if a file differs or is missing

Files named `found-...` come from fuzzing (run.sh --keep) and are not made here. Two CVEs are about something other than the
bytes of a client: CVE-2013-6410 (addresses, see tests/authorise) and CVE-2015-0847 (signals, see tests/grid/crowd).
"""
import itertools
import struct
import sys
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"
MI = 1 << 20

# --- what a client sends ------------------------------------------------------------------------------------------------

EXPORT_NAME, ABORT, LIST, PEEK, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED = range(1, 12)
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS, RESIZE = range(9)
FUA, NO_HOLE, DF, REQ_ONE, FAST, PAYLOAD = 1, 2, 4, 8, 16, 32


def repeat(n, byte=0x5a):
    """n times the same byte, as the targets expand it"""
    return b"*REP" + n.to_bytes(3, "big") + bytes([byte])


def flags(x=3):
    return struct.pack(">I", x)


def option(number, data=b"", length=None):
    return b"IHAVEOPT" + struct.pack(">II", number, len(data) if length is None else length) + data


def text(s, length=None):
    s = s if isinstance(s, bytes) else s.encode()
    return struct.pack(">I", len(s) if length is None else length) + s


def info(name, *types):
    return text(name) + struct.pack(f">H{len(types)}H", len(types), *types)


def meta(name, *queries):
    return text(name) + struct.pack(">I", len(queries)) + b"".join(map(text, queries))


def request(command, offset=0, length=0, flags=0, cookie=7, payload=b"", extended=False):
    if extended:
        return struct.pack(">IHHQQQ", 0x21e41c71, flags, command, cookie, offset, length) + payload
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + payload


def disc(extended=False):
    return request(DISC, extended=extended)


def join(*parts):
    return b"".join(parts)


# --- circumstances ------------------------------------------------------------------------------------------------------

NOTHING, FORCED, SELECTIVE = 0, 1, 2
SIMPLE, STRUCTURED_REPLIES, EXTENDED_HEADERS = 0, 1, 2
FULL, LENDING, HANDLING = 0, 4, 8
FAILS, THROWS, WITH_OFFSET, LEAVES_OUT, FOREIGN = 1, 2, 3, 4, 5
ERRORS = ["EIO", "EPERM", "EACCES", "EROFS", "ENOMEM", "ENOSPC", "EDQUOT", "EFBIG", "ESHUTDOWN", "EINVAL", "ENOTSUP",
          "EBADF", "EOVERFLOW", "ETIMEDOUT", "ECONNRESET"]
ALL, LOCKSTEP, LOCKSTEP_EXTENDED, BYTEWISE = 0, 1, 2, 3
NORMAL_SIZE, SMALL_SIZE, HUGE_SIZE, NO_SIZE = 0, 8, 16, 24


def trouble(kind, error="EIO"):
    return kind | ERRORS.index(error) << 3


def handshake(*parts, mode=NOTHING, opens_fail=0, pages=0, small=0, stops_at=0):
    return bytes([mode | opens_fail << 2 | pages << 3, small, stops_at, 0]) + join(*parts)


def adopted(export, contexts):
    return bytes([16, 0, export, contexts])


def transmission(*parts, form=SIMPLE, disk=FULL, more=0, withheld=0, blocks=0, size=NORMAL_SIZE, contexts=0, layout=0,
                 fails=0, nth=0, pace=ALL, breaks_at=0, stops_at=0):
    end = 127 + stops_at if stops_at else breaks_at
    return bytes([form | disk | more, withheld, blocks | size, contexts | layout << 3, fails, nth, pace, end]) + join(*parts)


def session(*parts, fails=0, nth=0, layout=0, pace=ALL, breaks_at=0, stops_at=0, small=0):
    return bytes([fails, nth, layout, pace, breaks_at, stops_at, small]) + join(*parts)


def windowed(*parts, order=b"", form=SIMPLE, begun=-1, at_once=0, early=0, fails=0, nth=0, layout=0, pace=ALL, breaks_at=0, stops_at=0,
             small=0, program=0, contexts=0):
    """`begun`: the number of the export, if the handshake is over"""
    circumstances = [form | (4 | begun << 3 if begun >= 0 else 0) | at_once << 6 | early << 7, fails, nth, layout, pace, breaks_at,
                     stops_at, small, program, contexts, len(order)]
    return bytes(circumstances) + order + join(*parts)


def parsing(what, data, style=EXTENDED_HEADERS):
    return bytes([style, what]) + data


# --- the seeds ----------------------------------------------------------------------------------------------------------

def handshakes():
    yield "greeting-only", handshake()
    yield "all-options", handshake(
        flags(), option(LIST), option(INFO, info("disk", 0, 1, 2, 3)), option(STRUCTURED), option(LIST_META, meta("disk")),
        option(SET_META, meta("disk", "base:allocation", "x-a:b")), option(EXTENDED), option(STRUCTURED),
        option(SET_META, meta("disk", "base:allocation", "x-a:wide")), option(STARTTLS), option(PEEK), option(99, b"xyz"),
        option(GO, info("disk", 3)))
    yield "export-name", handshake(flags(3), option(EXPORT_NAME, b"disk"))
    yield "export-name-zeroes", handshake(flags(1), option(EXPORT_NAME, b""))
    yield "export-name-old-client", handshake(flags(0), option(LIST), option(ABORT, b"x"), option(EXPORT_NAME, b"disk"))
    yield "export-name-not-fixed", handshake(flags(2), option(LIST), option(99, repeat(70000)), option(EXPORT_NAME, b"disk"))
    yield "export-name-extended", handshake(flags(), option(EXTENDED), option(EXPORT_NAME, b"disk"))
    yield "export-name-block-sizes", handshake(flags(), option(EXPORT_NAME, b"a"))
    yield "export-name-invalid", handshake(flags(), option(EXPORT_NAME, b"\xff"))
    yield "export-name-longest", handshake(flags(), option(EXPORT_NAME, repeat(4096, 0x7a), 4096))
    yield "export-name-too-long", handshake(flags(), option(EXPORT_NAME, repeat(70000), 70000))
    yield "export-name-stopping", handshake(flags(), option(EXPORT_NAME, b"disk"), stops_at=2)
    yield "export-name-open-fails", handshake(flags(), option(INFO, info("disk")), option(INFO, info("disk")),
                                              option(LIST_META, meta("disk")), option(GO, info("disk")), opens_fail=1)
    yield "client-flags-unknown", handshake(flags(7), option(GO, info("disk")))
    yield "abort", handshake(flags(), option(ABORT), option(GO, info("disk")))
    yield "abort-oversized", handshake(flags(), option(ABORT, repeat(70000), 70000))
    yield "stopping", handshake(flags(), option(LIST), option(99, repeat(70000), 70000), option(INFO, info("disk")),
                                option(ABORT), stops_at=3)
    yield "block-sizes-required", handshake(flags(), option(GO, info("a")), option(INFO, info("a", 0)),
                                            option(GO, info("a", 1, 3)))
    yield "list-paged", handshake(flags(), option(LIST), option(LIST), option(GO, info("")), pages=1)
    yield "list-limited", handshake(flags(), option(LIST), option(GO, info("disk")), small=1, pages=1)
    yield "list-with-data", handshake(flags(), option(LIST, b"x"), option(STRUCTURED, b"x"), option(EXTENDED, b"x"))
    yield "too-many-options", handshake(flags(), option(99) * 5, small=2)
    yield "too-many-opens", handshake(flags(), option(LIST), *[option(INFO, info("disk"))] * 5, small=2)
    yield "too-much-data", handshake(flags(), option(99, repeat(90), 90) * 4, small=8)
    yield "oversized", handshake(flags(), *[option(n, repeat(200), 200) for n in (LIST, STARTTLS, INFO, STRUCTURED, SET_META,
                                                                                 99)], option(GO, info("disk")), small=4)
    yield "oversized-selection", handshake(flags(), option(STRUCTURED), option(SET_META, meta("disk", "base:allocation", "x-a:b")),
                                           option(SET_META, repeat(200), 200), option(GO, info("disk")), small=4)
    yield "oversized-other", handshake(flags(), option(STRUCTURED), option(SET_META, meta("disk", "base:allocation", "x-a:b")),
                                       option(LIST_META, repeat(200), 200), option(GO, info("disk")), small=4)
    yield "bad-magic", handshake(flags(), b"IHAVEOPU" + bytes(8))
    yield "meta-malformed", handshake(flags(), option(STRUCTURED), option(SET_META, b"\0\0\0"),
                                      option(SET_META, text("disk") + struct.pack(">I", 2) + text("a:b")),
                                      option(LIST_META, meta("disk", b"\xff:x")), option(SET_META, meta("nosuch", "a:b")),
                                      option(LIST_META, meta("secret")))
    yield "meta-without-structured", handshake(flags(), option(SET_META, meta("disk", "base:allocation")), option(LIST_META))
    yield "meta-wildcards", handshake(flags(), option(STRUCTURED), option(LIST_META, meta("disk", "x-a:", "base:", ":", "")),
                                      option(SET_META, meta("disk", "x-a:")), option(GO, info("disk")))
    yield "meta-wide-needs-extended", handshake(flags(), option(STRUCTURED), option(SET_META, meta("disk", "x-a:wide", "x-a:b")),
                                                option(GO, info("disk")))
    yield "tls-forced", handshake(flags(), option(LIST), option(98), option(GO, info("disk")), option(STARTTLS, b"1234"),
                                  option(STARTTLS), option(STARTTLS), option(LIST), option(STRUCTURED),
                                  option(SET_META, meta("secret", "base:allocation")), option(GO, info("secret")), mode=FORCED)
    yield "tls-forced-export-name", handshake(flags(), option(EXPORT_NAME, b"disk"), mode=FORCED)
    yield "tls-forced-abort", handshake(flags(), option(99, repeat(70000), 70000), option(ABORT), mode=FORCED)
    yield "tls-selective", handshake(flags(), option(LIST), option(INFO, info("secret")), option(INFO, info("nosuch")),
                                     option(STRUCTURED), option(SET_META, meta("secret", "base:allocation")), option(STARTTLS),
                                     option(LIST), option(EXPORT_NAME, b"secret"), mode=SELECTIVE)
    yield "tls-selective-export-name", handshake(flags(), option(EXPORT_NAME, b"secret"), mode=SELECTIVE)
    yield "tls-off-secret", handshake(flags(), option(INFO, info("secret")), option(STARTTLS), option(STARTTLS, b"x"),
                                      option(STARTTLS, repeat(70000), 70000), option(EXPORT_NAME, b"secret"))
    yield "utf8", handshake(flags(), *[option(INFO, info(name)) for name in (
        b"\xc3\xa4", b"\xe2\x82\xac", b"\xf0\x9f\x92\xa9", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\0b", b"\xc3",
        b"\xe0\x80\x80", b"\xf5\x80\x80\x80", b"\xc3(", b"\xe2\x82(")])
    yield "info-lengths", handshake(flags(), *[option(INFO, data) for data in (
        b"", b"\0", text("disk"), text("disk") + b"\0", text("disk") + b"\0\2\0\3", text("disk") + b"\0\0x",
        text("disk", 5) + b"\0\0")], option(GO, info("disk")))

    for n, (export, contexts) in enumerate(((0, 0), (1, 1 | 8), (1, 1), (1, 3 | 16), (1, 2 | 8), (1, 4 | 8), (0, 1 | 8), (1, 32))):
        yield f"adopted-{n}", adopted(export, contexts)
    for mode in (NOTHING, FORCED, SELECTIVE):
        for some in (flags(3), flags(2)):
            yield f"oversized-{mode}-{some[3]}", handshake(
                some, *[option(n, repeat(101), 101) for n in (LIST, PEEK, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED,
                                                              99, ABORT)], mode=mode, small=4)
    yield "oversized-stopping", handshake(flags(), *[option(n, repeat(101), 101) for n in (LIST, STARTTLS, ABORT)], small=4, stops_at=3)
    yield "oversized-export-name", handshake(flags(), option(EXPORT_NAME, repeat(101), 101), small=4)
    yield "list-failing", handshake(flags(), *[option(LIST)] * 6, *[option(INFO, info("disk"))] * 3, opens_fail=1)
    yield "list-failing-export-name", handshake(flags(), *[option(INFO, info("disk"))] * 3, option(EXPORT_NAME, b"disk"), opens_fail=1,
                                                small=2)
    yield "list-stopping", handshake(flags(), option(LIST), pages=1, stops_at=4)
    yield "block-sizes-default", handshake(flags(), option(GO, info("z" * 4096)))
    yield "tls-selective-unknown", handshake(flags(), option(GO, info("secret")), option(STARTTLS), option(INFO, info("nosuch")),
                                             option(STRUCTURED), option(LIST_META, meta("nosuch")), option(GO, info("secret")),
                                             mode=SELECTIVE)
    yield "tls-forced-abort-after", handshake(flags(), option(STARTTLS), option(ABORT), mode=FORCED)

    yield "CVE-2011-1925", handshake(flags(0), option(EXPORT_NAME, b"xyzzy"))
    yield "CVE-2017-15118", handshake(flags(), *[option(GO, info("x" * n)) for n in (3000, 256, 257, 4095, 4096, 4097)])
    yield "CVE-2017-15119", handshake(flags(), option(99, repeat(1 << 16), 0xffffffff), repeat(1 << 16))
    yield "CVE-2017-15119-loop", handshake(flags(), option(99, repeat(1 << 16), 1 << 16) * 3)
    yield "CVE-2019-14851", handshake(flags(), *[option(INFO, info("disk"))] * 3, option(INFO, info("nosuch")),
                                      option(INFO, info("a", 3)), option(GO, info("disk")))
    yield "CVE-2020-10761", handshake(flags(), option(STRUCTURED), option(INFO, info("x" * 4096)),
                                      option(LIST_META, meta("\n" * 4096)), option(SET_META, meta("\u20ac" * 1365)),
                                      option(GO, info("\x1b" * 4096)))
    yield "CVE-2021-3716", handshake(flags(), option(STRUCTURED), option(SET_META, meta("disk", "base:allocation")),
                                     option(EXTENDED), option(STARTTLS), option(GO, info("disk")), mode=SELECTIVE)
    yield "CVE-2022-26495", handshake(flags(), option(INFO, text("", 0xffffffff) + b"\0\0"),
                                      option(INFO, text("", 0xfffffffe) + bytes(6)),
                                      option(GO, text("", 0xffffffff) + b"\0\0"), option(EXPORT_NAME, b"", 0xffffffff))
    yield "CVE-2022-26496", handshake(flags(), option(INFO, text("", 4000) + b"x" * 2044),
                                      *[option(GO, b"\0" * n) for n in range(6)], option(INFO, info("disk")),
                                      option(GO, info("disk")))


def transmissions():
    for form, name in ((SIMPLE, "simple"), (STRUCTURED_REPLIES, "structured"), (EXTENDED_HEADERS, "extended")):
        ext = form == EXTENDED_HEADERS
        data = PAYLOAD if ext else 0

        def r(command, offset=0, length=0, flags=0, payload=b"", **more):
            if command == WRITE:
                flags |= data
            return request(command, offset, length, flags, payload=payload, extended=ext, **more)

        every = [r(READ, 4096, 512, cookie=1), r(WRITE, 100, 7, payload=b"payload", cookie=2), r(READ, 90, 30, cookie=3),
                 r(FLUSH, cookie=4), r(TRIM, 512, 1024, cookie=5), r(CACHE, 0, 4096, cookie=6), r(ZEROES, 90, 30, cookie=7),
                 r(READ, 80, 100, cookie=8), r(STATUS, 0, 65536, cookie=9), r(STATUS, 0, 65536, REQ_ONE, cookie=10),
                 r(RESIZE, 4096, cookie=11), r(99, cookie=12), r(READ, 0, 40000, DF, cookie=13),
                 r(ZEROES, 0, 512, FAST | NO_HOLE | FUA, cookie=14), r(READ, 0, 100000, cookie=15), disc(ext)]
        pace = LOCKSTEP_EXTENDED if ext else LOCKSTEP
        for disk, kind in ((FULL, "full"), (LENDING, "lending"), (HANDLING, "handling")):
            yield f"{name}-{kind}", transmission(*every, form=form, disk=disk, contexts=7)
            yield f"{name}-{kind}-in-step", transmission(*every, form=form, disk=disk, contexts=5, pace=pace)
            yield f"{name}-{kind}-bytewise", transmission(*every, form=form, disk=disk, contexts=1, pace=BYTEWISE)
            yield f"{name}-{kind}-blocks", transmission(
                r(READ, 512, 512), r(READ, 1, 512), r(READ, 0, 1), r(READ, 0, 65536 + 512), r(READ, 0, 65536 + 512, DF),
                r(WRITE, 0, 512, payload=repeat(512)), r(STATUS, 512, 65536), r(STATUS, 0, 0xfffffe00), disc(ext),
                form=form, disk=disk, contexts=7, blocks=1, layout=4)
            yield f"{name}-{kind}-ends", transmission(
                *[r(command, offset, length, payload=repeat(length) if command == WRITE else b"") for command in
                  (READ, WRITE, TRIM, ZEROES, CACHE, STATUS) for offset, length in
                  ((12288, 1), (12287, 1), (12288, 0), (1 << 63, 1), ((1 << 64) - 1, 2), (0, 12289))], disc(ext),
                form=form, disk=disk, size=SMALL_SIZE, contexts=1)
            for n, kind_of_trouble in enumerate((FAILS, THROWS, WITH_OFFSET, LEAVES_OUT, FOREIGN)):
                yield f"{name}-{kind}-trouble-{n}", transmission(*every, form=form, disk=disk, contexts=3,
                                                                 fails=trouble(kind_of_trouble), nth=2 + n)
        for n, error in enumerate(ERRORS):
            yield f"{name}-error-{error}", transmission(
                r([READ, WRITE, TRIM, FLUSH, ZEROES, CACHE][n % 6], 0, 0 if n % 6 == 3 else 512,
                  payload=repeat(512) if n % 6 == 1 else b""), r(READ, 0, 512, DF), r(ZEROES, 0, 512, FAST), disc(ext),
                form=form, fails=trouble(FAILS, error), nth=1 + n % 3)
        yield f"{name}-zeroes-not-supported", transmission(r(ZEROES, 100, 70000, FUA), r(ZEROES, 0, 512, FAST), r(READ, 0, 40000),
                                                           disc(ext), form=form, fails=trouble(FAILS, "ENOTSUP"), nth=1)
        yield f"{name}-fast-zero-not-supported", transmission(r(ZEROES, 0, 512, FAST), disc(ext), form=form,
                                                              fails=trouble(FAILS, "ENOTSUP"), nth=1)
        yield f"{name}-df-overflow", transmission(r(READ, 0, 40000, DF), disc(ext), form=form,
                                                  fails=trouble(FAILS, "EOVERFLOW"), nth=1)
        for command, label in ((WRITE, "write"), (ZEROES, "zeroes"), (TRIM, "trim")):
            yield f"{name}-{label}-fua-flush-fails", transmission(
                r(command, 0, 512, FUA, payload=repeat(512) if command == WRITE else b""), disc(ext), form=form,
                fails=trouble(FAILS), nth=2)
            yield f"{name}-{label}-fua-lending", transmission(
                r(command, 0, 512, FUA, payload=repeat(512) if command == WRITE else b""), r(READ, 0, 1024), disc(ext), form=form,
                disk=LENDING)
        yield f"{name}-long-write", transmission(r(WRITE, 2, 70000, payload=repeat(70000)), r(READ, 0, 70100), disc(ext), form=form)
        yield f"{name}-long-write-lent", transmission(r(WRITE, 2, 70000, payload=repeat(70000)), r(READ, 0, 70100),
                                                      r(WRITE, 3, 70000, FUA, payload=repeat(70000)), disc(ext), form=form,
                                                      disk=LENDING, pace=4)
        yield f"{name}-long-write-refused", transmission(r(WRITE, 150000, 70000, payload=repeat(70000)), r(READ, 0, 512), disc(ext),
                                                         form=form)
        yield f"{name}-long-write-cut", transmission(r(WRITE, 2, 70000, payload=repeat(60000)), form=form, disk=LENDING)
        yield f"{name}-huge", transmission(*[r(command, 1 << 33, 4096) for command in (READ, TRIM, ZEROES, CACHE, STATUS)],
                                           r(WRITE, 1 << 33, 4, payload=b"lost"), disc(ext), form=form, size=HUGE_SIZE, contexts=7)
        yield f"{name}-empty-export", transmission(r(READ), r(READ, 0, 1), r(STATUS, 0, 1), r(WRITE), r(FLUSH), disc(ext), form=form,
                                                   size=NO_SIZE, contexts=1)
        yield f"{name}-no-length", transmission(*[r(command) for command in range(9) if command != DISC], r(FLUSH, 1, 0),
                                                r(FLUSH, 0, 1), disc(ext), form=form, contexts=7)
        yield f"{name}-all-flags", transmission(*[r(command, 0, 0, 1 << bit) for command in (READ, WRITE, FLUSH, TRIM, CACHE, ZEROES,
                                                                                           STATUS)
                                                  for bit in range(0, 16) if not (ext and bit == 5)], disc(ext), form=form, contexts=7)
        for bit in range(8):
            yield f"{name}-withheld-{bit}", transmission(*every, form=form, withheld=1 << bit, contexts=7)
        yield f"{name}-export-withholds", transmission(*every, form=form, more=64, contexts=7)
        yield f"{name}-export-read-only", transmission(*every, form=form, more=16 | 32, contexts=7)
        yield f"{name}-resize", transmission(r(READ, 4096, 512), r(RESIZE, 4096), r(READ, 4096, 512), r(TRIM, 4096, 512),
                                             r(WRITE, 4096, 1, payload=b"x"), r(RESIZE, 1 << 63), r(RESIZE, 8192), r(READ, 4096, 512),
                                             r(STATUS, 8192, 1), disc(ext), form=form, contexts=1, pace=pace)
        yield f"{name}-stops", transmission(*every, form=form, contexts=7, pace=pace, stops_at=6)
        yield f"{name}-breaks", transmission(*every, form=form, contexts=7, pace=pace, breaks_at=7)
        yield f"{name}-bad-magic", transmission(r(READ, 0, 1), bytes(32), form=form)
        for layout in range(6):
            yield f"{name}-extents-{layout}", transmission(
                r(READ, 0, 131072), r(READ, 100, 100000), r(STATUS, 0, 196608), r(STATUS, 4096, 8192), r(STATUS, 100, 1000, REQ_ONE),
                disc(ext), form=form, contexts=3, layout=layout)
            yield f"{name}-extents-blocks-{layout}", transmission(
                r(READ, 0, 131072), r(STATUS, 0, 196608), r(STATUS, 4096, 4096), disc(ext), form=form, contexts=3, layout=layout, blocks=2)
            yield f"{name}-extents-lent-{layout}", transmission(
                r(READ, 0, 131072), r(READ, 100, 100000), r(READ, 3, 65536), disc(ext), form=form, contexts=3, layout=layout, disk=LENDING)

    yield "structured-extents-fail", transmission(request(READ, 0, 40000), request(STATUS, 0, 4096), disc(), form=STRUCTURED_REPLIES,
                                                  contexts=1, fails=trouble(FAILS), nth=1)
    for disk, kind in ((FULL, "full"), (LENDING, "lending")):
        yield f"leaves-out-{kind}", transmission(request(READ, 12289, 512), request(READ, 1, 512), disc(), disk=disk,
                                                 fails=LEAVES_OUT, nth=2, pace=LOCKSTEP)
    yield "few-extents-rounded", transmission(request(STATUS, 0, 196608), request(STATUS, 4096, 131072), disc(),
                                              form=STRUCTURED_REPLIES, contexts=7, blocks=1, layout=5)
    for n in (2, 3, 4):
        yield f"structured-piece-fails-{n}", transmission(request(READ, 0, 100000), disc(), form=STRUCTURED_REPLIES,
                                                          fails=trouble(FAILS), nth=n)
    yield "simple-rotational", transmission(request(READ, 0, 1), disc(), more=128)
    yield "extended-foreign", transmission(request(READ, 0, 1, extended=True), disc(True), form=EXTENDED_HEADERS, fails=FOREIGN | 2 << 3, nth=1)

    def e(command, offset=0, length=0, flags=0, payload=b""):
        return request(command, offset, length, flags, payload=payload, extended=True)

    def ids(length, *chosen):
        return struct.pack(f">Q{len(chosen)}I", length, *chosen)

    chosen = [ids(4096, 1), ids(4096, 1, 21), ids(4096, 1, 11, 21), ids(4096), ids(4096, 1, 1), ids(4096, 5), ids(0, 1),
              ids(1 << 40, 1), b"1234567", ids(4096, 1)[:-1]]
    yield "extended-status-payload", transmission(*[e(STATUS, 0, len(p), PAYLOAD, p) for p in chosen], disc(True),
                                                  form=EXTENDED_HEADERS, contexts=7)
    yield "extended-status-payload-long", transmission(e(STATUS, 0, 70000, PAYLOAD, repeat(70000)), e(READ, 0, 100, PAYLOAD, repeat(100)),
                                                       disc(True), form=EXTENDED_HEADERS, contexts=7)
    yield "extended-status-payload-unselected", transmission(e(STATUS, 0, 12, PAYLOAD, ids(4096, 1)), disc(True), form=EXTENDED_HEADERS)
    yield "extended-write-without-flag", transmission(e(WRITE, 0, 8), e(WRITE, 0, 8), disc(True), form=EXTENDED_HEADERS)
    yield "extended-write-unflagged-payload", transmission(e(WRITE, 0, 8, 0, b"payload!"), e(WRITE, 0, 4, 0, struct.pack(">I", 0x21e41c71)),
                                                           e(READ, 0, 8), disc(True), form=EXTENDED_HEADERS)
    yield "extended-write-unflagged-short", transmission(e(WRITE, 0, 2, 0, b"ab"), e(READ, 0, 8), disc(True), form=EXTENDED_HEADERS,
                                                         pace=BYTEWISE)
    yield "extended-lengths-64", transmission(*[e(command, 0, length) for command in (READ, TRIM, ZEROES, STATUS, CACHE)
                                                for length in (1 << 32, (1 << 32) + 1, 1 << 63, (1 << 64) - 1)],
                                              disc(True), form=EXTENDED_HEADERS, size=HUGE_SIZE, contexts=7)

    sizes = [m + d for m in (65536, MI) for d in (-16, -15, 0, 1, 15, 16, 17)]
    for cve, form in (("CVE-2005-3534", SIMPLE), ("CVE-2011-0530", STRUCTURED_REPLIES)):
        yield cve, transmission(*[request(READ, 0, n) for n in sizes if n < 2 * 65536], disc(), form=form, size=HUGE_SIZE)
        yield f"{cve}-limit", transmission(*[request(READ, 0, 512 + d) + request(WRITE, 0, 512 + d, payload=repeat(512 + d))
                                             for d in (-17, -16, -15, -1, 0, 1, 15, 16, 17)], disc(), form=form, blocks=3)
        yield f"{cve}-write", transmission(request(WRITE, 0, 65536 - 16, payload=repeat(65536 - 16)),
                                           request(WRITE, 0, 65536 + 1, payload=repeat(65536 + 1)), request(READ, 0, 70000), disc(), form=form)
    yield "CVE-2005-3534-payload", transmission(request(WRITE, 0, 32 * MI), disc())
    yield "CVE-2005-3534-payload-too-long", transmission(request(WRITE, 0, 32 * MI + 1), disc())
    yield "CVE-2013-1922", transmission(request(WRITE, 0, 72, payload=bytes.fromhex("514649fb0000000300000000000000480000000a") + bytes(52)),
                                        request(READ, 0, 72), disc(), pace=LOCKSTEP)
    yield "CVE-2025-47711", transmission(*[request(STATUS, offset, length) for offset in (0, 1, (1 << 32) - 1, 1 << 32)
                                           for length in (0xffffffff, 0xfffffffe, 0x80000000, 0x7fffffff)],
                                         disc(), form=STRUCTURED_REPLIES, size=HUGE_SIZE, contexts=3, layout=1)
    for blocks in (1, 2):
        yield f"CVE-2025-47712-{blocks}", transmission(
            *[request(command, offset, length) for command in (STATUS, TRIM, ZEROES, CACHE)
              for offset, length in ((0, 0xffffffff), (0, 0xfffffe00), (0, 0xfffff000), (1, 0xfffff001), (4095, 4096))],
            disc(), form=STRUCTURED_REPLIES, size=HUGE_SIZE, contexts=3, blocks=blocks)


def sessions():
    hello = flags() + option(STRUCTURED) + option(SET_META, meta("disk", "base:allocation", "x-fuzz:one"))
    work = join(request(READ, 0, 512, cookie=1), request(WRITE, 0, 4, cookie=2, payload=b"data"), request(FLUSH, cookie=3),
                request(READ, 0, 512, cookie=4), request(STATUS, 0, 8192, cookie=5), request(TRIM, 0, 512, cookie=6),
                request(ZEROES, 0, 512, cookie=7), request(READ, 0, 100000, cookie=8), disc())
    yield "structured", session(hello, option(GO, info("disk", 3)), work)
    yield "simple", session(flags(), option(GO, info("disk")), work)
    yield "export-name", session(flags(1), option(EXPORT_NAME, b""), work, pace=BYTEWISE)
    yield "extended", session(flags(), option(EXTENDED), option(SET_META, meta("disk", "base:allocation", "x-fuzz:wide")),
                              option(GO, info("disk")), request(STATUS, 0, 12, PAYLOAD, payload=struct.pack(">QI", 4096, 3), extended=True),
                              request(READ, 0, 100, extended=True), disc(True))
    yield "list", session(flags(), option(LIST), option(ABORT))
    yield "block", session(flags(), option(GO, info("block")), option(GO, info("block", 3)), request(READ, 512, 512), request(READ, 1, 1),
                           disc())
    yield "read-only", session(flags(), option(GO, info("ro")), work)
    yield "tls-only", session(flags(), option(INFO, info("tls")), option(EXPORT_NAME, b"tls"))
    yield "two-selections", session(flags(), option(STRUCTURED), option(SET_META, meta("disk", "base:allocation")),
                                    option(SET_META, meta("ro", "base:allocation")), option(GO, info("disk")), request(STATUS, 0, 512), disc())
    for n in range(1, 9):
        yield f"fails-{n}", session(hello, option(GO, info("disk")), work, fails=trouble(1 + n % 3, ERRORS[n]), nth=n)
        yield f"breaks-{n}", session(hello, option(GO, info("disk")), work, breaks_at=3 * n, pace=5)
        yield f"stops-{n}", session(hello, option(LIST), option(GO, info("disk")), work, stops_at=2 * n, pace=1)
    yield "leaves-out", session(hello, option(GO, info("disk")), work, fails=LEAVES_OUT, nth=1)
    yield "few-extents", session(hello, option(GO, info("disk")), request(STATUS, 0, 196608), disc(), small=16)
    yield "error-details", session(hello, option(GO, info("disk")), work, fails=trouble(THROWS, "EFBIG"), nth=1, small=32)
    yield "limits", session(flags(), option(99, repeat(101), 101), option(99), option(LIST), option(GO, info("disk")), small=14)

    yield "CVE-2011-1925", session(flags(0), option(EXPORT_NAME, b"xyzzy"))
    whole = hello + option(GO, info("disk"))
    for n in (0, 3, 4, 12, 20, 27, len(whole) - 1):
        yield f"CVE-2013-7441-{n:02}", session(whole[:n])
    yield "CVE-2013-7441-unknown", session(flags(), option(GO, info("xyzzy")))
    yield "CVE-2017-7539", session(flags(), repeat(65536, 0xa5))
    yield "CVE-2017-7539-pipelined", session(flags(), option(GO, info("disk")), request(READ, 0, 16), disc())
    yield "CVE-2017-9524-close", session()
    yield "CVE-2017-9524-http", session(b"GET / HTTP/1.0\r\n\r\n")
    yield "CVE-2017-9524-client-hello", session(bytes.fromhex("1603010200010001fc0303") + bytes(64))
    yield "CVE-2017-10664", session(flags(), option(GO, info("disk")), *[request(READ, 0, 196608)] * 16, breaks_at=9)
    yield "CVE-2019-14850", session(flags())
    yield "CVE-2019-14851", session(flags(), option(INFO, info("disk")), option(GO, info("ro")), work)
    yield "CVE-2021-3716", session(flags(), option(STRUCTURED), option(STARTTLS), option(GO, info("disk")), request(READ, 0, 16), disc())
    yield "CVE-2024-7409", session(flags(), option(LIST), stops_at=3)
    yield "CVE-2024-7409-stalled", session(flags()[:2], stops_at=2)
    yield "CVE-2025-47711", session(flags(), option(STRUCTURED), option(SET_META, meta("huge", "base:allocation")), option(GO, info("huge")),
                                    *[request(STATUS, 0, n) for n in (0xffffffff, 0xfffffffe, 0x80000000)], disc(), layout=1)


def parsings():
    yield "meta", parsing(0, meta("disk", "base:allocation", "x-a:", "x-a:b", "x-a:wide", "x-a:b:c"))
    yield "meta-none", parsing(0, meta("disk"))
    yield "meta-none-simple", parsing(0, meta("disk"), SIMPLE)
    yield "meta-structured", parsing(0, meta("disk", "x-a:wide", "x-ab:", "x-a:"), STRUCTURED_REPLIES)
    yield "meta-odd-queries", parsing(0, meta("", "", ":", "::", "base", "base:", "base:allocation:", "x-a:b:", "x-ab:", b"\xff"))
    yield "meta-wildcards", parsing(0, meta("another", "base:", "x-a:", "x-ab:", "x-b:", "x-a:b:", "x-a"))
    yield "meta-bad-name", parsing(0, meta(b"\xc0\x80"))
    yield "meta-count", parsing(0, text("disk") + struct.pack(">I", 0xffffffff) + text("a:b"))
    yield "meta-left", parsing(0, meta("disk", "a:b") + b"x")
    yield "meta-cut", parsing(0, meta("disk", "a:b")[:-1])
    yield "meta-long", parsing(0, text(repeat(4097), 4097) + struct.pack(">I", 0))
    yield "info", parsing(1, info("disk", 0, 1, 2, 3, 4, 65535))
    yield "info-count", parsing(1, text("disk") + b"\0\3\0\1")
    yield "info-cut", parsing(1, text("disk", 5))
    yield "info-left", parsing(1, info("disk", 1) + b"x")
    for n, s in enumerate((b"", b"a", b"\0", b"\xc2\x80", b"\xc1\xbf", b"\xdf\xbf", b"\xe0\xa0\x80", b"\xe0\x9f\xbf", b"\xed\x9f\xbf",
                           b"\xed\xa0\x80", b"\xee\x80\x80", b"\xf0\x90\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf4\x8f\xbf\xbf",
                           b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\x80", b"\xe2\x82", b"\xe2\x82a", b"\xf0\x9f\x92", b"\xc2a",
                           repeat(4096, 0x61), repeat(4097, 0x61))):
        yield f"utf8-{n:02}", parsing(2, s)
    for n, p in enumerate((struct.pack(">Q", 5), struct.pack(">QI", 5, 1), struct.pack(">QIII", 5, 3, 1, 2), struct.pack(">QII", 5, 1, 1),
                           b"1234567", struct.pack(">QH", 5, 1), b"")):
        yield f"payload-{n}", parsing(3, p)
    for what, name in ((4, "allocation"), (5, "other")):
        yield f"align-{name}", parsing(what, bytes([60 << 2 | 3, 3 << 2 | 1, 11 << 2 | 2, 15 << 2 | 3, 31 << 2, 1, 2, 3, 0xff]))
        yield f"align-{name}-short", parsing(what, bytes([3 << 2 | 3, 1]))
        yield f"align-{name}-none", parsing(what, b"")
        yield f"align-{name}-equal", parsing(what, bytes([15 << 2 | 1] * 5 + [7 << 2 | 1, 3 << 2 | 2]))
    yield "CVE-2022-26495", parsing(0, text("", 0xffffffff) + bytes(4))
    yield "CVE-2022-26495-info", parsing(1, text("", 0xffffffff) + b"\0\0")
    yield "CVE-2022-26496", parsing(1, text("", 4000) + repeat(2044))
    yield "CVE-2020-10761", parsing(0, meta("\n" * 4096, "base:allocation"))


AUTHORISES, LATE, FINDS, LOOKUP_FAILS = 1, 2, 4, 8


def windows():
    cookies = itertools.count(100)  # two requests in flight need different ones
    orders = {"first": b"", "last": b"\xff", "mixed": bytes([0, 7, 1, 3, 0, 0, 2, 5, 11, 4, 1])}
    for form, name in ((SIMPLE, "simple"), (STRUCTURED_REPLIES, "structured"), (EXTENDED_HEADERS, "extended")):
        ext = form == EXTENDED_HEADERS

        def r(command, offset=0, length=0, flags=0, payload=b"", **more):
            if command == WRITE and ext:
                flags |= PAYLOAD
            more.setdefault("cookie", next(cookies))
            return request(command, offset, length, flags, payload=payload, extended=ext, **more)

        every = [r(READ, 4096, 512, cookie=1), r(WRITE, 100, 7, payload=b"payload", cookie=2), r(READ, 8192, 30, cookie=3),
                 r(FLUSH, cookie=4), r(TRIM, 512, 1024, cookie=5), r(CACHE, 0, 4096, cookie=6), r(ZEROES, 20480, 4096, FUA, cookie=7),
                 r(READ, 0, 100000, cookie=8), r(STATUS, 0, 65536, cookie=9), r(WRITE, 65536, 7, FUA, b"another", cookie=10),
                 r(99, cookie=12), r(READ, 65530, 20, DF, cookie=13), r(WRITE, 98304, 4, payload=b"good", cookie=14), disc(ext)]
        for order, bytes_ in orders.items():
            yield f"{name}-{order}", windowed(*every, form=form, begun=0, order=bytes_, contexts=7)
            yield f"{name}-{order}-early", windowed(*every, form=form, begun=0, order=bytes_, contexts=3, early=1, at_once=1)
            yield f"{name}-{order}-in-pieces", windowed(*every, form=form, begun=0, order=bytes_, contexts=1, pace=3)
        yield f"{name}-block", windowed(r(READ, 512, 512), r(READ, 1, 512), r(STATUS, 512, 65536), r(WRITE, 512, 512, payload=repeat(512)),
                                        disc(ext), form=form, begun=1, contexts=7, order=b"\xff")
        for n in range(1, 9):
            yield f"{name}-fails-{n}", windowed(*every, form=form, begun=0, contexts=3, order=orders["mixed"],
                                                fails=trouble(1 + n % 3, ERRORS[n]), nth=n, early=n & 1)
            yield f"{name}-breaks-{n}", windowed(*every, form=form, begun=0, contexts=3, order=orders["mixed"], breaks_at=n)
            yield f"{name}-stops-{n}", windowed(*every, form=form, begun=0, contexts=3, order=orders["mixed"], stops_at=n)
        for small in (1, 2, 3, 4, 5):
            yield f"{name}-window-{small}", windowed(*every, form=form, begun=0, contexts=3, order=orders["mixed"], small=small)
        yield f"{name}-overlaps", windowed(*[r(command, 0, 512, payload=repeat(512, 0x40 + n) if command == WRITE else b"", cookie=n)
                                             for n, command in enumerate((READ, WRITE, READ, ZEROES, WRITE, READ, TRIM, READ))],
                                           disc(ext), form=form, begun=0, order=orders["mixed"])
        yield f"{name}-leaves-out", windowed(r(READ, 0, 512, DF), r(READ, 12289, 512, DF), disc(ext), form=form, begun=0, fails=LEAVES_OUT,
                                             nth=2, pace=LOCKSTEP_EXTENDED if ext else LOCKSTEP, order=b"\0\0\1")
        yield f"{name}-cut", windowed(*every[:3], r(WRITE, 0, 600, payload=b"part"), form=form, begun=0, order=orders["mixed"])
    yield "extended-unflagged", windowed(request(WRITE, 0, 8, payload=b"payload!", extended=True), disc(True), form=EXTENDED_HEADERS, begun=0)
    yield "begun-nothing", windowed(request(READ, 0, 1), begun=4)
    yield "begun-not-authorised", windowed(request(READ, 0, 1), begun=2, program=AUTHORISES | LATE)
    yield "begun-found", windowed(request(READ, 0, 1), disc(), begun=4, program=FINDS | LATE)
    shake = join(flags(), option(LIST), option(INFO, info("ro")), option(INFO, info("dyn", 1, 2, 3)), option(INFO, info("nosuch")),
                 option(STRUCTURED), option(SET_META, meta("dyn", "base:allocation")), option(GO, info("block", 3)))
    for program in range(16):
        yield f"handshake-{program:02}", windowed(shake, request(READ, 0, 512, cookie=1), request(WRITE, 0, 512, cookie=2, payload=repeat(512)), disc(),
                                                  program=program, order=orders["mixed"])
    yield "handshake-found", windowed(flags(), option(GO, info("dyn")), request(READ, 0, 1), disc(), program=FINDS | LATE)
    yield "handshake-found-name", windowed(flags(), option(EXPORT_NAME, b"dyn"), request(READ, 0, 1), disc(), program=FINDS | LATE)
    yield "handshake-lookup-fails", windowed(flags(), option(EXPORT_NAME, b"dyn"), program=LOOKUP_FAILS | LATE)
    yield "handshake-many-lookups", windowed(flags(), option(INFO, info("nosuch")) * 40, program=LATE | AUTHORISES)
    yield "handshake-stops", windowed(shake, program=LATE | AUTHORISES, stops_at=9)


TARGETS = {"handshake": handshakes, "transmission": transmissions, "session": sessions, "windowed": windows, "meta_context": parsings}


def main():
    wrong = []
    for target, make in TARGETS.items():
        folder = CORPUS / target
        made = dict(make())
        if "--check" not in sys.argv:
            folder.mkdir(parents=True, exist_ok=True)
        present = {f.name for f in folder.iterdir() if not f.name.startswith("found-")} if folder.exists() else set()
        for name in present - set(made):
            wrong.append(f"{target}/{name}: is not made by seeds.py")
            if "--check" not in sys.argv:
                (folder / name).unlink()
        for name, data in made.items():
            file = folder / name
            if not file.exists() or file.read_bytes() != data:
                wrong.append(f"{target}/{name}: differs from what seeds.py makes")
                if "--check" not in sys.argv:
                    file.write_bytes(data)
    if "--check" in sys.argv and wrong:
        print("\n".join(wrong))
        sys.exit(1)


if __name__ == "__main__":
    main()
