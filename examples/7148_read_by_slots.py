"""Post 7148: a masked language model fills the answer's slots all at once; a tree keeps them a span of the passage.

    python examples/7148_read_by_slots.py

[CLS] [MASK] ... [MASK] [SEP] question [SEP] passage [SEP] goes through the encoder once; the slots are then filled one
after another with the likeliest token that continues a span of the passage. The model here is tiny and learns, in
seconds, to tell places and dates apart in made-up sentences: enough to see the parts work together, and no measure of
reading comprehension.

Post: 7148
"""

import random
from itertools import chain

import numpy as np
import torch
from torch.nn import functional as F

from tianwen.ask.reading import read_by_slots, slotted
from tianwen.ask.spans import SpanConstraint
from tianwen.backbone.heads import MaskedLanguageModel
from tianwen.backbone.roformer_v2 import RoFormerV2, RoFormerV2Config
from tianwen.text import Tokenizer

SLOTS = 6
ROCKETS = ["天舟", "远望", "极光", "飞燕", "苍鹰", "北斗"]
VALUES = {
    "在哪里发射？": ["海南文昌", "甘肃酒泉", "四川西昌", "山西太原", "法属圭亚那", "拜科努尔"],
    "什么时候发射？": ["一月三日", "二月九日", "五月八日", "六月七日", "九月六日", "十月十日"],
}
FORMS = {"在哪里发射？": "从{}升空", "什么时候发射？": "于{}起飞"}


def example(chance, tokenizer):
    """The slotted input and what belongs in the slots: the answer and END, or END where the passage does not say."""
    questions = chance.sample(list(VALUES), chance.randint(1, 2))
    said = {question: chance.choice(VALUES[question]) for question in questions}
    text = chance.choice(ROCKETS) + "，".join(FORMS[q].format(v) for q, v in said.items()) + "。"
    question = chance.choice(list(VALUES))
    return slots(tokenizer, text, question), np.append(tokenizer.ids(said.get(question, "")), tokenizer.sep_id)


def slots(tokenizer, text, question):
    marks = (tokenizer.cls_id, tokenizer.mask_id, tokenizer.sep_id)
    return slotted(tokenizer.ids(question), tokenizer.ids(text), slots=SLOTS, marks=marks)


def logits_of_slots(model, inputs):
    """[B, SLOTS, V], the inputs padded to one length."""
    ids = torch.zeros(len(inputs), max(map(len, inputs)), dtype=torch.int64)
    for row, tokens in enumerate(inputs):
        ids[row, : len(tokens)] = torch.from_numpy(tokens)
    return model(ids, mask=(ids != 0)[:, None, None])[:, 1 : SLOTS + 1]


def trained(tokenizer):
    torch.manual_seed(0)
    chance = random.Random(0)
    config = RoFormerV2Config(vocabulary=tokenizer.size, layers=2, width=64, heads=2, dropout=0.0)
    model = MaskedLanguageModel(RoFormerV2(config))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(200):
        inputs, answers = zip(*(example(chance, tokenizer) for _ in range(32)), strict=True)
        wanted = torch.full((len(answers), SLOTS), -100)
        for row, answer in enumerate(answers):
            wanted[row, : len(answer)] = torch.from_numpy(answer)
        loss = F.cross_entropy(logits_of_slots(model, inputs).flatten(0, 1), wanted.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def main() -> None:
    texts = [*ROCKETS, *FORMS.values(), *VALUES, *chain.from_iterable(VALUES.values())]
    tokenizer = Tokenizer.train(texts, min_count=1)
    model = trained(tokenizer)
    passages = ["飞燕从海南文昌升空，于六月七日起飞。", "飞燕从海南文昌升空。", "苍鹰于一月三日起飞。"]
    ids = [tokenizer.ids(text) for text in passages]
    spans = SpanConstraint(ids, end_id=tokenizer.sep_id, separators=tokenizer.ids("，。"), longest=SLOTS, empty=True)
    for question in VALUES:
        with torch.inference_mode():
            logits = logits_of_slots(model, [slots(tokenizer, text, question) for text in passages])
        for reading in read_by_slots(logits.double().softmax(-1).numpy(), spans):
            where = sorted({passage for passage, _ in reading.places})
            print(f"{question} {tokenizer.decode(reading.tokens)} {reading.score:.2f} (passages {where})")


if __name__ == "__main__":
    main()
