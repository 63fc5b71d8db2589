# SPDX-License-Identifier: MIT
"""Start, stop and their effect on clients: L01 to L11, and nbd-serve's own contract."""
import os
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from urllib.parse import quote

import wire
from harness import NAME, SLOWER, Server, Skip, case, eventually, parse_uri, scaled
from wire import ACK, ERR_SHUTDOWN, ESHUTDOWN, GO, INFO, LIST, MIB, READ, WRITE, Client, Failure, info_data, pack_option, \
    pack_request


def stop(t, server, sent=signal.SIGTERM):
    """Stops within bounded time and with status 0 (Server.stop checks both); returns how long it took."""
    begin = time.monotonic()
    server.stop(sent)
    return time.monotonic() - begin


@case(own=True)
def L01_sigterm_when_idle(t):
    """SIGTERM stops the server cleanly, status 0."""
    t.check(stop(t, t.start(["mem:1M"])) < 2 * SLOWER, "the end within 2 s", "longer")


@case(own=True)
def L01_sigint_when_idle(t):
    """SIGINT stops the server cleanly, status 0."""
    t.check(stop(t, t.start(["mem:1M"]), signal.SIGINT) < 2 * SLOWER, "the end within 2 s", "longer")


STAGES = {
    "connected": lambda t, s: t.client(s),
    "greeted": lambda t, s: greeted(t.client(s)),
    "flags_sent": lambda t, s: t.client(s).start(),
    "mid_option": lambda t, s: send(t.client(s).start(), pack_option(GO, info_data(b"disk"))[:19]),
    "negotiation": lambda t, s: send(t.client(s).start(), pack_option(INFO, info_data())),
    "idle": lambda t, s: t.client(s).start().go(),
    "mid_header": lambda t, s: send(t.client(s).start().go(), pack_request(READ, 0, 512)[:13]),
    "mid_payload": lambda t, s: send(t.client(s).start().go(), pack_request(WRITE, 0, 65536) + bytes(1000)),
    "16_reads_in_flight": lambda t, s: send(t.client(s).start().go(), pack_request(READ, 0, 65536) * 16),
    "reply_to_a_dead_reader": lambda t, s: send(t.client(s).start().go(), pack_request(READ, 0, 32 * MIB) * 4),
    "refused_payload": lambda t, s: send(t.client(s).start().go(), pack_request(WRITE, 1 << 62, MIB) + bytes(9999)),
}


def greeted(client):
    client.greet()
    return client


def send(client, data):
    client.socket.sendall(data)
    return client


def ends(t, client):
    """The client sees the end of the stream, perhaps after other bytes."""
    deadline = time.monotonic() + 3 * SLOWER
    while client.recv_some(1 << 20, timeout=deadline - time.monotonic()):
        pass


def stop_at_stage(stage):
    def body(t):
        server = t.start(["mem:64M"])
        clients = [STAGES[stage](t, server) for _ in range(3)]
        time.sleep(0.05)
        took = stop(t, server)
        limit = 8 if stage == "reply_to_a_dead_reader" else 3       # requests in flight may get some seconds of grace
        t.check(took < limit * SLOWER, "the end within %d s" % limit, "%.1f s" % took)
        for client in clients:
            ends(t, client)
    body.__name__ = "L01_stop_with_clients_" + stage
    body.__doc__ = "stop() with clients at stage %s returns in bounded time, status 0, and every socket is closed." % stage
    return body


for name in STAGES:
    case(own=True)(stop_at_stage(name))


@case(own=True)
def L02_requests_during_shutdown(t):
    """Requests around a SIGTERM get right data or ESHUTDOWN, then the end of the stream; no reply is corrupted."""
    for turn in range(scaled(6)):
        server = t.start(["mem:16M"])
        client = t.client(server, delivery="whole").start().go()
        block = bytes(range(256)) * 256
        client.write(0, block)
        results = [client.request(READ, 0, 65536) for _ in range(64)]
        server.process.send_signal(signal.SIGTERM)
        answered = 0
        try:
            for result in results:
                client.wait(result)
                t.check(result.error == ESHUTDOWN or result.data == block, "right data or ESHUTDOWN",
                        "error %d" % result.error)
                answered += 1
        except wire.Dropped:
            pass
        stop(t, server, None)
        client.close()


@case(own=True, twice=False)
def L02_options_during_shutdown(t):
    """Options around a SIGTERM are answered, get ERR_SHUTDOWN, or find the connection closed."""
    server = t.start(["mem:1M"])
    client = t.client(server).start()
    server.process.send_signal(signal.SIGTERM)
    try:
        for _ in range(30):
            t.equal(client.info()[1][-1].kind, {ACK, ERR_SHUTDOWN}, "INFO")
    except wire.Dropped:
        pass
    stop(t, server, None)


@case(own=True)
def L03_stalled_client_outlives_the_server(t):
    """A client stalled in the handshake, its server stopped, a new one started in its place, then the client closes."""
    folder = tempfile.TemporaryDirectory(prefix="nbd-conformance-")
    endpoint = folder.name + "/sock"
    if t.transport != "unix":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            endpoint = "127.0.0.1:%d" % probe.getsockname()[1]
    first = t.start(["mem:1M"], endpoint=endpoint)
    stalled = greeted(t.client(first))
    stop(t, first)
    second = t.start(["mem:1M"], endpoint=endpoint)
    good = t.client(second).start().go()
    base = second.descriptors()
    stalled.close()
    t.check(good.read(0, 512) == bytes(512), "service by the new server", "none")
    t.check(eventually(lambda: second.descriptors() <= base + 1), "about %d descriptors" % base, "%d" % second.descriptors())
    folder.cleanup()


@case(own=True)
def L04_start_and_stop_with_list_clients(t):
    """Servers that start and stop while clients LIST: all end cleanly (CVE-2024-7409)."""
    stopping = threading.Event()
    target = [None]

    def lister():
        while not stopping.is_set():
            address = target[0]
            if address is None:
                time.sleep(0.002)
                continue
            try:
                client = Client(address, timeout=2.0 * SLOWER)
                try:
                    client.start().negotiate(LIST)
                finally:
                    client.close()
            except Failure:
                pass

    threads = [threading.Thread(target=lister) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(scaled(12)):
            server = t.start(["mem:1M"])
            target[0] = server.address
            time.sleep(0.01 * (turn % 5))
            stop(t, server)
            target[0] = None
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


@case(own=True)
def L05_two_signals(t):
    """A second SIGTERM while stopping: the server ends, cleanly or at once, without a hang or a crash."""
    server = t.start(["mem:1M"])
    t.client(server).start().go()
    server.process.send_signal(signal.SIGTERM)
    try:
        server.process.send_signal(signal.SIGTERM)
    except ProcessLookupError:
        pass
    t.check(eventually(lambda: not server.alive(), 5), "the end within 5 s", "it runs on")
    t.check(server.process.returncode in (0, -signal.SIGTERM), "status 0 or SIGTERM", "%s" % server.process.returncode)


@case(own=True)
def L08_sigterm_under_a_connect_storm(t):
    """SIGTERM while clients connect and close as fast as they can: a clean stop (CVE-2015-0847)."""
    server = t.start(["mem:1M"])
    stopping = threading.Event()

    def storm():
        while not stopping.is_set():
            try:
                Client(server.address, timeout=2.0 * SLOWER).close()
            except Failure:
                time.sleep(0.001)

    threads = [threading.Thread(target=storm) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)
        took = stop(t, server)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    t.check(took < 3 * SLOWER, "the end within 3 s", "%.1f s" % took)


@case(own=True, twice=False)
def L08_steady_client_under_a_connect_storm(t):
    """Many short connections do not delay a steady client or new ones by seconds (CVE-2015-0847)."""
    server = t.start(["mem:1M"])
    steady = t.client(server).start().go()
    stopping = threading.Event()

    def storm():
        while not stopping.is_set():
            try:
                Client(server.address, timeout=2.0 * SLOWER).close()
            except Failure:
                time.sleep(0.001)

    threads = [threading.Thread(target=storm) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            begin = time.monotonic()
            steady.read(0, 512)
            new = t.client(server)
            new.start().go()
            new.close()
            t.prompt(begin, "service")
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


# -- nbd-serve --------------------------------------------------------------------------------------------------------

def refused(t, arguments, statuses=(2,)):
    """The program prints one line of error to stderr and no URI, and ends with the status."""
    try:
        found = subprocess.run([t.run.program] + arguments, stdin=subprocess.DEVNULL, capture_output=True,
                               timeout=5 * SLOWER)
    except subprocess.TimeoutExpired as running:
        raise Failure("%s to be refused" % " ".join(arguments), "a server that runs: %r" % running.stdout)
    lines = found.stderr.decode("utf-8", "replace").strip().splitlines()
    t.check(found.returncode in statuses, "exit status %s for %s" % (statuses, " ".join(arguments)),
            "%d, stderr %r" % (found.returncode, lines[-3:]))
    t.check(len(lines) == 1, "one line on stderr", repr(lines[:4]))
    t.check(b"serving" not in found.stdout, "no URI on stdout", repr(found.stdout))


NOT_STARTED = tuple(range(1, 128))


@case(own=True, twice=False)
def L10_port_in_use(t):
    """A TCP port in use: one clear line and a non-zero status."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        refused(t, ["mem:1M", "--tcp", "127.0.0.1:%d" % other.getsockname()[1]], NOT_STARTED)


@case(own=True, twice=False)
def L10_socket_path_too_long(t):
    """A socket path above 107 bytes: one clear line."""
    refused(t, ["mem:1M", "--unix", "/tmp/" + "x" * 120], NOT_STARTED)


@case(own=True, twice=False)
def L10_socket_in_a_missing_folder(t):
    """A socket path in a folder that does not exist: one clear line."""
    refused(t, ["mem:1M", "--unix", "/tmp/nbd-no-such-folder/sock"], NOT_STARTED)


@case(own=True, twice=False)
def L10_socket_path_is_a_file(t):
    """A socket path that is a regular file: one clear line, and the file stays as it is."""
    with tempfile.NamedTemporaryFile(prefix="nbd-conformance-") as file:
        file.write(b"precious")
        file.flush()
        refused(t, ["mem:1M", "--unix", file.name], NOT_STARTED)
        with open(file.name, "rb") as again:
            t.check(again.read() == b"precious", "the file untouched", "another file")


@case(own=True, twice=False)
def L10_socket_path_of_a_live_server(t):
    """A socket path on which a server listens: one clear line, and the first server continues."""
    server = t.start(["mem:1M"], transport="unix")
    refused(t, ["mem:1M", "--unix", server.address[1]], NOT_STARTED)
    t.check(t.client(server).start().go().read(0, 512) == bytes(512), "the first server to continue", "no")


@case(own=True, twice=False)
def L11_stale_socket_after_kill(t):
    """After kill -9 the socket file is stale: a new server starts on the same path."""
    with tempfile.TemporaryDirectory(prefix="nbd-conformance-") as folder:
        first = t.start(["mem:1M"], transport="unix", endpoint=folder + "/sock")
        first.kill()
        t.check(os.path.exists(folder + "/sock"), "a stale socket file", "none")
        second = t.start(["mem:1M"], transport="unix", endpoint=folder + "/sock")
        t.check(t.client(second).start().go().read(0, 512) == bytes(512), "service", "none")
        stop(t, second)


@case(own=True, twice=False)
def L11_tcp_port_again_at_once(t):
    """After a stop with clients the TCP port can be used again at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = "127.0.0.1:%d" % probe.getsockname()[1]
    for _ in range(3):
        server = t.start(["mem:1M"], transport="tcp", endpoint=endpoint)
        t.client(server).start().go()
        stop(t, server)


@case(own=True, twice=False)
def U93_uri_of_a_unix_socket(t):
    """The URI is nbd+unix:///NAME?socket=PATH."""
    server = t.start(["mem:1M"], transport="unix")
    t.check(server.uri.startswith("nbd+unix:///disk?socket="), "nbd+unix:///disk?socket=...", server.uri)


@case(own=True, twice=False)
def U93_uri_of_a_tcp_port(t):
    """The URI is nbd://127.0.0.1:PORT/NAME, with the real port for port 0."""
    server = t.start(["mem:1M"], transport="tcp")
    t.check(server.uri.startswith("nbd://127.0.0.1:") and server.uri.endswith("/disk"), "nbd://127.0.0.1:PORT/disk",
            server.uri)
    t.check(server.address[2] > 0, "a port", server.uri)


@case(own=True, twice=False)
def U94_uri_is_percent_encoded(t):
    """Names with spaces, slashes, percent signs and non-ASCII letters survive the URI and open the export."""
    for name in ("a b", "disk/1", "/slash", "100%", "größe", "a?b#c&d"):
        server = t.start(["mem:1M", "--name", name], named=False)
        t.check(server.name == name, "a URI that decodes to %r" % name, server.uri)
        t.check(all(32 < ord(ch) < 127 for ch in server.uri), "a URI in printable ASCII", repr(server.uri))
        client = t.client(server).start()
        client.go(name.encode())
        client.close()
        stop(t, server)


@case(own=True, twice=False)
def X01_bad_arguments(t):
    """A bad argument: one line on stderr, exit status 2."""
    for arguments in ([], ["mem:"], ["mem:0x"], ["mem:-1"], ["mem:12Q"], ["qcow:1M"], ["mem:99999999999999T"],
                      ["mem:1M", "--no-such-option"], ["mem:1M", "--policy", "none"], ["mem:1M", "--tcp", "127.0.0.1:99999"],
                      ["mem:1M", "--block-size", "3:4096:1M"], ["mem:1M", "--block-size", "512"],
                      ["mem:1M", "--block-size", "4096:512:1M"], ["mem:1M", "--max-connections", "x"],
                      ["mem:1M", "--max-connections", "-1"], ["mem:1M", "--busy-poll", "x"],
                      ["mem:1M", "--threads", "-3"], ["mem:1M", "--threads", "2"], ["mem:9223372036854775808"]):
        refused(t, arguments)


@case(own=True, twice=False)
def X02_help(t):
    """--help shows the options, status 0."""
    found = subprocess.run([t.run.program, "--help"], capture_output=True, timeout=10 * SLOWER)
    t.check(found.returncode == 0, "status 0", "%d" % found.returncode)
    for option in ("--unix", "--tcp", "--name", "--description", "--read-only", "--policy", "--threads", "--block-size",
                   "--max-connections", "--verbose"):
        t.check(option.encode() in found.stdout, "%s in --help" % option, "nothing of it")


@case(own=True, twice=False)
def X03_null_export(t):
    """null:SIZE reads as zero and discards writes."""
    server = t.start(["null:8M"])
    client = t.client(server).start().go()
    t.equal(client.size, 8 * MIB, "size")
    t.error(client.write(0, b"\xff" * 4096), 0, "WRITE")
    t.check(client.read(0, 65536) == bytes(65536), "zeroes", "other data")


@case(own=True, twice=False)
def X04_sizes(t):
    """Sizes in bytes and with K, M, G, T."""
    for text, size in (("512", 512), ("3K", 3 << 10), ("5M", 5 << 20), ("2G", 2 << 30), ("1T", 1 << 40), ("1000001", 1000001)):
        server = t.start(["mem:" + text])
        t.equal(t.client(server).start().go().size, size, "size of mem:%s" % text)
        stop(t, server)


@case(own=True, twice=False)
def X05_default_address(t):
    """Without --unix and --tcp the server listens on 127.0.0.1:10809."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 10809))
        except OSError:
            raise Skip("port 10809 is in use")
    server = t.start(["mem:1M"], transport=None)
    t.check(server.address[1:] == ("127.0.0.1", 10809), "127.0.0.1:10809", server.uri)
    t.check(t.client(server).start().go().read(0, 512) == bytes(512), "service", "none")


@case(own=True, twice=False)
def X06_one_thread_of_a_pool_serves_all(t):
    """--policy pool --threads 1: clients that do not read, trickle a payload or do not end the negotiation delay no other client."""
    server = t.start(["mem:64M", "--threads", "1"], policy="pool")
    for stage in ("reply_to_a_dead_reader", "mid_payload", "mid_option", "greeted", "refused_payload"):
        STAGES[stage](t, server)
        begin = time.monotonic()
        good = t.client(server).start().go()
        t.check(good.read(0, 4096) == bytes(4096), "right data", "other data")
        t.prompt(begin, "service beside a client at stage %s" % stage)
    stop(t, server)


@case(own=True, twice=False)
def X07_verbose_log_is_escaped_and_bounded(t):
    """--verbose: names from the wire cannot forge lines, send terminal sequences, or fill the log."""
    server = t.start(["mem:1M", "--verbose"])
    for name in (b"a\nserving nbd://evil/", b"\x1b[2J\x1b]0;evil\x07", b"\xff\xfe", b"x\ry", b"n" * 4096, b"\xc2\x9bevil"):
        client = t.client(server).start()
        client.negotiate(GO, info_data(name))
        client.close()
    stop(t, server)
    with open(server.errors.name, "rb") as file:
        log = file.read()
    t.check(log.strip(), "a story on stderr", "nothing")
    t.check(not any(line.startswith(b"serving") for line in log.splitlines()), "no forged line", "one")
    odd = sorted(set(log) - set(range(32, 127)) - {10, 9} - set(range(0x80, 0x100)))
    t.check(not odd, "no control characters", repr(odd))
    t.check(b"\xc2\x9b" not in log and b"\xff" not in log, "no C1 controls and no broken UTF-8", "some")
    longest = max(len(line) for line in log.splitlines())
    t.check(longest < 1000, "lines below 1000 bytes", "%d" % longest)


@case(own=True, twice=False)
def X08_no_limit_on_connections(t):
    """--max-connections 0 means any number."""
    server = t.start(["mem:1M", "--max-connections", "0"])
    clients = [t.client(server).start().go() for _ in range(scaled(150))]
    t.check(all(client.read(0, 512) == bytes(512) for client in clients), "service for all", "other data")


@case(own=True)
def N07_connections_without_data_are_not_logged(t):
    """Hundreds of connections that close at once: at most a line each on stderr, none of them long."""
    server = t.start(["mem:1M"])
    count = scaled(300)
    for _ in range(count):
        t.client(server).close()
    t.client(server).start().go()
    lines = server.stderr(1 << 20).splitlines()
    t.check(len(lines) <= count, "at most %d lines" % count, "%d" % len(lines))
