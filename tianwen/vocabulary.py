"""What the pieces of a vocabulary are, and how one is counted out of texts.

Layout of ids: 0..4 special pieces, 5..260 the bytes <0x00>..<0xFF>, then single characters, then word pieces
("word" starts a word, "##word" continues one).
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer as Pipeline
from tokenizers import models, pre_tokenizers, trainers

from tianwen.errors import InputError

SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))
FIRST_BYTE_ID = len(SPECIAL_PIECES)
CONTINUES = "##"

# Always present, so that any ASCII text has short pieces whatever the training texts were.
_ASCII_CHARACTERS = tuple(sorted(set(string.printable) - set(string.whitespace) - set(string.ascii_uppercase)))
_ASCII_CONTINUATIONS = tuple(CONTINUES + letter for letter in string.ascii_lowercase)

# A rare character has no other spelling than its bytes; a rare word has, in shorter pieces that are learnt better.
_MERGED_WHEN_SEEN = 5  # times min_count

# The trainer is fed every word as often as it was seen; beyond this many the counts are divided first.
_MOST_WORDS_FED = 10_000_000


def count_out_vocabulary(characters: Counter[str], words: Counter[str], *, size: int, min_count: int) -> list[str]:
    """The pieces of a vocabulary of at most `size` entries.

    characters: how often each single-character piece was seen; words: how often each word (letter run) was seen,
    both normalised. Characters seen `min_count` times or more come first by count; word pieces are sure of a quarter of
    the room and take whatever else the characters leave. Equal input gives equal output, in any process.
    """
    if min_count < 1:
        raise InputError(f"min_count is {min_count}; it must be 1 or more (2 drops what was seen only once).")
    base = [*SPECIAL_PIECES, *BYTE_PIECES, *_ASCII_CHARACTERS, *_ASCII_CONTINUATIONS]
    room = size - len(base)
    if room < 0:
        raise InputError(f"size is {size}; the fixed pieces alone are {len(base)}. Ask for {len(base)} or more.")
    known = set(base)
    singles = [c for c, n in characters.items() if n >= min_count and c not in known and not _is_surrogate(c)]
    singles.sort(key=lambda c: (-characters[c], c))
    word_room = max(room // 4, room - len(singles))
    pieces = [p for p in word_pieces(words, size=word_room, min_count=min_count) if p not in known][:word_room]
    return base + singles[: room - len(pieces)] + pieces


def word_pieces(words: Counter[str], *, size: int, min_count: int) -> list[str]:
    """At most `size` WordPiece pieces for `words`, letters first, then merged pieces in the order they were learnt."""
    letters: Counter[str] = Counter()
    for word, count in words.items():
        letters.update({word[0]: count})
        for letter in word[1:]:
            letters.update({CONTINUES + letter: count})
    # Word characters that are too rare get no piece; words that hold them are spelt in bytes anyway and teach nothing.
    alphabet = sorted((p for p, n in letters.items() if n >= min_count), key=lambda p: (-letters[p], p))[:size]
    if not alphabet:
        return []
    usable = set(alphabet)
    taught = Counter({w: n for w, n in words.items() if _spelt_with(w, usable)})
    ascii_free = size + len(_ASCII_CHARACTERS) + len(_ASCII_CONTINUATIONS)  # those are dropped by the caller
    pieces = _merge(taught, alphabet, size=ascii_free, min_count=_MERGED_WHEN_SEEN * min_count)
    return pieces


def _spelt_with(word: str, usable: set[str]) -> bool:
    return word[0] in usable and all(CONTINUES + letter in usable for letter in word[1:])


def _merge(words: Counter[str], alphabet: Sequence[str], *, size: int, min_count: int) -> list[str]:
    """Run the library's WordPiece trainer over counted words.

    The trainer numbers pieces in the order it meets them in a hash map and breaks ties by those numbers. Handing it the
    whole alphabet as "special" pieces numbers them beforehand, which makes its result the same in every process.
    """
    pipeline = Pipeline(models.WordPiece(vocab={}, unk_token=SPECIAL_PIECES[1]))  # pyright: ignore[reportCallIssue]
    pipeline.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=min_count,
        show_progress=False,
        special_tokens=list(alphabet),
        continuing_subword_prefix=CONTINUES,
    )
    pipeline.train_from_iterator(_fed(words), trainer)
    vocabulary = pipeline.get_vocab(with_added_tokens=True)
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _fed(words: Counter[str]) -> Iterator[str]:
    divisor = max(1, -(-words.total() // _MOST_WORDS_FED))
    for word in sorted(words):
        yield (word + " ") * max(1, words[word] // divisor)


def check_vocabulary(pieces: Sequence[str]) -> None:
    """Refuse a list of pieces that is not laid out as this module says."""
    fixed = [*SPECIAL_PIECES, *BYTE_PIECES]
    if list(pieces[: len(fixed)]) != fixed:
        raise InputError(
            "A vocabulary starts with [PAD] [UNK] [CLS] [SEP] [MASK] and the bytes <0x00> to <0xFF> (261 pieces). "
            "Make one with Tokenizer.train(texts), or read a published vocab.txt with Tokenizer.from_vocab_txt(path)."
        )
    broken = [piece for piece in pieces if _is_surrogate(piece)]
    if broken:
        raise InputError(f"The piece {broken[0]!r} holds half a surrogate pair; leave it out, it is spelt in bytes.")
    twice = [piece for piece, count in Counter(pieces).items() if count > 1]
    if twice:
        raise InputError(
            f"{len(twice)} pieces stand twice in the vocabulary, {twice[0]!r} for one; each may stand once."
        )


def _is_surrogate(piece: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in piece)
