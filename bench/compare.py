#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares this project's servers with others on the same data and prints ratios.

A round runs every case once. In a case, each of its servers is started and measured in turn; each round begins with
another server. A ratio compares two servers in the same case and round. The tables show the median, the least and the
greatest value of all rounds. bench/README.md explains them.
"""
import argparse
import csv
import datetime
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.dont_write_bytecode = True
import picture
import servers

ROOT = Path(__file__).resolve().parents[1]
K, M = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    servers: tuple
    block: int = 4 * K
    depth: int = 1
    connections: int = 1
    read_percent: int = 100
    structured: bool = False
    threads: int = 0  # of the load; 0: one for each connection
    range: int = 0  # bytes of the disk that are used; 0: all
    short: str = ""  # the option of nbd-load to measure connections with one READ, instead of requests


@dataclass(frozen=True)
class Bar:
    """The goal of one server in a case: compared with the best of `rivals`, or an absolute value without rivals."""
    case: str
    ours: str
    rivals: tuple
    at_least: float = 0  # ratio of requests per second, or requests per second
    cpu_at_most: float = 0  # ratio of processor time per request


MEMORY = ("nbdkit-memory", "limit", "mem", "mem-pool")
STRUCTURED = ("nbdkit-memory", "mem", "mem-pool")
NULL = ("nbdkit-null", "qemu-null", "null", "null-pool")
FILE = ("nbdkit-file", "qemu-raw", "nbd-server", "file", "file-pool", "uring")
CROWD = ("nbdkit-memory", "qemu-null", "mem", "mem-pool-1", "mem-pool")
FILE_CROWD = ("nbdkit-file", "qemu-raw", "file", "file-pool")
SLEEP = ("sleep-async", "sleep-async-threads", "sleep-blocks")
OURS = {"mem", "mem-pool", "mem-pool-1", "null", "null-pool", "file", "file-pool", "uring", *SLEEP}
FILE_RIVALS = ("nbdkit-file", "qemu-raw", "nbd-server")

CASES = [
    Case("read-4k-1", "4 KiB READ, depth 1", MEMORY),
    Case("read-4k-4", "4 KiB READ, depth 4", MEMORY, depth=4),
    Case("read-4k-16", "4 KiB READ, depth 16", MEMORY, depth=16),
    Case("read-4k-64", "4 KiB READ, depth 64", MEMORY, depth=64),
    Case("read-4k-4x16", "4 KiB READ, 4 connections × 16", MEMORY, depth=16, connections=4),
    Case("write-4k-1", "4 KiB WRITE, depth 1", MEMORY, read_percent=0),
    Case("write-4k-4", "4 KiB WRITE, depth 4", MEMORY, depth=4, read_percent=0),
    Case("write-4k-64", "4 KiB WRITE, depth 64", MEMORY, depth=64, read_percent=0),
    Case("read-256k-8", "256 KiB READ, depth 8", MEMORY, block=256 * K, depth=8),
    Case("read-1m-2x8", "1 MiB READ, 2 connections × 8", MEMORY, block=M, depth=8, connections=2),
    Case("read-256k-8-structured", "256 KiB READ, structured, depth 8", STRUCTURED, block=256 * K, depth=8,
         structured=True),
    Case("null-4k-16", "4 KiB READ of nothing, depth 16", NULL, depth=16),
    Case("file-4k-16", "4 KiB READ of a file, depth 16", FILE, depth=16),
    Case("file-256k-8", "256 KiB READ of a file, depth 8", FILE, block=256 * K, depth=8),
    Case("file-256k-8-structured", "256 KiB READ of a file, structured, depth 8",
         ("nbdkit-file", "qemu-raw", "file", "file-pool", "uring"), block=256 * K, depth=8, structured=True),
    Case("sleep-64", "4 KiB READ that takes 1 ms, depth 64", SLEEP, depth=64),
    Case("sleep-512-64", "512 byte READ that takes 1 ms, depth 64", SLEEP, block=512, depth=64),
    *(Case(f"crowd-{n}x{d}", f"4 KiB READ, {n:,} connections × {d}", CROWD, connections=n, depth=d, threads=1,
            range=4 * M)  # stays in the caches: memory that is seldom used is slow on virtual machines
      for n, d in ((1, 1), (4, 1), (16, 1), (64, 1), (256, 1), (1000, 1), (4000, 1), (16, 4), (256, 4), (64, 16))),
    *(Case(f"file-crowd-{n}x1", f"4 KiB READ of a file, {n:,} connections", FILE_CROWD, connections=n, threads=1,
            range=4 * M)
      for n in (16, 256, 1000)),
    Case("connect-1", "connections with one READ, one after another", CROWD, short="--reconnect"),
    Case("connect-1000", "1,000 connections at once, one READ on each", CROWD, connections=1000, short="--at-once"),
]

KIT = ("nbdkit-memory",)
LIMIT = ("limit",)
BARS = [
    Bar("read-4k-16", "mem", KIT, 2.0, 0.45),
    Bar("read-4k-64", "mem", KIT, 2.8, 0.45),
    Bar("read-4k-4x16", "mem", KIT, 3.3, 0.45),
    Bar("write-4k-64", "mem", KIT, 1.5),
    Bar("read-256k-8", "mem", KIT, 2.0, 0.25),
    Bar("read-1m-2x8", "mem", KIT, 2.2, 0.25),
    Bar("read-4k-1", "mem", KIT, 1.1),
    Bar("write-4k-1", "mem", KIT, 1.1),
    Bar("read-4k-4", "mem", KIT, 1.3),
    Bar("write-4k-4", "mem", KIT, 1.3),
    Bar("file-4k-16", "file", FILE_RIVALS, 1.8),
    Bar("file-256k-8", "file", FILE_RIVALS, 2.0),
    *(Bar(case, "mem", LIMIT, 0.95) for case in ("read-4k-16", "read-4k-64", "read-4k-4x16", "write-4k-64")),
    *(Bar(case, "mem-pool", LIMIT, 0.65) for case in ("read-4k-16", "read-4k-64", "read-4k-4x16", "write-4k-64")),
    *(Bar(case, ours, ("qemu-null",), 1.3) for case in ("connect-1", "connect-1000") for ours in ("mem", "mem-pool")),
    Bar("sleep-64", "sleep-async", (), 60_000),
    Bar("sleep-64", "sleep-blocks", (), 50_000),
]


# --- Measuring -----------------------------------------------------------------------------------------------------


class Failed(Exception):
    """A load that failed."""


def load(program, running, *arguments):
    done = subprocess.run([str(program), running.uri, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{running.kind.name}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def measure(a, case, kind, folder):
    """Measures one server in one case with nbd-load, and with --fio also with fio."""
    program = a.build / "bench" / "nbd-load"
    with servers.Running(kind, folder) as running:
        if kind.fill:
            load(program, running, "--mix=0", "--pattern=seq", "--block=1M", "--depth=4", "--warm-up=0",
                 f"--requests={a.size // M}")
        shape = [case.short] if case.short else [f"--depth={case.depth}", f"--mix={case.read_percent}"]
        figures = json.loads(load(
            program, running, "--json", f"--server-pid={running.pid}", f"--block={case.block}", *shape,
            f"--connections={case.connections}", f"--seconds={a.seconds}", f"--warm-up={a.warm_up}",
            *(["--structured"] if case.structured else []), *([f"--threads={case.threads}"] if case.threads else []),
            *([f"--range={case.range}"] if case.range else [])))
        if a.fio and case.name in FIO_CASES:  # fio always asks for structured replies
            figures["fio_requests_per_second"] = fio(a, case, running)
    return figures


FIO_CASES = ("read-4k-16", "read-256k-8", "null-4k-16", "file-4k-16", "file-256k-8")


def fio(a, case, running):
    """Requests per second with fio's nbd engine."""
    done = subprocess.run(
        ["fio", "--name=load", "--ioengine=nbd", f"--uri={running.uri}", "--rw=randread", f"--bs={case.block}",
         f"--iodepth={case.depth}", "--time_based", f"--runtime={a.seconds}", f"--ramp_time={a.warm_up}",
         f"--size={a.size}", "--output-format=json"], capture_output=True, text=True, cwd=running.folder)
    if done.returncode != 0:
        raise Failed(f"{running.kind.name}: fio: {(done.stderr or done.stdout).strip()}")
    return json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]["read"]["iops"]


class Progress:
    """Reports the progress on stderr: every step on a terminal, otherwise from time to time."""

    def __init__(self, runs, guess):
        self.left = self.runs = runs
        self.guess = guess
        self.done = 0
        self.begin = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.next_line = 0

    def step(self, what):
        now = time.monotonic()
        each = (now - self.begin) / self.done if self.done else self.guess
        text = f"{self.runs - self.left + 1} of {self.runs}, {each * self.left / 60:.1f} minutes left: {what}"
        if self.terminal:
            print(f"\r{text:<100}", end="", file=sys.stderr, flush=True)
        elif now >= self.next_line:
            print(text, file=sys.stderr, flush=True)
            self.next_line = now + 10
        self.left -= 1
        self.done += 1

    def skip(self, runs):
        self.left -= runs
        self.runs -= runs

    def finish(self):
        print(("\r" if self.terminal else "") + f"{'measured':<100}".rstrip(), file=sys.stderr, flush=True)


def chosen(a):
    """The selected cases that have a selected server."""
    return [case for case in CASES
            if re.search(a.cases, case.name) and any(re.search(a.servers, server) for server in case.servers)]


def measure_all(a, cases):
    """Returns (the figures of each run, why servers were left out, what failed)."""
    results, missing, failures = [], {}, []
    wanted = [(case, [s for s in case.servers if re.search(a.servers, s)]) for case in cases]
    runs = a.rounds * sum(len(names) for _, names in wanted)
    progress = Progress(runs, a.seconds + a.warm_up + 0.7)
    with tempfile.TemporaryDirectory(prefix="nbd-compare-") as name:
        folder = Path(name)
        kinds = servers.catalogue(a.build, folder, a.size, make_file(folder, a.size))
        for number in range(a.rounds):
            for case, names in wanted:
                turn = number % len(names)
                for server in names[turn:] + names[:turn]:
                    if server in missing:
                        progress.skip(1)
                        continue
                    progress.step(f"round {number + 1} of {a.rounds}, {case.title}, {server}")
                    try:
                        figures = measure(a, case, kinds[server], folder)
                    except servers.Missing as why:
                        missing[server] = str(why)
                        continue
                    except Failed as why:
                        failures.append(f"{case.title}, {why}")
                        continue
                    results.append({"round": number, "case": case.name, "server": server, **figures})
        progress.finish()
    return results, missing, failures


def make_file(folder, size):
    """Makes the file for the file servers: without holes, written back, and in the page cache."""
    path = folder / "disk.raw"
    piece = os.urandom(M)
    with open(path, "wb") as file:
        for _ in range(size // M):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    with open(path, "rb") as file:
        while file.read(M):
            pass
    return path


def first_line(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        return (done.stdout + done.stderr).strip().splitlines()[0]
    except (OSError, IndexError):
        return None


def circumstances():
    """The machine and this version of the project, for every benchmark."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "kernel": platform.release(), "processor": cpu[1] if cpu else platform.machine(),
        "processors": os.cpu_count(), "load_before": os.getloadavg()[0],
        "commit": first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
    }


def warn_of_load(program, here):
    if here["load_before"] > 0.5:
        print(f"{program}: something else runs on this machine (load {here['load_before']:.1f}): the figures will be "
              "worth little", file=sys.stderr)


def circumstances_of_comparison(a):
    return circumstances() | {
        "nbdkit": first_line("nbdkit", "--version"), "qemu-nbd": first_line("qemu-nbd", "--version"),
        "nbd-server": first_line("nbd-server", "-V"),
        "rounds": a.rounds, "seconds": a.seconds, "disk_bytes": a.size,
    }


# --- Reporting -----------------------------------------------------------------------------------------------------


RATE = "requests_per_second"
CPU = "server_cpu_us_per_request"
FIO = "fio_requests_per_second"


class Figures:
    def __init__(self, results):
        self.by_place = {}
        for r in results:
            self.by_place.setdefault((r["case"], r["server"]), {})[r["round"]] = r

    def has(self, case, server):
        return (case, server) in self.by_place

    def values(self, case, server, figure):
        rounds = self.by_place.get((case, server), {})
        return {number: r[figure] for number, r in rounds.items() if figure in r}

    def median(self, case, server, figure):
        values = self.values(case, server, figure).values()
        return statistics.median(values) if values else None

    def ratios(self, case, ours, rivals, figure, best=max):
        """The ratio of ours to the best of theirs, for each round."""
        mine = self.values(case, ours, figure)
        theirs = {}
        for rival in rivals:
            for number, value in self.values(case, rival, figure).items():
                theirs[number] = best(theirs.get(number, value), value)
        return [mine[number] / theirs[number] for number in sorted(mine) if theirs.get(number)]


def spread(values, form="{:.2f}"):
    if not values:
        return ""
    if len(values) == 1:
        return form.format(values[0])
    low, middle, high = (form.format(f(values)) for f in (min, statistics.median, max))
    return f"{middle} ({low} … {high})"


def table(heads, rows):
    """Aligned text: texts to the left, figures to the right."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    for row in [heads, *rows]:
        cells = [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())
    print()


def print_figures(figures):
    rows = []
    for case in CASES:
        title = case.title
        for server in case.servers:
            if not figures.has(case.name, server):
                continue
            middle = lambda figure: figures.median(case.name, server, figure)
            latency = lambda part: statistics.median(
                r["latency_us"][part] for r in figures.by_place[case.name, server].values())
            rows.append([title, server, f"{middle(RATE):,.0f}", f"{middle('bytes_per_second') / 1e6:,.0f}",
                         f"{latency('p50'):,.1f}", f"{latency('p99'):,.1f}", f"{middle(CPU):,.3f}",
                         f"{middle('server_cpu_ns_per_byte'):.4f}", f"{middle('client_cpu_us_per_request'):,.3f}"])
            title = ""
    print("Medians of the rounds. CPU: the server's in µs a request and ns a byte, the client's in µs a request.")
    table(["case", "server", "requests/s", "MB/s", "p50 µs", "p99 µs", "CPU µs", "CPU ns/B", "client µs"], rows)


def print_ratios(figures):
    rows = []
    for case in CASES:
        title = case.title
        ours = [s for s in case.servers if s in OURS and figures.has(case.name, s)]
        for mine in ours:
            for rival in case.servers:
                if rival in OURS or not figures.has(case.name, rival):
                    continue
                row = [title, f"{mine} / {rival}", spread(figures.ratios(case.name, mine, [rival], RATE)),
                       spread(figures.ratios(case.name, mine, [rival], CPU)),
                       spread(figures.ratios(case.name, mine, [rival], FIO))]
                rows.append(row)
                title = ""
    print("Ours over theirs: median (least … greatest) of the rounds.")
    heads = ["case", "servers", "requests/s", "CPU a request", "requests/s by fio"]
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    table(heads, rows)


def print_bars(figures, shown):
    """Prints the goals; returns how many are met, not met, and not measured."""
    titles = {case.name: case.title for case in CASES}
    rows, met, unmet, unmeasured = [], 0, 0, 0
    for bar in BARS:
        if bar.case not in shown:
            continue
        rivals = " or ".join(bar.rivals)
        for figure, bound, holds, unit in ((RATE, bar.at_least, lambda v: v >= bar.at_least, "requests/s"),
                                           (CPU, bar.cpu_at_most, lambda v: v <= bar.cpu_at_most, "CPU")):
            if not bound:
                continue
            complete = all(figures.has(bar.case, s) for s in (bar.ours, *bar.rivals))
            if bar.rivals:
                values = figures.ratios(bar.case, bar.ours, bar.rivals, figure, max if figure == RATE else min)
                form = "{:.2f}"
            else:
                values = list(figures.values(bar.case, bar.ours, figure).values())
                form = "{:,.0f}"
            if not values or not complete:
                verdict = "not measured"
                unmeasured += 1
            elif holds(statistics.median(values)):
                verdict = "met" if all(map(holds, values)) else "met, but not in every round"
                met += 1
            else:
                verdict = "NOT met" if not any(map(holds, values)) else "NOT met, except in some rounds"
                unmet += 1
            sign = "≥" if figure == RATE else "≤"
            rows.append([titles[bar.case], f"{bar.ours} / {rivals}" if rivals else bar.ours, unit,
                         f"{sign} {form.format(bound)}", spread(values, form), verdict])
    if rows:
        print("The bars.")
        table(["case", "servers", "of", "bar", "median (least … greatest)", ""], rows)
        print(f"{met} bars met, {unmet} not met, {unmeasured} not measured.")
    return met, unmet, unmeasured


def write_raw(a, data):
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "compare.json").write_text(json.dumps(data, indent=1) + "\n")
    with open(a.out / "compare.csv", "w", newline="") as file:
        rows = [{key: value for key, value in r.items() if key != "latency_us"}
                | {f"latency_us_{key}": value for key, value in r["latency_us"].items()} for r in data["results"]]
        names = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def report(a, data):
    """Prints the report; returns whether every measured goal is met."""
    figures = Figures(data["results"])
    here = data["circumstances"]
    print(f"{here['processors']} × {here['processor']}, Linux {here['kernel']}, {here['date']}, {here['commit']}: "
          f"{here['rounds']} rounds of {here['seconds']} s, disks of {here['disk_bytes'] // M} MiB")
    print(", ".join(here[name] for name in ("nbdkit", "qemu-nbd", "nbd-server") if here[name]) + "\n")
    shown = {case.name for case in CASES if re.search(a.cases, case.name)}
    print_figures(figures)
    print_ratios(figures)
    met, unmet, unmeasured = print_bars(figures, shown)
    for server, why in data["missing"].items():
        print(f"left out: {server}: {why}")
    if data["missing"]:
        print(f"servers that were left out: {len(data['missing'])}")
    drawing = picture.draw(figures, CASES, here)
    for path in filter(None, (a.out / "compare.svg", a.picture)):
        path.write_text(drawing)
    print(f"The figures are in {a.out}/compare.json and compare.csv, the picture in {a.picture or a.out / 'compare.svg'}.")
    return unmet == unmeasured == 0


def parse(arguments):
    p = argparse.ArgumentParser(prog="compare.sh", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--build", type=Path, default=ROOT / "build" / "release", metavar="DIR",
                   help="where the programs were built; default: build/release")
    p.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    p.add_argument("--seconds", type=float, default=2, metavar="S", help="seconds of one measurement; default: 2")
    p.add_argument("--warm-up", type=float, default=0.5, metavar="S", help="seconds of load before each measurement; default: 0.5")
    p.add_argument("--size", type=int, default=256, metavar="MIB", help="size of the disks; default: 256")
    p.add_argument("--cases", default="", metavar="REGEX", help="only these cases")
    p.add_argument("--servers", default="", metavar="REGEX", help="only these servers")
    p.add_argument("--fio", action="store_true", help="measure some cases with one connection with fio, too")
    p.add_argument("--out", type=Path, metavar="DIR",
                   help="for compare.json, compare.csv and compare.svg; default: BUILD/compare")
    p.add_argument("--picture", type=Path, metavar="FILE", help="write the picture here, too")
    p.add_argument("--from", dest="earlier", type=Path, metavar="FILE",
                   help="measure nothing; report the content of this compare.json")
    p.add_argument("--strict", action="store_true", help="exit with 3 unless every bar is met")
    p.add_argument("--list", action="store_true", help="list the cases and their servers")
    a = p.parse_args(arguments)
    if a.rounds < 1 or a.seconds <= 0 or a.warm_up < 0 or a.size < 1:
        p.error("--rounds, --seconds and --size must be positive")
    for name in ("cases", "servers"):
        try:
            re.compile(getattr(a, name))
        except re.error as why:
            p.error(f"--{name}: {why}")
    a.size *= M
    a.out = a.out or a.build / "compare"
    return a


def main():
    a = parse(sys.argv[1:])
    cases = chosen(a)
    if not cases:
        asked = " ".join(f"--{name} {regex}" for name in ("cases", "servers") if (regex := getattr(a, name)))
        print(f"compare.sh: no case matches {asked}; --list names them", file=sys.stderr)
        return 2
    if a.list:
        for case in cases:
            print(f"{case.name:<22} {case.title:<50} {' '.join(case.servers)}")
        return 0
    if a.earlier:
        data = json.loads(a.earlier.read_text())
        a.out.mkdir(parents=True, exist_ok=True)
        return 0 if report(a, data) or not a.strict else 3
    if not (a.build / "bench" / "nbd-load").exists():
        sys.exit(f"compare.sh: {a.build}/bench/nbd-load does not exist: build it, or pass --build DIR")
    if a.fio and not servers.find_tool("fio"):
        sys.exit("compare.sh: --fio: fio is not installed (Debian package fio)")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server outlives this program
    servers.adopt_daemons()
    servers.allow_many_descriptors()
    here = circumstances_of_comparison(a)
    warn_of_load("compare.sh", here)
    results, missing, failures = measure_all(a, cases)
    data = {"circumstances": here, "missing": missing, "failures": failures, "results": results}
    write_raw(a, data)
    all_met = report(a, data)
    for failure in failures:
        print(f"compare.sh: {failure}", file=sys.stderr)
    if failures or not results:
        return 1
    return 0 if all_met or not a.strict else 3


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
