"""Which mention of a string is meant: boundaries, overlaps, case, and the three policies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianwen.errors import InputError
from tianwen.extract.mentions import MOST_PAIRS, check_policy, choose_one, choose_pairs, find_mentions


def words_at(text: str, spans) -> list[str]:
    return [text[start:end] for start, end in spans]


def test_all_mentions_are_found_those_that_overlap_too():
    assert find_mentions("Ares and Ares", "Ares").spans == ((0, 4), (9, 13))
    assert find_mentions("哈哈哈", "哈哈").spans == ((0, 2), (1, 3))
    assert find_mentions("Ares", "").spans == ()
    assert find_mentions("Ares", "Zeus").spans == ()


def test_words_stand_at_word_boundaries():
    assert find_mentions("art is part of art.", "art").spans == ((0, 3), (15, 18))
    assert find_mentions("born in 2012 , Apollo 12", "12").spans == ((22, 24),)
    assert find_mentions("ÉARES ARES", "ARES").spans == ((6, 10),)


def test_without_a_boundary_a_mention_inside_a_word_is_better_than_none():
    found = find_mentions("the Malaysians", "Malaysia")
    assert (found.spans, found.how) == (((4, 12),), "inside-word")


@pytest.mark.parametrize(
    ("text", "string"),
    [("用iPhone手机", "iPhone"), ("出生于1937年", "1937"), ("서울에서", "서울"), ("ผมชื่อแดง", "แดง"), ("a😀b", "😀")],
)
def test_scripts_without_spaces_have_no_boundaries(text, string):
    found = find_mentions(text, string)
    assert words_at(text, found.spans) == [string]
    assert found.how == ""


def test_marks_belong_to_their_word():
    assert find_mentions("हिन्दी", "हिन").how == "inside-word"


def test_other_case_and_width_are_the_last_resort():
    found = find_mentions("Ｋurtis Blow", "kurtis blow")
    assert (found.spans, found.how) == (((0, 11),), "other-case")
    assert find_mentions("kurtis Kurtis", "Kurtis").spans == ((7, 13),)  # as given, although the other is nearer
    text = "İİ kurtis"  # lower case of İ is two characters: offsets must not move
    assert words_at(text, find_mentions(text, "KURTIS").spans) == ["kurtis"]


def test_the_policies_choose_pairs():
    subjects, objects = [(0, 2), (20, 22)], [(10, 11), (18, 19)]
    assert choose_pairs(subjects, objects, "all") == [(s, o) for s in subjects for o in objects]
    assert choose_pairs(subjects, objects, "first") == [((0, 2), (10, 11))]
    assert choose_pairs(subjects, objects, "nearest") == [((20, 22), (18, 19))]
    assert choose_pairs([], objects, "all") == choose_pairs(subjects, [], "nearest") == []


def test_nearest_prefers_pairs_that_do_not_overlap_and_then_the_first():
    # 北京 is inside 北京大学 and once beside it
    assert choose_pairs([(0, 4)], [(0, 2), (9, 11)], "nearest") == [((0, 4), (9, 11))]
    assert choose_pairs([(0, 4)], [(0, 2)], "nearest") == [((0, 4), (0, 2))]
    assert choose_pairs([(5, 6)], [(3, 4), (7, 8)], "nearest") == [((5, 6), (3, 4))]


def test_a_mention_is_its_own_partner_only_if_there_is_no_other():
    spans = [(0, 2), (5, 7)]
    assert choose_pairs(spans, spans, "all") == [((0, 2), (5, 7)), ((5, 7), (0, 2))]
    assert choose_pairs(spans[:1], spans[:1], "all") == [((0, 2), (0, 2))]


def test_very_many_pairs_are_reduced_to_the_nearest_of_each_mention():
    subjects, objects = [(4 * i, 4 * i + 1) for i in range(40)], [(4 * i + 2, 4 * i + 3) for i in range(40)]
    pairs = choose_pairs(subjects, objects, "all")
    assert 40 <= len(pairs) <= 80 < MOST_PAIRS < 1600
    assert {s for s, _ in pairs} == set(subjects)
    assert {o for _, o in pairs} == set(objects)


def test_arguments_of_events_are_near_the_trigger():
    spans = [(0, 2), (8, 10), (30, 32)]
    assert choose_one(spans, "all") == spans
    assert choose_one(spans, "first", (11, 12)) == [(0, 2)]
    assert choose_one(spans, "nearest", (11, 12)) == [(8, 10)]
    assert choose_one(spans, "nearest") == [(0, 2)]
    assert choose_one([], "nearest", (1, 2)) == []


def test_an_unknown_policy_is_refused_with_the_list():
    with pytest.raises(InputError, match="all, first, nearest"):
        check_policy("last")


starts = st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True).map(sorted)


@given(starts, starts, st.integers(1, 3), st.integers(1, 3))
def test_nearest_is_the_smallest_gap_of_all_pairs(first, second, width, other):
    subjects, objects = [(i, i + width) for i in first], [(i, i + other) for i in second]

    def gap(s, o):
        between = max(o[0] - s[1], s[0] - o[1])
        return between < 0, max(between, 0)

    ((s, o),) = choose_pairs(subjects, objects, "nearest")
    assert gap(s, o) == min(gap(a, b) for a in subjects for b in objects)


@given(st.text("ab 哈é", max_size=12), st.text("ab哈é", min_size=1, max_size=2))
def test_what_is_found_is_the_string(text, string):
    found = find_mentions(text, string)
    assert all(text[start:end] == string for start, end in found.spans)
    assert bool(found.spans) == (string in text)
