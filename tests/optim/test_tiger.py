"""Tiger against the formula of the post, in float64 and in all the shapes that parameters come in."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tianwen.errors import InputError
from tianwen.optim.lion import Lion
from tianwen.optim.param_groups import param_groups_for
from tianwen.optim.sign_update import lion_update, row_rms, tiger_update
from tianwen.optim.tiger import Tiger

WAYS: list[dict[str, Any]] = [{}, {"fused": False}, {"fused": False, "foreach": True}]


def parameters(dtype: torch.dtype = torch.float64) -> dict[str, nn.Parameter]:
    tensors = {
        "matrix": torch.randn(6, 5),
        "embedding": torch.randn(9, 4),
        "bias": torch.randn(7),
        "gain": torch.ones(3),
    }
    return {kind: nn.Parameter(tensor.to(dtype)) for kind, tensor in tensors.items()}


def groups(found: dict[str, nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": [parameter], "kind": kind} for kind, parameter in found.items()]


def expected_rate(kind: str, theta: Tensor, lr: float) -> Tensor | float:
    match kind:
        case "matrix":
            return lr * theta.square().mean().sqrt()
        case "embedding":
            return lr * row_rms(theta)
        case _:
            return lr / 2


@pytest.mark.parametrize("way", WAYS)
def test_it_is_the_formula_of_the_post(way):
    found = parameters()
    truth = {kind: (p.detach().clone(), torch.zeros_like(p)) for kind, p in found.items()}
    tiger = Tiger(groups(found), lr=0.01, **way)
    for _ in range(5):
        for kind, p in found.items():
            p.grad = torch.randn_like(p)
            theta, m = truth[kind]
            decay = 0.01 if kind in ("matrix", "embedding") else 0.0
            rate = expected_rate(kind, theta, 0.01)
            truth[kind] = tiger_update(theta, m, p.grad, rate=rate, beta=0.965, weight_decay=decay)
        tiger.step()
    for kind, p in found.items():
        torch.testing.assert_close(p.detach(), truth[kind][0], rtol=1e-14, atol=1e-15)
        torch.testing.assert_close(tiger.state[p]["exp_avg"], truth[kind][1], rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("way", WAYS)
def test_lion_is_the_formula_of_the_paper(way):
    p = nn.Parameter(torch.randn(6, 5, dtype=torch.float64))
    theta, m = p.detach().clone(), torch.zeros_like(p)
    lion = Lion([p], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1, **way)
    for _ in range(5):
        p.grad = torch.randn_like(p)
        theta, m = lion_update(theta, m, p.grad, rate=0.01, betas=(0.9, 0.99), weight_decay=0.1)
        lion.step()
    torch.testing.assert_close(p.detach(), theta, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(lion.state[p]["exp_avg"], m.detach(), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", ["plain", "lazy", "stale", "adam"])
@pytest.mark.parametrize("k", [2, 3])
def test_hidden_accumulation_is_true_accumulation(way, rule, k):
    hidden, true = parameters(), parameters()
    for a, b in zip(hidden.values(), true.values(), strict=True):
        b.data.copy_(a.data)
    one = Tiger(groups(hidden), lr=0.01, accumulate=k, embedding_update=rule, **way)
    other = Tiger(groups(true), lr=0.01, embedding_update=rule, fused=False)
    for _ in range(6):
        sums = {kind: torch.zeros_like(p) for kind, p in true.items()}
        for j in range(k):
            for kind, p in hidden.items():
                p.grad = torch.randn_like(p)
                if kind == "embedding":
                    p.grad[torch.rand(9) < 0.6] = 0
                if kind == "bias" and j == k - 1:
                    p.grad = None  # unused in the last micro-step: as if it were 0
                    continue
                sums[kind] += p.grad / k
            one.step()
        for kind, p in true.items():
            p.grad = sums[kind]
        other.step()
    for kind in hidden:
        torch.testing.assert_close(hidden[kind], true[kind], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("way", WAYS)
def test_within_a_window_the_weights_stand_still_and_opposite_gradients_cancel_exactly(way):
    p = nn.Parameter(torch.randn(40))
    before, g = p.detach().clone(), torch.randn(40)
    tiger = Tiger([p], accumulate=2, **way)
    p.grad = g
    tiger.step()
    assert torch.equal(p, before)
    p.grad = -g
    tiger.step()
    assert torch.equal(p, before)  # sign(0) = 0, and a bias has no weight decay
    assert not tiger.state[p]["exp_avg"].any()


@pytest.mark.parametrize("way", WAYS)
def test_a_parameter_without_gradient_is_left_alone(way):
    used, unused = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.randn(3, 3))
    before = unused.detach().clone()
    tiger = Tiger([used, unused], **way)
    used.grad = torch.ones_like(used)
    tiger.step()
    assert torch.equal(unused, before)
    assert unused not in tiger.state


def test_no_gradient_at_all_is_no_error():
    tiger = Tiger([nn.Parameter(torch.randn(3))])
    tiger.step()
    tiger.zero_grad()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("optimiser", [Tiger, Lion])
def test_maximize_climbs_and_leaves_the_gradient_as_it_was(way, optimiser):
    down, up = nn.Parameter(torch.zeros(5, 4)), nn.Parameter(torch.zeros(5, 4))
    g = torch.randn(5, 4)
    down.grad, up.grad = g.clone(), g.clone()
    optimiser([down], **way).step()
    optimiser([up], maximize=True, **way).step()
    assert torch.equal(up, -down)
    assert up.abs().min() > 0
    assert torch.equal(up.grad, g)


def test_a_closure_is_called_with_gradients_and_its_value_given_back():
    p = nn.Parameter(torch.tensor([2.0]))
    tiger = Tiger([p], lr=0.1)

    def closure() -> Tensor:
        tiger.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert tiger.step(closure) == 4.0
    assert p.item() == pytest.approx(1.95)


@pytest.mark.parametrize("way", WAYS)
def test_groups_added_later_join_the_window(way):
    first, second = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    tiger = Tiger([first], accumulate=2, lr=0.1, **way)
    first.grad = torch.ones(4)
    tiger.step()
    tiger.add_param_group({"params": [second], "lr": 0.2})
    second.grad = torch.ones(4)
    tiger.step()
    assert first[0].item() == pytest.approx(0.95)
    assert second[0].item() == pytest.approx(0.9)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lay_out", ["transposed", "channels_last", "strided", "expanded_grad", "grad_transposed"])
def test_memory_layout_does_not_matter(way, lay_out):
    plain = torch.randn(4, 6, 2, 3, dtype=torch.float64)
    g = torch.randn_like(plain)
    theta, odd = plain.clone(), g.clone()
    match lay_out:
        case "transposed":
            theta = plain.clone().transpose(0, 1).contiguous().transpose(0, 1)
            odd = torch.empty_like(theta).copy_(g)
        case "channels_last":
            theta = plain.clone().to(memory_format=torch.channels_last)
            odd = g.to(memory_format=torch.channels_last)
        case "strided":
            theta = torch.zeros(8, 6, 2, 3, dtype=torch.float64)[::2]
            theta.copy_(plain)
        case "expanded_grad":
            g = torch.randn(1, 1, 1, 3, dtype=torch.float64).expand(4, 6, 2, 3)
            odd = g
        case "grad_transposed":
            odd = g.transpose(0, 1).contiguous().transpose(0, 1)
    a, b = nn.Parameter(plain), nn.Parameter(theta)
    a.grad, b.grad = g.clone(), odd
    one, two = Tiger([a], fused=False), Tiger([b], **way)
    for _ in range(2):
        one.step()
        two.step()
    torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("way", WAYS)
def test_empty_tensors_and_numbers_of_no_axis(way):
    empty, rows, scalar = (
        nn.Parameter(torch.randn(0, 4)),
        nn.Parameter(torch.randn(5, 0)),
        nn.Parameter(torch.tensor(1.0)),
    )
    tiger = Tiger(
        [{"params": [empty], "kind": "embedding"}, {"params": [rows], "kind": "embedding"}, {"params": [scalar]}],
        lr=0.1,
        embedding_update="stale",
        **way,
    )
    for p in (empty, rows, scalar):
        p.grad = torch.ones_like(p)
    tiger.step()
    assert scalar.item() == pytest.approx(0.95)


@pytest.mark.parametrize("way", WAYS)
def test_writing_into_the_weights_between_steps_changes_the_rate(way):
    p = nn.Parameter(torch.full((8, 8), 0.5))
    tiger = Tiger([p], lr=0.1, weight_decay=0.0, **way)
    p.grad = torch.ones_like(p)
    tiger.step()
    p.data.fill_(2.0)
    tiger.step()
    torch.testing.assert_close(p.detach(), torch.full((8, 8), 1.8))


def test_a_graph_that_needs_the_old_weights_hears_of_the_step():
    p = nn.Parameter(torch.randn(4, 4))
    loss = (p * p).sum()
    p.grad = torch.ones_like(p)
    Tiger([p]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@settings(max_examples=15)
@given(
    st.sampled_from([Tiger, Lion]),
    st.sampled_from(["plain", "lazy", "stale"]),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 2**31),
)
def test_the_compiled_loops_and_the_lists_agree_with_the_plain_way(optimiser, rule, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    rows, dim = (int(torch.randint(1, 40, (), generator=generator)) for _ in range(2))
    start = [
        torch.randn(rows, dim, generator=generator, dtype=dtype),
        torch.randn(dim, rows, generator=generator, dtype=dtype),
        torch.randn(rows, generator=generator, dtype=dtype),
    ]
    kinds = ["embedding", "matrix", "gain"]
    options = {"accumulate": int(torch.randint(1, 4, (), generator=generator))} if optimiser is Tiger else {}
    optimisers = []
    for way in WAYS:
        mine = [{"params": [nn.Parameter(t.clone())], "kind": kind} for t, kind in zip(start, kinds, strict=True)]
        optimisers.append(optimiser(mine, lr=0.01, embedding_update=rule, **options, **way))
    for _ in range(6):
        for number, tensor in enumerate(start):
            g = torch.randn(tensor.shape, generator=generator, dtype=dtype)
            g[torch.rand(len(g), generator=generator) < 0.5] = 0
            if torch.rand((), generator=generator) < 0.15:
                g[0] = (float("nan"), float("inf"))[number % 2]
            missing = bool(torch.rand((), generator=generator) < 0.15)
            for o in optimisers:
                o.param_groups[number]["params"][0].grad = None if missing else g.clone()
        for o in optimisers:
            o.step()
    truth = optimisers[1]
    for o in (optimisers[0], optimisers[2]):
        assert o.nonfinite_counts() == truth.nonfinite_counts()
        for mine, theirs in zip(o.param_groups, truth.param_groups, strict=True):
            a, b = mine["params"][0], theirs["params"][0]
            tolerance = 1e-6 if dtype == torch.float32 else 1e-13
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
            if b in truth.state:
                torch.testing.assert_close(
                    o.state[a]["exp_avg"], truth.state[b]["exp_avg"], rtol=tolerance, atol=tolerance
                )


def test_a_tensor_too_large_for_one_task_is_stepped_alike(monkeypatch):
    from tianwen.optim import fused_cpu

    monkeypatch.setattr(fused_cpu, "WHOLE", 1000)  # then 40,000 weights are measured and stepped in pieces
    monkeypatch.setattr(fused_cpu, "PIECE", 4096)
    results = []
    for way in WAYS[:2]:
        torch.manual_seed(3)
        found = {"matrix": nn.Parameter(torch.randn(200, 200)), "embedding": nn.Parameter(torch.randn(300, 70))}
        tiger = Tiger(groups(found), embedding_update="stale", **way)
        for step in range(4):
            for p in found.values():
                p.grad = torch.randn_like(p)
                if step == 2:
                    p.grad[-1, -1] = float("inf")
            tiger.step()
        results.append([p.detach() for p in found.values()])
        assert tiger.nonfinite_counts() == {"0": 1, "1": 1}
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_the_number_of_threads_changes_no_bit():
    ends = []
    for threads in (1, 2):
        torch.manual_seed(3)
        p = nn.Parameter(torch.randn(700, 300))
        tiger = Tiger([p])
        known = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for _ in range(3):
                p.grad = torch.randn(700, 300)
                tiger.step()
        finally:
            torch.set_num_threads(known)
        ends.append(p.detach())
    assert torch.equal(*ends)


def test_without_numba_it_works_too(monkeypatch):
    from tianwen.optim import sign_optimizer

    monkeypatch.setattr(sign_optimizer, "compiled_loops", lambda: None)
    p = nn.Parameter(torch.ones(3))
    tiger = Tiger([p], lr=0.1)
    p.grad = torch.ones(3)
    tiger.step()
    assert p[0].item() == pytest.approx(0.95)


def test_a_module_or_named_parameters_can_be_given():
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert [g["kind"] for g in Tiger(model).param_groups] == ["matrix", "embedding", "bias", "gain"]
    tiger = Tiger(model.named_parameters(), nonfinite="skip")
    for p in model.parameters():
        p.grad = torch.full_like(p, math.nan)
    tiger.step()
    assert tiger.nonfinite_counts() == {name: 1 for name, _ in model.named_parameters()}


def test_a_learning_rate_as_a_tensor_and_a_scheduler():
    p = nn.Parameter(torch.ones(3))
    tiger = Tiger([p], lr=torch.tensor(0.1))  # type: ignore[arg-type]
    schedule = torch.optim.lr_scheduler.LambdaLR(tiger, lambda t: 1.0 if t == 0 else 0.0)
    p.grad = torch.ones(3)
    for _ in range(2):
        tiger.step()
        schedule.step()
    assert p[0].item() == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": -1.0}, "lr=-1.0"),
        ({"lr": math.nan}, "lr=nan"),
        ({"lr": "fast"}, "lr='fast'"),
        ({"beta": 1.0}, "beta=1.0"),
        ({"beta": -0.1}, "beta=-0.1"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"weight_decay": math.inf}, "weight_decay"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"accumulate": 1.5}, "accumulate=1.5"),
        ({"accumulate": True}, "accumulate=True"),
        ({"shrink": 1.5}, "shrink=1.5"),
        ({"rms_floor": -1}, "rms_floor=-1"),
        ({"embedding_update": "eager"}, "'plain', 'lazy', 'stale', 'adam'"),
        ({"nonfinite": "ignore"}, "'shrink', 'skip', 'raise'"),
        ({"rounding": "up"}, "'stochastic', 'master', 'nearest'"),
        ({"adam_betas": (0.9,)}, "adam_betas"),
        ({"embedding_update": "adam"}, "param_groups_for"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(options, said):
    with pytest.raises(InputError) as caught:
        Tiger([nn.Parameter(torch.ones(2, 2))], **options)
    assert said in str(caught.value)


def test_wrong_parameters_are_refused_with_a_sentence():
    with pytest.raises(InputError, match="complex"):
        Tiger([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    with pytest.raises(InputError, match="no rows"):
        Tiger([{"params": [nn.Parameter(torch.ones(2))], "kind": "embedding"}])
    with pytest.raises(InputError, match="one of 'auto', 'matrix'"):
        Tiger([{"params": [nn.Parameter(torch.ones(2))], "kind": "vector"}])
    one, two = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    with pytest.raises(InputError, match="the same for all"):
        Tiger([{"params": [one], "accumulate": 2}, {"params": [two], "accumulate": 3}])
    with pytest.raises(InputError, match="Tiger can"):
        Lion([nn.Parameter(torch.ones(2))], accumulate=2)
    with pytest.raises(InputError, match="Tiger can"):
        Lion([{"params": [nn.Parameter(torch.ones(2))], "accumulate": 2}])
    with pytest.raises(InputError, match="betas"):
        Lion([nn.Parameter(torch.ones(2))], betas=(0.9, 1.0))


def test_a_refused_group_leaves_the_optimiser_as_it_was():
    tiger = Tiger([nn.Parameter(torch.ones(2))])
    with pytest.raises(InputError):
        tiger.add_param_group({"params": [nn.Parameter(torch.ones(2, dtype=torch.complex64))]})
    assert len(tiger.param_groups) == 1


def test_a_copy_is_a_copy():
    model = nn.Linear(3, 3)
    tiger = Tiger(param_groups_for(model), accumulate=2)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    tiger.step()
    copied = copy.deepcopy(tiger)
    before = [p.detach().clone() for g in tiger.param_groups for p in g["params"]]
    copied.step()  # closes the window of the copy alone
    assert all(
        torch.equal(a, b) for a, b in zip(before, [p for g in tiger.param_groups for p in g["params"]], strict=True)
    )
    moved = [p for g in copied.param_groups for p in g["params"]]
    assert not any(torch.equal(a, b) for a, b in zip(before, moved, strict=True))
