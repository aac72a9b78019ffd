"""Post 0229, a page of news, from text to answered question: what it says is extracted, stored and asked.

    python examples/0229_ares.py

The page is `0229_ares.txt`, in our own words; nothing stays on disk. The same on the command line, where the knowledge
base stays:

    tianwen extract examples/0229_ares.txt --json | tianwen build - --kb ares.kb
    tianwen ask 战神I-X在哪里发射？ --kb ares.kb

Post: 0229 (the page), 8888 (facts out of text), 8802 (answers out of facts)
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import tianwen as tw
from tianwen.extract.writing import to_json

PAGE = Path(__file__).with_suffix(".txt")
QUESTIONS = ["战神I-X在哪里发射？", "战神I-X是什么时候发射的？", "战神I-X的最大速度是多少？"]


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    (found,) = tw.Extractor.load().stream([text], sources=[PAGE.name])
    for subject, predicate, object in found.triples():
        print(f"{subject} | {predicate} | {object}")

    qa = tw.Asker.load()
    with TemporaryDirectory() as folder:
        facts = Path(folder) / "ares.jsonl"
        facts.write_text(json.dumps(to_json(found), ensure_ascii=False) + "\n", encoding="utf-8")
        with tw.KnowledgeBase.build(facts, Path(folder) / "ares.kb", tokenizer=qa.tokenizer) as kb:
            for question in QUESTIONS:
                (answer,) = qa.ask(question, kb)
                print(f"\n{question} {'; '.join(answer.objects)} ({answer.probability:.0%})\n  {answer.sources[0]}")


if __name__ == "__main__":
    main()
