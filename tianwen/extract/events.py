"""Events out of linked arguments: maximal cliques within each type.

Post: 8926

Two arguments belong to the same event when both their head link and their tail link are above the threshold; an event
is a maximal set of arguments of one type that are all linked to each other. An argument without any link is an event
of its own. The score of an event is the least among its arguments' and links' scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tianwen.extract.cliques import maximal_cliques
from tianwen.extract.decode import Decoded

Clique = tuple[int, tuple[int, ...], float]
"""Number of the type, indices of the mentions, score."""


def find_events(decoded: Decoded, event_of: np.ndarray) -> tuple[list[Clique], int]:
    """The events of a text, and how many types had more cliques than are listed.

    `event_of[c]` is the number of the type that class c belongs to.
    """
    mentions, links = decoded.mentions, decoded.facts
    types = event_of[mentions.label]
    score = {
        (int(i), int(j)): min(float(head), float(tail))
        for i, j, head, tail in zip(links.subject, links.object, links.head, links.tail, strict=True)
    }
    events: list[Clique] = []
    capped = 0
    for type in np.unique(types):
        members = np.flatnonzero(types == type).tolist()
        cliques = maximal_cliques(_graph(members, score))
        capped += cliques.capped
        for clique in cliques:
            chosen = tuple(members[node] for node in clique)
            events.append((int(type), chosen, _score(chosen, mentions.score, score)))
    return events, capped


def _graph(members: Sequence[int], links: dict[tuple[int, int], float]) -> list[set[int]]:
    node = {member: at for at, member in enumerate(members)}
    neighbours: list[set[int]] = [set() for _ in members]
    for i, j in links:
        if i in node and j in node:
            neighbours[node[i]].add(node[j])
            neighbours[node[j]].add(node[i])
    return neighbours


def _score(chosen: Sequence[int], mentions: np.ndarray, links: dict[tuple[int, int], float]) -> float:
    between = [links[i, j] for at, i in enumerate(chosen) for j in chosen[at + 1 :]]
    return min([float(mentions[i]) for i in chosen] + between)
