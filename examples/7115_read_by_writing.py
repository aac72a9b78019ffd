"""Post 7115: several passages are asked one question, and agree on an answer that stands in one of them.

    python examples/7115_read_by_writing.py

A sequence-to-sequence model reads each passage with the question and writes; its votes are merged token by token, and a
prefix tree over the passages' windows lets only their own stretches be written. The model here is tiny and learns, in
seconds, to tell places, dates and makers apart in made-up sentences: enough to see the parts work together, and no
measure of reading comprehension.

Post: 7115
"""

import random
from itertools import chain

import numpy as np
import torch

from tianwen.ask.mixture import ask_loss, collate
from tianwen.ask.reading import WritingModel, read_by_writing
from tianwen.ask.seq2seq import AskConfig, AskModel
from tianwen.ask.spans import SpanConstraint
from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.text import Tokenizer

ROCKETS = ["天舟", "远望", "极光", "飞燕", "苍鹰", "北斗"]
VALUES = {
    "在哪里发射？": ["海南文昌", "甘肃酒泉", "四川西昌", "山西太原", "法属圭亚那", "拜科努尔"],
    "什么时候发射？": ["一月三日", "二月九日", "五月八日", "六月七日", "九月六日", "十月十日"],
    "是谁研制的？": ["东方公司", "西山研究院", "南海大学", "北方工厂", "中央实验室"],
}
FORMS = {"在哪里发射？": "从{}升空", "什么时候发射？": "于{}起飞", "是谁研制的？": "由{}制造"}


def passage(chance, asked):
    """A sentence on some rocket with the clauses of these questions, and what each clause says."""
    said = {question: chance.choice(VALUES[question]) for question in chance.sample(asked, len(asked))}
    return chance.choice(ROCKETS) + "，".join(FORMS[q].format(v) for q, v in said.items()) + "。", said


def example(chance, tokenizer):
    """Source [CLS] passage [SEP] question [SEP]; target: the answer, or nothing where the passage does not say."""
    questions = list(VALUES)
    text, said = passage(chance, chance.sample(questions, chance.randint(1, 2)))
    question = chance.choice(questions) if chance.random() < 0.4 else chance.choice(list(said))
    return source(tokenizer, text, question), np.append(tokenizer.ids(said.get(question, "")), tokenizer.sep_id)


def source(tokenizer, text, question):
    ends = [tokenizer.sep_id]
    return np.concatenate([[tokenizer.cls_id], tokenizer.ids(text), ends, tokenizer.ids(question), ends])


def trained(tokenizer):
    torch.manual_seed(0)
    chance = random.Random(0)
    backbone = RoFormerV2Config(vocabulary=tokenizer.size, layers=2, width=64, heads=2, dropout=0.0)
    model = AskModel(AskConfig(backbone, copy_width=32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(110):
        loss, _ = ask_loss(model, collate([example(chance, tokenizer) for _ in range(32)]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def main() -> None:
    texts = [*ROCKETS, *FORMS.values(), *VALUES, *chain.from_iterable(VALUES.values())]
    tokenizer = Tokenizer.train(texts, min_count=1)
    model = trained(tokenizer)
    passages = ["飞燕从海南文昌升空，由南海大学制造。", "飞燕从海南文昌升空，于六月七日起飞。", "苍鹰于一月三日起飞。"]
    encoded = [tokenizer.encode(text) for text in passages]
    end = tokenizer.sep_id
    separators = tokenizer.ids("，。")
    spans = SpanConstraint([each.ids for each in encoded], end_id=end, separators=separators, longest=8)
    for question in VALUES:
        reader = WritingModel(model, [source(tokenizer, text, question) for text in passages])
        for reading in read_by_writing(reader, spans, beams=3)[:1]:
            places = []
            for i, start in reading.places:  # from tokens to characters
                first, last = encoded[i].offsets[start][0], encoded[i].offsets[start + len(reading.tokens) - 1][1]
                places.append(f"{i}:{first}-{last}")
                assert tokenizer.decode(reading.tokens) == passages[i][first:last]
            print(f"{question} {tokenizer.decode(reading.tokens)} {reading.score:.2f} (passages {', '.join(places)})")


if __name__ == "__main__":
    main()
