"""Similar-question retrieval: whatever is asked, the answer is one of the questions of a catalogue, the nearest.

    python examples/similar_questions.py

No index of vectors: a sequence-to-sequence model reads what was asked and walks the prefix tree of the catalogue's
questions, best first, so the first k that it finishes are provably its k likeliest. Training needs pairs only. The
model here is tiny and learns in seconds from made-up wordings: enough to see the parts work together, and no measure of
how well a trained one retrieves.

Post: 8802
"""

import random

import numpy as np
import torch

from tianwen.ask.beam import Paths, Search, search
from tianwen.ask.mixture import ask_loss, collate
from tianwen.ask.ragged import ragged
from tianwen.ask.seq2seq import AskConfig, AskModel
from tianwen.ask.session import TreeSession
from tianwen.ask.trie import CatalogueTrie
from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.text import Tokenizer

CATALOGUE = {
    "怎么修改密码？": ["密码", "改", "换", "忘记"],
    "怎么注销账号？": ["账号", "注销", "删除", "不用了"],
    "什么时候发货？": ["发货", "多久", "几天", "寄出"],
    "运费是多少？": ["运费", "邮费", "多少钱", "贵"],
    "怎么申请退款？": ["退款", "退钱", "退货", "钱"],
    "可以开发票吗？": ["发票", "报销", "开票", "税"],
}
AROUND = ["请问", "你好", "我想", "了", "啊", "呢", "能不能", "帮我", "的", "怎么"]
ASKED = ["你好，密码忘记了怎么换", "东西几天能寄出啊", "要报销，帮我开票", "邮费贵不贵"]


def example(chance, tokenizer):
    """Some of a question's words among words that mean nothing -> the question."""
    question, words = chance.choice(list(CATALOGUE.items()))
    said = chance.sample(words, chance.randint(1, 3)) + chance.sample(AROUND, chance.randint(0, 4))
    chance.shuffle(said)
    return framed(tokenizer, "".join(said)), np.append(tokenizer.ids(question), tokenizer.sep_id)


def framed(tokenizer, text):
    return np.concatenate([[tokenizer.cls_id], tokenizer.ids(text), [tokenizer.sep_id]])


def main() -> None:
    words = [word for some in CATALOGUE.values() for word in some]
    tokenizer = Tokenizer.train([*CATALOGUE, *words, *AROUND, *ASKED], min_count=1)
    torch.manual_seed(0)
    chance = random.Random(0)
    backbone = RoFormerV2Config(vocabulary=tokenizer.size, layers=2, width=64, heads=2, dropout=0.0)
    model = AskModel(AskConfig(backbone, copy_width=32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        loss, _ = ask_loss(model, collate([example(chance, tokenizer) for _ in range(32)]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    questions = list(CATALOGUE)
    trie, row = CatalogueTrie.build(*ragged([tokenizer.ids(q).tolist() for q in questions]), end_id=tokenizer.sep_id)
    question_of_row = dict(zip(row.tolist(), questions, strict=True))
    session = TreeSession(model.eval(), [framed(tokenizer, text) for text in ASKED])
    found = search(session, trie, Paths.start(session, trie), Search(beams=1, keep=2, exact=True))
    rows, _ = trie.rows(found.state)
    for path in range(len(found)):
        asked, score = ASKED[found.owner[path]], float(np.exp(found.score[path]))
        print(f"{asked} -> {question_of_row[int(rows[path])]} {score:.2f}")


if __name__ == "__main__":
    main()
