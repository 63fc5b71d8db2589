# SPDX-License-Identifier: MIT
"""nbd-serve under a service manager: sockets that it passes, what it is told, and the units of examples/systemd."""
import itertools

from support import *

PROGRAM = require_program("NBD_SERVE")

# As a service manager does it: descriptors from 3 on, and LISTEN_PID of the process that becomes the program.
ACTIVATE = """
import fcntl, os, sys
passed, names, count = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in passed if fd]
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = count or str(len(high))
if names != "-":
    os.environ["LISTEN_FDNAMES"] = names
os.execv(sys.argv[4], sys.argv[4:])
"""


def activation(sockets, *arguments, names="-", count=""):
    """A command, and what subprocess.Popen needs for it."""
    numbers = [s.fileno() for s in sockets]
    command = [sys.executable, "-c", ACTIVATE, ",".join(map(str, numbers)), names, count, PROGRAM, *arguments]
    return command, {"pass_fds": numbers}


@contextlib.contextmanager
def activated(sockets, *arguments, lines=None, environment={}, **how):
    command, more = activation(sockets, *arguments, **how)
    with started(command, lines=len(sockets) if lines is None else lines, env={**os.environ, **environment}, **more) as server:
        server.owns_socket_file = False
        yield server


def refused(sockets, *arguments, **how):
    """Returns the error: one line on stderr."""
    command, more = activation(sockets, "mem:1M", *arguments, **how)
    done = run(*command, status=2, stdin=subprocess.DEVNULL, **more)
    assert done.stdout == "" and done.stderr.count("\n") == 1, done
    return done.stderr


def listening(family, at):
    s = socket.socket(family)
    s.bind(at)
    s.listen(8)
    return s


def assert_reads(connection):
    with connection:
        connection.settimeout(PATIENCE)
        greet(connection).sendall(read_request(512))
        received = b""
        while len(received) < 16 + 512:
            more = connection.recv(16 + 512 - len(received))
            assert more, "the connection is closed"
            received += more
        assert received[4:8] == bytes(4) and received[16:] == bytes(512), received[:16]


def connected(family, at):
    s = socket.socket(family)
    s.settimeout(PATIENCE)
    s.connect(at)
    return s


@for_each(itertools.product(POLICIES, ([], ["--socket-activation"])))
def test_several_sockets(policy, option):
    with directory() as where:
        one, other = f"{where}/one", f"{where}/other"
        sockets = [listening(socket.AF_UNIX, one), listening(socket.AF_INET, ("127.0.0.1", 0)),
                   listening(socket.AF_UNIX, other)]
        tcp = sockets[1].getsockname()
        early = connected(socket.AF_UNIX, one)  # before the server runs
        with activated(sockets, "mem:1M", "--policy", policy, *option, names="a:b:c") as server:
            for s in sockets:
                s.close()
            assert server.uris == [f"nbd+unix:///?socket={one}", f"nbd://{tcp[0]}:{tcp[1]}/",
                                   f"nbd+unix:///?socket={other}"], server.uris
            assert_reads(early)
            for family, at in ((socket.AF_UNIX, one), (socket.AF_INET, tcp), (socket.AF_UNIX, other)):
                for _ in range(2):
                    assert_reads(connected(family, at))
            # A child process would not be activated too.
            with open(f"/proc/{server.pid}/environ") as environment:
                assert "LISTEN_PID" in environment.read()  # what it was started with: the sockets were for it
        # The files belong to the service manager.
        assert os.path.exists(one) and os.path.exists(other)


@for_each(POLICIES)
def test_a_connection(policy):
    """Accept=yes: a process for each client, which ends with it."""
    ours, its = socket.socketpair()
    command, more = activation([its], "mem:1M", "--policy", policy, "--socket-activation")
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=end_with_parent, **more)
    its.close()
    try:
        assert_reads(ours)
        assert process.wait(PATIENCE) == 0
        assert process.stdout.read() == b""
    finally:
        process.kill()
        process.communicate()


def test_what_is_passed_badly():
    with directory() as where:
        s = listening(socket.AF_UNIX, f"{where}/s")
        assert "LISTEN_FDS: expected a number" in refused([s], count="one")
        assert "LISTEN_FDS: expected a number" in refused([s], count="0")
        assert "LISTEN_FDS: expected 40 open descriptors from 3 on, but" in refused([s], count="40")
        assert "LISTEN_FDNAMES: expected as many names" in refused([s], names="a:b")
        for option in (["--unix", f"{where}/t"], ["--tcp", "127.0.0.1:0"], ["--run", "true"]):
            assert refused([s], *option).startswith(f"nbd-serve: {option[0]}: "), option
        with open(f"{where}/file", "w") as file:
            assert "LISTEN_FDS: " in refused([file])
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
            assert "LISTEN_FDS: " in refused([datagrams])
        ours, its = socket.socketpair()
        assert "LISTEN_FDS: " in refused([s, its])
        ours.close()


def test_sockets_that_are_demanded():
    told = run(PROGRAM, "mem:1M", "--socket-activation", status=2, stdin=subprocess.DEVNULL).stderr
    assert told.startswith("nbd-serve: --socket-activation: expected ") and "LISTEN_FDS" in told, told


def test_variables_for_another_process():
    # As a program's child process inherits them.
    with directory() as where:
        with started([PROGRAM, "mem:1M", "--unix", f"{where}/s"],
                     env={**os.environ, "LISTEN_PID": "1", "LISTEN_FDS": "1"}) as server:
            assert_reads(server.raw_connection())


class Manager:
    """Receives what a service tells."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE)
        self.socket.bind(address)

    def hears(self, text):
        told = self.socket.recv(4096).decode()
        assert told == text, told

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


@for_each(["path", "abstract"])
def test_ready_and_stopping(kind):
    with directory() as where:
        address = f"{where}/notify" if kind == "path" else f"@nbd-notify-{os.getpid()}"
        with Manager(address.replace("@", "\0")) as manager:
            with started([PROGRAM, "mem:1M", "--unix", f"{where}/s"],
                         env={**os.environ, "NOTIFY_SOCKET": address}) as server:
                manager.hears(f"READY=1\nSTATUS=serving {server.uri}")
                assert_reads(server.raw_connection())
                server.process.terminate()
                manager.hears("STOPPING=1")
            # A captive command is no service.
            run(PROGRAM, "mem:1M", "--run", 'test -z "$NOTIFY_SOCKET"', env={**os.environ, "NOTIFY_SOCKET": address})


def test_a_manager_that_is_gone():
    with directory() as where:
        with started([PROGRAM, "mem:1M", "--unix", f"{where}/s"],
                     env={**os.environ, "NOTIFY_SOCKET": f"{where}/none"}) as server:
            assert_reads(server.raw_connection())
        assert server.told.startswith("nbd-serve: NOTIFY_SOCKET: "), server.told


@for_each([("listening", []), ("connected", ["--accept"])])
def test_systemd_socket_activate(kind, option):
    tool = find_tool("systemd-socket-activate")
    if not tool:
        raise Skip("systemd-socket-activate is not installed (Debian package systemd)")
    with directory() as where:
        at = f"{where}/s"
        process = subprocess.Popen([tool, *option, "-l", at, PROGRAM, "mem:1M", "--socket-activation"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   preexec_fn=end_with_parent)
        try:
            wait_until(lambda: os.path.exists(at), "the socket")
            def connects():
                with contextlib.suppress(ConnectionRefusedError):  # it does not listen yet
                    return connected(socket.AF_UNIX, at)
            found = []
            wait_until(lambda: found or found.append(connects()) or found[-1] or found.clear(), "a connection")
            assert_reads(found[0])
            assert_reads(connected(socket.AF_UNIX, at))
            if kind == "listening":
                process.terminate()
                assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def units():
    """The units, with the program that is tested."""
    folder = require_program("SYSTEMD_UNITS")
    with directory() as where:
        for name in os.listdir(folder):
            with open(f"{folder}/{name}") as unit, open(f"{where}/{name}", "w") as copy:
                copy.write(unit.read().replace("/usr/local/bin/nbd-serve", PROGRAM))
        yield where


def systemd_analyze():
    tool = find_tool("systemd-analyze")
    if not tool:
        raise Skip("systemd-analyze is not installed (Debian package systemd)")
    return tool


def test_the_units_are_correct():
    tool = systemd_analyze()
    with units() as where:
        done = run(tool, "verify", "--man=no", f"{where}/nbd-serve@.service", f"{where}/nbd-serve@.socket")
        assert done.stderr == "", done.stderr


def test_the_service_is_hardened():
    tool = systemd_analyze()
    with units() as where:
        done = run(tool, "security", "--offline=yes", "--threshold=10", "--no-pager", f"{where}/nbd-serve@.service", status=None)
        if "unrecognized option" in done.stderr:
            raise Skip("systemd-analyze security has no --offline before systemd 250")
        assert done.returncode == 0, done.stdout + done.stderr


def permitted_calls(unit):
    """The names of the system calls that the unit's SystemCallFilter permits."""
    def names(group):
        listed = run(systemd_analyze(), "syscall-filter", "--no-pager", group).stdout.splitlines()[1:]
        words = [line.strip() for line in listed]
        return set().union(*(names(word) if word.startswith("@") else {word} for word in words if word and word[0] != "#"))
    permitted = names("@default")
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit, re.M):
        for group in line.lstrip("~").split():
            permitted = permitted - names(group) if line.startswith("~") else permitted | names(group)
    return permitted


@for_each(POLICIES)
def test_the_service_makes_no_other_calls(policy):
    strace = find_tool("strace")
    if not strace:
        raise Skip("strace is not installed (Debian package strace)")
    if SMALL:
        raise Skip("a sanitizer makes other calls")
    with units() as where:
        with open(f"{where}/nbd-serve@.service") as file:
            unit = file.read()
        if run(strace, "-o", "/dev/null", "true", status=None).returncode != 0:
            raise Skip("strace may not trace here")
        s = listening(socket.AF_UNIX, f"{where}/s")
        command, more = activation([s], f"file:{where}/disk", "--create", "1M", "--socket-activation", "--policy", policy)
        trace = f"{where}/trace"
        with Manager(f"{where}/notify") as manager:
            with started([strace, "-f", "-o", trace, *command],
                         env={**os.environ, "NOTIFY_SOCKET": f"{where}/notify"}, **more) as server:
                server.owns_socket_file = False
                manager.hears(f"READY=1\nSTATUS=serving {server.uri}")
                assert_reads(connected(socket.AF_UNIX, f"{where}/s"))
                with open(f"/proc/{server.pid}/task/{server.pid}/children") as children:
                    os.kill(int(children.read().split()[0]), signal.SIGTERM)
                server.wait_for_end()
        with open(trace) as file:
            lines = file.read().splitlines()
        begin = next(number for number, line in enumerate(lines) if f'execve("{PROGRAM}"' in line)
        calls = [found for line in lines[begin:] if (found := re.match(r"\d+ +(?:<\.\.\. )?(\w+)(?:\((.*)| resumed)", line))]
        made = {found[1] for found in calls}
        assert {"sendto", "accept4", "openat"} <= made, made
        others = made - permitted_calls(unit)
        assert not others, f"the unit refuses {others}"
        families = {found[2].split(",")[0] for found in calls if found[1] == "socket" and found[2]}
        assert families == {"AF_UNIX"}, families
        both = [found[0] for found in calls if found[1] in ("mmap", "mprotect") and found[2]
                and "PROT_WRITE" in found[2] and "PROT_EXEC" in found[2]]
        assert not both, both


run_cases(globals())
