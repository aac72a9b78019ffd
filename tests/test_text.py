"""The tokenizer: no text is refused, lost or confused with another, and the fast path equals the slow one."""

from __future__ import annotations

import json
import multiprocessing
import random
import subprocess
import sys
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tianwen.errors import InputError
from tianwen.text import Tokenizer
from tianwen.vocabulary import BYTE_PIECES, SPECIAL_PIECES

FIXED = [*SPECIAL_PIECES, *BYTE_PIECES]

TEXTS = [
    "战神I-X在哪里发射？肯尼迪航天中心。",
    "嫦娥五号于2020年11月24日由长征五号遥五运载火箭发射",
    "白蛇（电影）的主演是谁",
    "The launch vehicle launched launching rockets; the rocket was launched.",
    "NASA's Apollo 11 landed on the Moon in 1969.",
    "café naïve fish finish fishing istanbul",
    "中国 Ω μ",
] * 10

# Everything that has ever made a tokenizer stumble, and what stands beside it in real names.
TRICKY = [
    *"中国龘𠮷々〇かカｶﾞﾟ각각ㄱﾡ",
    *"aZeIJİKÅΣςßẞſǰé１Ａ９ﬁ㍿½№℃㎏⑴Ⅷ﷽ﷺ¨´º²_-'[]！，（）《》·…",
    *"שלאبﻻกำअ\u093c\u094d\u05b8\u0e31\u0958\ufb1d\u2126\u212b",
    *"\u0301\u0307\u030c\u0327\u0345\u0344\u3099\u309a\ufe0f\u1160",
    *" \t\n\r\u3000\xa0\u2028\x85\x1f\u200b\u2060\ufeff",
    *"\x00\x01\x7f\xad\u200d\u200e\u202e\ue000\ufdd0\uffff\ufffd",
    *"\ud800\udbff\udc00\udfff",
    *"😀👨👩\U0001f3fb\U0001d15e\U0002f800\U000110ba\U00011099\U000e0100\U000f0000\U0010ffff",
    *["[SEP]", "[UNK]", "<0x41>", "##a", "launch", "Rocket", "x" * 101, "ﬁ" * 60, "中" * 70],
]
MARKS = [chr(c) for c in range(0x3100) if unicodedata.category(chr(c)).startswith("M")]

tricky_texts = st.lists(
    st.one_of(
        st.sampled_from(TRICKY),
        st.sampled_from(TRICKY),
        st.sampled_from(MARKS),
        st.integers(0, 0x10FFFF).map(chr),  # surrogates, unassigned and private characters among them
        st.integers(0x4E00, 0x9FFF).map(chr),
    ),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, size=800)


@pytest.fixture(scope="module")
def tokenizers(tokenizer: Tokenizer) -> list[Tokenizer]:
    """Trained on plain text, trained on the tricky texts, bytes only, and a published one's style."""
    rng = random.Random(1)
    odd = ["".join(rng.choice(TRICKY) for _ in range(9)) for _ in range(600)]
    return [
        tokenizer,
        Tokenizer.train(odd, size=700, min_count=1),
        Tokenizer(FIXED),
        Tokenizer(PUBLISHED, style="bert"),
    ]


PUBLISHED = [*SPECIAL_PIECES, *"中国a19!，", "19", "##9", "##a", "##b", "launch", "cafe", "i", "##i"]


def spelt(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.pieces[i] for i in tokenizer.ids(text)]


# The fast path and the slow path


def assert_paths_agree(tokenizer: Tokenizer, texts: list[str]) -> None:
    slow = [tokenizer.slow_encode(text) for text in texts]
    row_ptr, tokens = tokenizer.ids_batch(texts)
    assert row_ptr.dtype == np.int64
    assert tokens.dtype == np.int32
    for i, text in enumerate(texts):
        np.testing.assert_array_equal(tokens[row_ptr[i] : row_ptr[i + 1]], slow[i].ids, err_msg=ascii(text))
        np.testing.assert_array_equal(tokenizer.ids(text), slow[i].ids, err_msg=ascii(text))
        for fast in (tokenizer.encode(text), *without_short_cut(tokenizer, text)):
            np.testing.assert_array_equal(fast.ids, slow[i].ids, err_msg=ascii(text))
            np.testing.assert_array_equal(fast.offsets, slow[i].offsets, err_msg=ascii(text))
            assert fast.ids.dtype == fast.offsets.dtype == np.int32


def without_short_cut(tokenizer: Tokenizer, text: str):
    """The encoding as a long text would get it: padded with Han until the dictionary for short texts steps aside."""
    padded = tokenizer.encode(text + "中" * 80)
    cut = np.flatnonzero(padded.offsets[:, 0] < len(text))
    encoding = type(padded)(padded.ids[cut], padded.offsets[cut])
    return [] if text and unicodedata.category(text[-1]).startswith("M") else [encoding]


@settings(max_examples=60)
@given(texts=st.lists(tricky_texts, max_size=6))
@example(texts=["", " ", "中", ""])
@example(texts=["שלום עולם", "中שלום", "שלום"])
@example(texts=["a", "b", "か", "\u3099"])
def test_fast_path_equals_slow_path(tokenizers: list[Tokenizer], texts: list[str]) -> None:
    for tokenizer in tokenizers:
        assert_paths_agree(tokenizer, texts)


def test_fast_path_equals_slow_path_around_each_character_of_the_basic_plane(tokenizers: list[Tokenizer]) -> None:
    """Each one between a letter, a Han character and itself: whatever it does to neighbours shows."""
    texts = [
        f"a{chr(c)}e中{chr(c)}{chr(c)}9" for c in [*range(0x3100), *range(0x3100, 0x30000, 97), *range(0xF900, 0x10000)]
    ]
    for tokenizer in (tokenizers[0], tokenizers[3]):
        row_ptr, tokens = tokenizer.ids_batch(texts)
        slow = [tokenizer.slow_encode(text).ids for text in texts]
        np.testing.assert_array_equal(np.diff(row_ptr), [len(ids) for ids in slow])
        np.testing.assert_array_equal(tokens, np.concatenate(slow))


def test_most_names_take_the_fast_path(tokenizer: Tokenizer) -> None:
    """Or the speed would silently be gone while all else still holds."""
    codepoints = tokenizer._codepoints
    plain = [*TEXTS, "ＡＢＣ１２３", "ﬁsh㍿", "龘𠮷", "Ω μ é", "😀", "\ud800", "中\u3000国\x00", "①②½"]
    lengths = np.array([len(text) for text in plain])
    assert codepoints.lay_out(plain, lengths).slow_rows == []
    assert codepoints.lay_out(["e\u0301", "中", "ｶﾞ"], np.array([2, 1, 2])).slow_rows == [0, 2]


def test_batches_longer_than_a_chunk(tokenizer: Tokenizer) -> None:
    texts = ["中国" * 200_000, "", "launch 中", "e\u0301" * 3, "国" * 600_000, ""]
    row_ptr, tokens = tokenizer.ids_batch(texts)
    expected = [tokenizer.ids(text) for text in texts]
    np.testing.assert_array_equal(np.diff(row_ptr), [400_000, 0, len(expected[2]), len(expected[3]), 600_000, 0])
    np.testing.assert_array_equal(tokens, np.concatenate(expected))


def test_empty_batches(tokenizer: Tokenizer) -> None:
    for texts in ([], [""], ["", " ", "\u3000"]):
        row_ptr, tokens = tokenizer.ids_batch(texts)
        assert row_ptr.tolist() == [0] * (len(texts) + 1)
        assert tokens.dtype == np.int32
        assert len(tokens) == 0


def test_any_iterable_of_texts_but_not_one_string(tokenizer: Tokenizer) -> None:
    row_ptr, _ = tokenizer.ids_batch(text for text in ("中", "国中"))
    assert row_ptr.tolist() == [0, 1, 3]
    with pytest.raises(InputError, match="put it in a list"):
        tokenizer.ids_batch("中国")
    with pytest.raises(InputError, match="put it in a list"):
        Tokenizer.train("中国")


def test_forgotten_words_are_learnt_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tianwen.codepoints._MOST_WORDS_KEPT", 3)
    tokenizer = Tokenizer.train(TEXTS, size=800)
    texts = [f"{a}{b}" for a in "abcde" for b in "xyz"] * 2
    assert_paths_agree(tokenizer, texts)
    assert len(tokenizer._codepoints._words) <= 3


# Nothing is lost, nothing is confused


@settings(max_examples=120)
@given(text=tricky_texts)
def test_ids_stand_for_the_canonical_text_and_never_hold_unknown(tokenizers: list[Tokenizer], text: str) -> None:
    """As decode gives back the canonical text, different canonical texts cannot have equal ids."""
    for tokenizer in tokenizers[:3]:
        ids = tokenizer.ids(text)
        assert tokenizer.unk_id not in ids
        assert not set(ids.tolist()) & {tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
        assert tokenizer.decode(ids) == tokenizer.canonical(text)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("ab cd", "abcd"),
        ("שלום עולם", "שלוםעולם"),  # both spelt in bytes: a space byte keeps them apart
        ("𠮷野家", "吉野家"),
        ("👨‍👩‍👧", "👨👩👧"),  # joined by ZWJ, or three persons
        ("a\u00adb", "ab"),  # soft hyphen
        ("甲\x00", "甲"),
        ("\ud800", "\ud801"),
        ("❤\ufe0f", "❤"),
        ("a\u200eb", "ab"),
        ("[SEP]", "SEP"),
    ],
)
def test_different_names_stay_different(tokenizers: list[Tokenizer], left: str, right: str) -> None:
    for tokenizer in tokenizers[:3]:
        assert tokenizer.ids(left).tolist() != tokenizer.ids(right).tolist()


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("ＮＡＳＡ", "nasa"),
        ("ﬁsh", "FISH"),
        ("㍿", "株式会社"),
        ("e\u0301", "É"),
        ("J\u030c", "\u01f0"),  # lower case makes a pair that composes: NFKC once more
        ("ｶﾞ", "ガ"),
        ("\u212b", "Å"),
        (" 战\u3000神\t\n", "战神"),
        ("\ufeff战\u200b神\u2060", "战神"),  # spaces of no width
        ("a \u2028\x85\x1c b", "a b"),
        ("１２", "12"),
    ],
)
def test_the_same_name_written_otherwise_is_the_same(tokenizers: list[Tokenizer], left: str, right: str) -> None:
    for tokenizer in tokenizers[:3]:
        assert tokenizer.ids(left).tolist() == tokenizer.ids(right).tolist()
        assert tokenizer.canonical(left) == tokenizer.canonical(right)


def test_what_the_vocabulary_lacks_is_spelt_in_bytes(tokenizer: Tokenizer) -> None:
    assert spelt(tokenizer, "龘") == ["<0xE9>", "<0xBE>", "<0x98>"]
    assert spelt(tokenizer, "\ud800") == ["<0xED>", "<0xA0>", "<0x80>"]
    assert spelt(tokenizer, "\x00") == ["<0x00>"]
    assert spelt(tokenizer, "中ж ж") == ["中", "<0xD0>", "<0xB6>", "<0x20>", "<0xD0>", "<0xB6>"]


def test_words_digits_and_han(tokenizer: Tokenizer) -> None:
    assert spelt(tokenizer, "战神I-X，2020年launched") == [*"战神i-x,2020年", "launched"]
    assert spelt(tokenizer, "Zq") == ["z", "##q"]


# Places in the text as given


@settings(max_examples=120)
@given(text=tricky_texts)
def test_offsets_cover_all_but_whitespace_in_order(tokenizers: list[Tokenizer], text: str) -> None:
    for tokenizer in tokenizers[:3]:
        offsets = tokenizer.encode(text).offsets
        assert (offsets[:, 0] < offsets[:, 1]).all()
        assert (np.diff(offsets[:, 0]) >= 0).all()
        covered = {place for start, end in offsets.tolist() for place in range(start, end)}
        assert covered <= set(range(len(text)))
        for place in set(range(len(text))) - covered:
            assert tokenizer.canonical("a" + text[place]) == "a", ascii(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("㍿中", [("株", "㍿"), ("式", "㍿"), ("会", "㍿"), ("社", "㍿"), ("中", "中")]),
        ("ﬁsh", [("fish", "ﬁsh")]),
        ("ﬁnish", [("fin", "ﬁn"), ("##ish", "ish")]),
        ("Aİ", [("a", "A"), ("##i\u0307", "İ")]),
        ("e\u0301e", [("é", "e\u0301"), ("##e", "e")]),
        ("ｶﾞ中", [("ガ", "ｶﾞ"), ("中", "中")]),
        (" 中 \u0301", [("中", "中"), ("\u0301", "\u0301")]),
        ("\ud800中", [("<0xED>", "\ud800"), ("<0xA0>", "\ud800"), ("<0x80>", "\ud800"), ("中", "中")]),
        ("１２", [("1", "１"), ("2", "２")]),
    ],
)
def test_offsets_point_into_the_text_as_given(text: str, expected: list[tuple[str, str]]) -> None:
    pieces = [
        "株",
        "式",
        "会",
        "社",
        "中",
        "ガ",
        "1",
        "2",
        "fish",
        "fin",
        "##ish",
        "a",
        "##i\u0307",
        "é",
        "##e",
        "\u0301",
    ]
    tokenizer = Tokenizer([*FIXED, *pieces])
    for filling in ("", "中" * 90):  # the short way and the long way
        encoding = tokenizer.encode(filling + text)
        places = encoding.offsets[len(filling) :] - len(filling)
        found = [
            (tokenizer.pieces[i], text[a:b]) for i, (a, b) in zip(encoding.ids[len(filling) :], places, strict=True)
        ]
        assert found == expected


# Size


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        ("中", 10**6),
        ("a", 10**6),
        ("\ud800", 10**6),
        ("龘", 10**5),
        ("Launch 中", 10**5),
        (" \x00", 10**5),
        ("👨\u200d", 10**5),
    ],
)
def test_up_to_a_megabyte(tokenizer: Tokenizer, unit: str, size: int) -> None:
    text = unit * (size // len(unit.encode("utf-8", "surrogatepass")))
    encoding = tokenizer.encode(text)
    assert encoding.offsets[-1].tolist() == [0 if unit == "a" else len(text) - 1, len(text)]
    assert tokenizer.decode(encoding.ids[-1008:]).endswith(tokenizer.canonical(text[-50:]))


def test_long_texts_of_marks_and_strange_words(tokenizer: Tokenizer) -> None:
    text = "e\u0301中ש ש\u0327\u0301" * 3_000
    assert tokenizer.decode(tokenizer.ids(text)) == tokenizer.canonical(text)
    assert tokenizer.encode(text).offsets[-1].tolist() == [len(text) - 3, len(text)]


# Ids to text


def test_decode_is_readable(tokenizer: Tokenizer) -> None:
    ids = tokenizer.ids("战神I-X 在 the  Launch rocket 2020 年")
    assert tokenizer.decode(ids) == "战神i-x在the launch rocket2020年"
    around = [tokenizer.cls_id, *ids[:2], tokenizer.sep_id, tokenizer.pad_id]
    assert tokenizer.decode(around) == "战神"
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode(np.array([tokenizer.unk_id])) == "\ufffd"


@given(ids=st.lists(st.integers(0, 799), max_size=20))
def test_decode_takes_whatever_a_model_writes(tokenizer: Tokenizer, ids: list[int]) -> None:
    text = tokenizer.decode([i % tokenizer.size for i in ids])
    assert tokenizer.unk_id not in tokenizer.ids(text)


@pytest.mark.parametrize("wrong", [-1, 800, 10**9])
def test_decode_refuses_ids_that_are_not_in_the_vocabulary(tokenizer: Tokenizer, wrong: int) -> None:
    with pytest.raises(InputError, match=rf"id {wrong} .* from 0 to {tokenizer.size - 1}"):
        tokenizer.decode([wrong])


# Processes and threads


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_processes_go_on(tokenizer: Tokenizer) -> None:
    texts = ["战神 launch e\u0301 龘 新词 xyz"] * 3
    tokenizer.ids_batch(texts)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(tokenizer.ids, texts, chunksize=1)
    assert [ids.tolist() for ids in found] == [tokenizer.ids(text).tolist() for text in texts]


def test_threads_share_one_tokenizer() -> None:
    tokenizer = Tokenizer.train(TEXTS, size=800)
    rng = random.Random(3)
    texts = ["".join(chr(rng.randrange(0x20, 0x9FFF)) for _ in range(20)) for _ in range(150)]
    expected = np.concatenate([tokenizer.slow_encode(text).ids for text in texts])
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(tokenizer.ids_batch(texts)[1])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for tokens in found:
        np.testing.assert_array_equal(tokens, expected)


def test_importing_tianwen_stays_light() -> None:
    program = "import sys, tianwen; assert not {'numpy', 'torch', 'tokenizers'} & set(sys.modules); tianwen.Tokenizer"
    program += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_benchmark_runs_and_the_fast_path_is_fast() -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "tokenizer.py"
    command = [sys.executable, str(script), "--json", "--rounds", "1", "--names", "2000"]
    numbers = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert {"han_ratio", "mixed_ratio", "names_per_second"} <= set(numbers)
    assert numbers["han_ratio"] >= 5
    assert numbers["mixed_ratio"] >= 5
