# SPDX-License-Identifier: MIT
"""Images of Ceph through nbd-serve: every command, sizes, holes, snapshots and the exclusive lock."""
import errno
import random

from ceph import *

nbd = require_libnbd()
CLUSTER = Cluster()
OBJECT = 4 * M
DIFF = "nbd-cpp:rbd-snap-diff:"


@contextlib.contextmanager
def connected(server, *contexts):
    client = nbd.NBD()
    for context in contexts:
        client.add_meta_context(context)
    client.connect_uri(server.uri)
    try:
        yield client
    finally:
        with contextlib.suppress(nbd.Error):
            client.shutdown()


def error_of(call, *arguments):
    """The error number that a call of libnbd fails with."""
    try:
        call(*arguments)
    except nbd.Error as error:
        return error.errnum
    return 0


def extents(client, context, length, offset=0):
    """[(offset, length, flags)] of a range; neighbours of the same status are joined."""
    found = []

    def note(name, at, entries, error):
        if name == context:
            for size, flags in zip(entries[::2], entries[1::2]):
                if found and found[-1][2] == flags:
                    found[-1] = (found[-1][0], found[-1][1] + size, flags)
                else:
                    found.append((at, size, flags))
                at += size
    while offset < length:
        client.block_status(length - offset, offset, note)
        assert found and sum(found[-1][:2]) > offset, "no progress"
        offset = sum(found[-1][:2])
    return found


def scattered(size, seed):
    """Random data with holes of whole objects, and a hole inside an object."""
    source = random.Random(seed)
    content = bytearray(size)
    for start in range(0, size, OBJECT):
        if source.random() < 0.4:
            content[start:start + OBJECT] = source.randbytes(OBJECT)
        elif source.random() < 0.5:
            at = start + source.randrange(OBJECT - 5000)
            content[at:at + 5000] = source.randbytes(5000)
    return bytes(content)


def write_file(path, content):
    """A file with holes where the content is zero."""
    with open(path, "wb") as file:
        file.truncate(len(content))
        for at in range(0, len(content), 4 * K):
            piece = content[at:at + 4 * K]
            if piece.count(0) != len(piece):
                file.seek(at)
                file.write(piece)


def read_file(path):
    with open(path, "rb") as file:
        return file.read()


@for_each(POLICIES)
def test_fio(policy):
    image = Image(64 * M)
    with image.served(policy=policy) as server:
        moved = fio(server.uri, "--rw=randwrite", "--bssplit=4k/50:16k/30:256k/20", f"--size={64 * M}", "--verify_backlog=64",
                    "--fsync=100")
        assert moved["write"] == 64 * M and moved["read"] > 0, moved


@for_each(POLICIES)
def test_copy(policy):
    """What was copied to the server is what `rbd export` finds and what is copied back."""
    content = scattered(48 * M, policy)
    image = Image(len(content))
    with directory() as where:
        write_file(f"{where}/in", content)
        with image.served(policy=policy) as server:
            run(NBDCOPY, "--flush", f"{where}/in", server.uri)
            assert image.content() == content
            run(NBDCOPY, server.uri, f"{where}/out")
        assert read_file(f"{where}/out") == content


@for_each(POLICIES)
def test_a_sparse_copy_keeps_holes(policy):
    content = bytearray(128 * M)
    places = range(0, 128 * M, 32 * M)
    for at in places:
        content[at:at + 64 * K] = b"x" * 64 * K
    image = Image(len(content))
    with directory() as where:
        write_file(f"{where}/in", content)
        with image.served(policy=policy) as server:
            run(NBDCOPY, "--flush", f"{where}/in", server.uri)
            with connected(server, "base:allocation") as client:
                found = extents(client, "base:allocation", len(content))
            assert found == [extent for at in places for extent in ((at, OBJECT, 0), (at + OBJECT, 32 * M - OBJECT, 3))], found
            run(NBDCOPY, server.uri, f"{where}/out")
        assert image.used() == len(places) * OBJECT
        assert read_file(f"{where}/out") == content
        assert os.stat(f"{where}/out").st_blocks * 512 <= len(places) * OBJECT


@for_each([("exclusive-lock,layering", ()), ("exclusive-lock,layering,striping", ("--stripe-unit", 64 * K, "--stripe-count", 4))])
def test_holes_without_an_object_map(features, options):
    """What is written is never reported as a hole, and objects that do not exist are."""
    image = Image(64 * M, "--image-feature", features, *options)
    source = random.Random(features)
    with image.served() as server, connected(server, "base:allocation") as client:
        preferred = client.get_block_size(nbd.SIZE_PREFERRED)
        assert preferred == (64 * K if options else OBJECT), preferred
        content = bytearray(image.size)
        for _ in range(5):
            at, length = source.randrange(image.size - 100 * K), source.randrange(1, 100 * K)
            content[at:at + length] = source.randbytes(length)
            client.pwrite(bytes(content[at:at + length]), at)
        client.flush()
        found = extents(client, "base:allocation", image.size)
        assert sum(length for _, length, _ in found) == image.size
        for at, length, flags in found:
            assert flags == 0 or content[at:at + length].count(0) == length, (at, length, flags)
        assert sum(length for _, length, flags in found if flags == 3) > image.size // 16, found
        assert image.content() == content


def test_zeroes_and_trim():
    image = Image(64 * M)
    with image.served() as server, connected(server, "base:allocation") as client:
        client.pwrite(b"x" * 4 * M, 0)
        client.pwrite(b"x" * 4 * M, 8 * M, nbd.CMD_FLAG_FUA)
        client.zero(4 * M, 0)
        client.zero(4 * M, 16 * M, nbd.CMD_FLAG_NO_HOLE)
        client.zero(4 * M, 24 * M, nbd.CMD_FLAG_FAST_ZERO)
        client.trim(4 * M, 8 * M, nbd.CMD_FLAG_FUA)
        client.flush()
        assert error_of(client.zero, 4 * M, 16 * M, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO) == errno.ENOTSUP
        assert extents(client, "base:allocation", image.size) == [
            (0, 16 * M, 3), (16 * M, 4 * M, 0), (20 * M, 44 * M, 3)]
    assert image.content() == bytes(image.size)


@for_each(POLICIES)
def test_a_new_size_is_seen_by_clients_that_connect_afterwards(policy):
    image = Image(32 * M)
    with image.served(policy=policy) as server, connected(server) as early:
        image.resize(64 * M)
        with connected(server) as later:
            assert later.get_size() == 64 * M
            later.pwrite(b"end!", 64 * M - 4)
            assert later.pread(4, 64 * M - 4) == b"end!"
        assert early.get_size() == 32 * M
        assert early.pread(4, 32 * M - 4) == bytes(4)
        image.resize(16 * M)
        # The range is in the export that this client has opened.
        assert error_of(early.pread, 4 * K, 24 * M) in (errno.EIO, errno.ENOSPC)
        assert error_of(early.pwrite, b"x" * 4 * K, 24 * M) in (errno.EIO, errno.ENOSPC)
        assert early.pread(4, 0) == bytes(4)
        with connected(server) as later:
            assert later.get_size() == 16 * M


def why_not_served(disk, *options, conf=CLUSTER.conf, status=1):
    with directory() as where:
        return run(require_program("NBD_SERVE"), disk, "--unix", f"{where}/s", "--ceph-conf", conf, *options, status=status).stderr


def test_a_second_writer():
    image = Image(32 * M)
    with image.served() as server, connected(server) as client:
        client.pwrite(b"first", 0)
        client.flush()
        said = why_not_served(f"rbd:{image.name}")
        assert "exclusive lock: Device or resource busy" in said, said
        # One that would take turns does not get the lock.
        with image.served("--lock", "shared") as other, connected(other) as second:
            assert second.pread(5, 0) == b"first"
            assert error_of(second.pwrite, b"second", 0) == errno.EPERM
        with image.served("--read-only") as other, connected(other) as reader:
            assert reader.is_read_only() and reader.pread(5, 0) == b"first"
        client.pwrite(b"third", 0)
    with image.served() as server, connected(server) as client:
        assert client.pread(5, 0) == b"third"


def test_writers_that_take_turns():
    image = Image(32 * M)
    with image.served("--lock", "shared") as one, image.served("--lock", "shared") as other:
        with connected(one) as first, connected(other) as second:
            for number in range(10):
                first.pwrite(b"%8d" % number, 0)
                first.flush()
                assert second.pread(8, 0) == b"%8d" % number
                second.pwrite(b"%8d" % number, 8)
                second.flush()
                assert first.pread(8, 8) == b"%8d" % number


@for_each(POLICIES)
def test_a_server_that_was_fenced_never_writes_again(policy):
    image = Image(32 * M)
    with image.served(policy=policy) as old, connected(old) as client:
        client.pwrite(b"old", 0)
        client.flush()
        addresses = image.fence()
        assert error_of(client.pwrite, b"late", 0) == errno.ESHUTDOWN
        with image.served(policy=policy) as new, connected(new) as other:
            other.pwrite(b"new", 0)
            other.flush()
            assert error_of(client.pwrite, b"late", 0) == errno.ESHUTDOWN
        # Nobody has the lock now, and the blocklist forgets.
        for address in addresses:
            run("ceph", "osd", "blocklist", "rm", address)
        for call in ((client.pwrite, b"late", 0), (client.pread, 4, 0), (client.flush,), (client.zero, 4 * K, 0)):
            assert error_of(*call) == errno.ESHUTDOWN, call
        with connected(old) as again:
            assert error_of(again.pwrite, b"late", 0) == errno.ESHUTDOWN
    assert image.content()[:4] == b"new\0"


@takes(300)
def test_servers_that_were_killed():
    """Their locks are free when the cluster has missed them for half a minute; a busy cluster needs longer."""
    images = [Image(32 * M) for _ in POLICIES]
    for image, policy in zip(images, POLICIES):
        with image.served(policy=policy) as server, connected(server) as client:
            client.pwrite(b"kept", 0, nbd.CMD_FLAG_FUA)
            server.expected_status = -signal.SIGKILL
            server.process.kill()
    wait_until(lambda: not any(image.clients() for image in images), "that the cluster misses the servers", seconds=240)
    for image, policy in zip(images, POLICIES):
        with image.served(policy=policy) as server, connected(server) as client:
            assert client.pread(4, 0) == b"kept"
            client.pwrite(b"next", 0)


@for_each(POLICIES)
def test_servers_killed_under_writes(policy):
    kill_servers(policy, 3)


@for_each(POLICIES)
def test_snapshots(policy):
    """An incremental backup: the old snapshot and what has changed since then give the new one."""
    image = Image(64 * M)
    with image.served(policy=policy) as server, connected(server) as client:
        client.pwrite(scattered(32 * M, 1), 0)
        client.flush()
        image.take_snapshot("monday")
        client.pwrite(b"new" * 5000, 5 * M + 123)
        client.pwrite(b"new" * 5000, 40 * M)
        client.zero(OBJECT, 8 * M)
        client.flush()
        image.take_snapshot("tuesday")
        client.pwrite(b"not in the backup", 0)

    with image.served(snapshot="tuesday", policy=policy) as server:
        contexts = json.loads(run(NBDINFO, "--json", server.uri).stdout)["exports"][0]["contexts"]
        assert contexts == ["base:allocation", DIFF + "monday"], contexts
        with connected(server, "base:allocation", DIFF + "monday") as client:
            assert client.is_read_only()
            assert error_of(client.pwrite, b"x", 0) == errno.EPERM
            backup = bytearray(image.content("monday"))
            changed = 0
            for at, length, flags in extents(client, DIFF + "monday", image.size):
                if flags & 1:
                    changed += length
                    backup[at:at + length] = bytes(length) if flags & 2 else client.pread(length, at)
            assert backup == image.content("tuesday")
            assert 30_000 <= changed <= 3 * OBJECT, changed
            zeroed = [e for e in extents(client, DIFF + "monday", image.size) if e[2] == 3]
            assert zeroed == [] or zeroed == [(8 * M, OBJECT, 3)], zeroed
    with image.served() as server:
        contexts = json.loads(run(NBDINFO, "--json", server.uri).stdout)["exports"][0]["contexts"]
        assert contexts == ["base:allocation", DIFF + "monday", DIFF + "tuesday"], contexts


def test_a_clone():
    """What a clone has from its parent is data, also where a range does not begin with an object (librbd before 16.2.8
    reports wrong offsets there)."""
    parent = Image(32 * M)
    with parent.served() as server, connected(server) as client:
        client.pwrite(b"p" * 6 * M, 6 * M)
        client.flush()
    parent.take_snapshot("base")
    run("rbd", "snap", "protect", f"{parent.name}@base")
    run("rbd", "clone", f"{parent.name}@base", "rbd/clone")
    child = Image.__new__(Image)
    child.name, child.size = "rbd/clone", parent.size
    with child.served() as server, connected(server, "base:allocation") as client:
        client.pwrite(b"c" * 4 * K, 20 * M)
        client.flush()
        content = child.content()
        for start in (0, 5 * M, 9 * M + 512, 11 * M):
            for at, length, flags in extents(client, "base:allocation", child.size, start):
                assert flags == 0 or content[at:at + length].count(0) == length, (start, at, length, flags)
        assert content[6 * M:12 * M] == b"p" * 6 * M and content[20 * M:20 * M + 4 * K] == b"c" * 4 * K


def test_the_texts_of_errors():
    image = Image(8 * M, "--image-feature", "layering")
    for disk, options, expected in (
            ("rbd:rbd/nosuch", (), "rbd:rbd/nosuch: image: No such file or directory"),
            (f"rbd:{image.name}@nosuch", (), "image or snapshot: No such file or directory"),
            ("rbd:nosuch/image", (), "pool nosuch: No such file or directory"),
            (f"rbd:{image.name}", (), "the image does not have the feature exclusive-lock")):
        said = why_not_served(disk, *options)
        assert expected in said and "--create" not in said, said
    said = why_not_served(f"rbd:{image.name}", conf="/nonexistent/ceph.conf")
    assert "configuration /nonexistent/ceph.conf: No such file or directory" in said, said
    with image.served("--lock", "off") as server, connected(server) as client:
        client.pwrite(b"x", 0)


run_cases(globals())
