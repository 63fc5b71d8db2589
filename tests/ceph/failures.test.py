# SPDX-License-Identifier: MIT
"""An OSD that is killed under load, and servers that are killed under writes, with three OSDs that keep two copies.

NBD_TEST_SEED=N repeats the random choices of a run. The timing still differs.
"""
import random

from ceph import *
from promises import *

require_program("NBD_SERVE")
SEED = int(os.environ.get("NBD_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
KILLS = 25  # for each policy
CLUSTER = Cluster(osds=3)


def osds_up():
    return json.loads(run("ceph", "osd", "stat", "-f", "json").stdout)["num_up_osds"]


@takes(400)
@for_each(POLICIES)
def test_an_osd_is_killed_under_load(policy):
    """fio sees no error and no difference; requests wait until the cluster goes on."""
    image = Image(128 * M)
    with image.served(policy=policy) as server, directory() as where:
        # 40 seconds, and as long as requests wait.
        load = subprocess.Popen(fio_command(server.uri, "--rw=randwrite", "--bs=16k", f"--size={image.size}",
                                            "--rate_iops=,200", "--verify_backlog=256", "--fsync=200"),
                                cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                preexec_fn=end_with_parent)
        try:
            wait_until(lambda: image.used() > 16 * M, "some writes")
            CLUSTER.do("kill-osd", 1)
            wait_until(lambda: osds_up() == 2, "that the OSD is missed", seconds=60)
            CLUSTER.do("start-osd", 1)
            wait_until(lambda: osds_up() == 3, "that the OSD is back", seconds=60)
            assert load.poll() is None, f"the load has ended before: {load.communicate()}"
            told = load.communicate(timeout=200)
        finally:
            load.kill()
        moved = check_fio(load.returncode, *told)
        assert moved["write"] == image.size and moved["read"] >= image.size, moved


@takes(600)
@for_each(POLICIES)
def test_servers_killed_under_writes(policy):
    """Nothing that was acknowledged and flushed is lost."""
    source = random.Random(f"{SEED} {policy}")
    numbers = iter(range(1, 1 << 60))
    replies = promises = promised = 0
    image = Image(BLOCKS * BLOCK)
    with directory() as where:
        disk = Disk(f"{where}/disk")
        for kill in range(KILLS):
            with image.served(policy=policy) as server:
                load = Load(server, disk, source, numbers)
                server.expected_status = -signal.SIGKILL
                load.run()
                assert load.replies >= load.kill_after, "the server ended before it was killed"
                load.killer.join()
                server.process.wait()
            image.fence()
            with open(disk.path, "wb") as file:
                file.write(image.content())
            try:
                promised += disk.check(keeps_acknowledged=False)
            except AssertionError:
                print(f"after kill {kill} of a run with NBD_TEST_SEED={SEED}", flush=True)
                raise
            replies += load.replies
            promises += load.promises
    print(f"{KILLS} kills: {replies} replies, {promises} of them to flush or FUA; {promised} durable blocks were checked")
    assert promises > 5 * KILLS and promised > 20 * KILLS, "too few durable blocks for a meaningful test"


run_cases(globals())
