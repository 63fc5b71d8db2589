# SPDX-License-Identifier: MIT
"""qemu-img: copying and comparing images, and a qcow2 image on a disk of nbd-serve."""
import json
import random

from support import *

QEMU_IMG = require_tool("qemu-img", "qemu-utils")

SIZE = scaled(64 * M, 16 * M)
WORK = tempfile.TemporaryDirectory(prefix="nbd.")
IMAGE = f"{WORK.name}/image.raw"
COPY = f"{WORK.name}/copy"


def make_image():
    """Makes a file of alternating data and holes of random lengths."""
    source = random.Random(4)
    with open(IMAGE, "wb") as file:
        file.truncate(SIZE)
        offset = 0
        while offset < SIZE:
            length = min(source.randrange(1, M), SIZE - offset)
            if source.random() < 0.5:
                file.seek(offset)
                file.write(source.randbytes(length))
            offset += length


make_image()


def qemu_img(*arguments, status=0):
    return run(QEMU_IMG, *arguments, status=status).stdout


def assert_same(first, second):
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "raw", first, second)


@for_each(GRID)
def test_convert_in_and_out(policy, transport):
    with serve(f"mem:{SIZE}", policy=policy, transport=transport) as server:
        qemu_img("convert", "-n", "-f", "raw", "-O", "raw", IMAGE, server.uri)
        assert_same(IMAGE, server.uri)
        qemu_img("convert", "-f", "raw", "-O", "raw", server.uri, COPY)
        assert_same(IMAGE, COPY)


@for_each([(policy, options) for policy in POLICIES for options in ("-m 16 -W", "-t none -T none", "-S 0", "-p -r 100M")])
def test_options(policy, options):
    with serve(f"mem:{SIZE}", policy=policy, transport="tcp") as server:
        qemu_img("convert", *options.split(), "-n", "-f", "raw", "-O", "raw", IMAGE, server.uri)
        assert_same(server.uri, IMAGE)


def test_compare_finds_a_difference():
    with serve(f"mem:{SIZE}") as one, serve(f"mem:{SIZE}") as other:
        qemu_img("convert", "-n", "-f", "raw", "-O", "raw", IMAGE, one.uri)
        qemu_img("convert", "-n", "-f", "raw", "-O", "raw", one.uri, other.uri)
        assert_same(one.uri, other.uri)
        with open(IMAGE, "rb") as file:
            file.seek(SIZE - 1)
            last = file.read(1)[0]
        qemu_io = find_tool("qemu-io")
        if not qemu_io:
            raise Skip("qemu-io is not installed")
        run(qemu_io, "-f", "raw", "-c", f"write -P {last ^ 1} {SIZE - 512} 512", other.uri)
        assert "mismatch" in qemu_img("compare", "-f", "raw", "-F", "raw", one.uri, other.uri, status=1)


@for_each(TRANSPORTS)
def test_info_and_map(transport):
    with serve(f"mem:{SIZE}", "--name", "my disk", transport=transport) as server:
        info = json.loads(qemu_img("info", "--output=json", server.uri))
        assert info["virtual-size"] == SIZE and info["format"] == "raw", info
        parts = json.loads(qemu_img("map", "--output=json", "-f", "raw", server.uri))
        assert sum(part["length"] for part in parts) == SIZE, parts


@for_each(GRID)
def test_bench(policy, transport):
    with serve(f"mem:{SIZE}", policy=policy, transport=transport) as server:
        count = str(scaled(5000, 1000))
        for options in (["-d", "1"], ["-d", "64"], ["-d", "64", "-w"], ["-d", "16", "-w", "--flush-interval=64", "-s", "65536"]):
            assert "Run completed" in qemu_img("bench", "-c", count, "-f", "raw", *options, server.uri)


@for_each(POLICIES)
def test_qcow2_on_our_disk(policy):
    """qcow2 keeps its own tables on the disk: small writes and flushes in a defined order."""
    with serve(f"mem:{SIZE * 2}", policy=policy) as server:
        qemu_img("create", "-f", "qcow2", server.uri, str(SIZE))
        qemu_img("convert", "-n", "-f", "raw", "-O", "qcow2", IMAGE, server.uri)
        assert "No errors were found" in qemu_img("check", "-f", "qcow2", server.uri)
        qemu_img("convert", "-f", "qcow2", "-O", "raw", server.uri, COPY)
        assert_same(IMAGE, COPY)


def test_read_only():
    with serve(f"mem:{SIZE}", "--read-only") as server:
        qemu_img("convert", "-n", "-f", "raw", "-O", "raw", IMAGE, server.uri, status=1)
        qemu_img("convert", "-f", "raw", "-O", "raw", server.uri, COPY)


run_cases(globals())
