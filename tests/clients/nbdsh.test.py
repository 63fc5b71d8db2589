# SPDX-License-Identifier: MIT
"""nbdsh: libnbd's shell."""
from support import *

NBDSH = require_tool("nbdsh", "python3-libnbd")
require_libnbd()
# nbdsh is a shell script that runs `python3 -m nbd`; this finds the Python that has the module.
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"


@for_each(GRID)
def test_one_liners(policy, transport):
    with serve("mem:100M", "--name", "test", transport=transport, policy=policy) as server:
        assert run(NBDSH, "-u", server.uri, "-c", "print(h.get_size())").stdout == f"{100 * M}\n"
        run(NBDSH, "-u", server.uri, "-c", 'h.pwrite(b"Hello, world", 1000)', "-c", "h.flush()")
        assert run(NBDSH, "-u", server.uri, "-c", "print(h.pread(12, 1000))").stdout == "bytearray(b'Hello, world')\n"


def test_script_on_stdin():
    with serve("mem:1M") as server, directory() as where:
        script = f"{where}/script"
        with open(script, "w") as file:
            file.write(f"""
h.connect_uri({server.uri!r})
h.pwrite(b"x" * 4096, 4096)
h.trim(4096, 4096)
assert h.pread(4096, 4096) == bytes(4096)
h.shutdown()
print("done")
""")
        with open(script) as source:
            assert run(NBDSH, "-c", "-", stdin=source).stdout == "done\n"


def test_failed_command_is_an_error():
    with serve("mem:1M", "--read-only") as server:
        assert run(NBDSH, "-u", server.uri, "-c", 'h.pwrite(b"x", 0)', status=None).returncode != 0


run_cases(globals())
