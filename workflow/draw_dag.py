"""Puts the rule graph into a page: `snakemake --rulegraph mermaid-js | python workflow/draw_dag.py README.md`.

The page's first mermaid block is replaced. Arrows that a longer way already says are left out, as is the target `all`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import networkx as nx

BLOCK = re.compile(r"```mermaid\n.*?```", re.DOTALL)


def draw(rulegraph: str) -> str:
    """A mermaid block with one node per rule, from left to right, the same for the same rules."""
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", rulegraph))
    graph = nx.DiGraph((names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", rulegraph))
    graph.remove_node("all")
    order = list(nx.lexicographical_topological_sort(graph))
    edges = sorted(nx.transitive_reduction(graph).edges, key=lambda edge: [order.index(node) for node in edge])
    arrows = "\n".join(f"    {a} --> {b}" for a, b in edges)
    return f"```mermaid\nflowchart LR\n{arrows}\n```"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    text, block = page.read_text(), draw(sys.stdin.read())
    if not BLOCK.search(text):
        sys.exit(f"{page} has no mermaid block to replace: put an empty one where the picture belongs")
    page.write_text(BLOCK.sub(lambda _: block, text, count=1))
