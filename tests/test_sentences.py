from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianwen.sentences import sentence_around, sentence_ends


def sentences(text: str) -> list[str]:
    ends = [0, *sentence_ends(text)]
    return [text[a:b] for a, b in zip(ends, [*ends[1:], len(text)], strict=True) if a < b]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("火箭升空。人群欢呼！真的吗？", ["火箭升空。", "人群欢呼！", "真的吗？"]),
        ("他说：“升空了。”然后走了。", ["他说：“升空了。”", "然后走了。"]),
        ("It flew. It fell. 3.5 km away.", ["It flew. ", "It fell. ", "3.5 km away."]),
        ("Dr. J. Smith flew. He landed", ["Dr. J. Smith flew. ", "He landed"]),
        ("一行\n\n二行", ["一行\n\n", "二行"]),
        ("", []),
        ("没有句号", ["没有句号"]),
    ],
)
def test_sentences(text, wanted):
    assert sentences(text) == wanted


@given(st.text(alphabet="ab。.! \n”A", max_size=60), st.integers(0, 60), st.integers(0, 10))
def test_a_sentence_around_a_place_holds_it(text, start, length):
    start = min(start, len(text))
    end = min(len(text), start + length)
    first, last = sentence_around(text, start, end)
    assert 0 <= first <= start <= end <= last <= len(text)
    assert "".join(sentences(text)) == text


def test_the_sentence_around_a_mention():
    text = "昨天有雾。战神I-X从佛罗里达升空。 人们欢呼。"
    start = text.index("佛罗里达")
    first, last = sentence_around(text, start, start + 4)
    assert text[first:last] == "战神I-X从佛罗里达升空。"
    first, last = sentence_around(text, text.index("有雾"), start + 4)
    assert text[first:last] == "昨天有雾。战神I-X从佛罗里达升空。"


def test_a_text_without_any_end_is_looked_at_nearby_only():
    text = "字" * 1_000_000
    first, last = sentence_around(text, 500_000, 500_002)
    assert last - first < 5000
