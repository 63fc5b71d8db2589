# SPDX-License-Identifier: MIT
"""A Ceph cluster for the tests of rbd_backend, and images in it."""
import atexit
import json
import pathlib
import random

from promises import *
from support import *

SCRIPT = pathlib.Path(__file__).resolve().parent / "cluster.sh"
for tool, package in (("ceph-mon", "ceph-mon"), ("ceph-osd", "ceph-osd"), ("ceph-mgr", "ceph-mgr"), ("rbd", "ceph-common")):
    require_tool(tool, package)
FIO = require_tool("fio", "fio")
NBDCOPY = require_tool("nbdcopy", "libnbd-bin")
NBDINFO = require_tool("nbdinfo", "libnbd-bin")
if "without librbd" in subprocess.run([require_program("NBD_SERVE"), "rbd:pool/image", "--ceph-conf", "/nonexistent"],
                                      stderr=subprocess.PIPE, text=True).stderr:
    skip_file("nbd-serve was built without librbd (Debian package librbd-dev)")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """Runs until this process ends."""

    def __init__(self, osds=1):
        where = tempfile.mkdtemp(prefix="nbd-ceph.")
        self.folder, self.conf = f"{where}/cluster", f"{where}/cluster/ceph.conf"
        os.environ["CEPH_CONF"] = self.conf
        atexit.register(shutil.rmtree, where, ignore_errors=True)
        begin = time.monotonic()
        atexit.register(self.do, "stop")
        self.do("start", "--osds", osds, "--port", free_port(), "--with", os.getpid())
        print(f"a cluster of {osds} OSD{'s' * (osds > 1)}, started in {time.monotonic() - begin:.0f} s", flush=True)

    def do(self, action, *arguments):
        run("sh", SCRIPT, action, self.folder, *arguments, timeout=120)


class Image:
    """A new image of the pool rbd."""
    count = 0

    def __init__(self, size, *options):
        Image.count += 1
        self.size, self.name = size, f"rbd/image{Image.count}"
        run("rbd", "create", self.name, "--size", f"{size // M}M", *options)

    @contextlib.contextmanager
    def served(self, *options, policy=None, snapshot=None, **how):
        disk = f"rbd:{self.name}" + (f"@{snapshot}" if snapshot else "")
        with serve(disk, "--ceph-conf", os.environ["CEPH_CONF"], *options, policy=policy, **how) as server:
            yield server

    def content(self, snapshot=None):
        with directory() as where:
            run("rbd", "export", "--no-progress", self.name + (f"@{snapshot}" if snapshot else ""), f"{where}/image")
            with open(f"{where}/image", "rb") as file:
                return file.read()

    def take_snapshot(self, name):
        run("rbd", "snap", "create", "--no-progress", f"{self.name}@{name}")

    def used(self):
        """Bytes of the objects that exist."""
        return json.loads(run("rbd", "du", "--format", "json", self.name).stdout)["images"][-1]["used_size"]

    def resize(self, size):
        run("rbd", "resize", "--no-progress", "--allow-shrink", "--size", f"{size // M}M", self.name)

    def clients(self):
        """The addresses of the clients that have the image open."""
        status = json.loads(run("rbd", "status", "--format", "json", self.name).stdout)
        return [watcher["address"] for watcher in status["watchers"]]

    def fence(self):
        """Puts the present clients on the cluster's blocklist, as a program that watches over servers would. Otherwise the
        lock of a client that was killed is free after half a minute. Returns their addresses."""
        addresses = self.clients()
        for address in addresses:
            run("ceph", "osd", "blocklist", "add", address)
        return addresses


def fio_command(uri, *options):
    return [FIO, "--name=job", "--ioengine=nbd", f"--uri={uri}", "--thread", "--output-format=json", "--randrepeat=1",
            "--verify_state_save=0", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--iodepth=32", *options]


def check_fio(status, stdout, stderr):
    assert status == 0, f"{stdout[-2000:]}\n{stderr}"
    jobs = json.loads(stdout[stdout.index("{"):])["jobs"]
    assert all(job["error"] == 0 for job in jobs), stdout
    return {what: sum(job[what]["io_bytes"] for job in jobs) for what in ("read", "write")}


def fio(uri, *options):
    with directory() as where:  # fio writes files into its current directory
        done = run(*fio_command(uri, *options), cwd=where, status=None, timeout=300)
    return check_fio(done.returncode, done.stdout, done.stderr)


def kill_servers(policy, kills):
    """Kills servers under writes: nothing that was acknowledged and flushed is lost. NBD_TEST_SEED=N repeats the random
    choices of a run; the timing still differs."""
    seed = os.environ.get("NBD_TEST_SEED", random.SystemRandom().randrange(1 << 32))
    source = random.Random(f"{seed} {policy}")
    numbers = iter(range(1, 1 << 60))
    replies = promises = promised = 0
    image = Image(BLOCKS * BLOCK)
    # The default policy sends each write to the cluster at once, so that a flush that does nothing would not be noticed.
    run("rbd", "config", "image", "set", image.name, "rbd_cache_policy", "writeback")
    with directory() as where:
        disk = Disk(f"{where}/disk")
        for kill in range(kills):
            with image.served(policy=policy) as server:
                load = Load(server, disk, source, numbers, kill_after_promises=source.randrange(2, 12))
                server.expected_status = -signal.SIGKILL
                load.run()
                assert load.killer.ident is not None, "the server ended before it was killed"
                load.killer.join()
                server.process.wait()
            image.fence()
            with open(disk.path, "wb") as file:
                file.write(image.content())
            try:
                promised += disk.check(keeps_acknowledged=False)
            except AssertionError:
                print(f"after kill {kill} of a run with NBD_TEST_SEED={seed}", flush=True)
                raise
            replies += load.replies
            promises += load.promises
    print(f"{kills} kills: {replies} replies, {promises} of them to flush or FUA; {promised} durable blocks were checked")
    assert promises >= 2 * kills and promised >= kills, "too few durable blocks for a meaningful test"
