# SPDX-License-Identifier: MIT
"""The example remote-cache, with a store that is killed and clients that are killed: nothing that a flush has confirmed is
lost, and an error is an error for the client."""
import concurrent.futures
import errno
import threading

from support import *

CACHE, STORE = require_program("REMOTE_CACHE"), require_program("REMOTE_STORE")
POLICIES = ["threads", "pool", "context"]
BLOCK = 64 * K
SIZE = scaled(6 * M, 4 * M)
SHORT = scaled(1, 3)  # seconds after which a request fails, where the test waits for that
FUA = 1
MEMORY = 1  # MiB: less than the disk, so that blocks are evicted


class Store:
    """The store's process, which is killed and started again on the same port, and its file."""

    def __init__(self, where, size):
        self.where, self.path, self.port = where, f"{where}/disk", "0"
        with open(self.path, "wb") as file:
            file.truncate(size)
        self.process = None
        self.start()

    def start(self):
        self.process = Server([STORE, self.path, self.port], self.where)
        self.process.wait_for_serving_lines(1)
        self.port = self.process.uri.rpartition(":")[2]

    def kill(self):
        self.process.kill()
        assert not SANITIZER_REPORT.search(self.process.stderr()), self.process.stderr()
        self.process.process.stdout.close()

    def content(self):
        with open(self.path, "rb") as file:
            return file.read()

    def changed(self):
        return os.stat(self.path).st_mtime_ns


@contextlib.contextmanager
def cached_store(policy, size=SIZE, patience=PATIENCE, grace=30):
    """A store, and a server for it."""
    with directory() as where:
        store = Store(where, size)
        try:
            command = [CACHE, f"127.0.0.1:{store.port}", f"{where}/s", policy, str(MEMORY), str(patience), str(grace)]
            with started(command, where=where) as server:
                yield store, server
        finally:
            store.kill()


def at_once(calls):
    """Calls each function on a thread, and returns the results. Raises the first exception."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [result.result() for result in [pool.submit(call) for call in calls]]


def on_each_policy(case):
    """A case that runs for all policies at once: it waits most of its time."""
    def test():
        at_once([lambda policy=policy: case(policy) for policy in POLICIES])
    return test


def connected(server):
    handle = require_libnbd().NBD()
    handle.connect_uri(server.uri)
    return handle


def error_of(call, *arguments):
    try:
        call(*arguments)
    except require_libnbd().Error as error:
        return error.errnum
    return 0


def block(number):
    return number.to_bytes(8, "big") * (BLOCK // 8)


require_libnbd()
FIO = require_tool("fio", "fio")
if "nbd" not in run(FIO, "--enghelp").stdout.split():
    skip_file("this fio is built without its nbd engine")


def fio(server, where, *options):
    # It writes files into its current directory, and is its own process group: --thread, so that a kill ends all of it.
    return subprocess.Popen([FIO, "--name=job", "--ioengine=nbd", f"--uri={server.uri}", "--thread", "--randrepeat=1",
                             "--iodepth=16", *options], cwd=where, text=True, preexec_fn=end_with_parent,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@on_each_policy
def test_fio_verify(policy):
    """fio verifies the first half of the disk, while the store is killed and restarted, and clients that write to the second
    half are killed with requests in flight."""
    half = SIZE // 2
    with cached_store(policy) as (store, server), directory() as where:
        verify = fio(server, where, "--rw=randwrite", "--bssplit=4k/50:16k/30:128k/20", f"--size={half}", "--fsync=64",
                     "--end_fsync=1", "--loops=2", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1",
                     "--verify_backlog=64", "--verify_state_save=0")
        output = []
        reader = threading.Thread(target=lambda: output.append(verify.stdout.read()))
        reader.start()
        kills = 0
        while verify.poll() is None and kills < 3:
            changed = store.changed()
            doomed = fio(server, where, "--rw=randrw", "--bs=8k", f"--offset={half}", f"--size={half}", "--time_based",
                         "--runtime=600")
            wait_until(lambda: store.changed() > changed or verify.poll() is not None, "a write to the store")
            store.kill()
            doomed.kill()
            doomed.communicate()
            store.start()
            kills += 1
        reader.join()
        assert verify.wait() == 0, output[0]
        assert kills >= 2, "fio ended before the store was killed twice"

        handle = connected(server)

        def same():  # not before the last calls of the killed clients have ended
            handle.flush()
            return store.content() == b"".join(bytes(handle.pread(M, at)) for at in range(0, SIZE, M))
        wait_until(same, "a store that has what its cache has")
        if find_tool("qemu-img"):
            run("qemu-img", "compare", "-f", "raw", "-F", "raw", store.path, server.uri)


@on_each_policy
def test_store_is_away(policy):
    """A flush that fails keeps the data in the cache. The next one stores them, and they survive the cache."""
    blocks = 8
    with cached_store(policy, patience=SHORT) as (store, server):
        first, second = connected(server), connected(server)
        for number in range(blocks):
            first.pwrite(block(number + 1), number * BLOCK)
        store.kill()
        errors = at_once([lambda: error_of(first.flush),
                          lambda: error_of(connected(server).flush),
                          lambda: error_of(connected(server).pwrite, block(100), 0, FUA),
                          # A block that is not in the cache, and a part of it.
                          lambda: error_of(connected(server).pread, BLOCK, blocks * BLOCK),
                          lambda: error_of(connected(server).pwrite, b"x", blocks * BLOCK)])
        assert errors == [errno.EIO] * 5, errors
        assert second.pread(BLOCK, BLOCK) == block(2), "a block in the cache"
        second.pwrite(block(99), BLOCK)
        assert store.content() == bytes(SIZE)

        # The cache is full of dirty blocks: there is no place for another.
        for number in range(blocks, M // BLOCK):
            first.pwrite(block(number + 1), number * BLOCK)
        assert error_of(first.pwrite, block(1), M) == errno.EIO

        store.start()
        wait_until(lambda: error_of(second.flush) == 0, "a flush that succeeds")
        expected = [block(100), block(99)] + [block(number + 1) for number in range(2, M // BLOCK)]
        server.expected_status = -signal.SIGKILL
        server.kill()
        assert store.content()[:M] == b"".join(expected)


@on_each_policy
def test_end(policy):
    """The server writes back when its last client has left and when it ends, or says that it could not."""
    with cached_store(policy) as (store, server):
        first, second = connected(server), connected(server)
        second.pwrite(block(5), 0)
        second.shutdown()
        first.pwrite(block(6), BLOCK)
        assert store.content()[:2 * BLOCK] == bytes(2 * BLOCK)
        first.shutdown()
        wait_until(lambda: store.content()[:2 * BLOCK] == block(5) + block(6), "the data of the last client are stored")
    with cached_store(policy) as (store, server):
        handle = connected(server)
        handle.pwrite(block(7), BLOCK)
        server.stop()
        assert store.content()[BLOCK:2 * BLOCK] == block(7)
    with cached_store(policy, patience=SHORT) as (store, server):
        handle = connected(server)
        handle.pwrite(block(7), BLOCK)
        store.kill()
        server.expected_status = 1
        server.stop()
        assert "not written back" in server.told
        assert f"; {BLOCK} bytes are not stored" in server.told, server.told
        store.start()


@on_each_policy
def test_slow_store(policy):
    """A write-back that takes longer than the server waits for it: the server says so and ends, and nothing is lost."""
    with cached_store(policy, grace=SHORT) as (store, server):
        handle = connected(server)
        handle.pwrite(block(7), BLOCK)
        store.process.process.send_signal(signal.SIGSTOP)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: f"timed out; {BLOCK} bytes are not stored" in server.stderr(), "a drain that times out")
        store.process.process.send_signal(signal.SIGCONT)
        server.stop()
        assert store.content()[BLOCK:2 * BLOCK] == block(7)


@on_each_policy
def test_store_hangs(policy):
    """A store that does not answer costs a request an error, and the server its end some time, but not for ever."""
    with cached_store(policy, patience=SHORT) as (store, server):
        handle = connected(server)
        handle.pwrite(block(7), 0)
        store.process.process.send_signal(signal.SIGSTOP)
        errors = at_once([lambda: error_of(handle.flush), lambda: error_of(connected(server).pread, BLOCK, BLOCK)])
        assert errors == [errno.EIO] * 2, errors
        store.process.process.send_signal(signal.SIGCONT)
        wait_until(lambda: error_of(handle.flush) == 0, "a flush that succeeds")
        assert store.content()[:BLOCK] == block(7)


run_cases(globals())
