# SPDX-License-Identifier: MIT
"""The pictures of the benchmarks: SVG that can be read on light and on dark pages. `draw` draws a comparison."""
import math
import statistics
from html import escape

RATE = "requests_per_second"

STYLE = """
text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #1f2328; }
.title { font-size: 17px; font-weight: 600; }
.head { font-weight: 600; }
.small { font-size: 11px; fill: #59636e; }
.page { fill: #ffffff; }
.grid { stroke: #d1d9e0; }
.one { stroke: #59636e; stroke-dasharray: 4 3; }
.spread { stroke: #1f2328; stroke-width: 1.5; }
.first { fill: #0969da; }
.second { fill: #80b9f5; }
.other { fill: #a8b1bb; }
.limit { fill: #bf3989; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .small { fill: #9198a1; }
  .page { fill: #0d1117; }
  .grid { stroke: #30363d; }
  .one { stroke: #9198a1; }
  .spread { stroke: #e6edf3; }
  .first { fill: #4493f8; }
  .second { fill: #1f5fae; }
  .other { fill: #5b636d; }
  .limit { fill: #f778ba; }
}
"""

WIDTH, LEFT, RIGHT = 860, 290, 60
BAR, GAP = 11, 14


class Panel:
    """Cases that are compared with one reference server, whose value is 1."""

    def __init__(self, title, reference, bars, mark=None):
        self.title = title
        self.reference = reference
        self.bars = bars  # (server, its label, its class)
        self.mark = mark


PANELS = [
    Panel("A disk in memory; nbdkit’s memory plugin is 1", "nbdkit-memory",
          [("mem", "a thread for each client", "first"), ("mem-pool", "a pool of two threads", "second")],
          ("limit", "the limit: a bare loop of recv and sendmsg", "limit")),
    Panel("A file in the page cache; nbdkit’s file plugin is 1", "nbdkit-file",
          [("file", "a thread for each client", "first"), ("file-pool", "a pool of two threads", "second"),
           ("qemu-raw", "qemu-nbd", "other"), ("nbd-server", "nbd-server", "other")]),
]


def draw(figures, cases, here):
    """The SVG text: requests per second relative to a reference server, in every case that has both."""
    rows = {panel: rows_of(figures, cases, panel) for panel in PANELS}
    greatest = max((max(ratios) for part in rows.values() for _, bars, mark in part
                    for ratios in [*(b[2] for b in bars), *([mark] if mark else [])]), default=1)
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if greatest / s <= 9)
    end = math.ceil(greatest / step) * step
    scale = (WIDTH - LEFT - RIGHT) / end
    place = lambda ratio: LEFT + ratio * scale

    out = [f'<text class="title" x="20" y="32">Requests per second of this library’s servers, and of others</text>']
    y = 52
    note = (f"{here['processors']} processors ({here['processor']}), Linux {here['kernel']}, UNIX socket; "
            f"medians of {here['rounds']} rounds, lines from the least to the greatest")
    out.append(f'<text class="small" x="20" y="{y}">{escape(note)}</text>')
    for panel in PANELS:
        if rows[panel]:
            y = draw_panel(out, panel, rows[panel], y + 34, place, end, step)
    return document(out, WIDTH, y + 12, "bench/compare.sh")


def document(out, width, height, program, style=""):
    """The SVG text of these elements, with the page behind them."""
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}">\n<!-- SPDX-License-Identifier: MIT; drawn by {program} -->\n'
            f'<style>{STYLE}{style}</style>\n<rect class="page" width="{width}" height="{height}" rx="8"/>\n'
            + "\n".join(out) + "\n</svg>\n")


def rows_of(figures, cases, panel):
    """(title, bars, the mark's ratios) of every case with the reference server."""
    rows = []
    for case in cases:
        ratios = lambda server: figures.ratios(case.name, server, [panel.reference], RATE)
        bars = [(name, style, ratios(server)) for server, name, style in panel.bars]
        bars = [bar for bar in bars if bar[2]]
        if bars:
            rows.append((case.title, bars, ratios(panel.mark[0]) if panel.mark else []))
    return rows


def draw_panel(out, panel, rows, y, place, end, step):
    out.append(f'<text class="head" x="20" y="{y}">{escape(panel.title)}</text>')
    y += 20
    x = 20
    names = {}  # of the bars that were drawn, by style
    for name, style in dict.fromkeys((name, style) for _, bars, _ in rows for name, style, _ in bars):
        names.setdefault(style, []).append(name)
    for style, called in names.items():
        text = ", ".join(called) + (", in this order" if len(called) > 1 else "")
        out.append(f'<rect class="{style}" x="{x}" y="{y - 9}" width="10" height="10"/>'
                   f'<text class="small" x="{x + 15}" y="{y}">{escape(text)}</text>')
        x += 40 + 6 * len(text)
    if panel.mark and any(mark for _, _, mark in rows):
        _, name, style = panel.mark
        out.append(f'<path class="{style}" d="M{x + 3} {y - 10}h3v12h-3z"/>'
                   f'<text class="small" x="{x + 15}" y="{y}">{escape(name)}</text>')
    y += 14
    top = y
    body = []
    for title, bars, mark in rows:
        height = BAR * len(bars)
        body.append(f'<text x="{LEFT - 12}" y="{y + height / 2 + 4.5:g}" text-anchor="end">{escape(title)}</text>')
        marked = place(statistics.median(mark)) if mark else None
        for i, (_, style, ratios) in enumerate(bars):
            body += bar(y + BAR * i, style, ratios, place, marked)
        if mark:
            body.append(f'<path class="{panel.mark[2]}" d="M{marked - 1.5:.1f} {y - 3}h3v{height + 5}h-3z"/>')
        y += height + GAP
    for i in range(round(end / step) + 1):
        x = place(i * step)
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 4}" y2="{y - 6}"/>'
                   f'<text class="small" x="{x:.1f}" y="{y + 8}" text-anchor="middle">{i * step:g}</text>')
    out.append(f'<line class="one" x1="{place(1):.1f}" x2="{place(1):.1f}" y1="{top - 4}" y2="{y - 6}"/>')
    out += body
    return y + 14


def bar(y, style, ratios, place, marked):
    """One server's bar, its spread and its figure, which does not overlap the mark."""
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    centre = y + BAR / 2 - 0.5
    yield (f'<rect class="{style}" x="{place(0):.1f}" y="{y}" width="{place(middle) - place(0):.1f}" '
           f'height="{BAR - 1}"/>')
    if high > low:
        yield f'<line class="spread" x1="{place(low):.1f}" x2="{place(high):.1f}" y1="{centre:g}" y2="{centre:g}"/>'
    x = place(high) + 5
    if marked is not None and x - 5 < marked < x + 22:
        x = marked + 5
    yield f'<text class="small" x="{x:.1f}" y="{centre + 4:g}">{middle:.1f}</text>'
