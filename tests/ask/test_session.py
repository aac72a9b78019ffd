"""The tree-shaped session against plain forward passes of the same model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tianwen.ask import seq2seq
from tianwen.ask.beam import Paths, Search, search
from tianwen.ask.mixture import ask_loss, collate
from tianwen.ask.ragged import ragged
from tianwen.ask.seq2seq import AskConfig, AskModel
from tianwen.ask.session import Chunks, TreeSession
from tianwen.ask.speculation import speculate
from tianwen.ask.trie import CatalogueTrie
from tianwen.backbone.mixers import ShellConfig
from tianwen.backbone.roformer_v2 import RoFormerV2Config


@pytest.fixture(scope="module", params=["roformer_v2", "lru", "slru", "rwkv"])
def model(request) -> AskModel:
    torch.manual_seed(3)
    if request.param == "roformer_v2":
        backbone = RoFormerV2Config(vocabulary=40, layers=2, width=16, heads=2, max_length=64)
    else:
        backbone = ShellConfig(vocabulary=40, mixer=request.param, layers=2, width=16)
    return AskModel(AskConfig(backbone, copy_width=8)).eval()


def sources(rng, lengths):
    return [np.concatenate([[2], rng.integers(5, 40, n), [3]]).astype(np.int64) for n in lengths]


def plain(model, source, target) -> np.ndarray:
    """log p of each target token by one forward pass over one unpadded sequence."""
    with torch.no_grad():  # ask_loss is a mean over the target: differences of sums are the single tokens
        means = [float(ask_loss(model, collate([(source, target[: n + 1])]))[0]) for n in range(len(target))]
    return np.diff([0.0, *(-mean * (n + 1) for n, mean in enumerate(means))])


def session_scores(session, owner, node, token):
    row_ptr = np.arange(len(owner) + 1)
    return session.log_probabilities(owner, session.states_at(owner, node), row_ptr, token)


def test_chains_fed_in_pieces_score_like_whole_sequences(model):
    rng = np.random.default_rng(0)
    questions = sources(rng, [5, 2, 9])
    targets = [rng.integers(5, 40, n).astype(np.int64) for n in (4, 6, 3)]
    session = TreeSession(model, questions)
    owner, node = np.arange(3), session.roots.copy()
    got: list[list[float]] = [[] for _ in range(3)]
    for step in range(6):
        live = np.array([i for i in range(3) if step < len(targets[i])])
        token = np.array([targets[i][step] for i in live])
        for i, value in zip(live, session_scores(session, owner[live], node[live], token), strict=True):
            got[i].append(float(value))
        fed, _ = session.feed(Chunks.of(live, node[live], [[t] for t in token]))
        node[live] = fed
    for i in range(3):
        np.testing.assert_allclose(got[i], plain(model, questions[i], targets[i]), atol=2e-5)


def test_branches_do_not_see_each_other_and_scoring_leaves_no_trace(model):
    rng = np.random.default_rng(1)
    questions = sources(rng, [7, 3])
    chains = [rng.integers(5, 40, n) for n in (5, 3, 4, 2)]
    owner = np.array([0, 0, 1, 0])
    session = TreeSession(model, questions)
    before = session.count.copy()
    for keep, width in ((False, 4), (False, None), (True, None)):
        chunks = Chunks.of(owner, session.roots[owner], chains)
        node, states = session.feed(chunks, keep=keep, width=width)
        assert (node >= 0).all() == keep
        for chain in range(4):
            last = states[chunks.row_ptr[chain + 1] - 1][None]
            one = session.log_probabilities(owner[chain : chain + 1], last, np.array([0, 1]), np.array([9]))
            expected = plain(model, questions[owner[chain]], np.append(chains[chain], 9))[-1]
            assert one[0] == pytest.approx(expected, abs=2e-5)
        if not keep:
            assert (session.count == before).all()


def test_prefixes_and_joined_sessions_equal_separate_ones(model):
    rng = np.random.default_rng(2)
    questions, prompts = sources(rng, [6, 4]), sources(rng, [2, 8, 3])
    prefixes = [rng.integers(5, 40, n) for n in (2, 0, 4)]
    first, second = TreeSession(model, questions), TreeSession(model, prompts, prefixes=prefixes)
    first.feed(Chunks.of([0, 1], first.roots, [[7, 8], [9]]))
    union = first.joined(second)
    tails = [rng.integers(5, 40, 3) for _ in range(5)]
    owner = np.array([0, 1, 2, 3, 4])
    parent = np.concatenate([first.roots, second.tips])
    chunks = Chunks.of(owner, parent, tails)
    _, states = union.feed(chunks, keep=False, width=8)
    for row in range(5):
        source = (questions + prompts)[row]
        head = np.zeros(0, np.int64) if row < 2 else prefixes[row - 2]
        last = states[chunks.row_ptr[row + 1] - 1][None]
        got = union.log_probabilities(owner[row : row + 1], last, np.array([0, 1]), np.array([11]))[0]
        expected = plain(model, source, np.concatenate([head, tails[row], [11]]))[-1]
        assert got == pytest.approx(expected, abs=2e-5)


def test_probabilities_sum_to_one_and_copying_lifts_source_tokens(model):
    session = TreeSession(model, sources(np.random.default_rng(4), [6]))
    owner, everything = np.array([0]), np.arange(40)
    log_p = session.log_probabilities(owner, session.states_at(owner, session.roots), np.array([0, 40]), everything)
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-5)


def test_speculation_saves_calls_and_changes_no_result(model):
    rng = np.random.default_rng(5)
    questions = sources(rng, [12, 8])
    names = [questions[0][a:b].tolist() for a, b in ((2, 6), (2, 7), (5, 9))] + [[5, 6, 7], [5, 6, 8], [30, 31]]
    trie = CatalogueTrie.build(*ragged(names), end_id=3)[0]
    results = []
    for ahead in (True, False):
        session = TreeSession(model, questions)
        if ahead:
            speculate(session, trie, [question[1:-1] for question in questions])
        paths = search(session, trie, Paths.start(session, trie), Search(beams=3, keep=3))
        results.append([(int(o), paths.chain(i).tolist(), paths.score[i]) for i, o in enumerate(paths.owner)])
    assert [row[:2] for row in results[0]] == [row[:2] for row in results[1]]
    np.testing.assert_allclose([row[2] for row in results[0]], [row[2] for row in results[1]], atol=1e-5)


def test_rows_scored_in_parts_score_as_together(model, monkeypatch):
    session = TreeSession(model, sources(np.random.default_rng(6), [6, 3, 9]))
    owner = np.array([0, 0, 1, 2, 2, 2, 1])
    states = session.states_at(owner, session.roots[owner] - np.array([0, 1, 0, 2, 1, 0, 1]))
    row_ptr = np.array([0, 2, 2, 5, 6, 9, 10, 13])  # a row may want nothing
    wanted = np.random.default_rng(7).integers(5, 40, 13)
    together = session.log_probabilities(owner, states, row_ptr, wanted)
    for rows in (1, 2, 3):
        monkeypatch.setattr(seq2seq, "ROWS_AT_ONCE", rows)
        in_parts = session.log_probabilities(owner, states, row_ptr, wanted)
        np.testing.assert_allclose(in_parts, together, atol=1e-5)
