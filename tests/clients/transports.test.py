# SPDX-License-Identifier: MIT
"""How clients reach nbd-serve: two transports at once, abstract sockets, vsock, stdin and stdout."""
import errno

from support import *

nbd = require_libnbd()
NBDINFO = require_tool("nbdinfo", "libnbd-bin")
NBDCOPY = require_tool("nbdcopy", "libnbd-bin")
PROGRAM = require_program("NBD_SERVE")


@contextlib.contextmanager
def two_transports(policy, *options):
    """A server on a UNIX socket and on TCP; yields the URIs."""
    with directory() as where:
        command = [PROGRAM, "mem:64M", "--unix", f"{where}/s", "--tcp", "127.0.0.1:0", "--policy", policy, *options]
        with started(command, lines=2, where=where) as server:
            assert server.uris[0] == f"nbd+unix:///?socket={where}/s", server.uris
            assert re.fullmatch(r"nbd://127\.0\.0\.1:\d+/", server.uris[1]), server.uris
            yield server


@for_each(POLICIES)
def test_two_transports_at_once(policy):
    with two_transports(policy) as server, directory() as where:
        for uri in server.uris:
            assert run(NBDINFO, "--size", uri).stdout.strip() == str(64 * M)
        data = os.urandom(scaled(64 * M, 4 * M))
        with open(f"{where}/in", "wb") as file:
            file.write(data)
        run(NBDCOPY, f"{where}/in", server.uris[0])
        copies = [subprocess.Popen([NBDCOPY, uri, f"{where}/out{number}"]) for number, uri in enumerate(server.uris)]
        for number, copy in enumerate(copies):
            assert copy.wait(PATIENCE) == 0
            with open(f"{where}/out{number}", "rb") as file:
                assert file.read(len(data)) == data


@for_each(POLICIES)
def test_places_are_shared_by_the_transports(policy):
    with two_transports(policy, "--max-connections", "1") as server:
        local = greeted(server)
        with socket.create_connection(("127.0.0.1", int(server.uris[1].split(":")[2][:-1])), PATIENCE) as other:
            other.settimeout(0.3)
            try:
                assert other.recv(18) == b"", "a second client has a place"
            except TimeoutError:
                pass
            local.close()
            other.settimeout(PATIENCE)
            assert other.recv(18)[:8] == b"NBDMAGIC"


def test_an_address_in_use_is_named():
    with serve("mem:1M", transport="tcp") as first, directory() as where:
        taken = "%s:%d" % first.address
        done = run(PROGRAM, "mem:1M", "--unix", f"{where}/s", "--tcp", taken, status=1)
        assert "127.0.0.1" in done.stderr and str(first.address[1]) in done.stderr and where not in done.stderr, done.stderr
        assert done.stdout == "" and os.listdir(where) == []


# Abstract UNIX sockets


@for_each(POLICIES)
def test_abstract_socket(policy):
    name = f"nbd-serve-{os.getpid()}"
    with serve("mem:1M", at=f"@{name}", policy=policy) as server:
        assert server.uri == f"nbd+unix:///?socket=%00{name}", server.uri
        assert not os.path.exists(f"@{name}")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"\0{name}")
            handle = nbd.NBD()
            handle.connect_socket(connection.detach())
        assert handle.get_size() == M
        handle.shutdown()
        qemu_img = find_tool("qemu-img")
        if qemu_img:
            said = run(qemu_img, "info", "--image-opts",
                       f"driver=nbd,server.type=unix,server.path={name},server.abstract=on").stdout
            assert "1 MiB" in said, said


# vsock


def test_vsock():
    try:
        with socket.socket(socket.AF_VSOCK) as probe:
            probe.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
    except OSError as why:
        raise Skip(f"no AF_VSOCK: {why}") from None
    with started([PROGRAM, "mem:1M", "--name", "disk", "--vsock", "any:0"]) as server:
        port = int(re.fullmatch(r"nbd\+vsock://\d+:(\d+)/disk", server.uri)[1])
        with socket.socket(socket.AF_VSOCK) as client:
            try:
                client.connect((1, port))
            except OSError as why:
                if why.errno in (errno.EADDRNOTAVAIL, errno.ETIMEDOUT, errno.ENODEV):
                    raise Skip(f"AF_VSOCK has no loopback here: {why}") from None
                raise
            assert client.recv(8) == b"NBDMAGIC"
            assert run(NBDINFO, "--size", f"nbd+vsock://1:{port}/disk").stdout.strip() == str(M)


# stdin and stdout


@for_each(POLICIES)
def test_stdio_as_a_command_of_libnbd(policy):
    handle = nbd.NBD()
    handle.connect_command([PROGRAM, "--stdio", "--policy", policy, "mem:3M"])
    data = os.urandom(3 * M)
    handle.pwrite(data, 0)
    assert handle.pread(3 * M, 0) == data
    handle.shutdown()


@for_each(POLICIES)
def test_a_command_in_brackets(policy):
    """libnbd passes a listening socket, as a service manager does."""
    command = ["--", "[", PROGRAM, "--policy", policy, "mem:1M", "]"]
    said = run(NBDINFO, *command)
    assert "export-size: 1048576" in said.stdout and not said.stderr, said
    with directory() as where:
        data = os.urandom(3 * M)
        with open(f"{where}/disk", "wb") as file:
            file.write(data)
        run(NBDCOPY, "--", "[", PROGRAM, "--policy", policy, f"file:{where}/disk", "]", f"{where}/copy")
        with open(f"{where}/copy", "rb") as file:
            assert file.read() == data


def greet(to, take):
    """The handshake of a client that writes with `to` and reads with `take`."""
    to(b"\0\0\0\3IHAVEOPT" + bytes.fromhex("00000001 00000000"))
    greeting = take(28)
    assert greeting[:8] == b"NBDMAGIC" and int.from_bytes(greeting[18:26], "big") == M, greeting


def request(command, length=0):
    return bytes.fromhex("25609513 0000") + command.to_bytes(2, "big") + bytes(16) + length.to_bytes(4, "big")


@for_each([(policy, end) for policy in POLICIES for end in ("DISC", "half-close", "gone")])
def test_stdio_with_two_pipes(policy, end):
    """The server ends with its client; nothing but the protocol is on stdout."""
    process = subprocess.Popen([PROGRAM, "mem:1M", "--stdio", "--verbose", "--policy", policy], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=end_with_parent, bufsize=0)

    def take(count):
        got = b""
        while len(got) < count:
            more = process.stdout.read(count - len(got))
            assert more, process.stderr.read()
            got += more
        return got

    greet(process.stdin.write, take)
    process.stdin.write(request(0, M))
    reply = take(16 + M)
    assert reply[:8] == bytes.fromhex("67446698 00000000") and not any(reply[16:])
    if end == "DISC":
        process.stdin.write(request(2))
    elif end == "half-close":
        process.stdin.write(request(0, 512))
        process.stdin.close()
        assert len(take(16 + 512)) == 528
    else:
        process.stdout.close()
    if end != "gone":
        assert process.stdout.read() == b""
        process.stdout.close()
    assert process.wait(PATIENCE) == 0
    said = process.stderr.read().decode()
    assert "(stdin): connected" in said and not SANITIZER_REPORT.search(said), said
    process.stdin.close()
    process.stderr.close()


@for_each(POLICIES)
def test_stdio_with_a_tcp_socket(policy):
    """As inetd starts a server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        accepted = listening.accept()[0]
    process = subprocess.Popen([PROGRAM, "mem:1M", "--stdio", "--policy", policy], stdin=accepted, stdout=accepted,
                               preexec_fn=end_with_parent)
    accepted.close()
    handle = nbd.NBD()
    handle.connect_socket(client.detach())
    handle.pwrite(b"0123456789", 0)
    assert handle.pread(10, 0) == b"0123456789"
    handle.shutdown()
    assert process.wait(PATIENCE) == 0


@for_each(POLICIES)
def test_a_signal_ends_a_server_on_stdio(policy):
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([PROGRAM, "mem:1M", "--stdio", "--policy", policy], stdin=theirs, stdout=theirs,
                               preexec_fn=end_with_parent)
    theirs.close()
    ours.settimeout(PATIENCE)
    assert ours.recv(8) == b"NBDMAGIC"
    process.terminate()
    assert process.wait(PATIENCE) == 0
    ours.close()


def test_stdio_without_a_client():
    with socket.socket(socket.AF_UNIX) as unconnected:
        done = run(PROGRAM, "mem:1M", "--stdio", stdin=unconnected, stdout=unconnected, status=1)
    assert "stdin and stdout" in done.stderr and done.stderr.count("\n") == 1, done.stderr


@for_each([
    ("--unix: @", "--unix", "@"),
    ("--stdio: --unix --tcp --vsock", "--stdio", "--unix", "s"),
    ("--stdio: --unix --tcp --vsock", "--stdio", "--tcp", "localhost:0"),
] + [("--vsock: CID:PORT any:PORT", "--vsock", value) for value in (
    "1", "any", ":1", "1:", "x:1", "-1:1", "1:x", "4294967295:1", "any:4294967295", "1:2:3")] + [
    ("--vsock: value", "--vsock", "")])
def test_bad_argument(words, *arguments):
    done = run(PROGRAM, "mem:1M", *arguments, status=2, stdin=subprocess.DEVNULL)
    assert done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words.split()), done.stderr


run_cases(globals())
