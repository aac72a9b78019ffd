"""The logits processor against the catalogue as a set of tuples: rows of any depth, order and kind."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.ask.huggingface import CatalogueLogitsProcessor, as_prefix_allowed_tokens_fn, tokenized_catalogue
from tianwen.errors import InputError

from .agreement import END, catalogue, fielded, segmented

PAD, EOS, VOCABULARY = 20, 21, 24
SMALL = [(4, 5), (4, 5, 6), (7,), (8, 9, 10), (8, 9, 11), (12, 2, 4)]
"""A key that is a prefix of another, one of one token, and three further ones."""


def processor(trie, **options):
    settings = {"prompt_len": 2, "eos_token_id": EOS, "pad_token_id": PAD} | options
    return CatalogueLogitsProcessor(trie, **settings)


def prompted(rows, *, width=None, prompt=(1, 1)):
    """Rows behind a prompt, those that are over filled up with padding: [B, T]."""
    width = max(map(len, rows), default=0) if width is None else width
    return torch.tensor([[*prompt, *row, *[PAD] * (width - len(row))] for row in rows])


def legal(oracle, row):
    """The model's tokens that may follow, END written as EOS where it completes a key."""
    if EOS in row:
        return {PAD}
    if not oracle.below(row):
        return {EOS}
    return {EOS if (*row, token) in oracle.keys else token for token in oracle.allowed(row)}


def expected(oracle, rows, scores):
    masked = torch.full_like(scores, -torch.inf)
    for i, row in enumerate(rows):
        tokens = sorted(legal(oracle, row))
        over = EOS in row or not oracle.below(row)
        masked[i, tokens] = torch.zeros(1, dtype=scores.dtype) if over else scores[i, tokens]
    return masked


def finite(scores):
    return set(torch.nonzero(scores.isfinite())[:, 0].tolist())


trees = st.sampled_from(["catalogue", "fielded", "segmented"])
keys = st.lists(st.lists(st.integers(4, 9), max_size=4).map(tuple), min_size=1, max_size=8)


def tree(kind, keys):
    if kind == "catalogue":
        return catalogue(keys)[:2]
    if kind == "fielded":
        return fielded([(key[:2], key[2:], ()) for key in keys])[:2]
    return segmented(catalogue, [[*keys[::2], (4,)], keys[1::2]], {1})


@settings(max_examples=60)
@given(kind=trees, keys=keys, data=st.data())
def test_every_row_of_every_step_gets_what_the_oracle_allows(kind, keys, data):
    trie, oracle = tree(kind, keys)
    if not oracle.keys:
        return
    hold = processor(trie)
    rows = [()] * 3
    for _ in range(6):  # beams are reordered and repeated at will, and the rows of a batch come and go
        scores = torch.randn(len(rows), VOCABULARY)
        masked = hold(prompted(rows), scores)
        assert torch.equal(masked, expected(oracle, rows, scores))
        parents = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
        rows = [(*rows[i], data.draw(st.sampled_from(sorted(legal(oracle, rows[i]))))) for i in parents]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_types_of_scores_and_what_is_minus_infinity_already(dtype):
    trie, oracle, _ = catalogue(SMALL)
    scores = torch.randn(3, VOCABULARY).to(dtype)
    rows = [(4, 5), (8, 9), (8, 9)]
    scores[0, 6] = scores[1, 10] = -torch.inf
    masked = processor(trie)(prompted(rows), scores)
    assert masked.dtype == dtype
    assert torch.equal(masked, expected(oracle, rows, scores))


@pytest.mark.parametrize("rows", [[(4, 5), (8, 9)], [(), ()]])
@pytest.mark.parametrize("renormalize", [False, True])
def test_a_row_whose_allowed_tokens_are_all_forbidden_stays_in_the_catalogue(rows, renormalize):
    trie, oracle, _ = catalogue(SMALL)
    for dtype in (torch.float32, torch.bfloat16):
        scores = torch.full((2, VOCABULARY), -torch.inf, dtype=dtype)
        scores[1] = 0
        masked = processor(trie, renormalize=renormalize)(prompted(rows), scores)
        for i, row in enumerate(rows):
            assert finite(masked[i]) == legal(oracle, row)
        p = masked.float().softmax(-1)[0]
        assert torch.allclose(
            p[sorted(legal(oracle, rows[0]))], torch.tensor(1 / len(legal(oracle, rows[0]))), atol=1e-2
        )
        assert renormalize or masked[0].max() == -1e6


def test_renormalized_scores_are_log_probabilities_among_the_allowed():
    trie, oracle, _ = catalogue(SMALL)
    rows = [(4, 5), (8, 9), (12, 2), (7, EOS)]
    scores = torch.randn(4, VOCABULARY) * 100 - 500  # p itself would underflow
    masked = processor(trie, renormalize=True)(prompted(rows), scores)
    for i, row in enumerate(rows):
        tokens = sorted(legal(oracle, row))
        wanted = scores[i, tokens].double().log_softmax(-1) if EOS not in row else torch.zeros(1)
        assert torch.allclose(masked[i, tokens].double(), wanted.double(), atol=1e-3)


def test_scores_that_are_kept_stay_what_they_were():
    trie, oracle, _ = catalogue(SMALL)
    hold, steps = processor(trie), []
    for rows in ([(), ()], [(4,), (8,)], [(4, 5), (8, 9)], [(4, 5, EOS), (8, 9, 11)]):
        scores = torch.randn(2, VOCABULARY)
        before = scores.clone()
        steps.append((hold(prompted(rows), scores), expected(oracle, rows, scores)))
        assert torch.equal(scores, before)
    assert all(torch.equal(masked, wanted) for masked, wanted in steps)


def test_many_children_of_one_place_are_written_as_whole_rows():
    trie, oracle, _ = catalogue([(token, 4) for token in range(4, 19)])
    rows = [()] * 4
    scores = torch.randn(4, VOCABULARY)
    hold = processor(trie)
    assert torch.equal(hold(prompted(rows), scores), expected(oracle, rows, scores))
    scores[:, [2, 20]] = torch.tensor([torch.nan, torch.inf])  # a broken score of what is forbidden does no harm
    assert torch.equal(hold(prompted(rows), scores), expected(oracle, rows, scores))
    rows = [(4,), (5,), (4,), (6,)]
    assert torch.equal(hold(prompted(rows), scores), expected(oracle, rows, scores))


def test_a_row_outside_the_catalogue_is_ended_with_a_warning():
    trie, oracle, _ = catalogue(SMALL)
    rows, scores = [(4, 4), (8, 9)], torch.randn(2, VOCABULARY)
    with pytest.warns(UserWarning, match=r"1 rows have left the catalogue.*prompt_len \(2\)"):
        masked = processor(trie)(prompted(rows), scores)
    assert torch.equal(masked, expected(oracle, rows, scores))


def test_several_end_tokens():
    trie, oracle, _ = catalogue(SMALL)
    hold = processor(trie, eos_token_id=[EOS, 22])
    masked = hold(prompted([(4, 22), (4, 5)]), torch.randn(2, VOCABULARY))
    assert finite(masked[0]) == {PAD}
    assert finite(masked[1]) == legal(oracle, (4, 5))


def test_start_tokens_that_generate_forces_are_let_through():
    trie, _, _ = catalogue(SMALL)
    scores = torch.randn(2, VOCABULARY)
    assert processor(trie)(torch.ones(2, 1, dtype=torch.int64), scores) is scores


def test_a_processor_can_be_pickled_in_the_middle_of_its_work():
    trie, oracle, _ = catalogue(SMALL)
    hold, scores = processor(trie), torch.randn(1, VOCABULARY)
    hold(prompted([()]), scores)
    copy = pickle.loads(pickle.dumps(hold))
    assert torch.equal(copy(prompted([(8,)]), scores), expected(oracle, [(8,)], scores))


def test_where_sequences_ended():
    trie, _, row = catalogue(SMALL)
    sequences = prompted([(4, 5, EOS), (4, 5, 6, EOS), (4, EOS), (4, 5), (9, EOS), (), (EOS, 7, EOS), (7, EOS)])
    state = processor(trie).finished(sequences)
    assert trie.is_terminal(state).tolist() == [True, True, False, False, False, False, False, True]
    assert (state == -1).tolist() == (~trie.is_terminal(state)).tolist()
    assert trie.rows(state)[0][[0, 1, 7]].tolist() == [row[0], row[1], row[2]]
    assert (processor(trie).finished(torch.ones(3, 2, dtype=torch.int64)) == -1).all()


@pytest.mark.parametrize("kind", ["catalogue", "fielded", "segmented"])
def test_the_function_for_one_row_says_the_same(kind):
    trie, oracle = tree(kind, SMALL)
    allowed = as_prefix_allowed_tokens_fn(trie, prompt_len=2, eos_token_id=EOS, pad_token_id=PAD)
    for row in oracle.prefixes():
        if row not in oracle.keys:
            assert set(allowed(0, prompted([row])[0])) == legal(oracle, row)
    assert allowed(0, prompted([(4, EOS, PAD)])[0]) == [PAD]
    with pytest.warns(UserWarning, match="left the catalogue"):
        assert allowed(0, prompted([(19,)])[0]) == [EOS]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_len": -1}, "prompt_len must be a whole number of at least 0"),
        ({"prompt_len": 1.5}, "prompt_len must be"),
        ({"eos_token_id": []}, "eos_token_id is empty"),
        ({"eos_token_id": None}, "eos_token_id must be"),
        ({"pad_token_id": None}, "pad_token_id must be"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(options, message):
    with pytest.raises(InputError, match=message):
        processor(catalogue(SMALL)[0], **options)


@pytest.mark.parametrize(
    "empty", [catalogue([])[0], fielded([])[0], segmented(catalogue, [[(4,)]], {0, 1, 2, 3, 4})[0]]
)
def test_an_empty_catalogue_is_refused(empty):
    with pytest.raises(InputError, match="The catalogue is empty"):
        processor(empty)


@pytest.mark.parametrize("rows", [[()], [(), ()], [(8, 9)]])
@pytest.mark.parametrize("renormalize", [False, True])
def test_a_token_beyond_the_vocabulary_is_refused(rows, renormalize):
    hold = processor(catalogue([*SMALL, (300,), (8, 9, 300)])[0], renormalize=renormalize)
    with pytest.raises(InputError, match="token 300, but the model's vocabulary ends at 23"):
        hold(prompted(rows), torch.randn(len(rows), VOCABULARY))


def test_the_end_token_inside_a_key_is_refused():
    for inside in (EOS, 22):
        hold = processor(catalogue([(4, inside, 5)])[0], eos_token_id=[EOS, 22])
        with pytest.raises(InputError, match=f"continues with token {inside}, which ends"):
            hold(prompted([(4,)]), torch.randn(1, VOCABULARY))
    facts = processor(fielded([((4,), (5,), (6,))])[0], eos_token_id=END)  # here it closes every field
    with pytest.raises(InputError, match=f"continues with token {END}"):
        facts(prompted([(4,)]), torch.randn(1, VOCABULARY))


class Letters:
    """A tokenizer with the interface of transformers: a letter is its code point."""

    eos_token_id = 1

    def __call__(self, texts, *, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


def test_a_catalogue_of_texts():
    trie, rows = tokenized_catalogue(["bc", "a", "bc", "b"], Letters(), prefix=" ")
    assert (len(trie), rows.tolist(), trie.end_id) == (3, [2, 0, 2, 1], 1)
    state = trie.walk(np.array([[32, 98]]), np.array([2]))
    assert trie.allowed(state)[1].tolist() == [1, 99]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "a list of at least one text"),
        ("one text", "a list of at least one text"),
        (["a", ""], "The entry '' has no tokens"),
        (["a", "b\x01"], "contains the end token \\(1\\)"),
    ],
)
def test_texts_that_make_no_catalogue(entries, message):
    with pytest.raises(InputError, match=message):
        tokenized_catalogue(entries, Letters())


def test_a_tokenizer_without_an_end_token():
    letters = Letters()
    letters.eos_token_id = None
    with pytest.raises(InputError, match="no end token"):
        tokenized_catalogue(["a"], letters)
    assert tokenized_catalogue(["a"], letters, eos_token_id=2)[0].end_id == 2
