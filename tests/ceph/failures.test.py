# SPDX-License-Identifier: MIT
"""An OSD that is killed under load, and servers that are killed under writes, with three OSDs that keep two copies.
Takes minutes."""
from ceph import *

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
    kill_servers(policy, 25)


run_cases(globals())
