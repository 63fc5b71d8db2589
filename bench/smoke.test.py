#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs each program of bench/ for a moment, to see that it works. The figures are meaningless."""
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import xml.etree.ElementTree
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "clients"))
from support import (GRID, M, PATIENCE, POLICIES, Skip, directory, for_each, require_program, require_tool, run, run_cases, serve,
                     started, wait_until)

BUILD = Path(require_program("NBD_BUILD"))
LOAD = require_program("NBD_LOAD")
MOMENT = ("--seconds", "0.1", "--warm-up", "0.05")


def load(server, *arguments, status=0):
    return run(LOAD, server.uri, *arguments, status=status)


def figures(server, *arguments):
    return json.loads(load(server, "--json", *arguments).stdout)


def limit(*arguments):
    return started([require_program("NBD_LIMIT"), *arguments])


@for_each(GRID)
def test_our_servers_keep_what_was_written(policy, transport):
    with serve("mem:16M", policy=policy, transport=transport) as server:
        for shape in (["--depth", "16"], ["--depth", "16", "--connections", "3", "--threads", "2", "--structured"],
                      ["--depth", "3", "--block", "256K", "--connections", "2", "--pattern", "seq"]):
            load(server, "--verify", "--mix", "50", *shape, *MOMENT)


@for_each(["unix", "tcp"])
def test_the_limit_keeps_what_was_written(transport):
    with directory() as where:
        with limit("16M", *(["--unix", f"{where}/s"] if transport == "unix" else [])) as server:
            for block in ("512", "4K", "128K", "1M"):
                load(server, "--verify", "--mix", "50", "--depth", "4", "--block", block, *MOMENT)


def test_the_limit_serves_a_real_client():
    with directory() as where, limit("16M", "--unix", f"{where}/s") as server:
        try:
            assert run("nbdinfo", "--size", server.uri).stdout.strip() == str(16 * M)
        except FileNotFoundError:
            raise Skip("nbdinfo is not installed (Debian package libnbd-bin)") from None


def test_wrong_data_are_found():
    with serve("null:16M") as server:
        told = load(server, "--verify", *MOMENT, status=1).stderr
        assert re.search(r"READ of 4096 bytes at \d+ with wrong data", told), told


def test_the_number_of_requests():
    with serve("mem:16M") as server:
        told = figures(server, "--requests", "1000", "--connections", "2", "--depth", "7",
                       "--server-pid", server.pid)
        assert told["requests"] == 1000, told
        assert 0 < told["server_cpu_us_per_request"] < 10_000, told
        times = told["latency_us"]
        assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["p99.9"] <= times["max"], told
        assert abs(told["requests_per_second"] * told["seconds"] - 1000) < 1, told
        assert "requests/s" in load(server, *MOMENT).stdout


def test_errors_are_reported():
    with serve("mem:16M", "--read-only") as server:
        assert "read-only" in load(server, "--mix", "50", status=2).stderr
        assert "--block" in load(server, "--block", "33M", status=2).stderr
        assert "--range" in load(server, "--range", "17M", status=2).stderr
        assert "--mix" in load(server, "--mix", "101", status=2).stderr
        for option, value, bounds in (("--requests", "0", "1 1000000000000"), ("--server-pid", "1x", "1 2147483647"),
                                      ("--range", "0", "1 9223372036854775807")):
            told = load(server, option, value, status=2).stderr
            assert len(told) < 120 and all(word in told for word in [option, *bounds.split()]), told
        assert "process" in load(server, "--server-pid", "4194305", status=1).stderr
        assert "connect" in run(LOAD, "--unix", "/nowhere", status=1).stderr
        for uri in ("nonsense", "nbd://", "nbd:///disk", "nbd://:10809", "nbd://localhost:"):
            told = run(LOAD, uri, status=2).stderr
            assert "expected" in told and "HOST:PORT" in told and 'but got "' in told, told
        assert '--tcp: expected HOST:PORT, but got ":1"' in run(LOAD, "--tcp", ":1", status=2).stderr
        assert "expected" in run(LOAD, status=2).stderr


@for_each(GRID)
def test_connections_are_counted(policy, transport):
    with serve("mem:16M", policy=policy, transport=transport) as server:
        for shape, least in ((["--reconnect", "--requests", "50"], 50),
                             (["--reconnect", "--requests", "50", "--connections", "5", "--threads", "2"], 50),
                             (["--at-once", "--requests", "50", "--connections", "20", "--block", "64K"], 60)):
            told = figures(server, *shape, "--warm-up", "0", "--server-pid", server.pid)
            assert told["requests"] == least, told
            assert told["connections_per_second"] == told["requests_per_second"] > 0, told
            assert 0 < told["server_cpu_us_per_request"] < 100_000 and told["latency_us"]["p50"] > 0, told
        assert "connections/s" in load(server, "--reconnect", *MOMENT).stdout
        told = load(server, "--at-once", "--connections", "3", *MOMENT).stdout
        assert "us a connection" in told and "in flight" not in told, told
        wait_until(lambda: server.open_sockets() == 1, "all connections closed")


def test_options_that_exclude_connections():
    with serve("mem:16M", "--name", "disk") as server:
        for option in (["--depth", "2"], ["--mix", "50"], ["--structured"], ["--verify"]):
            for short in ("--reconnect", "--at-once"):
                told = load(server, short, *option, status=2).stderr
                assert short in told and option[0] in told and "excludes" in told, told
        assert "--threads" in load(server, "--at-once", "--threads", "2", status=2).stderr
        assert "--block" in load(server, "--reconnect", "--block", "33M", status=2).stderr
        told = run(LOAD, "--unix", server.socket_path, "--name", "other", "--reconnect", status=1).stderr
        assert 'export "other"' in told, told


class FakeServer(threading.Thread):
    """Accepts clients, to a disk of 1 MiB, and answers the first request of the last one with these bytes, or closes."""

    def __init__(self, answer, clients=1):
        super().__init__(daemon=True)
        self.answer = answer
        self.clients = clients
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.start()

    def run(self):
        with self.listener:
            for i in range(self.clients):
                connection, _ = self.listener.accept()
                with connection:
                    self.serve(connection, last=i + 1 == self.clients)

    def serve(self, connection, last):
        connection.settimeout(PATIENCE)
        connection.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        connection.recv(4, socket.MSG_WAITALL)
        connection.recv(64)
        reply = lambda kind, data: struct.pack(">QIII", 0x3E889045565A9, 7, kind, len(data)) + data
        connection.sendall(reply(3, struct.pack(">HQH", 0, M, 1)) + reply(1, b""))
        if not last:  # it only asks for the size of the disk
            return
        cookie = connection.recv(28)[8:16]
        answer = self.answer(cookie)
        connection.sendall(answer)
        if answer:  # else it closes
            connection.recv(1)


@for_each([
    ("error value 5", lambda cookie: struct.pack(">II", 0x67446698, 5) + cookie),
    ("invalid reply", lambda cookie: struct.pack(">II", 0x67446699, 0) + cookie),
    ("to no request", lambda cookie: struct.pack(">II", 0x67446698, 0) + cookie[::-1]),
    ("closed the connection", lambda cookie: b""),
])
def test_a_wrong_answer_is_an_error(words, answer):
    for more, clients in ((), 1), (["--reconnect"], 2):
        server = FakeServer(answer, clients)
        told = run(LOAD, "--tcp", server.address, *more, status=1).stderr
        server.join(PATIENCE)
        assert words in told, told


def test_an_export_that_is_not_there():
    with serve("mem:16M", "--name", "disk", "--block-size", "4096:4096:64K") as server:
        told = run(LOAD, "--unix", server.socket_path, "--name", "other", status=1).stderr
        assert 'export "other"' in told, told
        assert "--block" in load(server, "--block", "512", status=2).stderr
        load(server, *MOMENT)


def test_a_server_that_disconnects_is_an_error():
    with directory() as where, limit("16M", "--unix", f"{where}/s") as server:
        loading = subprocess.Popen([LOAD, server.uri, "--seconds", "60", "--connections", "2"],
                                   stderr=subprocess.PIPE, text=True)
        wait_until(lambda: server.open_sockets() == 3, "two clients")
        server.stop()
        told = loading.communicate(timeout=20)[1]
        assert loading.returncode == 1, (loading.returncode, told)
        assert any(word in told for word in ("server", "reset", "Broken pipe")), told


@for_each(["async", "async-threads", "blocks"])
def test_a_backend_that_waits_has_many_requests_in_flight(mode):
    with directory() as where, started([require_program("NBD_SLEEPING"), mode, "--unix", f"{where}/s"]) as server:
        told = figures(server, "--depth", "32", "--seconds", "0.3", "--warm-up", "0.1")
        # One request at a time would be at most 1,000.
        assert told["requests_per_second"] > 2_000, told


def test_compare():
    with directory() as where:
        done = run("sh", HERE / "compare.sh", "--build", BUILD, "--rounds", "2", "--seconds", "0.05",
                   "--warm-up", "0.01", "--size", "8", "--cases", "read-4k-16|write-4k-4$",
                   "--servers", "^(limit|mem|nbdkit-memory)$", "--out", where)
        assert "CPU a request" in done.stdout, done.stdout
        data = json.loads(Path(where, "compare.json").read_text())
        for server in ("limit", "mem"):
            rounds = {(r["case"], r["round"]) for r in data["results"] if r["server"] == server}
            assert rounds == {(case, n) for case in ("read-4k-16", "write-4k-4") for n in (0, 1)}, rounds
        xml.etree.ElementTree.parse(Path(where, "compare.svg"))
        assert len(Path(where, "compare.csv").read_text().splitlines()) == len(data["results"]) + 1


def test_compare_counts_what_it_leaves_out():
    with directory() as where:
        Path(where, "bench").mkdir()
        for program in (LOAD, require_program("NBD_LIMIT")):
            Path(where, "bench", Path(program).name).symlink_to(program)
        done = run("sh", HERE / "compare.sh", "--build", where, "--rounds", "1", "--seconds", "0.05", "--size", "8",
                   "--cases", "read-4k-16", "--servers", "^(limit|mem)$", "--strict", status=3)
        assert "left out: mem: " in done.stdout and "servers that were left out: 1" in done.stdout, done.stdout
        assert "not measured" in done.stdout, done.stdout


@for_each([("--cases", "read-5k"), ("--servers", "nbd-kit"), ("--cases", "sleep", "--servers", "^mem$")])
def test_compare_reports_an_empty_selection(*arguments):
    with directory() as where:
        done = run("sh", HERE / "compare.sh", "--build", BUILD, "--out", f"{where}/out", *arguments, status=2)
        assert f"no case matches {' '.join(arguments)}; --list names them" in done.stderr, done.stderr
        assert "measured" not in done.stderr and done.stdout == "" and not Path(where, "out").exists(), done.stderr
    if "--servers" not in arguments:
        assert "no case" in run("sh", HERE / "compare.sh", "--list", *arguments, status=2).stderr


def test_idle():
    done = run(sys.executable, HERE / "idle.py", "--build", BUILD, "--connections", "20", "--seconds", "0.2",
               "--settle", "0", "--policy", "both")
    assert done.stdout.count("after the handshake") == len(POLICIES), done.stdout


def test_tls():
    if "NBD_TLS_STREAMS" not in os.environ:
        raise Skip("built without OpenSSL")
    for tool in ("openssl", "nbdcopy", "fio"):
        require_tool(tool, tool)
    with directory() as where:
        run("sh", HERE.parent / "examples" / "make-certificates.sh", f"{where}/pki")
        done = run(os.environ["NBD_TLS_STREAMS"], f"{where}/pki/server", "--rounds", "1", "--seconds", "0.05")
        assert done.stdout.count("ratio") == 2, done.stdout
        assert "nowhere" in run(os.environ["NBD_TLS_STREAMS"], "/nowhere", status=1).stderr
    done = run(sys.executable, HERE / "tls.py", "--build", BUILD, "--rounds", "1", "--seconds", "0.1", "--size", "8")
    assert done.stdout.count("\n") >= 7 and "handshakes/s" in done.stdout, done.stdout


GROWTH_GROUPS = ("exports", "size", "extents", "flight", "clients")


def test_growth_measures_every_curve():
    program = require_program("NBD_GROWTH")
    names = [line.split()[0] for line in run(program, "--list").stdout.splitlines()]
    assert {name.split("/")[0] for name in names} == set(GROWTH_GROUPS), names
    curves = json.loads(run(program, "--quick", "--json").stdout)["curves"]
    assert [c["name"] for c in curves] == names, curves
    for c in curves:
        assert len(c["points"]) + len(c["notes"]) >= 3, c
        assert all(x > 0 and cost >= 0 and faults >= 0 for x, cost, faults in c["points"]), c
    told = run(program, "--quick", "--curves", "^extents/one$").stdout
    assert told.startswith("extents/one: ") and told.count("\n") == 5, told


def test_growth_reports_wrong_arguments():
    program = require_program("NBD_GROWTH")
    for arguments, words in ((["--curves", "exprots"], "no curve matches --curves exprots"), (["--curves", "("], "--curves: expected"),
                             (["--seconds", "0"], "--seconds"), (["--qiuck"], "qiuck"), (["x"], "x")):
        told = run(program, *arguments, status=2)
        assert words in told.stderr and told.stdout == "", told
        assert "Traceback" not in run("sh", HERE / "growth.sh", "--build", BUILD, *arguments, status=2).stderr


def test_growth_draws_its_curves():
    with directory() as where:
        chosen = "^(exports/(add|connect)|extents/one|flight)"
        done = run("sh", HERE / "growth.sh", "--build", BUILD, "--rounds", "2", "--quick", "--curves", chosen, "--out", where)
        assert "Summary." in done.stdout and "flight/pool" in done.stdout, done.stdout
        xml.etree.ElementTree.parse(Path(where, "growth.svg"))
        again = run("sh", HERE / "growth.sh", "--from", f"{where}/growth.json", "--out", where)
        assert again.stdout == done.stdout, again.stdout


if __name__ == "__main__":
    run_cases(globals())
