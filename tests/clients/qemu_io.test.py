# SPDX-License-Identifier: MIT
"""qemu-io: each command that reaches an NBD server, and what is read afterwards."""
from support import *

QEMU_IO = require_tool("qemu-io", "qemu-utils")


def qemu_io(uri, *commands, options=(), failing=False):
    words = [word for command in commands for word in ("-c", command)]
    done = run(QEMU_IO, "-f", "raw", *options, *words, uri, status=None)
    said = done.stdout + done.stderr
    bad = done.returncode != 0 or "verification failed" in said or "failed" in said
    assert bad == failing, f"{commands} ended with {done.returncode}\n{said}"
    return said


@for_each([(*spot, cache) for spot in GRID for cache in ("none", "writeback", "writethrough")])
def test_full_run(policy, transport, cache):
    with serve("mem:64M", "--name", "disk", policy=policy, transport=transport) as server:
        qemu_io(server.uri,
                "length",
                "read -P 0 0 1M",
                "write -P 0xab 0 64k", "read -P 0xab 0 64k",
                "write -P 0xcd 1 511", "read -P 0xcd 1 511", "read -P 0xab 512 512", "read -P 0xab 0 1",
                "write -P 0x11 1M 32M", "read -P 0x11 1M 32M",
                "write -f -P 0x22 2M 1M", "read -P 0x22 2M 1M",
                "write -z 2M 64k", "read -P 0 2M 64k", "read -P 0x22 2162688 64k",
                "write -z -u 3M 1M", "read -P 0 3M 1M", "read -P 0x11 4M 64k",
                "write -z -f 4M 4k", "read -P 0 4M 4k",
                "write -z -u -f 4198400 100", "read -P 0 4198400 100", "read -P 0x11 4198500 100",
                "discard 5M 1M", "read -P 0x11 6M 64k", "read -P 0x11 4300800 64k",
                "flush",
                "writev -P 0x33 8M 4k 8k 512 1", "readv -P 0x33 8M 1 512 8k 4k",
                "write -P 0x44 67108352 512", "read -P 0x44 67108352 512",
                options=("-t", cache))


@for_each(GRID)
def test_many_in_flight(policy, transport):
    with serve("mem:64M", policy=policy, transport=transport) as server:
        places = [(number + 1, f"{number * 512}k") for number in range(100)]
        qemu_io(server.uri,
                *[f"aio_write -P {pattern} {place} 256k" for pattern, place in places],
                "aio_flush",
                *[f"aio_read -P {pattern} {place} 256k" for pattern, place in places],
                "aio_flush",
                *[f"aio_write -z {place} 64k" for _, place in places],
                "aio_flush",
                *[f"aio_read -P 0 {place} 64k" for _, place in places],
                "aio_flush",
                "flush",
                *[f"read -P {pattern} {int(place[:-1]) + 64}k 192k" for pattern, place in places])


@for_each(GRID)
def test_zero_only_if_it_is_fast(policy, transport):
    """Success and refusal are both allowed; what is read afterwards must match."""
    with serve("mem:1M", policy=policy, transport=transport) as server:
        done = run(QEMU_IO, "-f", "raw", "-c", "write -P 0x55 0 128k", "-c", "write -z -n 0 64k", server.uri, status=None)
        refused = "Operation not supported" in done.stdout + done.stderr
        assert refused or "wrote 65536/65536" in done.stdout.split("\n", 2)[2], done
        qemu_io(server.uri, f"read -P {'0x55' if refused else '0'} 0 64k", "read -P 0x55 64k 64k")


@for_each(POLICIES)
def test_keeps_what_was_written_for_the_next_client(policy):
    with serve("mem:1M", policy=policy) as server:
        qemu_io(server.uri, "write -P 0x77 0 1M")
        qemu_io(server.uri, "read -P 0x77 0 1M")
        qemu_io(server.uri, "read -P 0x78 0 1M", failing=True)  # proves that `read -P` detects a difference


def test_blocks_of_4096():
    """qemu uses the block size: it reads, modifies and writes whole blocks."""
    with serve("mem:1M", "--block-size", "4096:4096:1M") as server:
        qemu_io(server.uri, "write -P 0x11 0 64k", "write -P 0x22 100 100", "read -P 0x22 100 100",
                "read -P 0x11 0 100", "read -P 0x11 200 10000", "write -P 0x33 0 1M", "read -P 0x33 0 1M")


def test_read_only():
    with serve("mem:1M", "--read-only") as server:
        qemu_io(server.uri, "write -P 1 0 4k", failing=True)
        qemu_io(server.uri, "read -P 0 0 1M", options=("-r",))


run_cases(globals())
