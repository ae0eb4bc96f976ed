"""Draw the rule graph: `snakemake --rulegraph mermaid-js | python workflow/draw_dag.py docs/images/workflow.svg`.

Arrows that a longer way already implies are left out, as is the target `all`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import networkx as nx

from hirl.files import write_text

BOX_WIDTH, BOX_HEIGHT, ACROSS, DOWN, MARGIN = 176, 40, 196, 84, 22
INK, LINE, EDGE, BOX, PAPER = "#24292f", "#8b929c", "#c3c9d1", "#eef3fa", "#ffffff"
STROKE = f"fill='none' stroke='{LINE}' stroke-width='1.8'"


def read_graph(rulegraph: str) -> nx.DiGraph:
    """Return the rules and the arrows between them, from what `snakemake --rulegraph mermaid-js` prints."""
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", rulegraph))
    graph = nx.DiGraph((names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", rulegraph))
    graph.remove_node("all")
    return nx.transitive_reduction(graph)


def draw(graph: nx.DiGraph) -> str:
    """Return the graph as SVG text, from top to bottom, the same for the same rules."""
    depth = _rows(graph)
    stations = _with_stations(graph, depth)
    columns = _columns(stations, depth)
    corner = {rule: (MARGIN + columns[rule] * ACROSS, MARGIN + depth[rule] * DOWN) for rule in stations}
    width, height = (max(place[axis] for place in corner.values()) for axis in (0, 1))
    width, height = width + BOX_WIDTH + MARGIN, height + BOX_HEIGHT + MARGIN
    arrows = [_arrow(*corner[start], *corner[end], ends=end in graph) for start, end in sorted(stations.edges)]
    boxes = [_box(*corner[rule], rule) for rule in sorted(graph)]
    passing = [_line(*corner[station]) for station in sorted(stations.nodes - graph.nodes)]
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:g} {height:g}' "
            f"font-family='Helvetica, Arial, sans-serif' font-size='18' fill='{INK}'>",
            "<title>The rules of the workflow</title>",
            f"<rect x='1' y='1' width='{width - 2:g}' height='{height - 2:g}' rx='14' fill='{PAPER}' stroke='{EDGE}'/>",
            *arrows,
            *passing,
            *boxes,
            "</svg>\n",
        ]
    )


def _rows(graph: nx.DiGraph) -> dict[str, int]:
    """Return the row of every rule: as far down as the rules after it allow."""
    depth = {rule: row for row, rules in enumerate(nx.topological_generations(graph)) for rule in rules}
    for rule in reversed(list(nx.lexicographical_topological_sort(graph))):
        depth[rule] = min((depth[after] - 1 for after in graph.successors(rule)), default=depth[rule])
    return depth


def _with_stations(graph: nx.DiGraph, depth: dict[str, int]) -> nx.DiGraph:
    """Return the graph with a station in every row that an arrow passes, so that it gets a place of its own."""
    stations = nx.DiGraph()
    for start, end in graph.edges:
        passed = range(depth[start] + 1, depth[end])
        names = [f"{start} to {end}, row {row}" for row in passed]
        depth |= dict(zip(names, passed, strict=True))
        nx.add_path(stations, [start, *names, end])
    return stations


def _columns(graph: nx.DiGraph, depth: dict[str, int]) -> dict[str, float]:
    """Return the column of every rule and station: near what it depends on, each row centred."""
    rows = [sorted(rule for rule in graph if depth[rule] == row) for row in range(max(depth.values()) + 1)]
    longest = max(len(rules) for rules in rows)
    columns: dict[str, float] = {}
    for rules in rows:
        before = {rule: [columns[other] for other in graph.predecessors(rule)] for rule in rules}
        rules.sort(key=lambda rule: (sum(before[rule]) / len(before[rule]) if before[rule] else longest, rule))
        columns |= {rule: (longest - len(rules)) / 2 + place for place, rule in enumerate(rules)}
    return columns


def _box(x: float, y: float, rule: str) -> str:
    middle = f"x='{x + BOX_WIDTH / 2:g}' y='{y + BOX_HEIGHT / 2 + 6:g}'"
    return (
        f"<rect x='{x:g}' y='{y:g}' width='{BOX_WIDTH}' height='{BOX_HEIGHT}' rx='8' fill='{BOX}' stroke='#1f5fa8'/>"
        f"<text {middle} text-anchor='middle'>{rule}</text>"
    )


def _line(x: float, y: float) -> str:
    """Draw the arrow that passes a station."""
    return f"<path d='M{x + BOX_WIDTH / 2:g} {y:g} V{y + BOX_HEIGHT:g}' {STROKE}/>"


def _arrow(x1: float, y1: float, x2: float, y2: float, ends: bool) -> str:
    """Draw a curve from the bottom of one box to the top of another, with a head if it ends there."""
    x1, x2, y1 = x1 + BOX_WIDTH / 2, x2 + BOX_WIDTH / 2, y1 + BOX_HEIGHT
    stop, middle = (y2 - 8 if ends else y2), (y1 + y2) / 2
    curve = f"<path d='M{x1:g} {y1:g} C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {stop:g}' {STROKE}/>"
    head = f"<polygon points='{x2:g},{y2:g} {x2 - 5:g},{y2 - 10:g} {x2 + 5:g},{y2 - 10:g}' fill='{LINE}'/>"
    return curve + head if ends else curve


if __name__ == "__main__":
    write_text(Path(sys.argv[1]), draw(read_graph(sys.stdin.read())))
