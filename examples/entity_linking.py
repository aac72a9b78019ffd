"""Entity linking: copy a text and mark in it which words name which entry of a catalogue, and link nothing else.

    python examples/entity_linking.py

A sequence-to-sequence model rewrites the text under a constraint that allows its own words, the marks in their order,
and between the last two marks an entry. Where a dictionary says what may be a mention, most of the text leaves no
choice and costs no model call. The model here is tiny and learns in seconds which of two namesakes is meant from the
word behind it: enough to see the parts work together, and no measure of entity linking.

Post: 8802
"""

import random

import numpy as np
import torch

from tianwen.ask.beam import Paths, Search, search
from tianwen.ask.entity_linking import Marks, MarkupConstraint, read_links
from tianwen.ask.mixture import ask_loss, collate
from tianwen.ask.ragged import ragged
from tianwen.ask.seq2seq import AskConfig, AskModel
from tianwen.ask.session import TreeSession
from tianwen.ask.trie import CatalogueTrie
from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.text import Tokenizer

# mention -> (entry, what is said of it)
NAMES = {
    "mercury": [("mercury planet", ["orbits the sun", "has no moon"]), ("mercury metal", ["is liquid", "melts early"])],
    "saturn": [
        ("saturn planet", ["has rings", "orbits slowly"]),
        ("saturn rocket", ["was launched", "burns kerosene"]),
    ],
    "apollo": [("apollo god", ["was a son of zeus", "plays the lyre"]), ("apollo program", ["was paid by nasa"])],
}
BEFORE = ["people say", "we know", "it is old news", "now"]


def example(chance, tokenizer, marks):
    """A sentence, and the same marked up."""
    first, last = chance.choice(BEFORE), chance.choice(["", "indeed", "again"])
    mention, meanings = chance.choice(list(NAMES.items()))
    entry, said = chance.choice(meanings)
    before, name, after, title = (tokenizer.ids(t) for t in (first, mention, f"{chance.choice(said)} {last}", entry))
    a, b, c, d, end = vars(marks).values()
    source = np.concatenate([[tokenizer.cls_id], before, name, after, [end]])
    return source, np.concatenate([before, [a], name, [b], [c], title, [d], after, [end]])


def main() -> None:
    texts = [t for name, all_of in NAMES.items() for entry, said in all_of for t in (name, entry, *said)]
    tokenizer = Tokenizer.train([*texts, *BEFORE, "indeed again { } [ ]"] * 2, min_count=1)
    marks = Marks(*(int(tokenizer.ids(mark)[0]) for mark in "{}[]"), tokenizer.sep_id)
    torch.manual_seed(0)
    chance = random.Random(0)
    backbone = RoFormerV2Config(vocabulary=tokenizer.size, layers=2, width=64, heads=2, dropout=0.0)
    model = AskModel(AskConfig(backbone, copy_width=32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(100):
        loss, _ = ask_loss(model, collate([example(chance, tokenizer, marks) for _ in range(32)]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    asked = [
        "now mercury is liquid",
        "we know saturn was launched again",
        "people say apollo plays the lyre",
        "now now",
    ]
    titles = [tokenizer.ids(entry).tolist() for all_of in NAMES.values() for entry, _ in all_of]
    entries, _ = CatalogueTrie.build(*ragged(titles), end_id=marks.end)
    mentions, _ = CatalogueTrie.build(*ragged([tokenizer.ids(name).tolist() for name in NAMES]), end_id=marks.end)
    ids = [tokenizer.ids(text) for text in asked]
    markup = MarkupConstraint(ids, entries, marks=marks, mentions=mentions)
    sources = [np.concatenate([[tokenizer.cls_id], row, [marks.end]]) for row in ids]
    session = TreeSession(model.eval(), sources)
    found = search(session, markup, Paths.start(session, markup), Search(beams=3, keep=1))
    for row, text in enumerate(asked):
        links = read_links(found.chain(row), marks)
        named = [(tokenizer.decode(ids[row][a.start : a.stop]), tokenizer.decode(a.entry)) for a in links]
        print(f"{text}: {named or 'nothing to link'} ({session.calls[row]} model calls, {found.length[row]} tokens)")


if __name__ == "__main__":
    main()
