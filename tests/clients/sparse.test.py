# SPDX-License-Identifier: MIT
"""Holes: reported, not transferred when a disk is copied, and kept in the copy."""
import hashlib
import json
import random
import threading

from support import *

NBDINFO = require_tool("nbdinfo", "libnbd-bin")
NBDCOPY = require_tool("nbdcopy", "libnbd-bin")
QEMU_IMG = require_tool("qemu-img", "qemu-utils")
nbd = require_libnbd()

PAGE = os.sysconf("SC_PAGE_SIZE")
DISK = scaled(64 * G, 4 * G)
DATA = scaled(1 * G, 64 * M)
PIECES = 256


# -- maps, from both tools: [(offset, length, is a hole)], equal neighbours merged ---------------------------------------

def merged(parts):
    result = []
    for offset, length, hole in parts:
        if result and result[-1][2] == hole:
            assert sum(result[-1][:2]) == offset, f"a gap in the map before {offset}"
            result[-1] = (result[-1][0], result[-1][1] + length, hole)
        else:
            result.append((offset, length, hole))
    return result


def map_of_nbdinfo(uri):
    parts = json.loads(run(NBDINFO, "--map", "--json", uri).stdout)
    assert all(part["type"] in (0, 3) for part in parts), parts
    return merged((part["offset"], part["length"], part["type"] == 3) for part in parts)


def map_of_qemu_img(uri):
    parts = json.loads(run(QEMU_IMG, "map", "--output=json", "-f", "raw", uri).stdout)
    assert all(part["zero"] != part["data"] for part in parts), parts
    return merged((part["start"], part["length"], part["zero"]) for part in parts)


def true_map(size, written):
    """The map of a disk on which these (offset, length), in order, were written; a page is data as a whole."""
    parts, at = [], 0
    for offset, length in written:
        begin, end = offset // PAGE * PAGE, min(-(-(offset + length) // PAGE) * PAGE, size)
        begin = max(begin, at)
        parts += [(at, begin - at, True)] * (begin > at) + [(begin, end - begin, False)] * (end > begin)
        at = max(at, end)
    return merged(parts + [(at, size - at, True)] * (size > at))


def assert_maps(uri, expected):
    for what, found in ("nbdinfo", map_of_nbdinfo(uri)), ("qemu-img", map_of_qemu_img(uri)):
        assert found == expected, f"{what} reports {shortened(str(found), 2000)}, not {shortened(str(expected), 2000)}"


def opened(uri):
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle


# -- the maps ------------------------------------------------------------------------------------------------------------

@for_each(POLICIES)
def test_a_disk_that_was_never_written(policy):
    for size in 64 * M, 1 * T:
        with serve(f"mem:{size}", policy=policy) as server:
            assert_maps(server.uri, [(0, size, True)])
    with serve(f"null:{G}", policy=policy) as server:
        assert_maps(server.uri, [(0, G, True)])


@for_each(GRID)
def test_maps_are_true(policy, transport):
    size = 64 * M
    written = [(0, 1), (1 * M, 1), (2 * M - 1, 2), (3 * M, PAGE), (4 * M, 2 * PAGE + 1), (10 * M + 100, 5 * M),
               (32 * M + 512, 512), (size - 1, 1)]
    with serve(f"mem:{size}", policy=policy, transport=transport) as server:
        handle = opened(server.uri)
        for offset, length in written:
            handle.pwrite(b"\x5a" * length, offset)
        assert_maps(server.uri, true_map(size, written))
        # Reading a hole does not allocate memory.
        for offset, length in (20 * M, 512), (21 * M, 16 * K), (22 * M, 8 * M):
            assert handle.pread(length, offset) == bytes(length)
        assert_maps(server.uri, true_map(size, written))


@for_each(POLICIES)
def test_what_is_trimmed_or_zeroed_is_a_hole_again(policy):
    size = 64 * M
    with serve(f"mem:{size}", policy=policy) as server:
        handle = opened(server.uri)
        handle.pwrite(b"\x5a" * 32 * M, 0)
        handle.trim(1 * M, 4 * M)
        assert handle.pread(16 * 1024, 4 * M) == bytes(16 * 1024)  # reading allocates no memory
        handle.zero(1 * M, 8 * M)
        handle.zero(1 * M, 12 * M, nbd.CMD_FLAG_NO_HOLE)  # stays allocated
        handle.zero(2 * PAGE, 16 * M + PAGE // 2)  # one whole page, and two halves
        middle = 16 * M + PAGE
        assert_maps(server.uri, true_map(size, [
            (0, 4 * M), (5 * M, 3 * M), (9 * M, middle - 9 * M), (middle + PAGE, 32 * M - middle - PAGE)]))


def test_qemu_io_writes_and_maps_agree():
    qemu_io = find_tool("qemu-io")
    if not qemu_io:
        raise Skip("qemu-io is not installed")
    size, written = 1 * G, [(0, 64 * K), (100 * M, 1 * M), (999 * M, 4 * K)]
    with serve(f"mem:{size}") as server:
        commands = [part for offset, length in written for part in ("-c", f"write -P 7 {offset} {length}")]
        run(qemu_io, "-f", "raw", *commands, server.uri)
        assert_maps(server.uri, true_map(size, written))


# -- the copy ------------------------------------------------------------------------------------------------------------

class Relay:
    """Forwards connections to a server's UNIX socket and counts the bytes in both directions."""

    def __init__(self, server, path):
        self.server, self.uri = server, f"nbd+unix:///?socket={path}"
        self.to_server = self.to_client = 0
        self.lock = threading.Lock()
        self.threads = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(16)
        self.accepting = threading.Thread(target=self.accept, daemon=True)
        self.accepting.start()

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:  # shut down
                return
            upstream = self.server.raw_connection()
            upstream.settimeout(None)
            for ends in (client, upstream, "to_server"), (upstream, client, "to_client"):
                self.threads.append(threading.Thread(target=self.pump, args=ends, daemon=True))
                self.threads[-1].start()

    def pump(self, source, target, counter):
        count, buffer = 0, memoryview(bytearray(M))
        with contextlib.suppress(OSError):
            while received := source.recv_into(buffer):
                count += received
                target.sendall(buffer[:received])
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        with self.lock:
            setattr(self, counter, getattr(self, counter) + count)

    def finish(self):
        """Waits until the clients have disconnected; then the counts are complete."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.accepting.join(PATIENCE)
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a connection through the relay does not end"
        self.listener.close()


def scattered_pieces(disk, data):
    """[(offset, length)]: pieces of random lengths at random offsets, `data` bytes in all."""
    source, lengths = random.Random(64), []
    slot, mean = disk // PIECES, data // PIECES
    for number in range(PIECES // 2):  # each pair has twice the mean length
        length = source.randrange(1, mean)
        lengths += [length, 2 * mean - length]
    return [(number * slot + source.randrange(slot - length), length) for number, length in enumerate(lengths)]


BLOCK = random.Random(1).randbytes(2 * (DATA // PIECES) + PIECES)


def write_pieces(uri, pieces):
    """Writes different bytes to each piece and returns the checksum of all."""
    digest, handle = hashlib.sha256(), opened(uri)
    for number, (offset, length) in enumerate(pieces):
        piece = BLOCK[number:number + length]
        handle.pwrite(piece, offset)
        digest.update(piece)
    handle.shutdown()
    return digest.hexdigest()


def checksum_of_pieces(read, pieces):
    digest = hashlib.sha256()
    for offset, length in pieces:
        digest.update(read(length, offset))
    return digest.hexdigest()


def test_a_copy_transfers_the_data_only():
    pieces = scattered_pieces(DISK, DATA)
    expected = true_map(DISK, pieces)
    with serve(f"mem:{DISK}") as source, serve(f"mem:{DISK}") as target, directory() as where:
        checksum = write_pieces(source.uri, pieces)
        assert map_of_nbdinfo(source.uri) == expected
        out, into = Relay(source, f"{where}/source"), Relay(target, f"{where}/target")
        begin = time.monotonic()
        run(NBDCOPY, out.uri, into.uri)
        seconds = time.monotonic() - begin
        out.finish()
        into.finish()
        print(f"copied {DISK // G} GiB with {DATA // M} MiB of data in {seconds:.1f} s: {out.to_client} bytes from the "
              f"source ({out.to_server} to it), {into.to_server} bytes to the target ({into.to_client} from it)")
        most = DATA + DATA // 50
        assert DATA <= out.to_client <= most and DATA <= into.to_server <= most
        assert out.to_server <= DATA // 50 and into.to_client <= DATA // 50

        assert checksum_of_pieces(opened(target.uri).pread, pieces) == checksum, "the copy differs"
        # Everything outside the pieces is a hole in both, without memory.
        assert map_of_nbdinfo(target.uri) == expected == map_of_nbdinfo(source.uri)
        assert "identical" in run(QEMU_IMG, "compare", "-f", "raw", "-F", "raw", source.uri, target.uri).stdout
        if not SMALL:  # sanitizers allocate memory themselves
            assert target.memory_in_use() <= DATA + PIECES * 2 * PAGE + 64 * M, target.memory_in_use()


def test_a_copy_in_a_file_has_the_holes():
    disk, data = 4 * G, 64 * M
    pieces = [(offset, min(length, data // PIECES)) for offset, length in scattered_pieces(disk, data)]
    with serve(f"mem:{disk}") as source, directory() as where:
        checksum = write_pieces(source.uri, pieces)
        copy = f"{where}/copy"
        run(NBDCOPY, source.uri, copy)
        about = os.stat(copy)
        assert about.st_size == disk
        assert about.st_blocks * 512 <= 2 * data, f"{about.st_blocks} blocks of 512 bytes"
        with open(copy, "rb") as file:
            assert checksum_of_pieces(lambda n, at: os.pread(file.fileno(), n, at), pieces) == checksum
        run(NBDCOPY, copy, source.uri)  # copied over the same data
        assert checksum_of_pieces(opened(source.uri).pread, pieces) == checksum
        assert "identical" in run(QEMU_IMG, "compare", "-f", "raw", "-F", "raw", source.uri, copy).stdout


run_cases(globals())
