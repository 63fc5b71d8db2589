# SPDX-License-Identifier: MIT
"""nbdinfo: what a server reports about its exports."""
import json

from support import *

NBDINFO = require_tool("nbdinfo", "libnbd-bin")

# The arguments of nbdinfo --can, and the JSON field with the same information.
ABILITIES = {
    "cache": "can_cache",
    "df": "can_df",
    "fast-zero": "can_fast_zero",
    "flush": "can_flush",
    "fua": "can_fua",
    "multi-conn": "can_multi_conn",
    "trim": "can_trim",
    "zero": "can_zero",
}


def describe(uri):
    return json.loads(run(NBDINFO, "--json", uri).stdout)["exports"][0]


def answers_yes(question, subject, uri):
    """nbdinfo --can and --is end with status 0 for yes, 2 for no, and 1 for an error."""
    done = run(NBDINFO, question, subject, uri, status=None)
    assert done.returncode in (0, 2), done.stderr
    return done.returncode == 0


@for_each([(device, *spot) for device in ("mem:64M", "null:3G") for spot in GRID])
def test_plain(device, policy, transport):
    with serve(device, "--name", "disk", transport=transport, policy=policy) as server:
        said = run(NBDINFO, server.uri).stdout
        assert "protocol: newstyle-fixed without TLS" in said, said
        assert 'export="disk":' in said, said
        size = {"mem:64M": 64 * M, "null:3G": 3 * G}[device]
        assert f"export-size: {size}" in said, said


@for_each(TRANSPORTS)
def test_json(transport):
    with serve("mem:64M", "--name", "disk", "--description", "a small disk", transport=transport) as server:
        whole = json.loads(run(NBDINFO, "--json", server.uri).stdout)
        assert whole["protocol"] == "newstyle-fixed" and whole["TLS"] is False
        export, = whole["exports"]
        assert export["export-name"] == "disk"
        assert export["export-size"] == 64 * M
        assert export["is_read_only"] is False
        # A disk in memory is not rotational, is writable, and is the same for all clients.
        assert export["is_rotational"] is False
        for field in ("can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn"):
            assert export[field] is True, field


def test_the_empty_name_is_the_default_export():
    with serve("mem:1M", "--name", "disk") as server:
        assert describe(server.uri_of(""))["export-size"] == M
    with serve("mem:1M") as server:
        assert describe(server.uri)["export-size"] == M


def test_unknown_export_fails():
    with serve("mem:1M", "--name", "disk") as server:
        for name in ("Disk", "disk2", "dis", "/disk", "disk ", "x" * 4096):
            done = run(NBDINFO, server.uri_of(name), status=None)
            assert done.returncode == 1 and done.stderr, name
        assert describe(server.uri_of("disk"))["export-size"] == M


@for_each([1, 511, 12345, M, 3 * G, T, T + 1])
def test_size(size):
    with serve(f"null:{size}") as server:
        assert int(run(NBDINFO, "--size", server.uri).stdout) == size


@for_each([("5K", 5 * K), ("5M", 5 * M), ("5G", 5 * G), ("5T", 5 * T)])
def test_suffix_of_a_size(written, size):
    with serve(f"null:{written}") as server:
        assert int(run(NBDINFO, "--size", server.uri).stdout) == size


@for_each(["mem:1M", "null:1M"])
def test_every_ability(device):
    """Each --can question gives the same answer as the JSON description."""
    with serve(device) as server:
        export = describe(server.uri)
        for ability, field in ABILITIES.items():
            assert answers_yes("--can", ability, server.uri) == export[field], ability
        for always in ("connect", "read", "write"):
            assert answers_yes("--can", always, server.uri), always
        assert not answers_yes("--is", "read-only", server.uri)
        assert not answers_yes("--is", "rotational", server.uri)
        assert not answers_yes("--is", "tls", server.uri)


@for_each(["mem:1M", "null:1M"])
def test_read_only(device):
    with serve(device, "--read-only") as server:
        assert describe(server.uri)["is_read_only"] is True
        assert answers_yes("--is", "read-only", server.uri)
        assert answers_yes("--can", "read", server.uri)
        assert not answers_yes("--can", "write", server.uri)


@for_each([("512:4096:32M", (512, 4 * K, 32 * M)), ("4K:64K:1M", (4 * K, 64 * K, M)), ("1:512:1M", (1, 512, M))])
def test_block_sizes(written, sizes):
    with serve("mem:1M", "--block-size", written) as server:
        export = describe(server.uri)
        assert (export["block_size_minimum"], export["block_size_preferred"], export["block_size_maximum"]) == sizes
        said = run(NBDINFO, server.uri).stdout
        assert f"block_size_minimum: {sizes[0]}" in said, said


def test_list():
    with serve("mem:1M", "--name", "disk", "--description", "a small disk") as server:
        said = run(NBDINFO, "--list", server.uri_of("")).stdout
        assert 'export="disk":' in said and "description: a small disk" in said and f"export-size: {M}" in said, said
        exports = json.loads(run(NBDINFO, "--list", "--json", server.uri_of("")).stdout)["exports"]
        assert [(e["export-name"], e["description"], e["export-size"]) for e in exports] == [("disk", "a small disk", M)]


@for_each([
    "two words",
    "100%",
    "%41%2f%00",  # must not be decoded
    "Grüße, 世界 🖴",
    "/begins/with/slash",
    "a?b=c&socket=/nowhere#d;e",
    "quote\"'\\",
    "..",
    "n" * 4096,  # the longest name that the specification allows
])
def test_odd_names(name):
    for transport in TRANSPORTS:
        with serve("mem:1M", "--name", name, "--description", name, transport=transport) as server:
            path = server.uri.split("://", 1)[1].split("?")[0].partition("/")[2]
            assert urllib.parse.unquote(path) == name, f"{server.uri} does not contain {name}"
            assert server.uri.isascii() and not re.search(r"[\s\"<>\\]", server.uri), server.uri
            assert describe(server.uri)["export-name"] == name
            exports = json.loads(run(NBDINFO, "--list", "--json", server.uri).stdout)["exports"]
            assert [(e["export-name"], e["description"]) for e in exports] == [(name, name)]


def test_odd_socket_path():
    with directory() as where:
        path = f"{where}/a b%20c?d#e&f=g+ü"
        with serve("mem:1M", at=path) as server:
            assert server.uri.isascii(), server.uri
            assert describe(server.uri)["export-size"] == M


def test_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as why:
        raise Skip(f"no IPv6 loopback here ({why})") from None
    with serve("mem:1M", transport="tcp", at="[::1]:0") as server:
        assert server.uri.startswith("nbd://[::1]:"), server.uri
        assert describe(server.uri)["export-size"] == M


run_cases(globals())
