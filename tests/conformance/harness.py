# SPDX-License-Identifier: MIT
"""Servers under test, the registry of cases, and the oracle that follows each case."""
import atexit
import functools
import os
import re
import resource
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from urllib.parse import parse_qs, unquote, urlsplit

import wire
from wire import Client, Failure, PlainText, Silent

SMALL = os.environ.get("NBD_TEST_SCALE") == "small"
SLOWER = 4 if SMALL else 1          # time limits are this much wider for sanitizer builds
PROMPT = 5.0                        # an answer that waits for no deadline; the shortest deadline is 10 s
NAME, DESCRIPTION = b"disk", b"conformance disk"
NAMED = ["--name", NAME.decode(), "--description", DESCRIPTION.decode()]

# The arguments of each kind of server. A case with own=True starts its servers itself.
KINDS = {
    "rw": ["mem:64M"],
    "ro": ["mem:64M", "--read-only"],
    "bs": ["mem:64M", "--block-size", "512:4096:1M"],
    "big": ["mem:1T"],
    "big4k": ["mem:1T", "--block-size", "4096:4096:32M"],
    "slow": ["mem:1M"],
}
SIZES = {"rw": 64 << 20, "ro": 64 << 20, "bs": 64 << 20, "big": 1 << 40, "big4k": 1 << 40, "slow": 1 << 20}
WITNESS_LENGTH = 4096


def scaled(count):
    """A number of repetitions, reduced for slow builds."""
    return max(count // 4, 1) if SMALL else count


class Skip(Exception):
    """The case cannot run on this machine; the text gives the reason."""


class Broken(Exception):
    """The shared server of a case could not be started; the first case that needed it has reported it."""


# -- the registry -----------------------------------------------------------------------------------------------------

class Case:
    def __init__(self, function, kind, needs, twice, slow, own, tcp_only, scratch, only):
        self.function, self.name, self.only = function, function.__name__, only
        self.kind, self.needs, self.twice, self.slow = kind, needs, twice, slow
        self.own, self.tcp_only, self.scratch = own, tcp_only, scratch
        self.group = function.__module__
        self.rule = " ".join((function.__doc__ or "").split())


CASES = []


def case(kind="rw", needs=None, twice=True, slow=False, own=False, tcp_only=False, scratch=False, only=None):
    """Registers a case.

    kind: the server it runs against (KINDS). needs: "structured", "meta" or "extended", if the case is about an option
    that the server may not offer. twice: runs with both deliveries, else once with whole messages. slow: waits for
    deadlines of ten seconds, so it runs in parallel with the others. own: starts its own servers. tcp_only: needs RST.
    scratch: overwrites the witness's block. only: "tls", if the case runs over TLS alone.
    """
    def register(function):
        CASES.append(Case(function, kind, needs, twice, slow, own, tcp_only, scratch, only))
        return function
    return register


# -- servers ----------------------------------------------------------------------------------------------------------

def parse_uri(uri):
    """(address, export name) of an NBD URI; the address is ("unix", path), or ("tcp" or "tls", host, port)."""
    parts = urlsplit(uri)
    name = unquote(parts.path[1:])
    if parts.scheme == "nbd+unix":
        return ("unix", parse_qs(parts.query)["socket"][0]), name
    return ("tls" if parts.scheme == "nbds" else "tcp", parts.hostname, parts.port or 10809), name


STARTED = []
CREDENTIALS = None      # of the servers with TLS; run.py makes them


@atexit.register
def end_all():
    """Kills the servers that still run when the suite ends."""
    for process in STARTED:
        if process.poll() is None:
            process.kill()
            process.wait()


class Server:
    """One nbd-serve process."""

    def __init__(self, program, arguments, transport="unix", policy="per-client", endpoint=None, files=None, named=True,
                 tls="require"):
        self.folder = tempfile.TemporaryDirectory(prefix="nbd-conformance-")
        self.program, self.transport, self.policy = program, transport, policy
        if endpoint is None:
            endpoint = self.folder.name + "/sock" if transport == "unix" else "127.0.0.1:0"
        self.command = [program] + arguments + (NAMED if named else [])
        if transport:                   # None: the program's default address
            self.command += ["--unix" if transport == "unix" else "--tcp", endpoint]
        if transport == "tls":
            self.command += ["--tls", tls, "--tls-certificates", CREDENTIALS.server]
        if policy:
            self.command += ["--policy", policy]
        self.errors = open(self.folder.name + "/stderr", "wb+")
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=self.errors, stdin=subprocess.DEVNULL)
        STARTED.append(self.process)
        self.uri = self.read_uri()
        if files:
            resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (files, files))
        self.address, self.name = parse_uri(self.uri)
        self.witness = None
        self.stopped = False

    def read_uri(self):
        deadline = time.monotonic() + 20 * SLOWER
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], max(deadline - time.monotonic(), 0))
            data = os.read(self.process.stdout.fileno(), 1) if ready else b""
            if not data:
                self.kill()
                raise Failure("a line `serving NBD-URI` from %s" % " ".join(self.command),
                              "%r, stderr: %s" % (line, self.stderr(200)))
            line += data
            if line.endswith(b"\n") and not line.startswith(b"serving "):
                line = b""
        return line.decode().split(None, 1)[1].strip()

    def stderr(self, limit=400):
        self.errors.flush()
        with open(self.errors.name, "rb") as file:
            return file.read().decode("utf-8", "replace").strip()[-limit:]

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process.poll() is None

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self, sent=signal.SIGTERM, limit=10):
        """Stops the server; raises if it does not end in time with status 0 and a clean stderr.

        With sent=None the caller has sent a signal already."""
        if self.stopped:
            return
        self.stopped = True
        if self.witness:
            self.witness.close()
        if sent is not None:
            self.process.send_signal(sent)
        name = sent.name if sent is not None else "the signal"
        try:
            if sanitizer_of(self.program) == "tsan":
                self.nudge(sent or signal.SIGTERM)
            status = self.process.wait(limit * SLOWER)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure("the server to end within %g s of %s" % (limit * SLOWER, name), "it still runs")
        finally:
            self.process.stdout.close()
        report = self.report()
        if status != 0 or report:
            problem = Failure("exit status 0 after %s" % name, "%d; stderr: %s" % (status, report or self.stderr(200)))
            problem.details = self.first_report()
            raise problem

    def nudge(self, sent):
        """ThreadSanitizer may hold a signal back until its thread makes another call, so it is sent twice."""
        if not eventually(lambda: not self.alive(), 2):
            self.process.send_signal(sent)

    def report(self):
        text = self.stderr(1 << 20)
        found = re.search(r"(ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error|terminate called).*", text)
        return found.group(0) if found else ""

    def first_report(self):
        """A sanitizer's first report in full."""
        text = self.stderr(1 << 20)
        found = re.search(r"^.*(ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error).*(\n.*){0,60}", text, re.M)
        return found.group(0) if found else ""

    # from /proc

    def descriptors(self):
        return len(os.listdir("/proc/%d/fd" % self.pid))

    def status(self, field):
        with open("/proc/%d/status" % self.pid) as file:
            found = re.search(r"^%s:\s*(\d+)" % field, file.read(), re.M)
        if not found:       # a zombie has no memory
            raise Failure("a running server", "one that has ended")
        return int(found.group(1))

    def threads(self):
        return self.status("Threads")

    def rss(self):
        return self.status("VmRSS") * 1024

    def cpu(self):
        """Seconds of processor time used so far."""
        with open("/proc/%d/stat" % self.pid) as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@functools.lru_cache(None)
def sanitizer_of(program):
    """"asan", "tsan", "msan" or "": sanitizers keep freed memory, so the resident size of such a build is meaningless."""
    with open(program, "rb") as file:
        data = file.read()
    return next((name for name in ("asan", "tsan", "msan") if b"__%s_init" % name.encode() in data), "")


def eventually(condition, limit=3.0):
    """Whether `condition()` becomes true within the limit; it is polled every few milliseconds."""
    deadline = time.monotonic() + limit * SLOWER
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


# -- the argument of a case --------------------------------------------------------------------------------------------

class Context:
    """`t` of a case: makes clients in the case's delivery, closes them afterwards, and holds the common checks."""

    def __init__(self, run, case, server, transport, delivery):
        self.run, self.case, self.server, self.transport, self.delivery = run, case, server, transport, delivery
        self.clients, self.servers, self.trace = [], [], []
        self.kind = case.kind

    # clients

    def client(self, server=None, delivery=None, **more):
        client = Client((server or self.server).address, delivery or self.delivery, 5.0 * SLOWER, self.trace, **more)
        self.clients.append(client)
        return client

    def hs(self, flags=3, **more):
        """A client in option negotiation."""
        return self.client(**more).start(flags)

    def tx(self, name=b"", mode="simple", contexts=None, **more):
        """A client in transmission. mode: simple, structured or extended; contexts: queries to select."""
        client = self.hs(**more)
        if mode == "structured":
            self.equal(client.structured(), wire.ACK, "STRUCTURED_REPLY")
        if mode == "extended":
            self.equal(client.extended(), wire.ACK, "EXTENDED_HEADERS")
        if contexts is not None:
            self.equal(client.set_meta(contexts, name)[0].kind, wire.ACK, "SET_META_CONTEXT")
        return client.go(name)

    def start(self, arguments, **more):
        """Starts a server for this case alone; it is stopped after the case."""
        if self.transport == "tls" and more.get("transport", "tls") != "tls":
            raise PlainText("a server over %s" % more["transport"])
        more.setdefault("transport", self.transport)
        more.setdefault("policy", self.run.policy)
        server = Server(self.run.program, arguments, **more)
        self.servers.append(server)
        return server

    def without_tls(self):
        """The case is about a server without TLS."""
        if self.transport == "tls":
            raise PlainText("a server without TLS")

    def cut(self, session, end):
        """A client in a session whose first `end` bytes it has sent; the client flags are the first four."""
        if self.transport == "tls":
            client, session = self.hs(delivery="whole"), session[4:]
        else:
            client = self.client(delivery="whole")
            client.greet()
        client.send(session[:end])
        return client

    # checks

    def check(self, fine, expected, got):
        if not fine:
            raise Failure(expected, got)

    def prompt(self, begin, what):
        """`what` was done without waiting for another client's deadline."""
        took = time.monotonic() - begin
        self.check(took < PROMPT, "%s within %g s" % (what, PROMPT), "%.1f s" % took)

    def equal(self, got, wanted, what):
        """`got` equals `wanted`, or is an element if that is a set."""
        allowed = wanted if isinstance(wanted, (set, frozenset, tuple)) else {wanted}
        if got not in allowed:
            if any(value in wire.REP_NAMES for value in allowed):
                table = wire.REP_NAMES
            else:
                table = {}
            raise Failure("%s: %s" % (what, " or ".join(show(table, v) for v in sorted(allowed, key=repr))),
                          show(table, got))

    def error(self, got, allowed, what):
        """An error value (or a Result) is one of the allowed."""
        value = got.error if isinstance(got, wire.Result) else got
        allowed = {allowed} if isinstance(allowed, int) else set(allowed)
        if value not in allowed:
            raise Failure("%s: %s" % (what, wire.errors(allowed)), wire.name_of(wire.ERROR_NAMES, value))

    def drop(self, client, within=1.0, what="the connection to be dropped", silent=True, allow=0):
        """The server closes within the time; with `silent` it sends at most `allow` bytes before."""
        deadline = time.monotonic() + within * SLOWER
        got = 0
        while True:
            try:
                data = client.recv_some(timeout=deadline - time.monotonic())
            except Silent:
                raise Failure("%s within %g s" % (what, within * SLOWER), "an open connection")
            if not data:
                return
            got += len(data)
            if silent and got > allow:
                raise Failure("%s without an answer" % what, "%d bytes: %s" % (got, wire.short(data)))

    def quiet(self, client, seconds=0.2):
        """Nothing arrives, and the connection stays open."""
        try:
            data = client.recv_some(timeout=seconds)
        except Silent:
            return
        raise Failure("nothing for %g s" % seconds, wire.short(data) if data else "end of stream")

    def sync(self, client, what="the right reply to the next request"):
        """Transmission continues: a READ of the witness's block is right."""
        length = 4096 if self.kind == "big4k" else 512
        try:
            data = client.read(self.witness_offset, length)
        except Failure as problem:
            raise Failure(what, "(%s)" % problem)
        self.check(data == self.witness_block[:length], what, "wrong data %s" % wire.short(data))

    def sync_options(self, client, what="the right reply to the next option"):
        """Negotiation continues: INFO on the default export succeeds."""
        try:
            _, got = client.info()
        except Failure as problem:
            raise Failure(what, "(%s)" % problem)
        self.check(got[-1].kind == wire.ACK, what, repr(got[-1]))
        self.check(client.size == SIZES.get(self.kind, client.size), what, "size %d" % client.size)

    def finish(self, client):
        """The rest of a correct session: GO, a READ, DISC."""
        client.go()
        self.sync(client)
        client.request(wire.DISC, expect=False)
        self.drop(client, what="the connection to be closed after DISC")

    @property
    def witness_offset(self):
        return SIZES[self.kind] // 4 * 3

    @property
    def witness_block(self):
        return WITNESS_BLOCK if self.kind != "ro" else bytes(WITNESS_LENGTH)

    def close(self):
        for client in self.clients:
            client.close()
        problem = None
        for server in self.servers:
            try:
                server.stop() if server.alive() and not server.stopped else server.kill()
            except Failure as failed:
                problem = failed
        if problem:
            raise problem


def show(table, value):
    return table.get(value, value if isinstance(value, str) else repr(value))


WITNESS_BLOCK = bytes((i * 7 + i // 256 * 13 + 1) & 0xFF for i in range(WITNESS_LENGTH))


# -- shared servers, and the oracle -----------------------------------------------------------------------------------

class Shared:
    """A server and its witness: a client that connected before the case and must not be affected."""

    def __init__(self, run, kind, transport):
        self.kind = kind
        self.server = Server(run.program, KINDS[kind], transport, run.policy)
        self.offset = SIZES[kind] // 4 * 3
        self.sanitized = run.sanitized
        self.block = WITNESS_BLOCK if kind != "ro" else bytes(WITNESS_LENGTH)
        try:
            self.witness = self.server.witness = Client(self.server.address, timeout=5.0 * SLOWER).start().go()
            self.restore()
            self.measure()
        except Failure:
            self.server.kill()
            raise

    def restore(self):
        if self.kind != "ro" and self.witness.write(self.offset, self.block):
            raise Failure("the witness's write to succeed", "an error")

    def measure(self):
        time.sleep(0.05)
        self.descriptors, self.threads = self.server.descriptors(), self.server.threads()
        self.rss = self.server.rss()

    def verify(self, waiting_threads=8):
        """The oracle after each case: other clients are served, and no resource leaks. A thread may wait for its next
        client for a second."""
        server = self.server
        if not server.alive():
            raise Failure("a running server", self.ending())
        begin = time.monotonic()
        try:
            data = self.witness.read(self.offset, WITNESS_LENGTH)
        except Failure as problem:
            raise Failure("another client to be served", "(%s)" % problem)
        if data != self.block:
            raise Failure("another client's data unchanged", "other bytes")
        took = time.monotonic() - begin
        if took > PROMPT:
            raise Failure("another client to be answered within %g s" % PROMPT, "%.1f s" % took)
        try:
            with_new = Client(server.address, timeout=5.0 * SLOWER).start().go()
        except Failure as problem:
            raise Failure("a new client to be served", "(%s)" % problem)
        try:
            if with_new.read(self.offset, WITNESS_LENGTH) != self.block:
                raise Failure("right data for a new client", "other bytes")
        finally:
            with_new.close()
        if not eventually(lambda: server.descriptors() <= self.descriptors + 1):
            raise Failure("about %d descriptors in the server" % self.descriptors, "%d" % server.descriptors())
        if not eventually(lambda: server.threads() <= self.threads + 1 + waiting_threads):
            raise Failure("about %d threads in the server" % self.threads, "%d" % server.threads())
        # The threads together keep up to 64 MiB for the next requests (session/buffers/block.hpp).
        budget = self.rss + min(SIZES[self.kind], 64 << 20) + (64 << 20) + (32 << 20)
        if not self.sanitized and not eventually(lambda: server.rss() <= budget):
            raise Failure("at most %d MiB resident" % (budget >> 20), "%d MiB" % (server.rss() >> 20))

    def ending(self):
        return "exit status %s; stderr: %s" % (self.server.process.returncode,
                                               self.server.report() or self.server.stderr(300))

    def stop(self):
        self.server.stop()


class Run:
    """One run of the suite: program, policy, and the servers that it has started."""

    def __init__(self, program, policy, transport="unix"):
        self.program, self.policy = program, policy
        self.sanitized = sanitizer_of(program)
        self.shared, self.broken = {}, {}
        self.lock = threading.Lock()
        self.offered = {}
        self.transport = transport      # by which the options are asked for

    def server(self, kind, transport):
        with self.lock:
            key = (kind, transport)
            if self.broken.get(key, 0) > 2:
                raise Broken("the %s server over %s" % (kind, transport))
            if key not in self.shared or not self.shared[key].server.alive():
                try:
                    self.shared[key] = Shared(self, kind, transport)
                except Failure as problem:
                    if self.sanitized == "tsan" and kind.startswith("big") and "allocate" in str(problem.got):
                        raise Skip("no room for 1 TiB beside ThreadSanitizer")
                    self.broken[key] = self.broken.get(key, 0) + 1
                    raise
            return self.shared[key]

    def forget(self, kind, transport):
        """Discards the server after a failed oracle; the next case gets a new one."""
        with self.lock:
            shared = self.shared.pop((kind, transport), None)
        if shared:
            shared.witness.close()
            shared.server.kill()

    def offers(self, what):
        """Whether the server offers the option that a case tests."""
        if what not in self.offered:
            client = Client(self.server("rw", self.transport).server.address, timeout=5.0 * SLOWER).start()
            try:
                if what == "extended":
                    self.offered[what] = client.extended() == wire.ACK
                else:
                    self.offered[what] = client.structured() == wire.ACK
                    if what == "meta" and self.offered[what]:
                        self.offered[what] = client.final(wire.LIST_META, wire.meta_data()) != wire.ERR_UNSUP
            finally:
                client.close()
        return self.offered[what]


def loopback6():
    """Whether this machine has ::1."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False
