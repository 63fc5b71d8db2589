# SPDX-License-Identifier: MIT
"""libnbd: every command, every command flag, and every error in the specification."""
import errno
import random

from support import *

nbd = require_libnbd()

FUA, NO_HOLE, FAST_ZERO = nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO
DF, REQ_ONE = nbd.CMD_FLAG_DF, nbd.CMD_FLAG_REQ_ONE
UNKNOWN_FLAGS = (0x0100, 0x8000)
# Past the end of every disk in these tests; the last ones overflow if a length is added.
FAR_OFFSETS = (2**32, 2**63 - 1, 2**63, 2**64 - 4096, 2**64 - 1)


def connect(server):
    h = nbd.NBD()
    h.connect_uri(server.uri)
    return h


def connect_without_checks(server, simple_replies=False):
    """Switches off libnbd's own checks, so that the server has to refuse."""
    h = nbd.NBD()
    if simple_replies:
        h.set_request_structured_replies(False)
        if hasattr(h, "set_request_extended_headers"):
            h.set_request_extended_headers(False)
    h.connect_uri(server.uri)
    # With extended headers a WRITE needs PAYLOAD_LEN, which libnbd sets by itself only with this strict flag.
    h.set_strict_mode(getattr(nbd, "STRICT_AUTO_FLAG", 0))
    return h


def error_of(action, *arguments):
    """0, or the errno that the command failed with."""
    try:
        action(*arguments)
    except nbd.Error as error:
        if not error.errnum:  # an error of the connection, not a reply
            raise
        return error.errnum
    return 0


def assert_refused(expected, action, *arguments):
    got = error_of(action, *arguments)
    assert got == expected, (f"{action.__name__}{shortened(str(arguments), 60)}: "
                             f"{errno.errorcode.get(got, got)}, not {errno.errorcode[expected]}")


def assert_still_works(h, content=None):
    """After an error, the next request on the same connection succeeds."""
    assert h.aio_is_ready(), "the connection was closed"
    got = h.pread(512, 512)
    assert content is None or got == content[512:1024]


@for_each(GRID)
def test_read_and_write(policy, transport):
    size = 48 * M
    data = random.Random(7).randbytes(32 * M)
    with serve(f"mem:{size}", policy=policy, transport=transport) as server:
        h = connect(server)
        assert h.pread(4096, 0) == bytes(4096), "a new disk is all zeroes"
        # Lengths around every power of two that a buffer might have.
        for length in (1, 2, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537, M - 1, M, M + 1, 32 * M - 1, 32 * M):
            for offset in (0, 1, 4095, size - length):
                h.pwrite(data[:length], offset)
                assert h.pread(length, offset) == data[:length], (length, offset)
        h.pwrite(bytes(32 * M), 0)
        h.pwrite(data[:100_000], 1_000_000)
        assert h.pread(100_002, 999_999) == b"\0" + data[:100_000] + b"\0"


@for_each([(*spot, flags) for spot in GRID for flags in (0, FUA)])
def test_every_command(policy, transport, flags):
    with serve("mem:4M", policy=policy, transport=transport) as server:
        h = connect(server)
        shadow = bytearray(random.Random(1).randbytes(4 * M))
        h.pwrite(shadow, 0, flags)

        def zeroed(offset, length):
            shadow[offset:offset + length] = bytes(length)
            assert h.pread(4 * M, 0) == shadow

        # Ranges inside a page, at the border of a page, and over many pages.
        for offset, length in ((0, 4096), (5000, 10), (8191, 2), (12288, 100_000), (200_001, 1_000_001)):
            h.zero(length, offset, flags)
            zeroed(offset, length)
        for offset, length in ((2 * M, 4096), (2 * M + 5000, 10), (2 * M + 8191, 300_000)):
            h.zero(length, offset, flags | NO_HOLE)
            zeroed(offset, length)
        h.flush()

        # The trimmed range may read as anything; the bytes around it must not change.
        for offset, length in ((M, 4096), (M + 8191, 2), (M + 20_001, 100_000)):
            h.trim(length, offset, flags)
            left = h.pread(4 * M, 0)
            assert left[:offset] == shadow[:offset] and left[offset + length:] == shadow[offset + length:]
            shadow[:] = left

        if h.can_cache():
            h.cache(4 * M, 0)
        h.pwrite(b"end", 4 * M - 3, flags)
        h.flush()
        shadow[-3:] = b"end"
        assert h.pread(4 * M, 0) == shadow
        h.shutdown()


@for_each([(*spot, flags) for spot in GRID for flags in (FAST_ZERO, FAST_ZERO | NO_HOLE, FAST_ZERO | FUA)])
def test_fast_zero(policy, transport, flags):
    """Either fast, or refused without a change; EINVAL where it was not offered."""
    with serve("mem:4M", policy=policy, transport=transport) as server:
        h = connect_without_checks(server)
        before = random.Random(1).randbytes(4 * M)
        h.pwrite(before, 0)
        for offset, length in ((0, 64 * K), (M + 1, 100), (2 * M, 2 * M)):
            result = error_of(h.zero, length, offset, flags)
            after = h.pread(length, offset)
            if result == 0:
                assert h.can_fast_zero() and after == bytes(length)
            else:
                assert result == (errno.ENOTSUP if h.can_fast_zero() else errno.EINVAL), errno.errorcode[result]
                assert after == before[offset:offset + length]


@for_each(POLICIES)
def test_fua_is_accepted_on_every_command(policy):
    with serve("mem:1M", policy=policy) as server:
        h = connect_without_checks(server)
        assert h.can_fua()
        h.pread(4096, 0, FUA)
        h.flush(FUA)
        h.trim(4096, 0, FUA)
        assert_still_works(h)


@for_each([("mem:1M", *spot) for spot in GRID] + [("null:1M", *spot) for spot in GRID])
def test_past_the_end(device, policy, transport):
    with serve(device, policy=policy, transport=transport) as server:
        h = connect_without_checks(server)
        content = bytes(M) if device.startswith("null") else random.Random(3).randbytes(M)
        h.pwrite(content, 0)
        ranges = [(M - 1, 2), (M - 4096, 8192), (M, 1), (M + 1, 1), (0, M + 1), (M // 2, M)]
        ranges += [(offset, 4096) for offset in FAR_OFFSETS]
        for offset, length in ranges:
            # The server must consume the payload of a refused WRITE.
            assert_refused(errno.ENOSPC, h.pwrite, b"\xff" * length, offset)
            assert_still_works(h, content)
            assert_refused(errno.ENOSPC, h.zero, length, offset)
            assert_refused(errno.EINVAL, h.pread, length, offset)
            assert_refused(errno.EINVAL, h.trim, length, offset)
            if h.can_cache():
                assert_refused(errno.EINVAL, h.cache, length, offset)
            assert_still_works(h, content)
        for command, expected in ((h.trim, errno.EINVAL), (h.zero, errno.ENOSPC)):
            assert_refused(expected, command, 2**32 - 1, 0)
        assert h.pread(M, 0) == content, "a refused command changed the disk"
        h.shutdown()


@for_each([("mem:1M", *spot) for spot in GRID] + [("null:1M", "per-client", "unix")])
def test_read_only(device, policy, transport):
    with serve(device, "--read-only", policy=policy, transport=transport) as server:
        h = connect_without_checks(server)
        assert h.is_read_only()
        # Permission is checked before the range.
        for offset in (0, M - 1, M, 2**63):
            for flags in (0, FUA):
                assert_refused(errno.EPERM, h.pwrite, b"\xff" * 100_000, offset, flags)
                assert_still_works(h, bytes(M))
                assert_refused(errno.EPERM, h.zero, 4096, offset, flags)
                assert_refused(errno.EPERM, h.trim, 4096, offset, flags)
        assert_still_works(h, bytes(M))
        assert h.pread(M, 0) == bytes(M)
        if h.can_flush():
            h.flush()


@for_each(GRID)
def test_flags_that_a_command_does_not_have(policy, transport):
    with serve("mem:1M", policy=policy, transport=transport) as server:
        h = connect_without_checks(server)
        content = random.Random(3).randbytes(M)
        h.pwrite(content, 0)
        wrong = {
            h.pread: (NO_HOLE, REQ_ONE, FAST_ZERO) + (() if h.can_df() else (DF,)),
            h.pwrite: (NO_HOLE, DF, REQ_ONE, FAST_ZERO),
            h.trim: (NO_HOLE, DF, REQ_ONE, FAST_ZERO),
            h.zero: (DF, REQ_ONE),
            h.flush: (NO_HOLE, DF, REQ_ONE, FAST_ZERO),
        }
        if h.can_cache():
            wrong[h.cache] = (NO_HOLE, DF, REQ_ONE, FAST_ZERO)
        for command, flags_of_others in wrong.items():
            for flags in flags_of_others + UNKNOWN_FLAGS:
                for with_fua in (0, FUA):
                    arguments = (b"\xff" * 4096, 0) if command == h.pwrite else () if command == h.flush else (4096, 0)
                    assert_refused(errno.EINVAL, command, *arguments, flags | with_fua)
                    assert_still_works(h, content)
        assert h.pread(M, 0) == content, "a refused command changed the disk"


@for_each([(*spot, minimum) for spot in GRID for minimum in (512, 4096)])
def test_misaligned(policy, transport, minimum):
    with serve("mem:1M", "--block-size", f"{minimum}:4096:32M", policy=policy, transport=transport) as server:
        h = connect_without_checks(server)
        content = random.Random(3).randbytes(M)
        h.pwrite(content, 0)
        for offset, length in ((0, 1), (0, minimum - 1), (0, minimum + 1), (1, minimum), (minimum // 2, minimum),
                               (minimum, 3 * minimum // 2), (M - minimum + 1, minimum - 1)):
            assert_refused(errno.EINVAL, h.pread, length, offset)
            assert_refused(errno.EINVAL, h.pwrite, b"\xff" * length, offset)
            assert_refused(errno.EINVAL, h.trim, length, offset)
            assert_refused(errno.EINVAL, h.zero, length, offset)
            assert h.pread(minimum, minimum) == content[minimum:2 * minimum]
        h.pwrite(b"\xee" * minimum, minimum)
        h.zero(minimum, 2 * minimum)
        assert h.pread(3 * minimum, 0) == content[:minimum] + b"\xee" * minimum + bytes(minimum)
        assert h.pread(M - 3 * minimum, 3 * minimum) == content[3 * minimum:], "a refused command changed the disk"


@for_each(GRID)
def test_maximum_payload(policy, transport):
    with serve("mem:32M", "--block-size", "1:4096:1M", policy=policy, transport=transport) as server:
        h = connect_without_checks(server, simple_replies=True)
        content = random.Random(3).randbytes(M)
        h.pwrite(content, 0)
        for length in (M + 1, 2 * M, 32 * M):
            assert_refused(errno.EINVAL, h.pread, length, 0)
            assert_refused(errno.EINVAL, h.pwrite, b"\xff" * length, 0)
            assert_still_works(h, content)
        assert h.pread(M, 0) == content
        # The maximum limits payloads. These commands have none.
        for command in (h.trim, h.zero):
            assert error_of(command, 31 * M, M) in (0, errno.EINVAL, errno.EOVERFLOW)
            assert_still_works(h, content)


@for_each(GRID)
def test_payload_above_the_default_maximum(policy, transport):
    with serve("mem:64M", policy=policy, transport=transport) as server:
        h = connect_without_checks(server, simple_replies=True)
        for length in (32 * M + 1, 48 * M):
            assert_refused(errno.EINVAL, h.pread, length, 0)
            assert_still_works(h, bytes(M))


@for_each(GRID)
def test_commands_of_length_zero(policy, transport):
    """The result is unspecified; the connection stays usable."""
    with serve("mem:1M", policy=policy, transport=transport) as server:
        h = connect_without_checks(server)
        for offset in (0, 4096, M):
            for command, what in ((h.pread, 0), (h.pwrite, b""), (h.trim, 0), (h.zero, 0)):
                error_of(command, what, offset)
                assert_still_works(h, bytes(M))


def test_null():
    with serve("null:1T") as server:
        h = connect(server)
        h.pwrite(b"\xff" * M, 0)
        h.zero(2**32 - 4096, T // 2)
        h.trim(2**32 - 4096, T // 2)
        h.flush()
        for offset in (0, 2**32 - 5, T - M):
            assert h.pread(M, offset) == bytes(M)


run_cases(globals())
