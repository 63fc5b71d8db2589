# SPDX-License-Identifier: MIT
"""nbd-serve --allow and --deny: libnbd's nbdinfo, which is served or told that there is no export."""
from support import *

NBDINFO = require_tool("nbdinfo", "libnbd-bin")
PROGRAM = require_program("NBD_SERVE")
UID = os.getuid()


def served(server, uri=None):
    done = run(NBDINFO, "--size", uri or server.uri, status=None)
    if done.returncode == 0:
        return True
    assert "no export" in done.stderr or "unknown" in done.stderr.lower(), done.stderr
    return False


@for_each([
    (True, "--allow", f"uid:{UID}"),
    (True, "--allow", f"user:root,uid:{UID}"),
    (True, "--allow", f"gid:{os.getgid()}"),
    (True, "--allow", f"uid:{UID + 1}", "--allow", f"uid:{UID}"),
    (True, "--deny", f"uid:{UID + 1}"),
    (True, "--deny", "0.0.0.0/0,::/0"),  # a client of a UNIX socket has no address
    (False, "--allow", f"uid:{UID + 1}"),
    (False, "--allow", "0.0.0.0/0,::/0"),
    (False, "--deny", f"uid:{UID}"),
    (False, "--deny", f"uid:{UID + 1},uid:{UID}"),
    (False, "--allow", f"uid:{UID}", "--deny", f"uid:{UID}"),  # deny wins
    (False, "--deny", f"uid:{UID}", "--allow", f"uid:{UID}"),
])
def test_users(expected, *options):
    with serve("mem:1M", *options) as server:
        assert served(server) is expected, options


@for_each([
    (True, "127.0.0.1:0", "--allow", "127.0.0.1"),
    (True, "127.0.0.1:0", "--allow", "10.0.0.0/8,127.0.0.0/8"),
    (True, "127.0.0.1:0", "--allow", "::ffff:127.0.0.0/104"),
    (True, "127.0.0.1:0", "--deny", "127.0.0.2"),
    (True, "127.0.0.1:0", "--deny", "::/0"),
    (False, "127.0.0.1:0", "--allow", "127.0.0.12,127.0.0.2/31"),
    (False, "127.0.0.1:0", "--allow", f"uid:{UID}"),
    (False, "127.0.0.1:0", "--deny", "127.0.0.0/8"),
    (True, "[::]:0", "--allow", "127.0.0.0/8"),  # the client's address is ::ffff:127.0.0.1
    (False, "[::]:0", "--deny", "127.0.0.0/8"),
])
def test_addresses(expected, at, *options):
    try:
        with serve("mem:1M", *options, transport="tcp", at=at) as server:
            assert served(server, f"nbd://127.0.0.1:{server.address[1]}") is expected, options
    except AssertionError as failure:
        if at.startswith("[") and "Address family not supported" in str(failure):
            raise Skip("this machine has no IPv6") from None
        raise


@for_each(POLICIES)
def test_the_log_says_why(policy):
    with serve("mem:1M", "--name", "disk", "--verbose", "--allow", f"uid:{UID}", "--deny", f"uid:{UID}",
               policy=policy) as server:
        assert not served(server)
        assert run(NBDINFO, "--list", server.uri_of(""), status=None).stdout.find("disk") < 0
        wait_until(lambda: f'export "disk": in --deny: user {UID} (the client is not authorised)' in server.stderr(),
                   "the log names the rule")
    with serve("mem:1M", "--verbose", "--allow", f"uid:{UID + 1}") as server:
        assert not served(server)
        wait_until(lambda: 'export "": not in --allow' in server.stderr(), "the log names the rule")


@for_each([
    ("--allow: address \"nonsense\"", "--allow", "nonsense"),
    ("--deny: address \"nonsense\"", "--deny", "127.0.0.1,nonsense"),
    ("--allow: address \"\"", "--allow", ""),
    ("--allow: address \"\"", "--allow", "127.0.0.1,"),
    ("--allow: address 127.0.0.1\"", "--allow", "::1, 127.0.0.1"),
    ("--allow: 10.0.0.0/8 \"10.0.0.1/8\"", "--allow", "10.0.0.1/8"),
    ("--allow uid: number \"x\"", "--allow", "uid:x"),
    ("--allow uid: number \"\"", "--allow", "uid:"),
    ("--allow uid: number \"-1\"", "--allow", "uid:-1"),
    ("--allow uid: number \"4294967295\"", "--allow", "uid:4294967295"),
    ("--deny gid: number \"1x\"", "--deny", "gid:1x"),
    ("--deny user: user \"no-such-user\"", "--deny", "user:no-such-user"),
    ("--allow psk: --tls", "--allow", "psk:alice"),
    ("--allow subject: --tls", "--allow", "subject:CN=a,O=b"),
])
def test_bad_entries(words, *options):
    done = run(PROGRAM, "mem:1M", "--tcp", "127.0.0.1:0", *options, status=2, stdin=subprocess.DEVNULL)
    assert done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words.split()), done.stderr
    assert len(done.stderr) < 200, done.stderr


def test_a_bad_entry_creates_no_file():
    with directory() as where:
        run(PROGRAM, f"file:{where}/disk", "--create", "1M", "--allow", "nonsense", status=2, stdin=subprocess.DEVNULL)
        assert os.listdir(where) == []


run_cases(globals())
