"""Maximal cliques of a small graph: Bron and Kerbosch with a pivot.

Post: 8926 (an event is a maximal clique of its arguments).

R grows, P may still join it, X has been dealt with. A pivot u with most neighbours in P is chosen, for every maximal
clique holds u or someone who is no neighbour of u: only those are tried. There may be 3^(n/3) maximal cliques, so
both their number and the number of steps have a cap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

MOST_CLIQUES = 256
MOST_STEPS = 20_000


class Capped(list[tuple[int, ...]]):
    """Cliques, and whether more may have been left out."""

    capped: bool = False


def maximal_cliques(
    neighbours: Sequence[set[int]], *, most: int = MOST_CLIQUES, most_steps: int = MOST_STEPS
) -> Capped:
    """The maximal cliques of a graph as sorted tuples of nodes, sorted; `neighbours[i]` are those of node i.

    `.capped` says that there may be more.
    """
    found = Capped()
    for steps, clique in enumerate(_expand(neighbours)):
        if clique is not None:
            found.append(clique)
        if len(found) > most or steps > most_steps:
            found.capped = True
            del found[most:]
            break
    found.sort()
    return found


def _expand(neighbours: Sequence[set[int]]) -> Iterator[tuple[int, ...] | None]:
    """Cliques as they are found, None for each step without one."""
    if not neighbours:
        return
    waiting = [((), set(range(len(neighbours))), set())]  # R, P, X
    while waiting:
        chosen, open_, done = waiting.pop()
        if not open_:
            yield None if done else tuple(sorted(chosen))
            continue
        yield None
        pivot = max(sorted(open_ | done), key=lambda node: len(neighbours[node] & open_))
        branches = []
        for node in sorted(open_ - neighbours[pivot]):
            branches.append(((*chosen, node), open_ & neighbours[node], done & neighbours[node]))
            open_, done = open_ - {node}, done | {node}
        waiting += reversed(branches)
