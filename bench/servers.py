# SPDX-License-Identifier: MIT
"""The servers to be measured: starts and stops each of them."""
import ctypes
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

PATIENCE = 20  # seconds for a server to listen, and to end
LIBC = ctypes.CDLL(None)


class Missing(Exception):
    """This machine cannot run the server; the text gives the reason."""


def find_tool(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")


def prctl(option, value):
    LIBC.prctl(option, value, 0, 0, 0)


def adopt_daemons():
    """Makes this process the parent of servers that daemonise, so that it can wait for them."""
    set_child_subreaper = 36
    prctl(set_child_subreaper, 1)


def allow_many_descriptors():
    """Raises the limit of descriptors, for the servers too, as far as the system allows it; returns that number."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def end_with_parent():
    set_parent_death_signal = 1
    prctl(set_parent_death_signal, signal.SIGKILL)


def processor_seconds(pid):
    """The processor time of a process, with all its past and present threads."""
    return time.clock_gettime((~pid << 3) | 2)  # the clock id of clock_getcpuclockid


@dataclass(frozen=True)
class Kind:
    """A kind of server. `command` takes the path of the socket."""
    name: str
    command: Callable[[str], list]
    fill: bool = False    # a memory disk that must be written before it is read
    export: str = ""
    daemon: bool = False  # daemonises, and writes its pid to a file beside the socket


class Running:
    """A server in a `with` statement."""

    def __init__(self, kind, folder):
        self.kind = kind
        self.folder = Path(folder)
        self.socket = str(self.folder / "socket")
        self.uri = f"nbd+unix:///{kind.export}?socket={self.socket}"
        self.pid = None

    def __enter__(self):
        command = self.kind.command(self.socket)
        if not find_tool(command[0]):
            raise Missing(f"{command[0]} is not installed")
        with open(self.folder / "stderr", "w") as stderr:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
                                            preexec_fn=None if self.kind.daemon else end_with_parent)
        self.pid = self.process.pid
        try:
            self.wait_until_it_listens()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait_until_it_listens(self):
        deadline = time.monotonic() + PATIENCE
        while not self.listens():
            ended = self.process.poll()
            if ended is not None and not (self.kind.daemon and ended == 0):
                raise Missing(f"it ends with {ended}: {self.last_words()}")
            if time.monotonic() > deadline:
                raise Missing(f"it does not listen within {PATIENCE} s: {self.last_words()}")
            time.sleep(0.01)

    def listens(self):
        if self.kind.daemon:
            pid_file = self.folder / "pid"
            text = pid_file.read_text().strip() if pid_file.exists() else ""
            if not text:
                return False
            self.pid = int(text)
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.socket) == 0

    def last_words(self):
        lines = (self.folder / "stderr").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it says nothing"

    def __exit__(self, *_):
        """Ends the process that was started."""
        ended = lambda: self.process.poll() is not None
        if self.kind.daemon:
            self.process.wait()
            ended = lambda: self.pid == self.process.pid or reaped(self.pid)
        for attempt in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + PATIENCE / 4
            if not ended():
                os.kill(self.pid, attempt)
            while not ended() and time.monotonic() < deadline:
                time.sleep(0.005)
        if not ended():
            raise RuntimeError(f"{self.kind.name}: process {self.pid} does not end")
        for name in ("socket", "pid"):
            (self.folder / name).unlink(missing_ok=True)


def reaped(pid):
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def catalogue(build, folder, size, file):
    """All kinds, by name. `size` is in bytes; `file` is the file for the file servers."""
    serve = str(build / "examples" / "nbd-serve")
    config = folder / "nbd-server.conf"
    config.write_text(f"[generic]\n    unixsock = {folder}/socket\n[disk]\n    exportname = {file}\n")

    def ours(disk, *more):
        return lambda path: [serve, disk, "--unix", path, "--max-connections", "5000", *more]

    def nbdkit(*plugin):
        return lambda path: ["nbdkit", "--foreground", "--unix", path, *plugin]

    def qemu(*image):
        return lambda path: ["qemu-nbd", "--persistent", "--shared=0", f"--socket={path}", *image]

    def sleeping(mode):
        return lambda path: [str(build / "bench" / "nbd-sleeping"), mode, "--unix", path]

    pool = ("--policy", "pool", "--threads", "2")
    kinds = [
        Kind("nbdkit-memory", nbdkit("memory", str(size)), fill=True),
        Kind("nbdkit-null", nbdkit("null", str(size))),
        Kind("nbdkit-file", nbdkit("file", str(file))),
        Kind("qemu-null", qemu("--image-opts", f"driver=null-co,size={size},read-zeroes=on")),
        Kind("qemu-raw", qemu("--format=raw", str(file))),
        Kind("nbd-server", lambda path: ["nbd-server", "-C", str(config), "-p", f"{folder}/pid"], export="disk",
             daemon=True),
        Kind("limit", lambda path: [str(build / "bench" / "nbd-limit"), str(size), "--unix", path], fill=True),
        Kind("mem", ours(f"mem:{size}"), fill=True),
        Kind("mem-pool", ours(f"mem:{size}", *pool), fill=True),
        Kind("mem-pool-1", ours(f"mem:{size}", *pool[:-1], "1"), fill=True),
        Kind("null", ours(f"null:{size}")),
        Kind("null-pool", ours(f"null:{size}", *pool)),
        Kind("file", ours(f"file:{file}", "--lock", "off")),
        Kind("file-pool", ours(f"file:{file}", "--lock", "off", *pool)),
        Kind("uring", ours(f"uring:{file}", "--lock", "off", *pool)),
        Kind("sleep-async", sleeping("async")),
        Kind("sleep-async-threads", sleeping("async-threads")),
        Kind("sleep-blocks", sleeping("blocks")),
    ]
    return {kind.name: kind for kind in kinds}
