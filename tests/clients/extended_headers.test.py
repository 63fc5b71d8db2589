# SPDX-License-Identifier: MIT
"""Extended headers with clients that support them: lengths above 4 GiB in one request."""
import json
import random
import re

from support import *

nbd = require_libnbd()
if not hasattr(nbd.NBD, "get_extended_headers_negotiated"):
    skip_file(f"libnbd {nbd.NBD().get_version()} has no extended headers (1.18 has); "
              "tests/conformance/extended_headers.py covers the same points")

NBDINFO = require_tool("nbdinfo", "libnbd-bin")
NBDSH = require_tool("nbdsh", "python3-libnbd")
# nbdsh is a shell script that runs `python3 -m nbd`; this finds the Python that has the module.
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"

EXTENDED_HEADERS = 11  # the option's number
HOLE = 3
MARK = b"here is data"


def require_qemu(name):
    tool = find_tool(name)
    if not tool:
        raise Skip(f"{name} is not installed (Debian package qemu-utils)")
    major, minor = map(int, re.search(r"version (\d+)\.(\d+)", run(tool, "--version").stdout).groups())
    if (major, minor) < (8, 2):
        raise Skip(f"{name} {major}.{minor} has no extended headers (8.2 has)")
    return tool


def opened(server, extended=True):
    handle = nbd.NBD()
    handle.set_request_extended_headers(extended)
    handle.add_meta_context("base:allocation")
    handle.connect_uri(server.uri)
    assert handle.get_extended_headers_negotiated() == extended
    return handle


def status_of(handle, count, offset, flags=0):
    """[(length, flags)] of base:allocation, from one request."""
    found = []
    handle.block_status_64(count, offset, lambda context, at, extents, error: found.extend(extents), flags)
    return found


def requests_in(log, command):
    """(offset, length) of each request of this kind in the server's log."""
    return [tuple(map(int, found)) for found in re.findall(rf"request {command} .*offset (\d+) length (\d+)", log)]


# -- libnbd --------------------------------------------------------------------------------------------------------------

@for_each(GRID)
def test_nbdinfo_reports_them(policy, transport):
    with serve("mem:1T", policy=policy, transport=transport) as server:
        assert "using extended packets" in run(NBDINFO, server.uri).stdout
        said = json.loads(run(NBDINFO, "--json", server.uri).stdout)
        assert said["extended"] is True, said
        parts = json.loads(run(NBDINFO, "--map", "--json", server.uri).stdout)
        assert [(part["offset"], part["length"], part["type"]) for part in parts] == [(0, T, HOLE)], parts


@for_each(POLICIES)
def test_clients_with_and_without_them_at_once(policy):
    with serve("mem:1T", policy=policy) as server:
        extended, structured = opened(server), opened(server, extended=False)
        assert structured.get_structured_replies_negotiated()
        for writer, reader in (extended, structured), (structured, extended):
            offset = random.Random(1).randrange(T)
            writer.pwrite(MARK, offset)
            assert reader.pread(len(MARK), offset) == MARK
            assert reader.pread(M, offset - 1000) == bytes(1000) + MARK + bytes(M - 1000 - len(MARK))
            writer.zero(len(MARK), offset)
        # A request this long needs extended headers.
        for ask in structured.zero, structured.trim:
            try:
                ask(6 * G, 0)
            except nbd.Error:
                continue
            raise AssertionError("a request of 6 GiB without extended headers")


@for_each(GRID)
def test_more_than_4_gib_in_one_request(policy, transport):
    with serve("mem:1T", "--verbose", policy=policy, transport=transport) as server:
        handle = opened(server)
        begin, length = 10 * G, 6 * G
        inside = (begin, begin + 4 * G, begin + length - len(MARK))
        outside = (begin - len(MARK), begin + length, begin + length + 4 * G)
        for change in (lambda: handle.zero(length, begin), lambda: handle.trim(length, begin),
                       lambda: handle.zero(length, begin, nbd.CMD_FLAG_FAST_ZERO),
                       lambda: handle.trim(length, begin, nbd.CMD_FLAG_FUA)):
            for offset in (*inside, *outside):
                handle.pwrite(MARK, offset)
            change()
            for offset in inside:
                assert handle.pread(len(MARK), offset) == bytes(len(MARK)), offset
            for offset in outside:
                assert handle.pread(len(MARK), offset) == MARK, offset
        handle.cache(length, begin)
        handle.shutdown()
        server.stop()
        for command, count in ("WRITE_ZEROES", 2), ("TRIM", 2), ("CACHE", 1):
            assert requests_in(server.told, command) == [(begin, length)] * count, command


@for_each(POLICIES)
def test_a_whole_tebibyte_takes_no_time(policy):
    with serve("mem:1T", policy=policy) as server:
        handle = opened(server)
        for offset in range(0, T, 64 * G):
            handle.pwrite(MARK, offset)
        for change in handle.zero, handle.trim:
            start = time.monotonic()
            change(T, 0)
            assert time.monotonic() - start < 2, "more than two seconds"
            assert status_of(handle, T, 0) == [(T, HOLE)]


@for_each(GRID)
def test_status_of_more_than_4_gib(policy, transport):
    with serve("mem:1T", "--verbose", policy=policy, transport=transport) as server:
        handle = opened(server)
        assert status_of(handle, 900 * G, 0) == [(900 * G, HOLE)]
        assert status_of(handle, 900 * G, 100 * G, nbd.CMD_FLAG_REQ_ONE) == [(900 * G, HOLE)]
        handle.pwrite(b"x" * M, 500 * G)
        assert status_of(handle, T, 0) == [(500 * G, HOLE), (M, 0), (524 * G - M, HOLE)]
        assert status_of(handle, T, 0, nbd.CMD_FLAG_REQ_ONE) == [(500 * G, HOLE)]
        handle.shutdown()
        server.stop()
        assert requests_in(server.told, "BLOCK_STATUS") == [(0, 900 * G), (100 * G, 900 * G), (0, T), (0, T)]


def test_status_of_chosen_contexts():
    with serve("mem:1T") as server:
        handle = opened(server)
        assert handle.can_block_status_payload()
        found = []
        handle.block_status_filter(900 * G, 0, ["base:allocation"], lambda *said: found.append((said[0], said[2])))
        assert found == [("base:allocation", [(900 * G, HOLE)])], found
        # The next ordinary request works: the server has consumed the payload.
        assert status_of(handle, 900 * G, 0) == [(900 * G, HOLE)]


def test_nbdsh():
    with serve("mem:1T") as server:
        script = f"""
h.connect_uri({server.uri!r})
assert h.get_extended_headers_negotiated()
h.pwrite(b"x" * 4096, 5 << 30)
h.zero(6 << 30, 0)
assert h.pread(4096, 5 << 30) == bytes(4096)
h.pwrite(b"x" * 4096, 5 << 30)
h.trim(6 << 30, 0)
assert h.pread(4096, 5 << 30) == bytes(4096)
found = []
h.block_status_64(900 << 30, 100 << 30, lambda *said: found.append(said[2]))
print(found)
"""
        said = run(NBDSH, "--base-allocation", "-c", "-", input=script).stdout
        assert said == f"[[({900 * G}, 3)]]\n", said


# -- qemu ----------------------------------------------------------------------------------------------------------------

@for_each(GRID)
def test_qemu_io(policy, transport):
    # qemu 10.0 omits PAYLOAD_LEN from its WRITEs, and its own server accepts that.
    qemu_io = require_qemu("qemu-io")
    with serve("mem:1T", "--verbose", policy=policy, transport=transport) as server:
        run(qemu_io, "-f", "raw", "-c", "write -P 7 600G 1M", "-c", "read -P 7 600G 1M", "-c", "read -P 0 601G 1M",
            "-c", "write -f -P 8 700G 64k", "-c", "write -z 600G 512k", "-c", "read -P 0 600G 512k",
            "-c", "discard 700G 64k", "-c", "flush", server.uri)
        handle = opened(server)
        assert handle.pread(M, 600 * G) == bytes(512 * K) + b"\x07" * (512 * K)
        handle.shutdown()
        server.stop()
        assert f"option {EXTENDED_HEADERS} " in server.told, server.told


def test_qemu_io_zeroes_more_than_4_gib():
    qemu_io = require_qemu("qemu-io")
    with serve("mem:1T", "--verbose") as server:
        handle = opened(server)
        for offset in 10 * G - 1, 10 * G, 15 * G, 16 * G - 1, 16 * G:
            handle.pwrite(b"x", offset)
        run(qemu_io, "-f", "raw", "-c", "write -z -u -n 10G 6G", server.uri)
        assert [bytes(handle.pread(1, offset)) for offset in (10 * G - 1, 10 * G, 15 * G, 16 * G - 1, 16 * G)] == [
            b"x", b"\0", b"\0", b"\0", b"x"]


@for_each(TRANSPORTS)
def test_qemu_img_map(transport):
    qemu_img = require_qemu("qemu-img")
    with serve("mem:1T", "--verbose", transport=transport) as server:
        opened(server).pwrite(b"x" * M, 500 * G)
        parts = json.loads(run(qemu_img, "map", "--output=json", "-f", "raw", server.uri).stdout)
        assert [(part["start"], part["length"], part["data"]) for part in parts] == [
            (0, 500 * G, False), (500 * G, M, True), (500 * G + M, 524 * G - M, False)], parts
        server.stop()
        # The request had a 64-bit length.
        assert requests_in(server.told, "BLOCK_STATUS")[0] == (0, T), server.told


PIECES = [0, 3 * G + 5, 9 * G, 16 * G - M]


def filled_with_pieces(server):
    handle = opened(server)
    for offset in PIECES:
        handle.pwrite(random.Random(offset).randbytes(M), offset)
    return handle


@for_each(POLICIES)
def test_qemu_img_convert_out(policy):
    qemu_img = require_qemu("qemu-img")
    with serve("mem:16G", "--verbose", policy=policy) as source, directory() as where:
        filled_with_pieces(source)
        run(qemu_img, "convert", "-f", "raw", "-O", "raw", source.uri, f"{where}/copy")
        assert "identical" in run(qemu_img, "compare", "-f", "raw", "-F", "raw", source.uri, f"{where}/copy").stdout
        with open(f"{where}/copy", "rb") as copy:
            for offset in PIECES:
                assert os.pread(copy.fileno(), M, offset) == random.Random(offset).randbytes(M), offset
        source.stop()
        assert f"option {EXTENDED_HEADERS} " in source.told


@for_each(POLICIES)
def test_qemu_img_convert_from_server_to_server(policy):
    qemu_img = require_qemu("qemu-img")
    with serve("mem:16G", policy=policy) as source, serve("mem:16G", "--verbose", policy=policy) as target:
        filled_with_pieces(source)
        run(qemu_img, "convert", "-n", "-f", "raw", "-O", "raw", source.uri, target.uri)
        assert "identical" in run(qemu_img, "compare", "-f", "raw", "-F", "raw", source.uri, target.uri).stdout
        copy = opened(target)
        for offset in PIECES:
            assert copy.pread(M, offset) == random.Random(offset).randbytes(M), offset
        copy.shutdown()
        target.stop()
        assert f"option {EXTENDED_HEADERS} " in target.told


run_cases(globals())
