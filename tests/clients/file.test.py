# SPDX-License-Identifier: MIT
"""Disks in files, with and without the page cache: copying images, keeping holes, and errors."""
import json
import random

from support import *

nbd = require_libnbd()
NBDCOPY = require_tool("nbdcopy", "libnbd-bin")
NBDINFO = require_tool("nbdinfo", "libnbd-bin")
QEMU_IMG = require_tool("qemu-img", "qemu-utils")
QEMU_IO = require_tool("qemu-io", "qemu-utils")
PROGRAM = require_program("NBD_SERVE")

SIZE = scaled(64 * M, 16 * M)


def refusal(*arguments):
    """The one line of error with which nbd-serve ends."""
    with directory() as where:
        done = run(PROGRAM, *arguments, "--unix", f"{where}/s", status=None, stdin=subprocess.DEVNULL,
                   timeout=PATIENCE / 2)
    assert done.returncode in (1, 2) and done.stdout == "" and done.stderr.count("\n") == 1, done
    return done.stderr


WITHOUT_URING = why_no_uring()
KINDS = ["file"] if WITHOUT_URING else ["file", "uring"]
ALL = [(kind, policy, *options) for kind in KINDS for policy in POLICIES for options in ((), ("--direct",))]
WORK = tempfile.TemporaryDirectory(prefix="nbd.")
IMAGE = f"{WORK.name}/image"


def make_image():
    """Makes a file of alternating data and holes, in whole blocks."""
    source, offset = random.Random(4), 0
    with open(IMAGE, "wb") as file:
        file.truncate(SIZE)
        while offset < SIZE:
            length = min(source.randrange(1, 256) * 4 * K, SIZE - offset)
            if source.random() < 0.5:
                file.seek(offset)
                file.write(source.randbytes(length))
            offset += length


make_image()


def stored(path):
    """Bytes of storage behind a file."""
    return os.stat(path).st_blocks * 512


def holes(path):
    """[(offset, length, is a hole)] as the file system reports it, equal neighbours merged."""
    parts, offset = [], 0
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
        while offset < size:
            try:
                data = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:  # ENXIO: no more data
                data = size
            if data > offset:
                parts.append((offset, data - offset, True))
            if data < size:
                end = os.lseek(file.fileno(), data, os.SEEK_HOLE)
                parts.append((data, end - data, False))
                data = end
            offset = data
    return parts


def map_of_nbdinfo(uri):
    return [(part["offset"], part["length"], part["type"] == 3)
            for part in json.loads(run(NBDINFO, "--map", "--json", uri).stdout)]


def map_of_qemu_img(place):
    return [(part["start"], part["length"], part["zero"])
            for part in json.loads(run(QEMU_IMG, "map", "--output=json", "-f", "raw", place).stdout)]


def assert_maps(uri, path):
    expected = holes(path)
    assert map_of_nbdinfo(uri) == expected, f"nbdinfo differs from {shortened(str(expected), 2000)}"
    assert map_of_qemu_img(uri) == expected, f"qemu-img differs from {shortened(str(expected), 2000)}"


def assert_same(first, second):
    assert "identical" in run(QEMU_IMG, "compare", "-f", "raw", "-F", "raw", first, second).stdout


def content(path):
    with open(path, "rb") as file:
        return file.read()


@contextlib.contextmanager
def serve_file(kind, policy, *options, create=SIZE, at=None):
    """A server that creates its own file; yields the server and the path."""
    with directory() as where:
        path = at or f"{where}/disk"
        if "--direct" in options:
            try:
                os.close(os.open(where, os.O_RDWR | os.O_TMPFILE | os.O_DIRECT))
            except OSError as why:
                raise Skip(f"no direct I/O in {where}: {why}") from None
        with serve(f"{kind}:{path}", "--create", str(create), *options, policy=policy) as server:
            yield server, path


def opened(server, structured=True):
    handle = nbd.NBD()
    handle.set_request_structured_replies(structured)
    handle.connect_uri(server.uri)
    return handle


def error_of(call, *arguments):
    """The name of the error that a call of libnbd fails with."""
    try:
        call(*arguments)
    except nbd.Error as why:
        return why.errno
    raise AssertionError("there is no error")


def test_uring_is_there():
    if WITHOUT_URING:
        raise Skip(WITHOUT_URING)


# -- images --------------------------------------------------------------------------------------------------------------

@for_each(ALL)
def test_qemu_img(kind, policy, *options):
    with serve_file(kind, policy, *options) as (server, path):
        run(QEMU_IMG, "convert", "-n", "-f", "raw", "-O", "raw", IMAGE, server.uri)
        assert_same(IMAGE, server.uri)
        assert_maps(server.uri, path)
        assert any(hole for _, _, hole in holes(path)), "the holes were filled"
        copy = f"{path}.copy"
        run(QEMU_IMG, "convert", "-f", "raw", "-O", "raw", server.uri, copy)
        assert_same(IMAGE, copy)


@for_each(ALL)
def test_nbdcopy_keeps_holes(kind, policy, *options):
    data = stored(IMAGE)
    with serve_file(kind, policy, *options) as (server, path):
        assert stored(path) < M
        run(NBDCOPY, "--flush", IMAGE, server.uri)
        assert content(path) == content(IMAGE), "the file on disk differs"
        assert_maps(server.uri, path)
        assert stored(path) <= data + M, f"{stored(path)} bytes are stored for {data} of data"
        copy = f"{path}.copy"
        run(NBDCOPY, server.uri, copy)
        assert content(copy) == content(IMAGE)
        assert stored(copy) <= data + M
        # Copied over old data: the holes must read as zero.
        handle = opened(server)
        for offset in range(0, SIZE, 4 * M):
            handle.pwrite(b"\xee" * 4 * M, offset)
        run(NBDCOPY, "--flush", IMAGE, server.uri)
        assert content(path) == content(IMAGE)
        assert_maps(server.uri, path)


@for_each(ALL)
def test_qemu_io(kind, policy, *options):
    with serve_file(kind, policy, *options) as (server, path):
        commands = [
            "write -P 1 0 1M", "write -f -P 2 1M 64k", "aio_write -P 3 2M 4M", "aio_flush", "flush",
            "write -z -u 256k 128k", "write -z 512k 128k", "discard 3M 1M",
            "read -P 1 0 256k", "read -P 0 256k 128k", "read -P 1 384k 128k", "read -P 0 512k 128k", "read -P 1 640k 384k",
            "read -P 2 1M 64k", "read -P 0 1088k 960k", "read -P 3 2M 1M", "read -P 3 4M 2M", "flush",
        ]
        done = run(QEMU_IO, "-f", "raw", *[word for command in commands for word in ("-c", command)], server.uri)
        assert "failed" not in done.stdout + done.stderr, done.stdout + done.stderr
        assert_maps(server.uri, path)
        disk = content(path)
        assert disk[:256 * K] == b"\1" * 256 * K and disk[M:M + 64 * K] == b"\2" * 64 * K
        assert disk[256 * K:384 * K] == bytes(128 * K) == disk[512 * K:640 * K]


@for_each([(kind, policy) for kind in KINDS for policy in POLICIES])
def test_any_byte(kind, policy):
    """Without direct I/O, requests and the disk's size need no alignment."""
    size, source = 1_234_567, random.Random(7)
    with serve_file(kind, policy, create=size) as (server, path):
        model, handle = bytearray(size), opened(server)
        for _ in range(scaled(200, 50)):
            offset = source.randrange(size)
            length = min(source.choice([1, 100, 5000, 40_000, 200_000]), size - offset)
            if source.random() < 0.5:
                model[offset:offset + length] = data = source.randbytes(length)
                handle.pwrite(data, offset, source.choice([0, 0, 0, nbd.CMD_FLAG_FUA]))
            else:
                assert handle.pread(length, offset) == model[offset:offset + length]
        handle.zero(100_001, 200_003)
        model[200_003:300_004] = bytes(100_001)
        handle.flush()
        assert content(path) == model == handle.pread(size, 0)


# -- the file ------------------------------------------------------------------------------------------------------------

@for_each([(kind, policy) for kind in KINDS for policy in POLICIES])
def test_what_is_written_stays(kind, policy):
    with directory() as where:
        path = f"{where}/disk"
        for number in range(3):
            with serve_file(kind, policy, at=path) as (server, _):
                handle = opened(server)
                assert handle.pread(4 * K, 0) == (b"x" * number * K).ljust(4 * K, b"\0")
                handle.pwrite(b"x" * K, number * K)
        assert os.path.getsize(path) == SIZE
        said = refusal(f"{kind}:{path}", "--create", "1M")
        assert path in said and str(M) in said and str(SIZE) in said, said
        assert content(path)[:4 * K] == b"x" * 3 * K + bytes(K)
        # Without --create, any size is accepted.
        os.truncate(path, 5555)
        with serve(f"{kind}:{path}", policy=policy) as server:
            assert opened(server).get_size() == 5555


@for_each(KINDS)
def test_refused(kind):
    with directory() as where:
        os.mkfifo(f"{where}/pipe")
        for name in where, f"{where}/pipe", "/dev/null":
            assert name in (said := refusal(f"{kind}:{name}")) and "regular file or a block device" in said, said
        for name in f"{where}/nothing", f"{where}/no/where":
            assert name in (said := refusal(f"{kind}:{name}")) and "No such file" in said, said
        assert "No such file" in refusal(f"{kind}:{where}/no/where", "--create", "1M")
        assert "No such file" in refusal(f"{kind}:{where}/nothing", "--create", "1M", "--read-only")
        assert sorted(os.listdir(where)) == ["pipe"]
    for arguments in ([f"{kind}:"], [f"{kind}:x", "--create", "1Q"], [f"{kind}:x", "--create", ""],
                      ["mem:1M", "--create", "1M"], ["null:1M", "--direct"]):
        refusal(*arguments)
    assert not os.path.exists("x")


@for_each(KINDS)
def test_direct_has_its_blocks(kind):
    with serve_file(kind, None, "--direct", create=M) as (server, path):
        blocks = int(re.search(r"block_size_minimum: (\d+)", run(NBDINFO, server.uri).stdout)[1])
        assert blocks >= 512
        handle = opened(server)
        handle.set_strict_mode(handle.get_strict_mode() & ~nbd.STRICT_ALIGN)
        assert error_of(handle.pread, blocks, 1) == error_of(handle.pwrite, b"1", 0) == "EINVAL"
        handle.pwrite(b"2" * blocks, blocks)
        assert handle.pread(2 * blocks, 0) == bytes(blocks) + b"2" * blocks
    with directory() as where:
        with open(f"{where}/odd", "wb") as file:
            file.truncate(1_000_001)
        assert "multiple of" in refusal(f"{kind}:{where}/odd", "--direct")
        refusal(f"{kind}:{where}/new", "--direct", "--create", "1000001")
        assert os.listdir(where) == ["odd"]
        # Block sizes that the disk cannot serve are refused.
        os.truncate(f"{where}/odd", M)
        said = refusal(f"{kind}:{where}/odd", "--direct", "--block-size", "1:4096:1M")
        assert "(1)" in said and f"({blocks})" in said, said


@for_each(KINDS)
def test_read_only_opens_for_reading_alone(kind):
    with serve(f"{kind}:{IMAGE}", "--read-only") as server:
        number = next(number for number, file in server.open_files().items() if file == IMAGE)
        with open(f"/proc/{server.pid}/fdinfo/{number}") as info:
            flags = int(re.search(r"flags:\s*(\d+)", info.read())[1], 8)
        assert flags & os.O_ACCMODE == os.O_RDONLY
        handle = opened(server)
        assert handle.is_read_only()
        handle.set_strict_mode(0)
        assert error_of(handle.pwrite, b"x" * 512, 0) == "EPERM"
        handle.flush()
        assert_same(IMAGE, server.uri)


@for_each(KINDS)
def test_a_block_device(kind):
    losetup = find_tool("losetup")
    if not losetup:
        raise Skip("losetup is not installed")
    with directory() as where, contextlib.ExitStack() as stack:
        with open(f"{where}/image", "wb") as file:
            file.truncate(SIZE)
        done = run(losetup, "--find", "--show", f"{where}/image", status=None)
        if done.returncode != 0:
            raise Skip(f"no loop device can be had: {done.stderr.strip()}")
        device = done.stdout.strip()
        stack.callback(run, losetup, "--detach", device)
        for options in (), ("--direct",):
            with serve(f"{kind}:{device}", *options) as server:
                run(QEMU_IMG, "convert", "-n", "-f", "raw", "-O", "raw", IMAGE, server.uri)
                assert_same(IMAGE, server.uri)
                handle = opened(server)
                handle.trim(M, 0)
                handle.flush()
        assert content(f"{where}/image")[M:] == content(IMAGE)[M:]


@for_each(KINDS)
def test_locks_of_qemu(kind):
    """qemu's programs and the server exclude each other as qemu's programs do."""
    qemu_nbd = find_tool("qemu-nbd")
    if not qemu_nbd:
        raise Skip("qemu-nbd is not installed")

    def told_by(*command):
        return run(*command, status=None, timeout=PATIENCE).stderr

    def refuses(where, *options):
        done = run(PROGRAM, f"{kind}:{where}/disk", "--unix", f"{where}/t", *options, status=1, timeout=PATIENCE)
        return "locked" in done.stderr and "--lock shared" in done.stderr and done.stderr.count("\n") == 1

    write, read = ("-c", "write 0 512"), ("-r", "-c", "read 0 512")
    with directory() as where:
        path = f"{where}/disk"
        copy = QEMU_IMG, "convert", "-f", "raw", "-O", "raw", path, f"{where}/copy"
        with serve(f"{kind}:{path}", "--create", "1M"):
            assert 'Failed to get "write" lock' in told_by(QEMU_IO, "-f", "raw", *write, path)
            assert 'Failed to get shared "write" lock' in told_by(*copy)
            assert told_by(*copy[:2], "-U", *copy[2:]) == ""
            assert refuses(where) and refuses(where, "--read-only") and refuses(where, "--lock", "shared")
            with serve(f"{kind}:{path}", "--lock", "off"):
                pass
        with serve(f"{kind}:{path}", "--read-only"), serve(f"{kind}:{path}", "--read-only"):
            assert told_by(QEMU_IO, "-f", "raw", *read, path) == told_by(*copy) == ""
            assert 'Failed to get "write" lock' in told_by(QEMU_IO, "-f", "raw", *write, path)
            assert refuses(where)
        with serve(f"{kind}:{path}", "--lock", "shared"), serve(f"{kind}:{path}", "--lock", "shared"):
            assert told_by(QEMU_IO, "-f", "raw", *write, path) == ""  # it shares the file too
            assert 'Failed to get shared "write" lock' in told_by(*copy)
        for options, works in (("--read-only",), ("--read-only",)), ((), ()):
            process = subprocess.Popen([qemu_nbd, "-f", "raw", "-k", f"{where}/q", "-t", *(["-r"] if options else []), path],
                                       preexec_fn=end_with_parent)
            try:
                wait_until(lambda: os.path.exists(f"{where}/q"), "qemu-nbd has started")
                assert refuses(where)
                if works:
                    with serve(f"{kind}:{path}", "--read-only"):
                        pass
                else:
                    assert refuses(where, "--read-only")
            finally:
                process.kill()
                process.wait()
                os.unlink(f"{where}/q")
        with serve(f"{kind}:{path}"):  # no lock is left
            pass


# -- errors -----------------------------------------------------------------------------------------------------

@for_each([(kind, policy) for kind in KINDS for policy in POLICIES])
def test_a_file_that_is_truncated(kind, policy):
    """Reads past the new end fail at once; the rest is still served."""
    with serve_file(kind, policy, create=8 * M) as (server, path):
        clients = opened(server), opened(server, structured=False)
        clients[0].pwrite(b"x" * M, 0)
        os.truncate(path, M)
        for client in clients:
            for length in 1, 4 * K, 2 * K, 64 * K, 256 * K, 3 * M:
                assert error_of(client.pread, length, 3 * M) == "EIO"
            assert error_of(client.pread, 4 * K, M - K) == "EIO"
            for length in 64 * K, M, 2 * M:  # its first part still exists
                assert error_of(client.pread, length, M - 32 * K) == "EIO"
            assert client.pread(4 * K, M - 4 * K) == b"x" * 4 * K
            assert client.pread(64 * K, M - 64 * K) == b"x" * 64 * K
            assert client.pread(M, 0) == b"x" * M
        # Zeroes are written as data are: the file grows again.
        clients[0].zero(64 * K, 2 * M)
        assert clients[0].pread(64 * K, 2 * M) == bytes(64 * K)
        assert os.path.getsize(path) == 2 * M + 64 * K


@for_each([(kind, policy) for kind in KINDS for policy in POLICIES])
def test_a_file_whose_size_changes(kind, policy):
    """Each client that opens the export gets the current size."""
    with serve_file(kind, policy, create=8 * M) as (server, path):
        first = opened(server)
        for size in 16 * M, 16 * M + 5, 2 * M, 4 * M, 0, M:
            os.truncate(path, size)
            client = opened(server)
            assert client.get_size() == size
            assert f'"export-size": {size}' in run(NBDINFO, "--json", server.uri).stdout
            if size > M:
                client.pwrite(b"y" * 512, size - 512)
                assert client.pread(512, size - 512) == b"y" * 512
            client.shutdown()
        assert first.pread(512, 0) == bytes(512)
        first.set_strict_mode(0)
        assert error_of(first.pread, 512, 4 * M) in ("EINVAL", "ENOSPC")


@for_each(KINDS)
def test_a_read_only_device(kind):
    """It is offered read-only, and the server says so."""
    losetup = find_tool("losetup")
    if not losetup:
        raise Skip("losetup is not installed")
    with directory() as where, contextlib.ExitStack() as stack:
        with open(f"{where}/image", "wb") as file:
            file.truncate(SIZE)
        done = run(losetup, "--read-only", "--find", "--show", f"{where}/image", status=None)
        if done.returncode != 0:
            raise Skip(f"no loop device can be had: {done.stderr.strip()}")
        device = done.stdout.strip()
        stack.callback(run, losetup, "--detach", device)
        with serve(f"{kind}:{device}") as server:
            handle = opened(server)
            assert handle.is_read_only() and handle.pread(512, 0) == bytes(512)
            assert "read-only" in server.stderr() and device in server.stderr()


@for_each([(kind, policy) for kind in KINDS for policy in POLICIES])
def test_a_limit_of_the_file_size(kind, policy):
    """EFBIG becomes ENOSPC for the client, and SIGXFSZ does not end the server."""
    prlimit = find_tool("prlimit")
    if not prlimit:
        raise Skip("prlimit is not installed")
    with directory() as where:
        with open(f"{where}/disk", "wb") as file:
            file.truncate(2 * M)
        with started([prlimit, f"--fsize={M}", PROGRAM, f"{kind}:{where}/disk", "--unix", f"{where}/s", "--policy",
                      policy], where=where) as server:
            handle = opened(server)
            handle.pwrite(b"x" * 4 * K, M - 4 * K)
            assert error_of(handle.pwrite, b"x" * 4 * K, M) == "ENOSPC"
            assert error_of(handle.pwrite, b"x" * 4 * K, M, nbd.CMD_FLAG_FUA) == "ENOSPC"
            handle.flush()
            assert handle.pread(4 * K, M - 4 * K) == b"x" * 4 * K


@for_each([(kind, policy) for kind in KINDS for policy in POLICIES])
def test_a_full_file_system(kind, policy):
    with directory() as where:
        if run("mount", "-t", "tmpfs", "-o", "size=1m", "nbd", where, status=None).returncode != 0:
            raise Skip("no tmpfs can be mounted")
        try:
            with serve_file(kind, policy, create=8 * M, at=f"{where}/disk") as (server, _):
                handle = opened(server)
                assert error_of(handle.pwrite, b"x" * 2 * M, 0) == "ENOSPC"
                assert error_of(handle.pwrite, b"x" * 4 * K, 4 * M, nbd.CMD_FLAG_FUA) == "ENOSPC"
                handle.trim(2 * M, 0)
                handle.pwrite(b"x" * 4 * K, 4 * M, nbd.CMD_FLAG_FUA)
                handle.flush()
                assert handle.pread(4 * K, 4 * M) == b"x" * 4 * K
        finally:
            run("umount", where)


run_cases(globals())
