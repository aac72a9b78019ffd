"""The plugs inside `generate` of transformers: random tiny models of three families write entries and nothing else."""

from __future__ import annotations

import pytest
import torch

from tianwen.ask.huggingface import CatalogueLogitsProcessor, as_prefix_allowed_tokens_fn, tokenized_catalogue

from .agreement import catalogue

transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")

PAD, EOS, VOCABULARY = 0, 1, 40
KEYS = [(a, b, *((c,) * (a % 3))) for a in range(4, 12) for b in (4, 20 + a) for c in (30, 31)] + [
    (4, 4),
    (5, 4, 30, 9),
]
"""Prefixes of each other among them, lengths 2 to 4."""
PROMPTS = [[7, 8, 9], [10], [11, 12, 13, 14, 15], [3, 3]]


def model_of(family):
    """A random model of a few thousand parameters."""
    torch.manual_seed(0)
    common = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": 2}
    if family == "t5":
        shape = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": PAD}
        return transformers.T5ForConditionalGeneration(transformers.T5Config(**common, **shape)).eval()
    if family == "gpt2":
        shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**common, **shape)).eval()
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Qwen2Config(**common, **shape, num_key_value_heads=1, max_position_embeddings=64)
    return transformers.Qwen2ForCausalLM(config).eval()


MODELS = {family: model_of(family) for family in ("t5", "gpt2", "qwen2")}


def prompts(family, rows):
    """Padded prompts, on the left for decoder-only models, and the processor's prompt_len."""
    width = max(map(len, rows))
    filled = [[PAD] * (width - len(row)) + row if family != "t5" else row + [PAD] * (width - len(row)) for row in rows]
    ids = torch.tensor(filled)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}, 1 if family == "t5" else width


def generate(family, trie, rows=PROMPTS, *, plug="processor", **options):
    inputs, prompt_len = prompts(family, rows)
    common = {"prompt_len": prompt_len, "eos_token_id": EOS, "pad_token_id": PAD}
    hold = CatalogueLogitsProcessor(trie, **common)
    plugs = {"processor": {"logits_processor": [hold]}}
    plugs["function"] = {"prefix_allowed_tokens_fn": as_prefix_allowed_tokens_fn(trie, **common)}
    config = transformers.GenerationConfig(pad_token_id=PAD, eos_token_id=EOS, max_new_tokens=8, **options)
    output = MODELS[family].generate(**inputs, generation_config=config, **plugs[plug])
    return output, hold, output[:, prompt_len:].tolist() if torch.is_tensor(output) else None


def entry(row):
    return tuple(row[: row.index(EOS)]) if EOS in row else None


WAYS = {
    "greedy": {},
    "sampled": {"do_sample": True, "num_return_sequences": 8, "temperature": 3.0, "top_k": 0},
    "sampled from the top": {"do_sample": True, "num_return_sequences": 4, "top_k": 3, "top_p": 0.7, "min_p": 0.01},
    "beams": {"num_beams": 4, "num_return_sequences": 4},
    "beams, early stopping": {"num_beams": 4, "num_return_sequences": 2, "early_stopping": True},
    "beams, sampled": {"num_beams": 3, "do_sample": True},
    "no cache": {"num_beams": 2, "use_cache": False},
}


# A sampled beam search draws beams of probability 0 where there are too few others; they stand outside and are ended.
@pytest.mark.filterwarnings("ignore:.* rows have left the catalogue")
@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_every_sequence_is_an_entry(family, way):
    trie, oracle, _ = catalogue(KEYS)
    output, hold, rows = generate(family, trie, **WAYS[way])
    assert len(rows) == len(PROMPTS) * WAYS[way].get("num_return_sequences", 1)
    assert {entry(row) for row in rows} <= set(KEYS)
    state = hold.finished(output)
    assert trie.is_terminal(state).all()
    assert [oracle.keys[row][:-1] for row in trie.rows(state)[0]] == [entry(row) for row in rows]


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("way", ["greedy", "beams", "beams, early stopping"])
def test_both_plugs_write_the_same(family, way):
    trie, _, _ = catalogue(KEYS)
    ours = generate(family, trie, **WAYS[way], return_dict_in_generate=True, output_scores=True)[0]
    theirs = generate(family, trie, plug="function", **WAYS[way], return_dict_in_generate=True, output_scores=True)[0]
    assert torch.equal(ours.sequences, theirs.sequences)
    if way != "greedy":
        assert torch.equal(ours.sequences_scores, theirs.sequences_scores)
    else:
        assert all(torch.equal(a, b) for a, b in zip(ours.scores[:2], theirs.scores[:2], strict=True))


@pytest.mark.parametrize("family", MODELS)
def test_a_prompt_gets_the_same_alone_and_in_a_padded_batch(family):
    trie, _, _ = catalogue(KEYS)
    together = generate(family, trie)[2]
    for row, prompt in zip(together, PROMPTS, strict=True):
        assert entry(row) == entry(generate(family, trie, [prompt])[2][0])


@pytest.mark.parametrize("family", MODELS)
def test_beams_find_the_likeliest_entry(family):
    """With as many beams as entries a beam search misses nothing: compare with the scores of all entries."""
    keys = KEYS[:5]
    trie, _, _ = catalogue(keys)
    best = generate(family, trie, [PROMPTS[0]], num_beams=8, length_penalty=0.0)[2][0]
    inputs, prompt_len = prompts(family, [PROMPTS[0]])
    log_p = {}
    for key in keys:
        tail = torch.tensor([[*key, EOS]])
        if family == "t5":
            start = torch.full((1, 1), PAD)
            logits = MODELS[family](**inputs, decoder_input_ids=torch.cat([start, tail], 1)).logits
        else:
            logits = MODELS[family](torch.cat([inputs["input_ids"], tail], 1)).logits
        scores = logits.log_softmax(-1)[0, prompt_len - 1 : prompt_len - 1 + tail.shape[1]]
        log_p[key] = scores.gather(1, tail.T).sum().item()
    assert entry(best) == max(log_p, key=lambda key: log_p[key])


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("stop", [False, True])
def test_more_beams_than_entries_leave_fillers_that_are_told_apart(family, stop):
    """`generate` returns as many sequences as asked; `finished` says which are entries, and all of them are there."""
    keys = [(4, 5), (4, 5, 6), (7,)]
    trie, _, _ = catalogue(keys)
    output, hold, rows = generate(family, trie, num_beams=6, num_return_sequences=6, early_stopping=stop)
    complete = trie.is_terminal(hold.finished(output))
    assert {entry(row) for row, whole in zip(rows, complete, strict=True) if whole} == set(keys)
    assert all(entry(row) in keys or not whole for row, whole in zip(rows, complete, strict=True))


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("way", ["greedy", "sampled", "beams"])
def test_a_catalogue_of_one_entry(family, way):
    trie, _, _ = catalogue([(9, 4)])
    _, _, rows = generate(family, trie, **WAYS[way])
    assert entry(rows[0]) == (9, 4)


def test_what_other_processors_forbid_does_not_lead_out_of_the_catalogue():
    trie, _, _ = catalogue(KEYS)
    for options in ({"bad_words_ids": [[token] for token in range(4, 12)]}, {"no_repeat_ngram_size": 1}):
        for way in ("greedy", "beams", "sampled"):
            rows = generate("gpt2", trie, **WAYS[way], **options)[2]
            assert {entry(row) for row in rows} <= set(KEYS)


def test_entries_that_are_cut_off_are_none():
    trie, _, _ = catalogue([(4, 5, 6, 7, 8, 9, 10, 11, 12, 13)])
    output, hold, _ = generate("gpt2", trie)
    assert (hold.finished(output) == -1).all()


def test_one_processor_serves_many_calls():
    trie, _, _ = catalogue(KEYS)
    inputs, prompt_len = prompts("gpt2", PROMPTS)
    hold = CatalogueLogitsProcessor(trie, prompt_len=prompt_len, eos_token_id=EOS, pad_token_id=PAD)
    config = transformers.GenerationConfig(pad_token_id=PAD, eos_token_id=EOS, max_new_tokens=8)
    first = MODELS["gpt2"].generate(**inputs, generation_config=config, logits_processor=[hold])
    for _ in range(2):
        again = MODELS["gpt2"].generate(**inputs, generation_config=config, logits_processor=[hold])
        assert torch.equal(first, again)


def test_a_vocabulary_of_262144():
    trie, _, _ = catalogue([(262_143, 5), (262_143, 6), (100_000, 5)])
    hold = CatalogueLogitsProcessor(trie, prompt_len=1, eos_token_id=EOS, pad_token_id=PAD)
    scores = torch.randn(2, 262_144).bfloat16()
    masked = hold(torch.tensor([[2], [2]]), scores)
    assert torch.nonzero(masked.isfinite())[:, 1].tolist() == [100_000, 262_143] * 2
    masked = hold(torch.tensor([[2, 262_143], [2, 100_000]]), scores)
    assert torch.nonzero(masked.isfinite()).tolist() == [[0, 5], [0, 6], [1, 5]]
    assert masked[0, 5] == scores[0, 5]


def test_a_catalogue_from_a_tokenizer_of_transformers():
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", "blue", "moon", "red", "sun"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>")
    trie, row = tokenized_catalogue(["red sun", "blue moon", "red  sun", "red"], tokenizer)
    assert (len(trie), trie.end_id, row.tolist()) == (3, 1, [2, 0, 2, 1])
    rows = generate("gpt2", trie, **WAYS["sampled"])[2]
    assert {tokenizer.decode(entry(row)) for row in rows} <= {"red sun", "blue moon", "red"}
