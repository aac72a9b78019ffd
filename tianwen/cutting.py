"""The slow truth of the tokenizer: any text, cut by the `tokenizers` library, with places in the text as given.

Two styles. "tianwen": NFKC, lower case, NFKC again (lower case can undo it); whitespace separates and is dropped; Han,
kana, other syllables and ideographs, punctuation, symbols, digits, control and format characters are pieces by
themselves; runs of other letters and marks are words. "bert": what published vocabularies expect (no NFKC; accents and
control characters are dropped).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Pipeline

from tianwen.vocabulary import CONTINUES, FIRST_BYTE_ID, SPECIAL_PIECES

Style = Literal["tianwen", "bert"]
Place = tuple[int, int]  # start and end in characters

LONGEST_WORD = 100  # characters; a longer run of letters is spelt in bytes (or is [UNK] in style "bert")

# Everything that only separates: Unicode white space, the ASCII separators, and the spaces of no width (ZWSP, WJ, BOM).
_SEPARATORS = r"[\s\x{1c}-\x{1f}\x{85}\x{200b}\x{2060}\x{feff}]+"
# One piece each: all but letters and marks, and of the letters those of scripts that write syllables or ideographs.
_SINGLES = (
    r"[^\p{L}\p{M}]|[\x{1100}-\x{11ff}\x{2e80}-\x{a4cf}\x{a960}-\x{a97f}\x{ac00}-\x{d7ff}\x{f900}-\x{faff}"
    r"\x{16fe0}-\x{18d8f}\x{1aff0}-\x{1b2ff}\x{20000}-\x{3ffff}]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Cutter:
    """Cuts text with the vocabulary `id_of` (piece to id)."""

    def __init__(self, id_of: dict[str, int], style: Style) -> None:
        self.style: Style = style
        self._unk_id = id_of[SPECIAL_PIECES[1]]
        self._normalizer, self._splitter = _bert_rules() if style == "bert" else _tianwen_rules()
        model = models.WordPiece(
            vocab=id_of,
            unk_token=SPECIAL_PIECES[1],
            max_input_chars_per_word=LONGEST_WORD,
            continuing_subword_prefix=CONTINUES,
        )
        self._pipeline = Pipeline(model)
        self._pipeline.normalizer = self._normalizer
        self._pipeline.pre_tokenizer = self._splitter
        self._joins: dict[str, bool] = {}

    def encode(self, text: str) -> tuple[list[int], list[Place]]:
        """Ids of `text` and the place of each in it."""
        ids: list[int] = []
        places: list[Place] = []
        for start, part in self._parts(text):
            if _SURROGATE.match(part):
                part_ids = spelt_in_bytes(part)
                part_places = [(0, 1)] * len(part_ids)
            else:
                part_ids, part_places = self._encode_part(part)
            ids += part_ids
            places += [(a + start, b + start) for a, b in part_places] if start else part_places
        return ids, places

    def words(self, text: str) -> list[str]:
        """The normalised words and single characters that `text` consists of."""
        found: list[str] = []
        for _, part in self._parts(text):
            if _SURROGATE.match(part):
                found.append(part)
            else:
                found += self._words_of_part(part)
        return found

    def canonical(self, text: str) -> str:
        """What the ids of `text` keep of it: its words, with one space where two words would join without it."""
        words = self.words(text)
        spaces = [" " if self.join(left, right) else "" for left, right in pairwise(words)]
        return "".join(word + space for word, space in zip(words, [*spaces, ""], strict=False))

    def join(self, left: str, right: str) -> bool:
        """Whether two normalised texts, written without a space, would grow together to one word."""
        return bool(left and right) and self.is_word(left[-1]) and self.is_word(right[0])

    def is_word(self, character: str) -> bool:
        """Whether a normalised character joins its like to words."""
        if character not in self._joins:
            self._joins[character] = len(self.words(character * 2)) == 1
        return self._joins[character]

    def spells(self, ids: list[int]) -> bool:
        """Whether any of `ids` is a byte."""
        return self.style == "tianwen" and any(FIRST_BYTE_ID <= i < FIRST_BYTE_ID + 256 for i in ids)

    def _parts(self, text: str) -> Iterator[tuple[int, str]]:
        """What the library can take of `text`, and each lone surrogate, which it cannot, by itself; with its start."""
        if text.isascii() or not _SURROGATE.search(text):
            yield 0, text
        elif self.style == "bert":  # BERT drops them; it drops the replacement character, too
            yield 0, _SURROGATE.sub("\ufffd", text)
        else:
            last = 0
            for match in _SURROGATE.finditer(text):
                if match.start() > last:
                    yield last, text[last : match.start()]
                yield match.start(), match.group()
                last = match.end()
            if last < len(text):
                yield last, text[last:]

    def _words_of_part(self, part: str) -> list[str]:
        return [word for word, _ in self._splitter.pre_tokenize_str(self._normalizer.normalize_str(part))]

    def _encode_part(self, part: str) -> tuple[list[int], list[Place]]:
        cut = self._pipeline.encode(part, add_special_tokens=False)
        ids, places = cut.ids, self._with_marks(part, cut.offsets)
        if self.style == "bert" or self._unk_id not in ids:
            return ids, places
        return self._without_unknown(ids, places, cut.word_ids, self._words_of_part(part))

    def _without_unknown(
        self, ids: list[int], places: list[Place], word_ids: list[int | None], words: list[str]
    ) -> tuple[list[int], list[Place]]:
        """Put the bytes of the word in the place of each [UNK]."""
        out_ids: list[int] = []
        out_places: list[Place] = []
        before = ""  # the word just before when it was spelt in bytes, too
        for piece, place, index in zip(ids, places, word_ids, strict=True):
            if piece != self._unk_id or index is None:
                spelt, before = [piece], ""
            else:
                spelt = spelt_in_bytes(words[index])
                if self.join(before, words[index]):
                    spelt = spelt_in_bytes(" ") + spelt  # or two words would read as one
                before = words[index]
            out_ids += spelt
            out_places += [place] * len(spelt)
        return out_ids, out_places

    def _with_marks(self, part: str, places: list[Place]) -> list[Place]:
        """Let pieces reach over marks that were composed into them; the library places them on their base only."""
        if part.isascii():
            return places
        reached: dict[Place, Place] = {}
        before = 0  # the end of the place before
        for (start, end), (after, _) in pairwise([*dict.fromkeys(places), (len(part), 0)]):
            wide_start, wide_end = start, end
            while wide_end < after and self._was_composed(part[wide_end]):
                wide_end += 1
            while wide_start > before and self._was_composed(part[wide_start - 1]):
                wide_start -= 1  # rare: a mark that changed places with a spacing accent before it
            before = max(before, wide_end)
            reached[start, end] = wide_start, wide_end
        return [reached[place] for place in places]

    def _was_composed(self, character: str) -> bool:
        """Whether a character on which no piece lies went into a piece beside it (or was whitespace, or dropped)."""
        if character.isspace():
            return False
        if self.style == "bert":
            return unicodedata.category(character).startswith("M")
        return self._words_of_part("a" + character) != ["a"]


def spelt_in_bytes(word: str) -> list[int]:
    """The ids of the byte pieces of `word`."""
    return [FIRST_BYTE_ID + byte for byte in word.encode("utf-8", "surrogatepass")]


def _tianwen_rules() -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer]:
    normal = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.NFKC()])
    separate = pre_tokenizers.Split(Regex(_SEPARATORS), "removed")
    isolate = pre_tokenizers.Split(Regex(_SINGLES), "isolated")
    return normal, pre_tokenizers.Sequence([separate, isolate])


def _bert_rules() -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer]:
    return normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
