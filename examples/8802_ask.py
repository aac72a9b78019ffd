"""Post 8802 in two steps: a catalogue as a prefix tree, and questions answered by walking one.

    python examples/8802_ask.py

Post: 8802
"""

import numpy as np

import tianwen as tw
from tianwen.ask.trie import CatalogueTrie
from tianwen.demonstration import fact_files

CATALOGUE = [
    "明月几时有",
    "明天会更好",
    "明天下雨",
    "明天下午开会",
    "明天下午放假",
    "明年见",
    "今夕是何年",
    "今天去哪里玩",
]
END = 0


def continuations(trie: CatalogueTrie, prefix: str) -> list[str]:
    """The characters that an entry may have after the prefix; here a token is a character, and `.` ends an entry."""
    state = trie.root(1)
    for character in prefix:
        state = trie.advance(state, np.array([ord(character)]))
    _, tokens, _ = trie.allowed(state)
    return ["." if token == END else chr(token) for token in tokens]


def main() -> None:
    tokens = [[ord(character) for character in entry] for entry in CATALOGUE]
    row_ptr = np.cumsum([0, *map(len, tokens)])
    trie, _ = CatalogueTrie.build(row_ptr, np.concatenate(tokens).astype(np.int32), end_id=END)
    for prefix in ("", "明", "明天", "明天下", "明天下雨"):
        print(f"{prefix or '(start)'} may go on with {' '.join(continuations(trie, prefix))}")

    qa = tw.Asker.load()
    with tw.KnowledgeBase.build(fact_files(), "spaceflight.kb", tokenizer=qa.tokenizer, overwrite=True) as kb:
        question = "战神I-X在哪里发射？"
        for answer in qa.ask(question, kb, top=3):
            print(f"{question} {answer.objects} {answer.probability:.2f} ({answer.subject} -> {answer.predicate})")


if __name__ == "__main__":
    main()
