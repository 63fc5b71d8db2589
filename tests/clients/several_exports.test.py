# SPDX-License-Identifier: MIT
"""The example several_exports: a server with three different exports."""
import errno
import json

from support import *

PROGRAM = require_program("SEVERAL_EXPORTS")
NBDINFO = require_tool("nbdinfo", "libnbd-bin")
nbd = require_libnbd()

EXPORTS = {
    "alpha": {"description": "a plain disk", "export-size": 64 * M, "is_read_only": False, "is_rotational": False,
              "can_trim": True, "can_flush": True, "can_fua": True, "can_zero": True, "can_multi_conn": True},
    "beta": {"description": "a read-only disk", "export-size": 16 * M, "is_read_only": True, "is_rotational": True},
    "gamma": {"description": "a large disk of 4 KiB blocks, without TRIM and CACHE", "export-size": T,
              "is_read_only": False, "can_trim": False, "can_cache": False, "can_zero": True,
              "block_size_minimum": 4096, "block_size_preferred": 64 * K, "block_size_maximum": M},
}


@contextlib.contextmanager
def three_exports():
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(directory())
        try:
            server = stack.enter_context(started([PROGRAM, f"{where}/s"], lines=3, where=where))
        except AssertionError as failure:
            if SMALL and "Cannot allocate memory" in str(failure):
                raise Skip("ThreadSanitizer has no room in the address space for a disk of 1 TiB") from None
            raise
        yield server


def test_serving_lines():
    with three_exports() as server:
        assert server.uris == [server.uri_of(name) for name in EXPORTS]


def test_list():
    with three_exports() as server:
        said = run(NBDINFO, "--list", server.uri_of("")).stdout
        for name, facts in EXPORTS.items():
            assert f'export="{name}":' in said and f"description: {facts['description']}" in said, said
            assert f"export-size: {facts['export-size']}" in said, said
        assert "block_size_minimum: 4096" in said, said
        exports = json.loads(run(NBDINFO, "--list", "--json", server.uri_of("")).stdout)["exports"]
        assert [export["export-name"] for export in exports] == list(EXPORTS)
        for export in exports:
            for field, value in EXPORTS[export["export-name"]].items():
                assert export[field] == value, (export["export-name"], field)


def test_each_by_itself():
    with three_exports() as server:
        for name, facts in EXPORTS.items():
            export, = json.loads(run(NBDINFO, "--json", server.uri_of(name)).stdout)["exports"]
            for field, value in facts.items():
                assert export[field] == value, (name, field)
        assert run(NBDINFO, server.uri_of("delta"), status=None).returncode == 1
        assert run(NBDINFO, "--size", server.uri_of("")).stdout == f"{64 * M}\n"


def test_info_of_every_export_then_go():
    with three_exports() as server:
        h = nbd.NBD()
        h.set_opt_mode(True)
        h.connect_uri(server.uri_of("gamma"))
        names = []
        h.opt_list(lambda name, description: names.append(name))
        for name in names:
            h.set_export_name(name)
            h.opt_info()
            assert h.get_size() == EXPORTS[name]["export-size"]
            assert h.is_read_only() == EXPORTS[name]["is_read_only"]
        h.set_export_name("alpha")
        h.opt_go()
        assert h.get_size() == 64 * M and not h.is_read_only() and h.can_trim()
        h.pwrite(b"alpha", 0)

        other = nbd.NBD()
        other.connect_uri(server.uri_of("gamma"))
        assert other.pread(4096, 0) == bytes(4096), "exports share their data"
        other.set_strict_mode(getattr(nbd, "STRICT_AUTO_FLAG", 0))
        for command, expected in ((lambda: other.trim(4096, 0), errno.EINVAL), (lambda: other.pread(1, 0), errno.EINVAL)):
            try:
                command()
            except nbd.Error as error:
                assert error.errnum == expected, error
            else:
                raise AssertionError("done, though this export withholds it")
        other.pwrite(b"x" * 4096, 2**39)
        assert other.pread(4096, 2**39) == b"x" * 4096


run_cases(globals())
