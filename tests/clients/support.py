# SPDX-License-Identifier: MIT
"""Shared by the client tests: a server in a `with` statement, the tools, and a runner of cases.

A test file defines functions called test_… and ends with run_cases(globals()). Each case is named in the
output; the file exits with 0, with 1 if a case failed, or with 77 if every case was skipped.
"""
import contextlib
import ctypes
import faulthandler
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.parse

# Sanitizer builds are several times slower and run the same cases over less data.
SMALL = os.environ.get("NBD_TEST_SCALE") == "small"
PATIENCE = 60 if SMALL else 20  # seconds after which an operation counts as hung

K, M, G, T = 1 << 10, 1 << 20, 1 << 30, 1 << 40

POLICIES = ["per-client", "pool"]
TRANSPORTS = ["unix", "tcp"]
GRID = [(policy, transport) for policy in POLICIES for transport in TRANSPORTS]

SANITIZER_REPORT = re.compile(r"(ERROR|WARNING): \w+Sanitizer|: runtime error: ")


def scaled(full, small):
    return small if SMALL else full


class Skip(Exception):
    """Raised by a case that this machine cannot run; its text gives the reason."""


def skip_file(why):
    print(f"SKIP: {why}")
    sys.exit(77)


def find_tool(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")


def require_tool(name, package):
    return find_tool(name) or skip_file(f"{name} is not installed (Debian package {package})")


def require_libnbd():
    try:
        import nbd
    except ImportError:
        skip_file(f"{sys.executable} has no module nbd (Debian package python3-libnbd)")
    return nbd


def require_program(variable):
    """The path of a binary of this project, which the build passes in the environment."""
    path = os.environ.get(variable)
    if not path:
        skip_file(f"the environment variable {variable} is not set")
    return path


def end_with_parent():
    """The kernel kills the servers if this test is killed, for example by a timeout."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def shortened(text, length=300):
    return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"


def wait_until(condition, what, seconds=PATIENCE):
    """Polls a condition for which there is no event, for a limited time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not after {seconds} s: {what}"
        time.sleep(0.005)


class Server:
    """A server process, made by serve(). stop() ends it and checks its exit status."""

    def __init__(self, command, directory, **how):
        self.command = command
        self.words = shortened(" ".join(command))
        self.stderr_path = tempfile.mkstemp(prefix="stderr.", dir=directory)[1]
        with open(self.stderr_path, "w") as stderr:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=stderr, preexec_fn=end_with_parent, **how)
        self.uris = []
        self.owns_socket_file = True
        self.expected_status = 0
        self.told = ""  # its stderr, after it has ended

    def wait_for_serving_lines(self, count):
        pending = b""
        deadline = time.monotonic() + PATIENCE
        while len(self.uris) < count:
            left = deadline - time.monotonic()
            readable = left > 0 and select.select([self.process.stdout], [], [], left)[0]
            assert readable, f"no serving line from {self.words}"
            received = os.read(self.process.stdout.fileno(), 4096)
            assert received, f"{self.words} ended with {self.process.wait()}: {self.stderr()}"
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                word, _, uri = line.decode().partition(" ")
                assert word == "serving" and uri, f"unexpected line on stdout: {line}"
                self.uris.append(uri)

    @property
    def pid(self):
        return self.process.pid

    @property
    def uri(self):
        return self.uris[0]

    @property
    def address(self):
        """(host, port) of a TCP server, from its URI."""
        parts = urllib.parse.urlsplit(self.uri)
        return parts.hostname, parts.port

    @property
    def socket_path(self):
        return urllib.parse.parse_qs(urllib.parse.urlsplit(self.uri).query)["socket"][0]

    def uri_of(self, export):
        """The URI of another export name on this server."""
        front, mark, query = self.uri.partition("?")
        return front[:front.index("/", front.index("://") + 3)] + "/" + urllib.parse.quote(export, safe="") + mark + query

    def raw_connection(self):
        if self.uri.startswith("nbd+unix:"):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(self.socket_path)
        else:
            connection = socket.create_connection(self.address)
        connection.settimeout(PATIENCE)
        return connection

    def stderr(self):
        with open(self.stderr_path, errors="replace") as stderr:
            return stderr.read()

    def open_files(self):
        """The target of each open descriptor."""
        files = {}
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed in between
                files[name] = os.readlink(f"/proc/{self.pid}/fd/{name}")
        return files

    def open_sockets(self):
        return sum(file.startswith("socket:") for file in self.open_files().values())

    def memory_in_use(self):
        """Bytes of memory: the process's own, and those of its memfds."""
        with open(f"/proc/{self.pid}/status") as status:
            total = int(re.search(r"RssAnon:\s+(\d+) kB", status.read())[1]) * K
        for name, file in self.open_files().items():
            if file.startswith("/memfd:"):
                total += os.stat(f"/proc/{self.pid}/fd/{name}").st_blocks * 512
        return total

    def wait_for_end(self, seconds=PATIENCE):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server still runs after {seconds} s") from None

    def stop(self, with_signal=signal.SIGTERM, seconds=PATIENCE):
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        status = self.wait_for_end(seconds)
        self.told = self.stderr()
        assert status == self.expected_status, f"the server ended with status {status}: {self.told}"
        assert not SANITIZER_REPORT.search(self.told), self.told
        if self.uri.startswith("nbd+unix:") and status == 0 and self.owns_socket_file:
            assert not os.path.exists(self.socket_path), "the socket file was not removed"

    def kill(self):
        """Kills the process and waits for it."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def directory():
    # Short, because the path of a UNIX socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="nbd.") as path:
        yield path


@contextlib.contextmanager
def started(command, lines=1, where=None, **how):
    """Starts a process and yields it when it has printed `serving URI`. `how`: for subprocess.Popen."""
    with contextlib.ExitStack() as stack:
        where = where or stack.enter_context(directory())
        server = Server(command, where, **how)
        try:
            server.wait_for_serving_lines(lines)
            yield server
        except BaseException:
            said = server.stderr()
            server.kill()
            if said:
                print(f"--- stderr of {server.words}\n{said}---", file=sys.stderr)
            raise
        try:
            server.stop()
        finally:
            server.kill()
            server.process.stdout.close()


@contextlib.contextmanager
def serve(device, *options, transport="unix", policy=None, at=None):
    """Starts nbd-serve with these arguments, on a new UNIX socket or a free TCP port unless `at` is given."""
    with directory() as where:
        at = at or (f"{where}/s" if transport == "unix" else "127.0.0.1:0")
        command = [require_program("NBD_SERVE"), device, f"--{transport}", at, *map(str, options)]
        if policy:
            command += ["--policy", policy]
        with started(command, where=where) as server:
            yield server


@contextlib.contextmanager
def serve_under_strace(disk, *options, calls, inject=(), at=None):
    """nbd-serve, whose system calls `calls` strace writes to `server.trace`, and delays or makes fail by `inject`.
    `disk` may name a file in its folder as {where}; a disk of 8 MiB is there."""
    strace = find_tool("strace")
    if not strace:
        raise Skip("strace is not installed")
    injected = [f"--inject={call}" for call in inject]
    probe = run(strace, "-f", "-o", "/dev/null", *injected, "true", status=None)
    if probe.returncode != 0:
        raise Skip(f"strace cannot be used: {shortened(probe.stderr.strip(), 100)}")
    sanitizer = "ASAN_OPTIONS=" + os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"  # leak detection uses ptrace, too
    with directory() as where:
        with open(f"{where}/disk", "wb") as file:
            file.truncate(8 * M)
        # -D: the server is a child of this process, and strace is a child of the server.
        command = [strace, "-D", "-f", "-s", "64", "-o", f"{where}/trace", "-E", sanitizer, "-e", f"trace={calls}", *injected,
                   require_program("NBD_SERVE"), disk.format(where=where), "--unix", f"{where}/s", *options]
        with started(command, where=where) as server:
            server.disk, server.trace = f"{where}/disk", f"{where}/trace"
            yield server


def why_no_uring():
    """Why nbd-serve cannot serve disks of uring:PATH on this machine; empty if it can."""
    said = run(require_program("NBD_SERVE"), "uring:/no/such/file", status=None, stdin=subprocess.DEVNULL).stderr
    return said.strip() if "io_uring" in said else ""


def greeted(server):
    """A raw connection whose handshake is over."""
    return greet(server.raw_connection())


def greet(connection):
    """Chooses the default export."""
    connection.sendall(b"\0\0\0\3IHAVEOPT" + bytes.fromhex("00000001 00000000"))
    received = b""
    while len(received) < 18 + 10:
        more = connection.recv(28 - len(received))
        assert more, "the connection is closed"
        received += more
    return connection


def read_request(length):
    return bytes.fromhex("25609513 0000 0000") + bytes(16) + length.to_bytes(4, "big")


def run(*command, status=0, timeout=PATIENCE * 3, **how):
    """Runs a client to its end. `status` is the expected exit status, None for any. stdout is text."""
    how.setdefault("stdout", subprocess.PIPE)
    done = subprocess.run([str(part) for part in command], stderr=subprocess.PIPE, text=True, timeout=timeout, **how)
    if status is not None and done.returncode != status:
        words = shortened(" ".join(done.args))
        raise AssertionError(f"{words} ended with {done.returncode}, not {status}\n{done.stdout}\n{done.stderr}")
    return done


def for_each(values):
    """Runs a case once for each tuple of arguments."""
    def mark(case):
        case.arguments = [value if isinstance(value, tuple) else (value,) for value in values]
        return case
    return mark


def takes(seconds):
    """Says that a case takes longer than others."""
    def mark(case):
        case.seconds = seconds
        return case
    return mark


def run_cases(names):
    # The command line can select cases by name.
    chosen = sys.argv[1:]
    counts = {"ok": 0, "FAILED": 0, "SKIP": 0}
    for name, case in list(names.items()):
        if not name.startswith("test_") or (chosen and name not in chosen):
            continue
        for arguments in getattr(case, "arguments", [()]):
            label = shortened(" ".join([name[len("test_"):], *map(str, arguments)]), 80)
            begin = time.monotonic()
            # If a client hangs inside its library, this prints the stack and ends the file.
            faulthandler.dump_traceback_later(getattr(case, "seconds", 4 * PATIENCE), exit=True)
            outcome, detail = "ok", ""
            try:
                case(*arguments)
            except Skip as why:
                outcome, detail = "SKIP", f": {why}"
            except Exception:
                outcome = "FAILED"
                traceback.print_exc(limit=-3)
            faulthandler.cancel_dump_traceback_later()
            counts[outcome] += 1
            print(f"{outcome}: {label}{detail} ({time.monotonic() - begin:.2f} s)", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    sys.exit(1 if counts["FAILED"] else 0 if counts["ok"] else 77)
