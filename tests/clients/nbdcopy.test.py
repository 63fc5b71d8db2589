# SPDX-License-Identifier: MIT
"""nbdcopy: copies a real ext4 image to a server and back, with each of its options."""
import hashlib
import random

from support import *

NBDCOPY = require_tool("nbdcopy", "libnbd-bin")
MKE2FS = require_tool("mke2fs", "e2fsprogs")
E2FSCK = require_tool("e2fsck", "e2fsprogs")

LARGE = scaled(256 * M, 64 * M)
MEDIUM = scaled(64 * M, 32 * M)


def write_tree(root, image_size):
    """Makes files of many sizes, holes, links and long names; the same on every run."""
    source = random.Random(2026)
    remaining = image_size // 4
    for number in range(400):
        size = min(source.choice([0, 1, 100, 4095, 4096, 10_000, 100_000, 1_000_000]), remaining)
        remaining -= size
        folder = f"{root}/{number % 7}/{number % 3}"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/{'n' * source.randrange(1, 200)}.{number}", "wb") as file:
            file.write(source.randbytes(size))
    with open(f"{root}/holes", "wb") as file:
        for _ in range(20):
            file.seek(source.randrange(image_size // 4))
            file.write(b"not a hole")
    os.symlink("holes", f"{root}/link")


def checksum(path):
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(4 * M):
            digest.update(block)
    return digest.hexdigest()


WORK = tempfile.TemporaryDirectory(prefix="nbd.")
COPY = f"{WORK.name}/copy.img"


class Image:
    """A disk image with an ext4 file system full of files."""

    def __init__(self, size):
        self.size = size
        self.path = f"{WORK.name}/ext4.{size}"
        with tempfile.TemporaryDirectory() as tree:
            write_tree(tree, size)
            run(MKE2FS, "-q", "-t", "ext4", "-d", tree, self.path, f"{size // K}K")
        self.checksum = checksum(self.path)

    def assert_same(self, path):
        assert os.path.getsize(path) == self.size
        assert checksum(path) == self.checksum, "the copy differs"


def fresh_copy():
    with contextlib.suppress(FileNotFoundError):
        os.unlink(COPY)
    return COPY


LARGE_IMAGE = Image(LARGE)
IMAGE = Image(MEDIUM)


@for_each(GRID)
def test_round_trip(policy, transport):
    with serve(f"mem:{LARGE_IMAGE.size}", transport=transport, policy=policy) as server:
        run(NBDCOPY, "--flush", LARGE_IMAGE.path, server.uri)
        run(NBDCOPY, server.uri, fresh_copy())
    LARGE_IMAGE.assert_same(COPY)
    run(E2FSCK, "-fn", COPY)


@for_each([(policy, options) for policy in POLICIES for options in (
    "--connections=4 --requests=64",
    "--connections=4 --threads=4",
    "--connections=1 --requests=1",
    "--synchronous",
    "--no-extents --sparse=0",
    "--request-size=65536 --requests=64",
    "--request-size=33554432 --requests=4",
)])
def test_options(policy, options):
    with serve(f"mem:{IMAGE.size}", policy=policy) as server:
        run(NBDCOPY, *options.split(), IMAGE.path, server.uri)
        run(NBDCOPY, *options.split(), server.uri, fresh_copy())
    IMAGE.assert_same(COPY)


@for_each(POLICIES)
def test_from_server_to_server(policy):
    with serve(f"mem:{IMAGE.size}", policy=policy) as source:
        with serve(f"mem:{IMAGE.size}", transport="tcp", policy=policy) as target:
            run(NBDCOPY, IMAGE.path, source.uri)
            run(NBDCOPY, source.uri, target.uri)
            run(NBDCOPY, target.uri, fresh_copy())
    IMAGE.assert_same(COPY)


def test_pipes():
    with serve(f"mem:{IMAGE.size}") as server:
        with open(IMAGE.path, "rb") as source:
            run(NBDCOPY, "-", server.uri, stdin=source)
        with open(fresh_copy(), "wb") as target:
            run(NBDCOPY, server.uri, "-", stdout=target)
    IMAGE.assert_same(COPY)


@for_each([(policy, options) for policy in POLICIES for options in ("", "--allocated", "--synchronous")])
def test_holes_replace_what_was_there(policy, options):
    """A sparse image copied over other data: every hole must read as zeroes."""
    size = 8 * M
    dirt, sparse = f"{WORK.name}/dirt", f"{WORK.name}/sparse"
    with open(dirt, "wb") as file:
        file.write(b"\xff" * size)
    with open(sparse, "wb") as file:
        file.truncate(size)
        for place in (0, 1_000_000, 5_000_001, size - 10):
            file.seek(place)
            file.write(b"0123456789")
    with serve(f"mem:{size}", policy=policy) as server:
        run(NBDCOPY, dirt, server.uri)
        run(NBDCOPY, *options.split(), sparse, server.uri)
        run(NBDCOPY, server.uri, fresh_copy())
    assert checksum(COPY) == checksum(sparse)


def test_an_odd_size():
    odd = f"{WORK.name}/odd"
    with open(odd, "wb") as file:
        file.write(random.Random(1).randbytes(1_234_567))
    with serve("mem:1234567") as server:
        run(NBDCOPY, odd, server.uri)
        run(NBDCOPY, server.uri, fresh_copy())
    assert checksum(COPY) == checksum(odd)


def test_image_too_large_for_the_disk():
    with serve("mem:1M") as server:
        done = run(NBDCOPY, IMAGE.path, server.uri, status=None)
        assert done.returncode != 0 and done.stderr
        run(NBDCOPY, server.uri, "null:")


def test_read_only():
    with serve(f"mem:{IMAGE.size}", "--read-only") as server:
        assert run(NBDCOPY, IMAGE.path, server.uri, status=None).returncode != 0
        run(NBDCOPY, server.uri, "null:")


@for_each(POLICIES)
def test_null(policy):
    """A null disk accepts an image and reads as zeroes."""
    with serve(f"null:{IMAGE.size}", transport="tcp", policy=policy) as server:
        run(NBDCOPY, IMAGE.path, server.uri)
        run(NBDCOPY, server.uri, fresh_copy())
    with open(COPY, "rb") as file:
        while block := file.read(4 * M):
            assert block.count(0) == len(block)


run_cases(globals())
