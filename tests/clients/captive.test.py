# SPDX-License-Identifier: MIT
"""nbd-serve --run COMMAND: its variables, its exit status, and what is left when it has ended."""
from support import *

PROGRAM = require_program("NBD_SERVE")


@contextlib.contextmanager
def temporary_folder():
    """$TMPDIR of nbd-serve; empty at the end."""
    with directory() as where:
        yield where
        assert os.listdir(where) == [], "files are left behind"


def captive(where, *arguments, status=0, **how):
    how.setdefault("stdin", subprocess.DEVNULL)
    return run(PROGRAM, *arguments, status=status, env={**os.environ, "TMPDIR": where}, **how)


class Running:
    """nbd-serve --run, whose command has said that it runs."""

    def __init__(self, where, command, *arguments):
        self.process = subprocess.Popen([PROGRAM, "mem:1M", "--run", command, *arguments], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, "TMPDIR": where}, preexec_fn=end_with_parent)
        self.said = self.process.stdout.readline().strip()
        assert self.said, self.process.communicate()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()  # a process that is left may still have it open
        self.process.stderr.close()

    def wait(self):
        return self.process.wait(PATIENCE)


def exists(pid):
    """Whether a process runs; a zombie does not."""
    with contextlib.suppress(FileNotFoundError):
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    return False


@for_each(POLICIES)
def test_a_client_of_the_private_socket(policy):
    tool = find_tool("nbdinfo")
    if not tool:
        raise Skip("nbdinfo is not installed (Debian package libnbd-bin)")
    with temporary_folder() as where:
        # stdout belongs to the command.
        assert captive(where, "mem:1G", "--policy", policy, "--run", 'nbdinfo --size "$uri"').stdout == f"{G}\n"


def test_the_variables():
    with temporary_folder() as where:
        show = 'printf "%s\\n" "$uri" "$nbd" "$unixsocket" "$exportname"; stat -c "%a %F" "${unixsocket%/*}" "$unixsocket"'
        told = captive(where, "mem:1M", "--name", "a b", "--run", show).stdout.splitlines()
        uri, same, path, name, folder, file = told
        assert uri == same == f"nbd+unix:///a%20b?socket={path}", told
        assert os.path.dirname(path).startswith(f"{where}/nbd-serve-") and name == "a b", told
        assert folder == "700 directory" and file == "600 socket", told


def test_an_address_of_ones_own():
    show = 'echo "$uri|$unixsocket"'
    with temporary_folder() as where:
        uri, path = captive(where, "mem:1M", "--tcp", "127.0.0.1:0", "--run", show).stdout.strip().split("|")
        assert uri.startswith("nbd://127.0.0.1:") and path == "", (uri, path)
        with directory() as elsewhere:
            at = f"{elsewhere}/s"
            said = captive(where, "mem:1M", "--unix", at, "--run", show).stdout
            assert said == f"nbd+unix:///?socket={at}|{at}\n", said
            # A relative path is that of a file, wherever the command goes.
            said = captive(where, "mem:1M", "--unix", "s", "--run", show, cwd=elsewhere).stdout
            assert said == f"nbd+unix:///?socket={at}|{at}\n", said
            assert os.listdir(elsewhere) == []
        name = f"@nbd-captive-{os.getpid()}"
        assert captive(where, "mem:1M", "--unix", name, "--run", show).stdout.endswith(f"|{name}\n")


@for_each([(0, "true"), (1, "false"), (3, "exit 3"), (255, "exit 255"), (127, "no-such-command-of-nbd"), (126, "/dev/null")])
def test_the_exit_status(status, command):
    with temporary_folder() as where:
        captive(where, "mem:1M", "--run", command, status=status)


@for_each([signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_command_that_a_signal_kills(number):
    with temporary_folder() as where:
        told = captive(where, "mem:1M", "--run", f"ulimit -c 0; kill -{int(number)} $$", status=128 + number).stderr
        assert told == f"nbd-serve: --run: the command was killed by signal {int(number)}\n", told


@for_each([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_command_and_its_children(number):
    with temporary_folder() as where, Running(where, "sleep 1000 & echo $!; wait") as running:
        child = int(running.said)
        assert exists(child)
        running.process.send_signal(number)
        # A background process of sh ignores SIGINT.
        assert running.wait() == 128 + number
        if number != signal.SIGINT:
            wait_until(lambda: not exists(child), "the end of the command's child")
        else:
            os.kill(child, signal.SIGKILL)


def test_the_command_decides_its_status_after_a_signal():
    with temporary_folder() as where:
        # The server serves until the command has ended.
        command = 'trap \'test -S "$unixsocket" && exit 7\' TERM; echo ready; while :; do sleep 0.01; done'
        with Running(where, command) as running:
            running.process.terminate()
            assert running.wait() == 7


def test_a_second_signal_kills_the_command():
    with temporary_folder() as where:
        command = "trap 'echo no' TERM; echo ready; while :; do sleep 0.01; done"
        with Running(where, command) as running:
            running.process.terminate()
            assert running.process.stdout.readline() == "no\n"
            running.process.terminate()
            assert running.wait() == 128 + signal.SIGKILL


def test_the_command_has_the_signals_of_a_new_program():
    with temporary_folder() as where:
        told = captive(where, "mem:1M", "--run", "exec grep -E '^Sig(Ign|Blk)' /proc/self/status").stdout
        masks = {line.split(":")[0]: int(line.split()[1], 16) for line in told.splitlines()}
        ignored = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
        assert masks["SigIgn"] & ignored == 0 and masks["SigBlk"] == 0, told


def test_the_command_inherits_stdin_and_no_descriptor():
    with temporary_folder() as where:
        assert captive(where, "mem:1M", "--run", "cat", stdin=None, input="hello").stdout == "hello"
        told = captive(where, "mem:1M", "--run", "ls /proc/self/fd").stdout.split()
        assert told == ["0", "1", "2", "3"], told  # 3: the folder that ls reads


def test_without_a_server_there_is_no_command():
    with temporary_folder() as where, directory() as elsewhere:
        mark = f"{elsewhere}/ran"
        for arguments in (["file:/no/such/file"], ["mem:1M", "--unix", "/no/such/folder/s"]):
            captive(where, *arguments, "--run", f"touch {mark}", status=1)
            assert not os.path.exists(mark)
        captive(where, "mem:1M", "--run", "", status=2)
        captive(where, "mem:1M", "--stdio", "--run", f"touch {mark}", status=2)
        captive("/no/such/folder", "mem:1M", "--run", f"touch {mark}", status=1)
        assert not os.path.exists(mark)


run_cases(globals())
