# SPDX-License-Identifier: MIT
"""nbd-serve itself: its output, its errors for bad arguments, and how it ends."""
import threading

from support import *

nbd = require_libnbd()
PROGRAM = require_program("NBD_SERVE")

TIMES = ("--handshake-deadline", "--idle-timeout", "--progress-timeout", "--send-timeout", "--stall-grace",
         "--evict-idle-after", "--stop-grace", "--user-timeout")


def connect(server):
    h = nbd.NBD()
    h.connect_uri(server.uri)
    return h


def assert_serves(server):
    h = connect(server)
    h.pwrite(b"0123456789", 0)
    assert h.pread(10, 0) == b"0123456789"
    h.shutdown()


def refused(*arguments, statuses=(2,)):
    """Returns the error: one line on stderr, and nothing on stdout."""
    try:
        done = run(PROGRAM, *arguments, status=None, stdin=subprocess.DEVNULL, timeout=PATIENCE / 2)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{shortened(str(arguments))} is not refused") from None
    what = f"{shortened(str(arguments))} ended with {done.returncode}: {shortened(done.stdout + done.stderr)!r}"
    assert done.returncode in statuses, what
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("\n") and len(done.stderr) > 10, what
    assert done.stdout == "", what
    return done.stderr


@for_each([("nothing at all",)] + [
    ("a size", device) for device in (
        "mem:", "mem:-1", "mem:+1", "mem: 1M", "mem:1M ", "mem:12Q", "mem:12KB", "mem:1.5G", "mem:0x10", "mem:M",
        "mem:1e6", "mem:9999999999T", "mem:99999999999999999999999999", "mem:16777216T", "null:", "null:-1", "null:1Q")
] + [
    ("a disk", device) for device in ("", ":", ":1M", "mem", "null", "1M", "memory:1M", "MEM:1M", "nothing:1M", "rbd:",
        "rbd:image", "rbd:/image", "rbd:pool/", "rbd:pool//image", "rbd:a/b/c/d", "rbd:pool/image@", "rbd:pool/image@a/b@")
] + [
    ("one disk", "mem:1M", "mem:1M"),
    ("an option", "mem:1M", "--nonsense"),
    ("an option", "mem:1M", "--policy", "x"),
    ("an option", "mem:1M", "--policy", ""),
    ("an option", "mem:1M", "--policy"),
    ("an option", "mem:1M", "--unix"),
    ("an option", "mem:1M", "--unix", ""),
    ("an option", "mem:1M", "--tcp"),
    ("an option", "mem:1M", "--name"),
    ("an option", "mem:1M", "--threads", "0"),
    ("an option", "mem:1M", "--threads", "-1"),
    ("an option", "mem:1M", "--threads", "x"),
    ("an option", "mem:1M", "--threads", "99999999999999999999"),
    ("an option", "mem:1M", "--max-connections", "-1"),
    ("an option", "mem:1M", "--max-connections", "x"),
    ("an option", "mem:1M", "--name", "x" * 4097),
    ("an option", "mem:1M", "--description", "x" * 4097),
] + [
    ("a time", "mem:1M", option, value) for option in TIMES for value in ("-1", "nan", "1s", "")
] + [
    ("a time", "mem:1M", "--idle-timeout", value) for value in ("x", "1e3", "inf", "1 ", " 1", "+1", "1000000001", "1.5.5")
] + [
    ("a rate", "mem:1M", "--least-transfer-rate", value) for value in ("-1", "x", "1.5", "99999999999999999999")
] + [
    ("block sizes", "mem:1M", "--block-size", sizes) for sizes in (
        "3:4096:1M", "0:4096:1M", "512", "512:4096", "512:4096:1M:1M", "1:256:1M", "4096:512:1M", "128K:128K:1M",
        "1:5000:1M", "1:4096:1024", "1:4096:8G", "a:b:c", "::", "", "-1:4096:1M")
] + [
    ("an address", "mem:1M", "--tcp", address) for address in (
        "nohost:99999", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:65536", "127.0.0.1:1.5",
        ":", "", "[::1]", "[::1:10809")
])
def test_bad_argument(kind, *arguments):
    refused(*arguments)


def test_an_error_names_the_argument_and_what_was_expected():
    """The message is short and does not repeat itself."""
    with directory() as where:
        for words, *arguments in (
                ("--max-connections: 0 1000000", "mem:1M", "--max-connections", "-1"),
                ("--places-per-peer: 0 1000000", "mem:1M", "--places-per-peer", "-1"),
                ("--places-per-identity: 0 1000000", "mem:1M", "--places-per-identity", "x"),
                ("--busy-poll: 0 1000000", "mem:1M", "--busy-poll", "x"),
                ("--send-timeout: seconds 0 1000000000 0.5 \"1m\"", "mem:1M", "--send-timeout", "1m"),
                ("--least-transfer-rate: 0", "mem:1M", "--least-transfer-rate", "x"),
                ("--threads --policy pool per-client", "mem:1M", "--threads", "2"),
                ("--threads: 1 1024", "mem:1M", "--threads", "0", "--policy", "pool"),
                ("mem:9223372036854775808 2^63", "mem:9223372036854775808"),
                ("null:9223372036854775808 2^63", "null:9223372036854775808"),
                ("regular", f"file:{where}"),
                ("--create", f"file:{where}/nothing"),
                ("--create", f"uring:{where}/nothing"),
                ("--name: 4096 4097", "mem:1M", "--name", "x" * 4097),
                ("--description: 4096", "mem:1M", "--description", "x" * 4097),
                ("--ceph-conf: rbd:POOL/IMAGE", "mem:1M", "--ceph-conf", "ceph.conf"),
                ("--ceph-id: rbd:POOL/IMAGE", "mem:1M", "--ceph-id", "admin"),
                ("--name: UTF-8", "null:1M", "--name", os.fsdecode(b"\xff")),
                ("--attach:", "null:1M", "--attach", "/dev/sda"),
                ("--attach: empty", "null:1M", "--attach", ""),
                ("--stdio: --attach", "null:1M", "--stdio", "--attach", "any"),
                ("--attach-wait: seconds", "null:1M", "--attach", "any", "--attach-wait", "x"),
        ):
            message = refused(*arguments, statuses=(1, 2))
            assert all(word in message for word in words.split()), message
            assert len(message) < 160 + len(where) and message.count(where) <= 1, message


def test_a_size_above_the_address_space():
    message = refused("mem:4611686018427387904", statuses=(1,))
    assert "mem:4611686018427387904: expected a size" in message, message


def test_help_shows_every_option():
    said = run(PROGRAM, "--help").stdout
    for word in ("mem:", "null:", "--unix", "--tcp", "--vsock", "--stdio", "--socket-activation", "--run", "--attach", "--attach-connections",
                 "--attach-timeout", "--attach-dead-timeout", "--attach-wait", "--name", "--description", "--read-only", "--policy", "per-client",
                 "pool", "--threads", "--block-size", "--max-connections", "--verbose", "--lock", "--create", "127T",
                  "rbd:POOL/IMAGE", "--ceph-conf", "--ceph-id", "SIGHUP", "--least-transfer-rate", "--places-per-peer",
                  "--places-per-identity", "--allow", "--deny", "uid:N", *TIMES):
        assert word in said, f"{word} is missing in:\n{said}"


@for_each([("mem:1M",), ("mem:1M", "--name", "disk"), ("null:1T", "--read-only")])
def test_serving_line_on_unix(*arguments):
    with directory() as where:
        path = f"{where}/s"
        with serve(*arguments, at=path) as server:
            name = "disk" if "disk" in arguments else ""
            assert server.uri == f"nbd+unix:///{name}?socket={path}", server.uri
            connect(server).shutdown()
        assert server.process.returncode == 0


def test_a_relative_path_has_an_absolute_uri():
    with directory() as where:
        with started(["sh", "-c", 'cd "$0" && exec "$@"', where, PROGRAM, "mem:1M", "--unix", "s"]) as server:
            assert server.uri == f"nbd+unix:///?socket={where}/s", server.uri
            assert_serves(server)


def test_a_limit_of_descriptors():
    """The message names the limit, and nothing of the library's inside."""
    if SMALL:
        raise Skip("UndefinedBehaviorSanitizer needs descriptors for its checks")
    prlimit = find_tool("prlimit")
    if not prlimit:
        raise Skip("prlimit is not installed")
    with directory() as where:
        open(f"{where}/disk", "w").close()
        for limit in range(4, 20):
            command = [prlimit, f"--nofile={limit}", PROGRAM, f"file:{where}/disk", "--unix", f"{where}/s"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                       preexec_fn=end_with_parent)
            starts = process.stdout.readline() != ""
            if starts:
                process.terminate()
            err = process.communicate(timeout=PATIENCE)[1]
            if starts:
                assert process.returncode == 0 and not err, (limit, err)
                break
            if "shared libraries" in err:  # it has not begun
                continue
            assert process.returncode == 1 and err.count("\n") == 1 and "open files" in err, (limit, err)
            assert not re.search("boost|asio|epoll|eventfd|timerfd|hpp", err), (limit, err)
        else:
            raise AssertionError("20 descriptors are too few")


def test_serving_line_on_tcp():
    with serve("mem:1M", "--name", "disk", transport="tcp") as server:
        assert re.fullmatch(r"nbd://127\.0\.0\.1:\d+/disk", server.uri), server.uri
        assert_serves(server)
    # The same port is free again at once, although closed connections linger (TIME_WAIT).
    with serve("mem:1M", transport="tcp", at="127.0.0.1:%d" % server.address[1]) as again:
        assert again.address == server.address
        assert_serves(again)


def test_default_address():
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 10809))
        except OSError as why:
            raise Skip(f"port 10809 is taken ({why})") from None
    with started([PROGRAM, "mem:1M"]) as server:
        # A URI may omit the default port.
        assert server.uri in ("nbd://127.0.0.1:10809/", "nbd://127.0.0.1/"), server.uri
        assert_serves(server)


def test_localhost():
    with serve("mem:1M", transport="tcp", at="localhost:0") as server:
        assert_serves(server)


@for_each(POLICIES)
def test_a_host_of_several_addresses(policy):
    """All of them are served, on one port."""
    unshare = find_tool("unshare")
    addresses = "::1", "127.0.0.1", "127.0.0.2"
    with directory() as where:
        with open(f"{where}/hosts", "w") as file:
            file.writelines(f"{address} several.test\n" for address in addresses)
        in_namespace = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0/hosts" /etc/hosts && exec "$@"', where]
        if not unshare or run(*in_namespace, "true", status=None).returncode != 0:
            raise Skip("/etc/hosts cannot be replaced for one program")
        with started([*in_namespace, PROGRAM, "mem:1M", "--tcp", "several.test:0", "--policy", policy]) as server:
            assert re.fullmatch(r"nbd://several\.test:\d+/", server.uri), server.uri
            for address in addresses:
                if address == "::1":
                    try:
                        socket.create_server((address, 0), family=socket.AF_INET6).close()
                    except OSError:
                        continue
                with socket.create_connection((address, server.address[1]), PATIENCE) as connection:
                    connection.settimeout(PATIENCE)
                    assert connection.recv(8) == b"NBDMAGIC", f"{address} is not served"


@for_each(["1", "2", "7"])
def test_threads_of_the_pool(threads):
    with serve("mem:1M", "--threads", threads, policy="pool") as server:
        clients = [connect(server) for _ in range(10)]
        for number, h in enumerate(clients):
            h.pwrite(b"x" * 512, 512 * number)
        for number, h in enumerate(clients):
            assert h.pread(512, 512 * number) == b"x" * 512
        for h in clients:
            h.shutdown()


@for_each(GRID)
def test_connection_limit(policy, transport):
    with serve("mem:1M", "--max-connections", "2", policy=policy, transport=transport) as server:
        first, second = connect(server), connect(server)
        excess = server.raw_connection()
        excess.settimeout(0.3)
        with contextlib.suppress(TimeoutError, ConnectionError):
            assert excess.recv(18) == b"", "a client above the limit was greeted"
        excess.close()
        # Clients within the limit are served, and a place that becomes free is reused.
        assert first.pread(512, 0) == second.pread(512, 0) == bytes(512)
        first.shutdown()

        def connects():
            try:
                connect(server).shutdown()
                return True
            except nbd.Error:
                return False

        wait_until(connects, "a new client connects after another has disconnected")
        assert second.pread(512, 0) == bytes(512)


def test_verbose_logs_what_a_client_does():
    with serve("mem:1M", "--name", "disk", "--verbose") as server:
        assert_serves(server)
        wait_until(lambda: len(server.stderr().splitlines()) > 3, "something is logged")
        assert "disk" in server.stderr()
    with serve("mem:1M", "--name", "disk") as server:
        assert_serves(server)
    # Read after the server has ended, so the log is complete.
    assert not server.told, server.told


@for_each(POLICIES)
def test_few_places_for_a_client_with_many_connections(policy):
    """nbdcopy opens several connections where it may; there is one place."""
    nbdcopy = find_tool("nbdcopy")
    for places, several in ((1, False), (7, False), (8, True), (0, True)):
        with serve("mem:4M", "--max-connections", str(places), policy=policy) as server:
            handle = connect(server)
            assert handle.can_multi_conn() == several, places
            handle.shutdown()
            if nbdcopy:
                run(nbdcopy, server.uri, "null:")


# Times


def stopped_client(server):
    """A client that asks for more than the socket's buffers hold, and reads nothing."""
    connection = greeted(server)
    connection.sendall(read_request(4 * M) * 16)
    return connection


@for_each([(policy, *case) for policy in POLICIES for case in (
    ("--handshake-deadline", "the handshake took too long", lambda server: server.raw_connection()),
    ("--idle-timeout", "the client was idle for too long", greeted),
    ("--send-timeout", "the client does not read its replies", stopped_client),
)])
def test_time_after_which_a_client_is_disconnected(policy, option, why, client):
    with serve("mem:16M", "--verbose", option, "0.3", policy=policy) as server:
        connection = client(server)
        wait_until(lambda: why in server.stderr(), why)
        connection.close()


@for_each(POLICIES)
def test_progress_timeout(policy):
    with serve("mem:16M", "--verbose", "--progress-timeout", "0.3", policy=policy) as server:
        connection = greeted(server)
        connection.sendall(read_request(512)[:20])
        wait_until(lambda: "stopped in the middle of a message" in server.stderr(), "the client is disconnected")
        assert connection.recv(1) == b""


@for_each(POLICIES)
def test_times_after_which_a_client_gives_way(policy):
    for client, option in ((greeted, "--evict-idle-after"), (stopped_client, "--stall-grace")):
        for seconds, gives_way in (("0.3", True), ("1000000", False)):
            with serve("mem:16M", "--max-connections", "1", "--handshake-deadline", "0" if gives_way else "1", option,
                       seconds, policy=policy) as server:
                first = client(server)
                second = server.raw_connection()
                assert second.recv(1) == (b"N" if gives_way else b""), (option, seconds)
                first.close()
                second.close()


@for_each(POLICIES)
def test_a_client_that_takes_nothing_over_tcp(policy):
    with serve("mem:16M", "--verbose", "--user-timeout", "1", policy=policy, transport="tcp") as server:
        connection = stopped_client(server)
        wait_until(lambda: "timed out" in server.stderr(), "the client is disconnected")
        connection.close()


@for_each(POLICIES)
def test_the_share_of_a_peer_in_the_places(policy):
    for share, gives_way in (("1", True), ("0", False)):
        with serve("mem:1M", "--max-connections", "2", "--places-per-peer", share, policy=policy, transport="tcp") as server:
            clients = [greeted(server), greeted(server)]
            with socket.create_connection(clients[0].getpeername()[:2], PATIENCE, ("127.0.0.2", 0)) as other:
                other.settimeout(PATIENCE if gives_way else 0.5)
                try:
                    assert (other.recv(1) == b"N") == gives_way, share
                except TimeoutError:
                    assert not gives_way
            for client in clients:
                client.close()


@for_each(POLICIES)
def test_a_client_that_stops_for_a_while(policy):
    """It finishes later, although it took nothing for longer than the grace."""
    with serve("mem:16M", "--stall-grace", "0.1", policy=policy) as server:
        stopped = stopped_client(server)
        other = connect(server)
        for _ in range(10):
            other.pread(512, 0)
            time.sleep(0.1)
        left = 16 * (16 + 4 * M)
        while left > 0:
            received = stopped.recv(M)
            assert received, "the connection is closed"
            left -= len(received)
        stopped.close()


def test_stop_grace():
    """Zero closes the connections at once; a long one waits for the client."""
    with serve("mem:16M", "--stop-grace", "1000000") as patient, serve("mem:16M", "--stop-grace", "0") as impatient:
        first, second = stopped_client(patient), stopped_client(impatient)
        for server in patient, impatient:
            server.process.send_signal(signal.SIGTERM)
        impatient.stop()
        assert patient.process.poll() is None
        first.close()
        patient.stop()
        second.close()


# A log that cannot be written


@contextlib.contextmanager
def logging_to_a_pipe(policy):
    """Serves with a log in a pipe; yields the server and the descriptor to read from."""
    with directory() as where:
        pipe = f"{where}/log"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        with open(reader, "rb", buffering=0) as log, started(
                ["sh", "-c", 'exec "$@" 2>"$0"', pipe, PROGRAM, "mem:1M", "--verbose", "--unix", f"{where}/s", "--policy",
                 policy], where=where) as server:
            yield server, log


@for_each(POLICIES)
def test_a_log_whose_reader_is_gone(policy):
    with logging_to_a_pipe(policy) as (server, log):
        client = connect(server)
        log.close()
        client.pwrite(b"0123456789", 0)
        assert client.pread(10, 0) == b"0123456789"
        assert_serves(server)


@for_each(POLICIES)
def test_a_log_that_nobody_reads(policy):
    """What the pipe cannot take is dropped and counted; clients and the end of the server do not wait."""
    with logging_to_a_pipe(policy) as (server, log):
        client = connect(server)
        for _ in range(3000):
            client.pread(512, 0)
        text = b"".join(iter(lambda: log.read(65536), None))
        assert text.count(b"READ") < 3000, "the pipe was never full"
        client.pread(512, 0)
        assert re.search(rb"\d{3,} lines of the log are dropped", log.read(65536))
        for _ in range(3000):
            client.pread(512, 0)
        server.stop()


# Ending


def test_hangup():
    """SIGHUP is as SIGTERM, unless the caller ignores it."""
    with serve("mem:1M") as server:
        assert_serves(server)
        server.stop(signal.SIGHUP)
    with directory() as where, started(["sh", "-c", 'trap "" HUP; exec "$@"', "sh", PROGRAM, "mem:1M", "--unix",
                                        f"{where}/s"]) as server:
        server.process.send_signal(signal.SIGHUP)
        assert_serves(server)
        assert server.process.poll() is None


class Load:
    """Sends requests on several connections until the server ends."""

    def __init__(self, server, connections=4):
        self.done = [0] * connections
        self.threads = [threading.Thread(target=self.work, args=(connect(server), number)) for number in range(connections)]
        for thread in self.threads:
            thread.start()
        wait_until(lambda: all(count > 10 for count in self.done), "all connections are served")

    def work(self, h, number):
        data = bytes(256 * K)
        with contextlib.suppress(nbd.Error):
            while True:
                h.pwrite(data, number * M)
                h.pread(256 * K, number * M)
                self.done[number] += 1

    def finish(self):
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a client still waits for a server that has ended"


@for_each([(*spot, name) for spot in GRID for name in ("SIGINT", "SIGTERM")])
def test_signal(policy, transport, name):
    with serve("mem:1M", policy=policy, transport=transport) as server:
        assert_serves(server)
        server.stop(getattr(signal, name))


@for_each([(*spot, name) for spot in GRID for name in ("SIGINT", "SIGTERM", "SIGHUP")])
def test_signal_under_load(policy, transport, name):
    with serve("mem:16M", policy=policy, transport=transport) as server:
        load = Load(server)
        server.stop(getattr(signal, name))
        load.finish()


@for_each(GRID)
def test_signal_with_clients_that_do_nothing(policy, transport):
    """Clients that have sent nothing, a part of an option, or are idle after the handshake."""
    with serve("mem:1M", policy=policy, transport=transport) as server:
        silent = server.raw_connection()
        greeted = server.raw_connection()
        assert len(greeted.recv(18)) == 18
        half_way = server.raw_connection()
        half_way.sendall(bytes.fromhex("00000003" "49484156454f5054" "00000007"))
        idle = connect(server)
        assert idle.pread(512, 0) == bytes(512)
        server.stop()
        for connection in (silent, greeted, half_way):
            connection.close()


@for_each([("per-client", "unix"), ("pool", "tcp")])
def test_signal_with_a_client_that_does_not_read(policy, transport):
    """The send buffers are full; the server still ends in bounded time."""
    with serve("mem:64M", policy=policy, transport=transport) as server:
        deaf = connect(server)
        for _ in range(16):
            deaf.aio_pread(nbd.Buffer(4 * M), 0)
        assert connect(server).pread(512, 0) == bytes(512)
        server.stop()


def test_second_signal_while_stopping():
    with serve("mem:16M") as server:
        load = Load(server)
        server.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(ProcessLookupError):
            server.process.send_signal(signal.SIGINT)
        server.stop()
        load.finish()


# An address that is in use


@for_each(POLICIES)
def test_stale_socket_file_is_replaced(policy):
    with directory() as where:
        path = f"{where}/s"
        with serve("mem:1M", at=path, policy=policy) as killed:
            killed.kill()
            killed.expected_status = -signal.SIGKILL
            assert os.path.exists(path), "the killed server removed its socket"
            with serve("mem:1M", at=path, policy=policy) as server:
                assert_serves(server)


def test_second_server_on_the_same_socket():
    with directory() as where:
        path = f"{where}/s"
        with serve("mem:1M", at=path) as first:
            refused("mem:1M", "--unix", path, statuses=(1, 2))
            assert_serves(first)


def test_second_server_on_the_same_port():
    with serve("mem:1M", transport="tcp") as first:
        refused("mem:1M", "--tcp", "%s:%d" % first.address, statuses=(1, 2))
        assert_serves(first)


def test_path_that_is_not_a_socket():
    with directory() as where:
        path = f"{where}/precious"
        with open(path, "w") as file:
            file.write("data")
        refused("mem:1M", "--unix", path, statuses=(1, 2))
        with open(path) as file:
            assert file.read() == "data", "a file that is not a socket was changed"
        refused("mem:1M", "--unix", where, statuses=(1, 2))
        refused("mem:1M", "--unix", f"{where}/no/such/directory", statuses=(1, 2))


def test_path_of_a_socket_too_long():
    with directory() as where:
        refused("mem:1M", "--unix", f"{where}/{'s' * 107}", statuses=(1, 2))
        assert os.listdir(where) == []
        # A socket address holds 107 bytes.
        longest = f"{where}/{'s' * (107 - len(where) - 1)}"
        with serve("mem:1M", at=longest) as server:
            assert_serves(server)


def test_address_of_another_machine():
    refused("mem:1M", "--tcp", "192.0.2.1:10809", statuses=(1, 2))


run_cases(globals())
