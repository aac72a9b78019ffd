"""Repaired copies: drifted rows small again with their directions, all other bytes as they were, never half a file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.optim.planted import healthy, plant, save_folder
from tianwen.errors import InputError, ModelError
from tianwen.optim.embedding_health import EmbeddingHealth
from tianwen.optim.lion import Lion
from tianwen.optim.row_repair import reset_rows
from tianwen.training.weights import load_weights, save_weights

ROWS = torch.tensor([7, 100, 1234])


def sick_table(dtype=torch.float32) -> torch.Tensor:
    table = healthy(2000, 64)
    plant(table, ROWS, torch.tensor([1.0, 20.0, 100.0]))
    return table.to(dtype)


def assert_repaired(before: torch.Tensor, after: torch.Tensor, *, rms: float = 0.02) -> None:
    well = torch.ones(len(before), dtype=torch.bool)
    well[ROWS] = False
    assert before.dtype == after.dtype
    assert torch.equal(before[well], after[well])
    old, new = before[ROWS].double(), after[ROWS].double()
    assert torch.allclose(new.square().mean(1).sqrt(), torch.full((3,), rms).double(), rtol=0.05)
    assert (torch.cosine_similarity(old, new) > 0.999).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_safetensors_file_changes_in_those_rows_alone(dtype, tmp_path):
    tensors = {"emb.weight": sick_table(dtype), "layer.weight": torch.randn(64, 64)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt", "note": "mine"})
    before = (tmp_path / "model.safetensors").read_bytes()
    out = tmp_path / "new.safetensors"
    assert EmbeddingHealth.of(tmp_path / "model.safetensors").repair(out) == [out]
    after = out.read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert len(after) == len(before)
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 3 * 64 * dtype.itemsize
    assert_repaired(tensors["emb.weight"], load_file(out)["emb.weight"])
    assert torch.equal(load_file(out)["layer.weight"], tensors["layer.weight"])
    assert EmbeddingHealth.of(out).verdict == "healthy"


def test_a_torch_checkpoint_keeps_all_else(tmp_path):
    table = sick_table()
    state = {
        "model": {"emb.weight": table, "head.weight": table, "b": torch.randn(3)},
        "step": 7,
        "note": ["x", (1, 2)],
    }
    torch.save(state, tmp_path / "old.pt")
    before = (tmp_path / "old.pt").read_bytes()
    health = EmbeddingHealth.of(tmp_path / "old.pt")
    health.repair(tmp_path / "new.pt")
    after = torch.load(tmp_path / "new.pt", weights_only=True)
    assert_repaired(table, after["model"]["emb.weight"])
    assert after["model"]["head.weight"].data_ptr() == after["model"]["emb.weight"].data_ptr()  # still tied
    assert torch.equal(after["model"]["b"], state["model"]["b"])
    assert (after["step"], after["note"]) == (7, ["x", (1, 2)])
    assert (tmp_path / "old.pt").read_bytes() == before
    tensor = health.checkpoint.tensors["emb.weight"].tensor
    assert tensor is not None
    assert torch.equal(tensor, table)  # what was examined is not changed either


def test_a_sharded_folder_is_copied_whole(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    state = {"emb.weight": sick_table(), "layer.weight": torch.randn(9, 9)}
    for number, (name, tensor) in enumerate(state.items(), 1):
        save_file({name: tensor}, source / f"model-{number}.safetensors")
    index = {"weight_map": {"emb.weight": "model-1.safetensors", "layer.weight": "model-2.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    (source / "config.json").write_text("{}")
    EmbeddingHealth.of(source).repair(tmp_path / "out")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted(f.name for f in source.iterdir())
    assert (tmp_path / "out/model-2.safetensors").read_bytes() == (source / "model-2.safetensors").read_bytes()
    assert EmbeddingHealth.of(tmp_path / "out").verdict == "healthy"


def test_our_own_int8_weights_stay_loadable(tmp_path):
    table = sick_table()
    for name in ("scales", "whole"):
        storage = "int8" if name == "scales" else "as is"
        save_weights(tmp_path / f"{name}.safetensors", {"tokens.weight": table}, {"kind": "x"}, storage=storage)
        before = load_weights(tmp_path / f"{name}.safetensors")
        EmbeddingHealth.of(tmp_path / f"{name}.safetensors").repair(tmp_path / f"{name} new.safetensors")
        after = load_weights(tmp_path / f"{name} new.safetensors")
        assert after.metadata == {"kind": "x"}
        assert_repaired(before.tensors["tokens.weight"], after.tensors["tokens.weight"])


@pytest.mark.parametrize("rounding", ["stochastic", "master"])
def test_the_momentum_of_the_rows_is_zeroed_and_training_goes_on(rounding, tmp_path):
    from tianwen.optim.tiger import Tiger

    model = nn.Sequential(nn.Embedding(2000, 64), nn.Linear(64, 2)).bfloat16()
    optimizer = Tiger(model, lr=1e-3, rounding=rounding)
    model(torch.arange(2000)).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        model[0].weight.copy_(sick_table())
        if rounding == "master":
            optimizer.state[model[0].weight]["master"].copy_(model[0].weight)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    torch.save({"optimizer": optimizer.state_dict()}, tmp_path / "o.pt")
    health = EmbeddingHealth.of(tmp_path / "m.pt", optimizer=tmp_path / "o.pt")
    written = health.repair(tmp_path / "new.pt")
    assert [file.name for file in written] == ["new.pt", "new.optimizer.pt"]
    model.load_state_dict(torch.load(written[0], weights_only=True))
    optimizer.load_state_dict(torch.load(written[1], weights_only=True)["optimizer"])
    state = optimizer.state[model[0].weight]
    assert (state["exp_avg"][ROWS] == 0).all()
    assert (state["exp_avg"][:7] != 0).any(1).all()
    if rounding == "master":  # else the large rows would come back with the next step
        torch.testing.assert_close(state["master"][ROWS], model[0].weight.detach()[ROWS].float(), rtol=0.01, atol=1e-4)
    optimizer.zero_grad()
    model[0].weight.grad = torch.zeros_like(model[0].weight)
    optimizer.step()
    assert float(model[0].weight.detach().abs().max()) < 1


def test_a_run_of_fit_is_repaired_byte_by_byte(tmp_path):
    from tianwen.optim.tiger import Tiger
    from tianwen.training.checkpoint import Checkpoints

    model = nn.Sequential(nn.Embedding(2000, 64))
    optimizer = Tiger(model)
    model(torch.arange(2000)).sum().backward()
    optimizer.step()
    with torch.no_grad():
        model[0].weight.copy_(sick_table())
    Checkpoints(tmp_path).save(10, {"model": model.state_dict(), "optimiser": optimizer.state_dict()}, {})
    written = EmbeddingHealth.of(tmp_path).repair(tmp_path / "out")
    assert [file.name for file in written] == ["model.safetensors", "optimiser.safetensors"]
    momentum = next(t for name, t in load_file(written[1]).items() if name.endswith("exp_avg"))
    assert (momentum == 0).all(1).nonzero()[:, 0].tolist() == ROWS.tolist()


def test_broken_rows_become_finite():
    rows = torch.randn(3, 8)
    rows[0, 2], rows[1] = math.nan, math.inf
    new = reset_rows(rows, rms=0.5)
    assert torch.isfinite(new).all()
    assert torch.allclose(new.square().mean(1).sqrt(), torch.tensor([0.5, 0.5, 0.5]).double())
    assert new[0, 2] == 0
    extreme = reset_rows(torch.tensor([[1e300, -1e300], [1e-300, 1e-300]], dtype=torch.float64), rms=1.0)
    assert torch.allclose(extreme, torch.tensor([[1.0, -1.0], [1.0, 1.0]]).double())


def test_nothing_is_overwritten_and_nothing_is_written_in_vain(tmp_path):
    folder = save_folder(tmp_path / "a", {"emb.weight": sick_table()})
    health = EmbeddingHealth.of(folder)
    with pytest.raises(InputError, match="exists already"):
        health.repair(folder)
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below.safetensors"):
        with pytest.raises(ModelError, match="cannot be written"):
            health.repair(place)
    well = save_folder(tmp_path / "b", {"emb.weight": healthy(2000, 64)})
    with pytest.raises(InputError, match="Nothing was written"):
        EmbeddingHealth.of(well).repair(tmp_path / "c")
    with pytest.raises(InputError, match="in memory"):
        EmbeddingHealth.of({"emb.weight": sick_table()}).repair(tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_failure_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    folder = save_folder(tmp_path / "a", {"emb.weight": sick_table()})
    health = EmbeddingHealth.of(folder)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tianwen.optim.row_repair._patch", full)
    with pytest.raises(ModelError, match="No space left"):
        health.repair(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_rows_are_reset_to_the_size_of_frequent_rows(tmp_path):
    table = torch.randn(2000, 64) * 0.02
    table[:200] *= 4
    plant(table, ROWS[1:], torch.tensor([20.0, 100.0]))
    save_file({"emb.weight": table}, tmp_path / "w.safetensors")
    health = EmbeddingHealth.of(tmp_path / "w.safetensors", counts=list(range(2000, 0, -1)))
    health.repair(Path(tmp_path / "new.safetensors"))
    new = load_file(tmp_path / "new.safetensors")["emb.weight"]
    assert float(new[1234].square().mean().sqrt()) == pytest.approx(0.08, rel=0.05)


def test_an_optimiser_in_the_same_file_is_read_and_repaired(tmp_path):
    model = nn.Embedding(2000, 64)
    model.weight.data = sick_table()
    optimiser = Lion(model.parameters(), weight_decay=0.02)
    model.weight.grad = torch.randn(2000, 64)
    optimiser.step()
    sick = sorted(EmbeddingHealth.of(model).tables[0].drifting.tolist())
    torch.save({"model": model.state_dict(), "optimizer": optimiser.state_dict()}, tmp_path / "old.pt")
    health = EmbeddingHealth.of(tmp_path / "old.pt")
    assert health.tables[0].wall.source == "optimizer"
    assert health.tables[0].wall.at == 50
    assert health.repair(tmp_path / "new.pt") == [tmp_path / "new.pt"]
    new = torch.load(tmp_path / "new.pt", weights_only=True)
    momentum = new["optimizer"]["state"][0]["exp_avg"]
    assert (momentum == 0).all(1).nonzero()[:, 0].tolist() == sick == sorted(health.tables[0].drifting.tolist())
    assert EmbeddingHealth.of(tmp_path / "new.pt").verdict == "healthy"
