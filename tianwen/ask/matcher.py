"""What a question and a predicate have to do with each other, by the meaning of their words.

An asker of a few million weights has read too little to know that 味道 and 口感 both are the taste of a thing. Word
vectors that were counted on billions of words know it. The matcher looks at question and predicate as sets of words and
learns, from questions with answers, which words ask for what:

    s(Q, P) = e^t ( sum_j w_j max(max_i <a(q_i), b(p_j)>, none)  +  u <q, p> )

Each word of the predicate looks for its nearest word of the question (late interaction), and the weighted means of both
sides are compared as a whole. It is added to the asker's log-probability of a predicate before they are compared; see
`candidates`. What stands in no vocabulary still counts where it stands in the question letter by letter.

How well the best of a subject's predicates fits is no sign that the question asks for it: one always is the best. But
the matcher also knows the predicates that it was trained on, and `Matcher.fit` tells the share of one among them:

    fit(Q, P) = s(Q, P) - log sum over P' in known or P of exp s(Q, P')

Source: our own, for post 8802. Late interaction: Khattab and Zaharia, ColBERT, 2020.

Notation: B questions, m predicates, Lq and Lp words of each (padded with -1), d numbers of a vector
    a, b   z -> normalise(z + A z): the maps of question words and of predicate words
    w      weight of each word: softplus of a linear function of its vector and of how rare it is
    q, p   normalise(C sum_i w_i q_i), normalise(E sum_j w_j p_j)
           (a, b, w, C and E have a part for words in western letters and one for the others)
    own    what training adds to the vector of a word that is frequent in questions (多少, 哪里)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float16, Float32, Int64
from torch import Tensor, nn

from tianwen.errors import ModelError
from tianwen.training.weights import load_weights, save_weights
from tianwen.words.lists import Words, units_of
from tianwen.words.table import WordTable, find_table, keep_table

FILE = "matcher.safetensors"
ARCHITECTURE = "tianwen matcher 3"
LONGEST_QUESTION = 32
LONGEST_PREDICATE = 6
NEAREST = 100
"""Known predicates that `fit` compares with: those whose words as a whole are nearest; the others add next to nothing.
"""
EASTERN = "\u2e80"
"""First of the characters of East Asia; western alphabets stand before it."""
GAP = "\ue000"
"""A private character that stands where the subject was, so that no word is found across it."""


class Side(NamedTuple):
    """Words of questions, or of predicates, as the comparison wants them."""

    present: Bool[Tensor, "rows words"]
    mapped: Float[Tensor, "rows words dim"]
    weight: Float[Tensor, "rows words"]
    whole: Float[Tensor, "rows dim"]


class WordMatcher(nn.Module):
    """The formula above. `vectors` [n, d] of length 1 stay as they are; `asked` are the words with an `own` row.

    Words that were learnt from questions only come after the others, with vectors of zeros. `script` [n] is 1 for words
    in western letters, else 0: each has linear functions of its own, for its vectors were counted elsewhere.
    """

    vectors: Tensor
    script: Tensor
    rarity: Tensor
    slot: Tensor

    def __init__(
        self,
        vectors: Float[Tensor, "words dim"],
        script: Int64[Tensor, " words"],
        asked: Sequence[int] = (),
        *,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        count, width = vectors.shape
        both = 2 * width
        slot = torch.zeros(count, dtype=torch.long)
        slot[torch.tensor(list(asked), dtype=torch.long)] = 1 + torch.arange(len(asked))
        rarity = torch.log(2.0 + torch.arange(count)) / np.log(count + 1.0)
        for name, held in (("vectors", vectors), ("script", script), ("rarity", rarity), ("slot", slot)):
            self.register_buffer(name, held, persistent=False)
        self.own = nn.Embedding(len(asked) + 1, width, padding_idx=0)
        self.own_weight = nn.Embedding(len(asked) + 1, 1, padding_idx=0)
        self.of_question, self.of_predicate = nn.Linear(both, width, bias=False), nn.Linear(both, width, bias=False)
        self.question_weight, self.predicate_weight = nn.Linear(both + 3, 1), nn.Linear(both + 3, 1)
        self.question_whole, self.predicate_whole = nn.Linear(both, width), nn.Linear(both, width)
        self.none, self.literal = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(1.0))
        self.unknown_weight = nn.Parameter(torch.tensor(0.5))
        self.log_scale, self.share_of_whole = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(1.0))
        self.dropout = nn.Dropout(dropout)
        self._begin()

    def _begin(self) -> None:
        """At first the comparison is that of the vectors as they are."""
        nn.init.normal_(self.own.weight, std=0.02)
        for zero in (self.of_question.weight, self.of_predicate.weight, self.own_weight.weight, self.own.weight[:1]):
            nn.init.zeros_(zero)
        for whole in (self.question_whole, self.predicate_whole):
            nn.init.eye_(whole.weight[:, : whole.out_features])
            nn.init.eye_(whole.weight[:, whole.out_features :])
            nn.init.zeros_(whole.bias)

    def questions(self, words: Int64[Tensor, "rows words"]) -> Side:
        """The side of the questions; words are numbers, or -1."""
        known = words.clamp(min=0)
        slot = self.slot[known]
        vectors = self.dropout(self.vectors[known].float() + self.own(slot))  # [B, Lq, d]
        extra = self.own_weight(slot)[..., 0]
        return self._side(words, vectors, self.of_question, self.question_weight, self.question_whole, extra)

    def predicates(self, words: Int64[Tensor, "rows words"]) -> Side:
        """The side of the predicates; words are numbers, or -1."""
        vectors = self.dropout(self.vectors[words.clamp(min=0)].float())  # [m, Lp, d]
        return self._side(words, vectors, self.of_predicate, self.predicate_weight, self.predicate_whole)

    def _side(
        self,
        words: Tensor,
        vectors: Tensor,
        change: nn.Linear,
        weigh: nn.Linear,
        whole: nn.Linear,
        extra: Tensor | float = 0.0,
    ) -> Side:
        present, known = words >= 0, words.clamp(min=0)
        script = F.one_hot(self.script[known], 2).to(vectors.dtype)  # [rows, words, 2]
        apart = (script[..., None] * vectors[..., None, :]).flatten(-2)  # [rows, words, 2 d]: the other script's are 0
        weight = weigh(torch.cat([apart, script, self.rarity[known][..., None]], dim=-1))[..., 0] + extra
        share = F.softplus(weight) * present
        mapped = F.normalize(vectors + change(apart), dim=-1)
        mean = (share[..., None] * apart).sum(-2) / (share.sum(-1, keepdim=True) + 1e-6)
        return Side(present, mapped, share, F.normalize(whole(mean), dim=-1))

    def forward(
        self,
        question: Int64[Tensor, "batch question_words"],
        predicate: Int64[Tensor, "predicates predicate_words"],
        unknown: Float[Tensor, " predicates"],
        literal: Float[Tensor, "batch predicates"],
    ) -> Float[Tensor, "batch predicates"]:
        """s(Q, P) of every pair.

        `unknown` counts the units of each predicate that no word covers, `literal` those of them in the question.
        """
        return self.compared(self.questions(question), self.predicates(predicate), unknown, literal)

    def compared(
        self,
        asked: Side,
        told: Side,
        unknown: Float[Tensor, " predicates"],
        literal: Float[Tensor, "batch predicates"],
    ) -> Float[Tensor, "batch predicates"]:
        """The same for sides that are at hand."""
        near = torch.einsum("qid,pjd->qpji", asked.mapped, told.mapped)  # [B, m, Lp, Lq]
        near = near.masked_fill(~asked.present[:, None, None, :], -1.0).amax(-1)
        near = torch.maximum(near, self.none)  # [B, m, Lp]
        of_unknown = F.softplus(self.unknown_weight)
        total = told.weight.sum(-1) + of_unknown * unknown + 1e-6  # [m]
        found = self.literal * literal + self.none * (unknown - literal)  # [B, m]
        nearest = ((near * told.weight).sum(-1) + of_unknown * found) / total
        gone = of_unknown * unknown / total  # [m]: the share of the predicate that has no vector
        whole = (1 - gone) * (asked.whole @ told.whole.T) + gone * literal / unknown.clamp(min=1)
        return self.log_scale.exp() * (nearest + self.share_of_whole * whole)


class Matcher:
    """A trained `WordMatcher` with its words: texts in, scores out."""

    def __init__(
        self,
        model: WordMatcher,
        table: WordTable,
        asked_words: Sequence[str] = (),
        known: Int64[np.ndarray, "known words"] | None = None,
    ) -> None:
        """`asked_words` were learnt from questions, stand behind those of the table, and in questions only.

        `known` predicates, as numbers of words padded with -1: see `known_predicates`.
        """
        self.model, self.table, self.asked_words = model.eval(), table, list(asked_words)
        self.words = Words([*table.words, *self.asked_words])
        self.known = torch.from_numpy(filled([], LONGEST_PREDICATE) if known is None else known)
        self._sides: dict[str, Side] = {}
        self._words_of: dict[str, tuple[list[int], list[str]]] = {}

    @property
    def common(self) -> int:
        """So many of the words have vectors; those after them stand in questions only."""
        return len(self.table.words)

    def scores(self, question: str, subject: str, predicates: Sequence[str]) -> Float32[np.ndarray, " predicates"]:
        """s(Q, P) of each predicate for the question without its subject; higher fits better, differences count."""
        if not predicates:
            return np.zeros(0, np.float32)
        text = without_subject(question, subject)
        read = [self._read(predicate) for predicate in predicates]
        told = torch.from_numpy(padded([known for known, _ in read], LONGEST_PREDICATE))
        unknown, literal = map(torch.from_numpy, count_literal([units_of(text)], [units for _, units in read]))
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            return self.model.compared(self._asked(text), self.model.predicates(told), unknown, literal)[0].numpy()

    def fit(self, question: str, subject: str, predicate: str) -> float:
        """log of the share of a predicate among those that the matcher knows, at most 0; 0 where it knows none."""
        if not len(self.known):
            return 0.0
        text = without_subject(question, subject)
        words, units = self._read(predicate)
        told = torch.from_numpy(filled([words], LONGEST_PREDICATE))
        held, known = self._known
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            asked = self._asked(text)
            near = (known.whole @ asked.whole[0]).topk(min(NEAREST, len(self.known))).indices
            unknown, literal = map(torch.from_numpy, count_literal([units_of(text)], [units, *[[]] * len(near)]))
            both = Side(
                *(
                    torch.cat([one, all_of[near]])
                    for one, all_of in zip(self.model.predicates(told), known, strict=True)
                )
            )
            scores = self.model.compared(asked, both, unknown, literal)[0]
            is_known = not units and tuple(told[0].tolist()) in held
            others = scores[1:][(self.known[near] != told[0]).any(-1)] if is_known else scores[1:]
            return float(scores[0] - torch.cat([scores[:1], others]).logsumexp(0))

    @cached_property
    def _known(self) -> tuple[set[tuple[int, ...]], Side]:
        """The known predicates as a set, and their side."""
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            return set(map(tuple, self.known.tolist())), self.model.predicates(self.known)

    def _asked(self, text: str) -> Side:
        """The side of a question without its subject; the last ones are kept, for each is asked of many predicates."""
        side = self._sides.get(text)
        if side is None:
            words = torch.from_numpy(padded([self.words.inside(text)], LONGEST_QUESTION))
            side = _kept(self._sides, 128, text, self.model.questions(words))
        return side

    def _read(self, predicate: str) -> tuple[list[int], list[str]]:
        """`predicate_words` of a predicate; a table has few, and asks for them again and again."""
        read = self._words_of.get(predicate)
        if read is None:
            read = _kept(self._words_of, 4096, predicate, predicate_words(self.words, self.common, predicate))
        return read

    def save(self, folder: Path) -> None:
        """Write the matcher's file into a folder, weights as int8 by rows, and its word table beside it."""
        asked = torch.nonzero(self.model.slot)[:, 0]
        state = {
            **self.model.state_dict(),
            "asked": asked[self.model.slot[asked].argsort()],
            "known": self.known.int(),
            "words": torch.frombuffer(
                bytearray("".join(f"{word}\n" for word in self.asked_words).encode() or b"\n"), dtype=torch.uint8
            ),
        }
        keep_table(folder, self.table)
        metadata = {"architecture": ARCHITECTURE, "words": self.table.fingerprint}
        save_weights(folder / FILE, state, metadata, storage="int8")

    @classmethod
    def load(cls, folder: Path) -> Matcher | None:
        """The matcher in a folder; None where there is none. Raises ModelError where it, or its table, is damaged."""
        file = folder / FILE
        if not file.exists():
            return None
        weights = load_weights(file)
        if weights.metadata.get("architecture") != ARCHITECTURE:
            raise ModelError(
                f"{file} holds no matcher that this version reads ({ARCHITECTURE!r}). Train it again: tianwen train "
                f"matcher --model {folder} --questions FILE --replace; or remove the file: the asker does without."
            )
        tensors = dict(weights.tensors)
        asked_words = bytes(tensors.pop("words").numpy()).decode().split()
        known = tensors.pop("known").long().numpy()
        table = find_table(folder, weights.metadata["words"])
        script = scripts_of([*table.words, *asked_words])
        model = WordMatcher(with_asked(table, asked_words), script, tensors.pop("asked").tolist())
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise ModelError(f"The weights in {file} do not fit each other: {error}") from error
        return cls(model, table, asked_words, known)


def _kept(held: dict[str, Any], most: int, key: str, value: Any) -> Any:
    """The value, kept in `held`, which is emptied where it is full: cheaper than to know what was used last."""
    if len(held) >= most:
        held.clear()
    held[key] = value
    return value


def with_asked(table: WordTable, asked_words: Sequence[str]) -> Float16[Tensor, "words dim"]:
    """The vectors of the table, and rows of zeros for the words that only questions have."""
    return torch.cat([table.vectors, table.vectors.new_zeros(len(asked_words), table.width)])


def scripts_of(words: Sequence[str]) -> Int64[Tensor, " words"]:
    """1 for each word that begins with a letter of a western alphabet, 0 for the others: Chinese, digits, marks."""
    return torch.tensor([word[:1].isalpha() and word < EASTERN for word in words], dtype=torch.long)


def without_subject(question: str, subject: str) -> str:
    """The question with a gap where the subject stands first; names spelt in another case are found too."""
    place = question.lower().find(subject.lower()) if subject else -1
    if place < 0 or len(question.lower()) != len(question):
        return question.replace(subject, GAP, 1) if subject else question
    return question[:place] + GAP + question[place + len(subject) :]


def predicate_words(words: Words, common: int, predicate: str) -> tuple[list[int], list[str]]:
    """Numbers of the common words that cover a predicate and of the longer ones inside it, and its other units."""
    cover, unknown = words.cover(predicate, below=common)
    inside = [n for n in words.inside(predicate) if n < common and len(words.words[n]) > 1]
    return list(dict.fromkeys([*cover, *inside]))[:LONGEST_PREDICATE], unknown


def known_predicates(
    words: Words, common: int, predicates: Iterable[str]
) -> Int64[np.ndarray, "known predicate_words"]:
    """The words of predicates, each set once, padded with -1; without those of which no word covers a part.

    Names of one thing take shares from each other: of a table of synonyms give one name each.
    """
    read = [predicate_words(words, common, predicate) for predicate in predicates]
    return filled(list(dict.fromkeys(tuple(known) for known, units in read if known and not units)), LONGEST_PREDICATE)


def filled(rows: Sequence[Sequence[int]], width: int) -> Int64[np.ndarray, "rows words"]:
    """Rows of at most `width` numbers as one array of that width, filled with -1."""
    table = np.full((len(rows), width), -1, np.int64)
    for row, numbers in enumerate(rows):
        table[row, : len(numbers)] = numbers
    return table


def padded(rows: Sequence[Sequence[int]], most: int) -> Int64[np.ndarray, "rows words"]:
    """Rows of different lengths as one array, cut to `most`, filled with -1."""
    return filled([row[:most] for row in rows], max(1, min(most, max(map(len, rows), default=1))))


def count_literal(
    questions: Sequence[Sequence[str]], unknown: Sequence[Sequence[str]]
) -> tuple[Float32[np.ndarray, " predicates"], Float32[np.ndarray, "batch predicates"]]:
    """How many units of each predicate have no word [m], and how many of these stand in each question [B, m]."""
    count = np.array([len(units) for units in unknown], np.float32)
    found = np.zeros((len(questions), len(unknown)), np.float32)
    for column in np.flatnonzero(count).tolist():
        wanted = unknown[column]
        for row, units in enumerate(questions):
            found[row, column] = sum(unit in units for unit in wanted)
    return count, found
