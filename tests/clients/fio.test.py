# SPDX-License-Identifier: MIT
"""fio's nbd engine: random load with many requests in flight; every block has a checksum that is verified."""
import json

from support import *

FIO = require_tool("fio", "fio")
if "nbd" not in run(FIO, "--enghelp").stdout.split():
    skip_file("this fio is built without its nbd engine")

SIZE = scaled(64 * M, 16 * M)


def fio(uri, *options):
    with directory() as where:  # fio writes files into its current directory
        done = run(FIO, "--name=job", "--ioengine=nbd", f"--uri={uri}", "--thread", "--output-format=json",
                   "--randrepeat=1", "--verify_state_save=0", *options, cwd=where, status=None)
    assert done.returncode == 0, f"{options}\n{done.stdout[-2000:]}\n{done.stderr}"
    jobs = json.loads(done.stdout[done.stdout.index("{"):])["jobs"]
    assert all(job["error"] == 0 for job in jobs), done.stdout
    return {what: sum(job[what]["io_bytes"] for job in jobs) for what in ("read", "write", "trim")}


VERIFY = ("--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--iodepth=32")


@for_each([(*spot, load, block) for spot in GRID for load, block in (("randwrite", "4k"), ("randrw", "64k"))])
def test_verified(policy, transport, load, block):
    with serve(f"mem:{SIZE}", policy=policy, transport=transport) as server:
        moved = fio(server.uri, *VERIFY, f"--rw={load}", f"--bs={block}", f"--size={SIZE}")
        assert moved["write"] > 0 and moved["read"] >= moved["write"], moved


@for_each(GRID)
def test_verified_while_it_is_written(policy, transport):
    """Alternating reads and writes of the same disk, with flushes."""
    with serve(f"mem:{SIZE}", policy=policy, transport=transport) as server:
        moved = fio(server.uri, *VERIFY, "--rw=randwrite", "--bssplit=4k/60:16k/30:256k/10", f"--size={SIZE}",
                    "--verify_backlog=64", "--fsync=50")
        assert moved["write"] == SIZE and moved["read"] > 0, moved


@for_each(GRID)
def test_jobs_on_regions_of_their_own(policy, transport):
    jobs = 4
    with serve(f"mem:{SIZE}", policy=policy, transport=transport) as server:
        moved = fio(server.uri, *VERIFY, "--rw=randwrite", "--bs=8k", f"--numjobs={jobs}", f"--size={SIZE // jobs}",
                    f"--offset_increment={SIZE // jobs}")
        assert moved["write"] == SIZE, moved


@for_each(GRID)
def test_trim(policy, transport):
    with serve(f"mem:{SIZE}", policy=policy, transport=transport) as server:
        moved = fio(server.uri, "--rw=randtrim", "--bs=64k", "--iodepth=32", f"--size={SIZE}")
        assert moved["trim"] == SIZE, moved
        moved = fio(server.uri, "--rw=trimwrite", "--bs=64k", "--iodepth=32", f"--size={SIZE}")
        assert moved["trim"] > 0 and moved["write"] > 0, moved


@for_each(POLICIES)
def test_null(policy):
    with serve(f"null:{SIZE}", policy=policy) as server:
        moved = fio(server.uri, "--rw=randrw", "--bs=4k", "--iodepth=64", f"--size={SIZE}")
        assert moved["read"] + moved["write"] == SIZE, moved


run_cases(globals())
