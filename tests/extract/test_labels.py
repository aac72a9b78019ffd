"""Characters to tokens: every way in which a mention can fail to be a span of tokens, windows, noise."""

import numpy as np
import pytest
import torch

from tianwen.extract.annotation import Annotation, Argument, Event, Mention, Relation
from tianwen.extract.batches import Collate, Noise, padded, swapped
from tianwen.extract.labels import Example, Labeller, Labels
from tianwen.extract.schema import Schema, infer_schema
from tianwen.text import Tokenizer

TEXT = "长征五号在文昌发射天问一号。"
TOKENIZER = Tokenizer.train(["长征五号在文昌发射天问一号。 launched rocket rockets launch"] * 60, size=600)


def fact(text: str, subject: str, predicate: str, object: str, types: tuple[str, str] = ("", "")) -> Relation:
    places = [(text.index(name), text.index(name) + len(name)) for name in (subject, object)]
    return Relation(Mention(*places[0], types[0]), predicate, Mention(*places[1], types[1]))


def labeller(*annotations: Annotation, **options: int) -> Labeller:
    return Labeller(TOKENIZER, Labels.of(infer_schema(annotations)), **options)  # type: ignore[arg-type]


def words(example: Example, row: int) -> str:
    _, first, last = example.mentions[row]
    return TOKENIZER.decode(example.ids[first : last + 1])


def test_a_fact_becomes_cells_of_the_three_maps() -> None:
    annotation = Annotation(
        TEXT, relations=(fact(TEXT, "天问一号", "发射地", "文昌"), fact(TEXT, "长征五号", "载荷", "天问一号"))
    )
    own = labeller(annotation)
    assert own.labels.entity_labels == ("subject", "object")
    (example,) = own.examples(annotation)
    assert example.ids[0] == TOKENIZER.cls_id
    assert example.ids[-1] == TOKENIZER.sep_id
    entity, head, tail = (set(map(tuple, table.tolist())) for table in example.positives(events=False))
    assert entity == {(0, 10, 13), (1, 6, 7), (0, 1, 4), (1, 10, 13)}  # token 0 is [CLS]
    predicate = {name: i for i, name in enumerate(own.labels.predicates)}
    assert head == {(predicate["发射地"], 10, 6), (predicate["载荷"], 1, 10)}
    assert tail == {(predicate["发射地"], 13, 7), (predicate["载荷"], 4, 13)}
    assert not own.problems


def test_other_places_of_a_subject_are_subjects_too() -> None:
    text = "天问一号：天问一号在文昌发射"
    near = Relation(Mention(5, 9), "发射地", Mention(10, 12))
    annotation = Annotation(text, (Mention(0, 4), Mention(5, 9), Mention(10, 12)), (near,))
    (example,) = labeller(annotation).examples(annotation)
    assert {tuple(row) for row in example.mentions.tolist()} == {(0, 1, 4), (0, 6, 9), (1, 11, 12)}
    assert len(example.links) == 1


def test_typed_labels_come_from_entities_and_facts() -> None:
    typed = Annotation(TEXT, (Mention(0, 4, "火箭"),), (fact(TEXT, "天问一号", "发射地", "文昌", ("探测器", "地点")),))
    own = labeller(typed)
    (example,) = own.examples(typed)
    names = {own.labels.entity_labels[label]: words(example, row) for row, (label, *_) in enumerate(example.mentions)}
    assert names == {"火箭": "长征五号", "探测器": "天问一号", "地点": "文昌"}


def test_events_link_all_arguments_both_ends_in_order() -> None:
    arguments = (Argument("trigger", Mention(7, 9)), Argument("who", Mention(0, 4)), Argument("what", Mention(9, 13)))
    annotation = Annotation(TEXT, events=(Event("发射", arguments),))
    own = labeller(annotation)
    assert set(own.labels.roles) == {("发射", "trigger"), ("发射", "who"), ("发射", "what")}
    (example,) = own.examples(annotation)
    entity, head, tail = (table.tolist() for table in example.positives(events=True))
    assert len(entity) == 3
    assert head == [[0, 1, 8], [0, 1, 10], [0, 8, 10]]
    assert tail == [[0, 4, 9], [0, 4, 13], [0, 9, 13]]


@pytest.mark.parametrize(
    ("mention", "problem"),
    [
        (Mention(1, 4), "inside a token"),
        (Mention(5, 5), "empty or outside"),
        (Mention(0, 99), "empty or outside"),
        (Mention(-3, 3), "empty or outside"),
    ],
)
def test_what_is_no_span_of_tokens_is_counted(mention: Mention, problem: str) -> None:
    text = "launch rockets"
    annotation = Annotation(text, relations=(Relation(mention, "p", Mention(7, 14)),))
    own = labeller(annotation)
    (example,) = own.examples(annotation)
    assert len(example.mentions) == 1
    assert not len(example.links)
    assert any(problem in name for name in own.problems)
    assert any("without both mentions" in name for name in own.problems)


def test_white_space_around_a_mention_does_not_matter() -> None:
    text = "launch rockets"
    annotation = Annotation(text, (Mention(6, 14, "x"),))
    own = labeller(annotation)
    (example,) = own.examples(annotation)
    assert words(example, 0) == "rockets"


def test_characters_spelt_in_bytes_and_letters_that_change_length() -> None:
    for text, mention in (("在🚀号", Mention(1, 2, "x")), ("İstanbul launch", Mention(9, 15, "x"))):
        annotation = Annotation(text, (mention,))
        own = labeller(annotation)
        (example,) = own.examples(annotation)
        assert words(example, 0).lower() == text[mention.start : mention.end].lower()
        assert not own.problems


def test_unknown_labels_are_counted() -> None:
    annotation = Annotation(
        TEXT, (Mention(0, 4, "火箭"), Mention(5, 7, "地点")), (fact(TEXT, "天问一号", "发射地", "文昌"),)
    )
    own = Labeller(TOKENIZER, Labels.of(Schema(("火箭",))))
    (example,) = own.examples(annotation)
    assert len(example.mentions) == 1
    assert own.problems == {"mention with the unknown label '地点'": 1, "fact with the unknown predicate '发射地'": 1}


def test_mentions_without_a_type_are_labelled_beside_those_with_one() -> None:
    typed = Annotation(TEXT, relations=(fact(TEXT, "天问一号", "发射地", "文昌", ("探测器", "地点")),))
    half = Annotation(TEXT, (Mention(0, 4),), (fact(TEXT, "天问一号", "发射地", "文昌", ("", "地点")),))
    own = labeller(typed, half)
    assert own.labels.entity_labels == ("地点", "探测器", "")
    (example,) = own.examples(half)
    names = {words(example, row): own.labels.entity_labels[label] for row, (label, *_) in enumerate(example.mentions)}
    assert names == {"长征五号": "", "天问一号": "", "文昌": "地点"}
    assert len(example.links) == 1
    assert not own.problems


def test_mentions_without_a_type_are_counted_where_the_schema_has_none_for_them() -> None:
    annotation = Annotation(TEXT, (Mention(0, 4), Mention(5, 7, "地点")))
    own = Labeller(TOKENIZER, Labels.of(Schema(("地点",))))
    (example,) = own.examples(annotation)
    assert len(example.mentions) == 1
    assert own.problems == {"mention without a type (the schema has types)": 1}


def test_long_texts_are_cut_into_windows_and_nothing_is_lost_in_silence() -> None:
    text = TEXT * 6
    near = fact(text, "天问一号", "发射地", "文昌")
    far = Relation(Mention(0, 4), "发射地", Mention(14 * 5 + 5, 14 * 5 + 7))
    annotation = Annotation(text, relations=(near, far))
    own = labeller(annotation, length=30, overlap=10)
    examples = own.examples(annotation)
    assert len(examples) > 2
    assert max(map(len, examples)) <= 32
    assert own.labelled["links"] == 1
    assert own.problems == {"fact without both mentions in one window": 1}
    assert words(examples[0], 0) in ("天问一号", "文昌", "长征五号")


def test_swapping_names_moves_everything_along() -> None:
    annotation = Annotation(
        TEXT, relations=(fact(TEXT, "天问一号", "发射地", "文昌"), fact(TEXT, "长征五号", "载荷", "天问一号"))
    )
    (example,) = labeller(annotation).examples(annotation)
    old, new = TOKENIZER.ids("文昌").astype(np.int64), TOKENIZER.ids("长征五号").astype(np.int64)
    other = swapped(example, {old.tobytes(): new}, longest=99)
    assert TOKENIZER.decode(other.ids) == "长征五号在长征五号发射天问一号。"
    assert [words(other, row) for row in range(len(other.mentions))].count("天问一号") == 2
    assert {words(other, int(row)) for row in other.links[:, 2]} == {"长征五号", "天问一号"}
    assert swapped(example, {old.tobytes(): new}, longest=15) is example  # it would be too long
    nested = Example(example.ids, np.array([[0, 1, 4], [1, 2, 3]]), np.zeros((0, 3), np.int64))
    assert swapped(nested, {nested.ids[1:5].tobytes(): new}, longest=99) is nested


def test_noise_follows_from_the_seed_and_hides_no_end() -> None:
    annotation = Annotation(
        TEXT, relations=(fact(TEXT, "天问一号", "发射地", "文昌"), fact(TEXT, "长征五号", "载荷", "天问一号"))
    )
    (example,) = labeller(annotation).examples(annotation)
    collate = Collate([example], events=False, mask_id=TOKENIZER.mask_id, noise=Noise(swap=1.0, hide=0.5), longest=60)
    batches = [collate([example] * 20, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    ids = [batch["ids"] for batch in batches]
    assert isinstance(ids[0], torch.Tensor)
    assert torch.equal(ids[0], ids[1])  # type: ignore[arg-type]
    assert ids[0].shape != ids[2].shape or not torch.equal(ids[0], ids[2])  # type: ignore[union-attr,arg-type]
    assert (ids[0][:, 0] == TOKENIZER.cls_id).all()
    share = float((ids[0] == TOKENIZER.mask_id).float().mean())
    assert 0.2 < share < 0.6


def test_positives_of_a_batch_know_their_row() -> None:
    annotation = Annotation(TEXT, relations=(fact(TEXT, "天问一号", "发射地", "文昌"),))
    (example,) = labeller(annotation).examples(annotation)
    batch = padded([Example(example.ids[:3], example.mentions[:0], example.links[:0]), example], events=False)
    assert batch["lengths"].tolist() == [3, 16]  # type: ignore[union-attr]
    assert batch["ids"][0, 3:].eq(0).all()  # type: ignore[index]
    assert batch["positives"].head.tolist() == [[1, 0, 10, 6]]  # type: ignore[union-attr]
