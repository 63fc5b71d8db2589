#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures how the costs of a server grow with numbers and sizes, in several rounds of nbd-growth.

It prints the medians of the rounds, a summary of all curves, and draws a picture. bench/README.md explains them.
"""
import argparse
import json
import math
import re
import statistics
import subprocess
import sys
from html import escape
from pathlib import Path

sys.dont_write_bytecode = True
import compare
import picture

ROOT = Path(__file__).resolve().parents[1]
SAME = 1.5       # a ratio up to this is noise
SLOW = 0.25      # the largest exponent of n that log(n) explains


# --- Measuring -----------------------------------------------------------------------------------------------------


class Failed(Exception):
    """A run of nbd-growth that failed; its exit status is `status`."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def growth(a, *arguments):
    done = subprocess.run([str(a.build / "bench" / "nbd-growth"), "--curves", a.curves, *arguments],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(done.returncode, done.stderr.strip() or f"nbd-growth ended with {done.returncode}")
    return done.stdout


def measure(a):
    """The curves of every round."""
    rounds = []
    for number in range(a.rounds):
        print(f"round {number + 1} of {a.rounds}", file=sys.stderr, flush=True)
        rounds.append(json.loads(growth(a, "--json", f"--seconds={a.seconds}", *(["--quick"] if a.quick else [])))["curves"])
    return rounds


# --- Reporting -----------------------------------------------------------------------------------------------------


class Curve:
    """A curve with the values of all rounds at each x."""

    def __init__(self, of_rounds):
        first = of_rounds[0]
        self.name, self.panel, self.series, self.of, self.unit = (first[k] for k in ("name", "panel", "series", "x", "unit"))
        self.notes = first["notes"]
        self.values, self.faults = {}, {}
        for one in of_rounds:
            for x, cost, faults in one["points"]:
                self.values.setdefault(x, []).append(cost)
                self.faults.setdefault(x, []).append(faults)
        self.points = [(x, statistics.median(values)) for x, values in sorted(self.values.items())]

    def last_to_first(self):
        return self.points[-1][1] / self.points[0][1] if len(self.points) > 1 else 1

    def rise(self):
        """(ratio, exponent) of the last point to the cheapest before it. The exponent is that of n."""
        x, y = self.points[-1]
        return max(((y / y0, math.log(max(y / y0, 1)) / math.log(x / x0)) for x0, y0 in self.points[:-1]), default=(1, 0))

    def verdict(self):
        ratio, exponent = self.rise()
        if ratio <= SAME:
            return "O(1)"
        return "O(log n)" if exponent <= SLOW else f"grows, n^{exponent:.2f}"


def shown(n, of):
    """A number on an axis or in a table."""
    if of != "bytes":
        return f"{n:,}"
    if n == 2 ** 63 - 1:
        return "8 EiB − 1"
    power = min((n.bit_length() - 1) // 10, 6)
    return f"{n / 1024 ** power:g} {('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')[power]}"


def print_curves(curves):
    for c in curves:
        print(f"{c.name}: {c.panel}; {c.series}: {c.verdict()}")
        rows = [[shown(x, c.of), compare.spread(c.values[x], "{:.3f}"), f"{y / c.points[0][1]:.2f}",
                 f"{statistics.median(c.faults[x]):.2g}"] for x, y in c.points]
        compare.table([c.of, f"{c.unit} (least … greatest)", "ratio", "page faults"], rows)
        for note in c.notes:
            print(f"  {note}")


def print_summary(curves):
    print("Summary. Rise: the ratio of the last point to the cheapest before it.")
    rows = []
    for c in curves:
        first, last = c.points[0], c.points[-1]
        rows.append([c.name, c.verdict(), f"{shown(first[0], c.of)} … {shown(last[0], c.of)} {c.of * (c.of != 'bytes')}",
                     f"{first[1]:.3f} … {last[1]:.3f} {c.unit}", f"{c.last_to_first():.2f}", f"{c.rise()[0]:.2f}"])
    compare.table(["curve", "", "from … to", "cost", "last / first", "rise"], rows)


# --- The picture ---------------------------------------------------------------------------------------------------


COLUMNS, PANEL_WIDTH, PANEL_HEIGHT = 3, 280, 205
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 46, 34  # inside a panel
STYLES = ("first", "other", "limit")
STYLE = """
.line { fill: none; stroke-width: 2; }
.line.first { fill: none; stroke: #0969da; }
.line.other { fill: none; stroke: #8c959f; }
.line.limit { fill: none; stroke: #bf3989; }
@media (prefers-color-scheme: dark) {
  .line.first { stroke: #4493f8; }
  .line.other { stroke: #8b949e; }
  .line.limit { stroke: #f778ba; }
}
"""


def axis_label(n, of):
    if of == "bytes":
        return shown(n, of)
    power = next((p for p in (2, 1) if n >= 1000 ** p and n % 1000 ** p == 0), 0)
    return f"{n // 1000 ** power:,}{('', ' k', ' M')[power]}"


def draw(curves, here):
    """The SVG text: a diagram for each panel, with logarithmic axes."""
    panels = {}
    for c in curves:
        panels.setdefault(c.panel, []).append(c)
    out = ['<text class="title" x="20" y="32">How costs grow: flat is O(1)</text>']
    note = (f"both axes logarithmic; {here['processors']} processors ({here['processor']}), Linux {here['kernel']}; medians of "
            f"{here['rounds']} rounds; ×: last point to first")
    out.append(f'<text class="small" x="20" y="52">{escape(note)}</text>')
    for i, (title, of_panel) in enumerate(panels.items()):
        draw_panel(out, title, of_panel, 10 + i % COLUMNS * PANEL_WIDTH, 66 + i // COLUMNS * PANEL_HEIGHT)
    height = 66 + math.ceil(len(panels) / COLUMNS) * PANEL_HEIGHT + 6
    return picture.document(out, 20 + COLUMNS * PANEL_WIDTH, height, "bench/growth.sh", STYLE)


def draw_panel(out, title, curves, left, top):
    xs = sorted({x for c in curves for x, _ in c.points})
    ys = [y for c in curves for _, y in c.points if y > 0]
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    high = max(high, low + 2)
    x0, x1, y0, y1 = left + LEFT, left + PANEL_WIDTH - RIGHT - 34, top + PANEL_HEIGHT - BOTTOM, top + TOP
    span = math.log(xs[-1] / xs[0]) or 1
    at_x = lambda x: x0 + math.log(x / xs[0]) / span * (x1 - x0)
    at_y = lambda y: y0 + (math.log10(max(y, 10 ** low)) - low) / (high - low) * (y1 - y0)

    out.append(f'<text class="small" style="font-weight:600" x="{left + 10}" y="{top + 14}">{escape(title)}</text>')
    x = left + 10
    for c, style in zip(curves, STYLES):
        if len(curves) > 1:
            out.append(f'<rect class="{style}" x="{x}" y="{top + 22}" width="8" height="8"/>'
                       f'<text class="small" x="{x + 11}" y="{top + 30}">{escape(c.series.removeprefix("a "))}</text>')
            x += 22 + 5.4 * len(c.series.removeprefix("a "))
    for power in range(low, high + 1):
        y = at_y(10.0 ** power)
        label = f" {curves[0].unit}" if power == high else ""
        out.append(f'<line class="grid" x1="{x0}" x2="{x1}" y1="{y:.1f}" y2="{y:.1f}"/>'
                   f'<text class="small" x="{x0 - 4}" y="{y + 4:.1f}" text-anchor="end">{10.0 ** power:g}{label}</text>')
    last = None
    for x in xs:
        text, place = axis_label(x, curves[0].of), at_x(x)
        half = 3 * len(text) + 4
        if last is None or place - half > last and (x == xs[-1] or place + half < at_x(xs[-1]) - 4 * len(axis_label(xs[-1], curves[0].of))):
            out.append(f'<text class="small" x="{place:.1f}" y="{y0 + 14}" text-anchor="middle">{text}</text>')
            last = place + half
    if curves[0].of != "bytes":
        out.append(f'<text class="small" x="{(x0 + x1) / 2:.0f}" y="{y0 + 27}" text-anchor="middle">{curves[0].of}</text>')
    taken = []
    for c, style in zip(curves, STYLES):
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in c.points)
        out.append(f'<polyline class="line {style}" points="{path}"/>')
        out += [f'<circle class="{style}" cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="2.5"/>' for x, y in c.points]
        y = at_y(c.points[-1][1]) + 4
        while any(abs(y - other) < 11 for other in taken):
            y += 1
        taken.append(y)
        out.append(f'<text class="small" x="{at_x(c.points[-1][0]) + 6:.1f}" y="{y:.1f}">×{c.last_to_first():.3g}</text>')


# --- The program ---------------------------------------------------------------------------------------------------


def parse(arguments):
    p = argparse.ArgumentParser(prog="growth.sh", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--build", type=Path, default=ROOT / "build" / "release", metavar="DIR",
                   help="where the programs were built; default: build/release")
    p.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    p.add_argument("--seconds", type=float, default=0.25, metavar="S", help="seconds of one point; default: 0.25")
    p.add_argument("--curves", default="", metavar="REGEX", help="only these curves")
    p.add_argument("--quick", action="store_true", help="only the first points, for a moment; the figures are meaningless")
    p.add_argument("--out", type=Path, metavar="DIR", help="for growth.json and growth.svg; default: BUILD/growth")
    p.add_argument("--picture", type=Path, metavar="FILE", help="write the picture here, too")
    p.add_argument("--from", dest="earlier", type=Path, metavar="FILE",
                   help="measure nothing; report the content of this growth.json")
    p.add_argument("--list", action="store_true", help="list the curves")
    a = p.parse_args(arguments)
    if a.rounds < 1 or not 0.001 <= a.seconds <= 1e6:
        p.error("--rounds must be at least 1, --seconds from 0.001 to 1000000")
    try:
        re.compile(a.curves)
    except re.error as why:
        p.error(f"--curves: {why}")
    a.out = a.out or a.build / "growth"
    return a


def main():
    a = parse(sys.argv[1:])
    if a.earlier:
        data = json.loads(a.earlier.read_text())
    else:
        if not (a.build / "bench" / "nbd-growth").exists():
            sys.exit(f"growth.sh: {a.build}/bench/nbd-growth does not exist: build it, or pass --build DIR")
        try:
            listed = growth(a, "--list")  # a wrong argument ends it before the first round
            if a.list:
                print(listed, end="")
                return 0
            here = compare.circumstances()
            compare.warn_of_load("growth.sh", here)
            data = {"circumstances": here | {"rounds": a.rounds, "seconds": a.seconds}, "rounds": measure(a)}
        except Failed as why:
            print(f"growth.sh: {why}", file=sys.stderr)
            return why.status if why.status in (1, 2) else 1
    here = data["circumstances"]
    curves = [Curve(of_rounds) for of_rounds in zip(*data["rounds"])]
    curves = [c for c in curves if c.points and re.search(a.curves, c.name)]
    if not curves:
        print(f"growth.sh: no curve matches --curves {a.curves}", file=sys.stderr)
        return 2
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "growth.json").write_text(json.dumps(data, indent=1) + "\n")
    print(f"{here['processors']} × {here['processor']}, Linux {here['kernel']}, {here['date']}, {here['commit']}, "
          f"load {here['load_before']:.1f}: {here['rounds']} rounds of {here['seconds']} s a point\n")
    print_curves(curves)
    print_summary(curves)
    drawing = draw(curves, here)
    for path in filter(None, (a.out / "growth.svg", a.picture)):
        path.write_text(drawing)
    print(f"The figures are in {a.out}/growth.json, the picture in {a.picture or a.out / 'growth.svg'}.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
