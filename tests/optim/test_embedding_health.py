"""The doctor from outside: what it finds in checkpoints of every kind, what it says, and what it refuses."""

from __future__ import annotations

import copy
import json
import math
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.optim.planted import healthy, plant, save_folder, write_tokenizer
from tianwen.errors import InputError, ModelError, TianwenError
from tianwen.optim.embedding_health import EmbeddingHealth
from tianwen.optim.token_counts import read_counts

ROWS = torch.tensor([7, 100, 1234, 2999])
DEGREES = torch.tensor([0.2, 2.0, 40.0, 100.0])


def sick_table(rows: int = 3000, dim: int = 64) -> torch.Tensor:
    table = healthy(rows, dim)
    plant(table, ROWS, DEGREES)
    table[0] = 0
    return table


def found_in(health: EmbeddingHealth, table: int = 0) -> list[int]:
    return sorted(health.tables[table].drifting.tolist())


# What is found


def test_drifting_rows_among_100k_are_named(tmp_path):
    table = healthy(100_000, 32, spread=0.1)
    rows = torch.randperm(100_000)[:40]
    plant(table, rows, torch.logspace(-0.7, 2, 40))
    save_folder(tmp_path, {"model.embed_tokens.weight": table.bfloat16(), "lm_head.weight": healthy(100_000, 32)})
    write_tokenizer(tmp_path / "tokenizer.json", 99_900)  # the table is padded, as is usual
    health = EmbeddingHealth.of(tmp_path)
    embed = next(t for t in health.tables if "embed" in t.name)
    head = next(t for t in health.tables if "head" in t.name)
    assert sorted(embed.drifting.tolist()) == sorted(rows.tolist())
    assert (embed.verdict, head.verdict, health.verdict) == ("error", "healthy", "error")
    text = health.text()
    assert all(f'"tok{row}"' in text for row in rows.tolist() if row < 99_900)
    named = {row["id"]: row["token"] for row in json.loads(health.json())["tables"][1]["worst"]}
    assert named == {row: f"tok{row}" if row < 99_900 else None for row in rows.tolist()}


def test_a_healthy_checkpoint_is_called_healthy(tmp_path):
    tensors = {
        "embeddings.word_embeddings.weight": healthy(5000, 64, spread=0.4),
        "embeddings.position_embeddings.weight": healthy(512, 64),
        "embeddings.token_type_embeddings.weight": healthy(2, 64),
        "embeddings.position_ids": torch.arange(512)[None],
        "embeddings.LayerNorm.weight": torch.ones(64),
        "layer.0.intermediate.dense.weight": torch.sign(healthy(256, 64)) * 99,
    }
    health = EmbeddingHealth.of(save_folder(tmp_path, tensors))
    assert health.verdict == "healthy"
    assert {table.name.split(".")[1] for table in health.tables} == {
        "word_embeddings",
        "position_embeddings",
        "token_type_embeddings",
    }
    assert "What to do" not in health.text()


def test_mild_drift_is_a_warning_and_named():
    table = healthy(3000, 256)
    plant(table, torch.tensor([42]), torch.tensor([0.1]))
    health = EmbeddingHealth.of({"embed.weight": table})
    assert (found_in(health), health.verdict) == ([42], "warning")
    assert "steps" in health.text()


def test_the_bundled_models_table_is_healthy_and_its_tokens_are_known():
    folder = Path(__file__).parents[2] / "tianwen" / "models" / "asker"
    health = EmbeddingHealth.of(folder)
    assert health.verdict == "healthy"
    tokens = next(table for table in health.tables if table.name == "backbone.tokens.weight")
    assert tokens.dtype.startswith("int8")
    assert health.token(tokens, 0) == "[PAD]"


def test_values_that_are_not_finite_are_an_error_and_named():
    table = healthy(500, 16)
    table[11, 3], table[400] = math.nan, math.inf
    health = EmbeddingHealth.of({"emb.weight": table})
    assert health.verdict == "error"
    assert health.tables[0].broken.tolist() == [11, 400]
    assert "not finite: 11, 400" in health.text()
    json.loads(health.json().replace("NaN", "!"))  # stays JSON without the words that only Python reads


def test_the_wall_follows_the_weight_decay():
    table = healthy(3000, 64)
    plant(table, ROWS, torch.full((4,), 10.0))
    given = EmbeddingHealth.of({"emb.weight": table}, weight_decay=0.1).tables[0]
    assert (given.wall.at, given.wall.source, int(given.drift.by_wall.sum())) == (10, "given", 4)
    seen = EmbeddingHealth.of({"emb.weight": table}).tables[0]
    assert (round(seen.wall.at or 0), seen.wall.source, int(seen.drift.by_wall.sum())) == (10, "inferred", 4)
    none = EmbeddingHealth.of({"emb.weight": table}, weight_decay=0)
    assert found_in(none) == ROWS.tolist()
    assert none.tables[0].wall.at is None
    assert none.worst(none.tables[0])[0]["steps_until_half"] is None
    none.text()


def test_counts_give_deciles_and_the_ratio():
    table = torch.randn(1000, 64) * 0.02
    table[800:900] = torch.sign(torch.randn(100, 64)) * 0.5
    counts = np.arange(1000, 0, -1)
    health = EmbeddingHealth.of({"emb.weight": table}, counts=counts)
    deciles = health.tables[0].deciles
    assert [group.counts for group in deciles.groups][::9] == [(901, 1000), (1, 100)]
    assert deciles.groups[8].median == pytest.approx(0.5, rel=1e-3)
    assert health.tables[0].rare_over_frequent == pytest.approx(25, rel=0.05)
    assert any(f.kind == "rare over frequent" and f.severity == "error" for f in health.tables[0].findings)
    assert "frequency decile" in health.text()


def test_without_counts_the_ids_are_taken_for_the_order_of_frequency():
    table = torch.randn(3000, 16) * 0.02 * torch.logspace(0, 1.5, 3000)[:, None]
    health = EmbeddingHealth.of({"emb.weight": table})
    assert [finding.kind for finding in health.tables[0].findings] == ["late over early"]
    assert health.verdict == "warning"
    assert EmbeddingHealth.of({"emb.weight": table.flip(0)}).verdict == "healthy"


def test_a_table_that_drifted_as_a_whole_is_an_error_without_counts():
    table = torch.randn(3000, 32) * 0.1 * torch.logspace(0, 2.7, 3000)[torch.randperm(3000)][:, None]
    health = EmbeddingHealth.of({"emb.weight": table})
    assert [finding.kind for finding in health.tables[0].findings if finding.severity == "error"] == ["far rows"]
    assert (health.tables[0].statistics.rms[found_in(health)] > 10).all()


def test_named_tables_only():
    tensors = {"a.table": sick_table(), "b.table": healthy(3000, 64), "c": torch.randn(64, 64)}
    assert [t.name for t in EmbeddingHealth.of(tensors, tables=["b.table"]).tables] == ["b.table"]
    assert [t.name for t in EmbeddingHealth.of(tensors).tables] == ["a.table", "b.table"]  # by their shape
    with pytest.raises(InputError, match=r"no tensor 'd'.*a\.table"):
        EmbeddingHealth.of(tensors, tables=["d"])


def test_a_live_model_is_looked_at():
    model = nn.Sequential(nn.Embedding(3000, 64), nn.Linear(64, 64))
    with torch.no_grad():
        model[0].weight.copy_(sick_table())
    assert found_in(EmbeddingHealth.of({"embed.weight": model[0].weight})) == ROWS.tolist()
    assert found_in(EmbeddingHealth.of(model)) == ROWS.tolist()


# Checkpoints of every kind


def test_kinds_of_checkpoints_give_the_same_answer(tmp_path):
    table, other = sick_table(), torch.randn(64, 64)
    state = {"model.embed_tokens.weight": table, "model.layer.weight": other}
    files: list[Path] = [save_folder(tmp_path / "hf", state)]
    for name, content in {
        "plain.pt": state,
        "wrapped.ckpt": {"model": state, "optimizer": {"state": {}}, "step": 3},
        "tied.bin": {**state, "lm_head.weight": table},
        "alone.pth": table,
    }.items():
        torch.save(content, tmp_path / name)
        files.append(tmp_path / name)
    torch.save(state, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    files.append(tmp_path / "old.bin")
    for ending, save in (("safetensors", save_file), ("bin", torch.save)):
        folder = tmp_path / f"sharded {ending}"
        folder.mkdir()
        weight_map = {}
        for number, (name, tensor) in enumerate(state.items(), 1):
            shard = f"model-{number:05d}-of-00002.{ending}"
            save({name: tensor}, folder / shard)
            weight_map[name] = shard
        files.append(folder)
        if ending == "safetensors":  # shards without their table of contents are understood too
            files.append(tmp_path / "no index")
            files[-1].mkdir()
            for shard in folder.iterdir():
                (files[-1] / shard.name).write_bytes(shard.read_bytes())
        (folder / f"model.{ending}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert len(files) == 9
    for file in files:
        health = EmbeddingHealth.of(file)
        assert [len(health.tables), found_in(health)] == [1, ROWS.tolist()], file


def test_a_run_of_fit_is_read_with_its_optimiser(tmp_path):
    from tianwen.optim.tiger import Tiger
    from tianwen.training.checkpoint import Checkpoints

    model = nn.Sequential(nn.Embedding(3000, 64), nn.Linear(64, 2))
    optimiser = Tiger(model, lr=5e-4, weight_decay=0.02)
    model(torch.tensor([1, 2])).sum().backward()
    optimiser.step()
    states = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
    Checkpoints(tmp_path).save(10, states, {})
    health = EmbeddingHealth.of(tmp_path)
    wall = health.tables[0].wall
    assert (wall.at, wall.source, wall.lr) == (50, "optimizer", 5e-4)
    assert health.tables[0].momentum is not None


def test_a_table_larger_than_memory_is_read_in_pieces(tmp_path):
    rows, dim = 80_000, 1024  # 164 MB of bfloat16, nearly all of it a hole in the file
    header = {"emb.weight": {"dtype": "BF16", "shape": [rows, dim], "data_offsets": [0, rows * dim * 2]}}
    text = json.dumps(header).encode()
    start = 8 + len(text)
    rest, drifted = healthy(500, dim).bfloat16(), torch.full((1, dim), 99.5).bfloat16()
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + rest.view(torch.uint8).numpy().tobytes())
        file.seek(start + 70_000 * dim * 2)
        file.write(drifted.view(torch.uint8).numpy().tobytes())
        file.truncate(start + rows * dim * 2)
    script = (
        "import resource, sys, torch\n"
        "from tianwen.optim.embedding_health import EmbeddingHealth\n"
        "torch.set_num_threads(1)\n"
        "used = int(open('/proc/self/statm').read().split()[5]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (used + 80_000_000,) * 2)\n"
        "print(EmbeddingHealth.of(sys.argv[1]).tables[0].drifting.tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "large.safetensors")], capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.stderr) == ("[70000]", "")
    assert hasattr(resource, "RLIMIT_DATA")


# What is refused, in one sentence


def refused(source, **options) -> str:
    with pytest.raises(TianwenError) as caught:
        EmbeddingHealth.of(source, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def test_missing_empty_and_ambiguous_places_are_refused(tmp_path):
    assert "There is no checkpoint" in refused(tmp_path / "nothing")
    assert "holds no weights" in refused(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"x": torch.zeros(2, 2)}, tmp_path / name)
    assert "2 weight files" in refused(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "gone.safetensors"}}')
    assert "first gone.safetensors" in refused(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../a.safetensors"}}')
    assert "another folder" in refused(tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 8, 60, -1, -1000])
def test_files_cut_short_are_refused(keep, tmp_path):
    save_folder(tmp_path, {"emb.weight": healthy(300, 16)})
    torch.save({"emb.weight": healthy(300, 16)}, tmp_path / "w.pt")
    for name in ("model.safetensors", "w.pt"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:keep])
        assert "Copy it again" in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["a.tsv", "a.png", "a.xlsx", "a"])
def test_what_is_no_checkpoint_is_told_so(name, tmp_path):
    file = tmp_path / name
    if name == "a.xlsx":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("xl/workbook.xml", "<x/>")
    else:
        file.write_bytes(b"\x89PNG\r\n\x1a\n\0\0" if name == "a.png" else b"Mars\tmoons\tPhobos\n")
    assert f"{name} is no checkpoint: it begins neither" in refused(file)


def test_weights_are_known_by_what_they_hold_not_by_their_name(tmp_path):
    table = {"emb.weight": healthy(300, 16)}
    save_folder(tmp_path, table)
    torch.save(table, tmp_path / "w.pt")
    for file in ("model.safetensors", "w.pt"):
        assert EmbeddingHealth.of((tmp_path / file).rename(tmp_path / f"{file}.backup")).verdict == "healthy"


def test_misuse_from_python_is_a_sentence():
    with pytest.raises(InputError, match=r"EmbeddingHealth\('w.pt'\): .* by EmbeddingHealth.of\('w.pt'\)"):
        EmbeddingHealth("w.pt")  # pyright: ignore
    for source in (None, 3, [1]):
        assert f"not {type(source).__name__}" in refused(source)
    health = EmbeddingHealth.of({"emb.weight": healthy(30, 16)})
    assert copy.copy(health).source == health.source  # a copy is made without fields given


def test_a_pickle_is_never_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"emb.weight": torch.zeros(2, 2), "trap": Trap()}, tmp_path / "w.pt")
    assert "never executed" in refused(tmp_path / "w.pt")
    assert "never executed" in refused({"emb.weight": torch.randn(9, 2)}, optimizer=tmp_path / "w.pt")
    assert not (tmp_path / "sprung").exists()


def test_headers_that_lie_are_refused(tmp_path):
    def write(header) -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        (tmp_path / "w.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
        return tmp_path / "w.safetensors"

    assert "not JSON" in refused(write(b"\xff\xfe"))
    assert "no table" in refused(write([1]))
    assert "useful" in refused(write({"x": {"dtype": "F32"}}))
    assert "impossible" in refused(write({"x": {"dtype": "F32", "shape": [2, -1], "data_offsets": [0, 8]}}))
    assert "does not fill" in refused(write({"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 8]}}))
    assert "cut short" in refused(write({"x": {"dtype": "F32", "shape": [9, 9], "data_offsets": [0, 324]}}))
    assert "no tensors" in refused(write({}))
    (tmp_path / "w.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    assert "cut short" in refused(tmp_path / "w.safetensors")


def test_tables_without_rows_are_left_out_or_refused():
    good = {"emb.weight": healthy(30, 16), "extra_embeddings.weight": torch.zeros(0, 16)}
    assert "extra_embeddings.weight has no rows" in EmbeddingHealth.of(good).text()
    assert "nothing to look at" in refused({"emb.weight": torch.zeros(0, 16)})
    assert "is empty" in refused(good, tables=["extra_embeddings"])
    assert "of shape [16]" in refused({"emb.weight": torch.zeros(4, 4), "bias": torch.zeros(16)}, tables=["bias"])
    assert "floating-point" in refused({"emb.weight": torch.zeros(9, 4, dtype=torch.int64)}, tables=["emb"])
    assert "looks like an embedding" in refused({"a": torch.randn(4, 4), "b": torch.randn(4, 4)})


def test_counts_that_do_not_fit_are_refused(tmp_path):
    tensors = {"emb.weight": healthy(30, 16)}
    assert "The counts are 29, but emb.weight has 30 rows" in refused(tensors, counts=np.ones(29))
    assert "id 4 is nan" in refused(tensors, counts=[1.0] * 4 + [math.nan] * 26)
    assert "id 0 is -1" in refused(tensors, counts=[-1.0] * 30)
    for name, content in {
        "a.npy": b"rubbish",
        "b.json": b"{",
        "c.txt": b"one\ntwo\n",
        "d.xyz": b"1\n",
        "e.tsv": b"the\t3\n",
        "f.npy": b"",
        "g.pt": b"PK",
        "h.json": b'{"a": {"b": 1}}',
    }.items():
        (tmp_path / name).write_bytes(content)
        assert refused(tensors, counts=tmp_path / name)
    assert "no file of counts" in refused(tensors, counts=tmp_path / "gone.npy")


@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_settings_that_are_no_numbers_are_refused(value):
    assert "weight_decay" in refused({"emb.weight": healthy(30, 16)}, weight_decay=value)


def test_files_of_counts_agree(tmp_path):
    table, counts = {"emb.weight": healthy(30, 16)}, np.arange(30.0)
    np.save(tmp_path / "a.npy", counts)
    torch.save(torch.arange(30), tmp_path / "b.pt")
    (tmp_path / "c.json").write_text(json.dumps(list(range(30))))
    (tmp_path / "d.json").write_text(json.dumps({str(i): i for i in range(30)}))
    (tmp_path / "e.txt").write_text("".join(f"{i}\n" for i in range(30)))
    (tmp_path / "f.tsv").write_text("".join(f"tok{i}\t{i}\n" for i in range(1, 30)))
    write_tokenizer(tmp_path / "tokenizer.json", 30)
    for file in sorted(tmp_path.glob("[a-f].*")):
        health = EmbeddingHealth.of(table, counts=file, tokenizer=tmp_path)
        assert health.counts is not None
        assert health.counts.tolist() == counts.tolist(), file


def test_errors_of_the_tree_only(tmp_path):
    """Any byte changed in a small checkpoint gives an answer or a sentence, never a traceback of another kind."""
    save_folder(tmp_path, {"emb.weight": healthy(8, 16)})
    torch.save({"emb.weight": healthy(8, 16)}, tmp_path / "w.bin")
    for name in ("model.safetensors", "w.bin"):
        content = (tmp_path / name).read_bytes()
        for position in range(0, min(len(content), 400), 7):
            changed = bytearray(content)
            changed[position] ^= 0x55
            (tmp_path / name).write_bytes(changed)
            try:
                EmbeddingHealth.of(tmp_path / name).text()
            except (InputError, ModelError):
                continue


def test_counts_by_id_need_no_tokenizer_and_counts_by_token_do(tmp_path):
    (tmp_path / "ids.tsv").write_text("2\t5\n0\t3\n")
    assert read_counts(tmp_path / "ids.tsv").tolist() == [3, 0, 5]
    (tmp_path / "tokens.tsv").write_text("moon\t5\nMars\t3\n")
    with pytest.raises(InputError, match="need the tokenizer"):
        read_counts(tmp_path / "tokens.tsv")
    assert read_counts(tmp_path / "tokens.tsv", {0: "Mars", 1: "moon"}).tolist() == [3, 5]
    assert read_counts(tmp_path / "ids.tsv", {0: "2", 1: "0", 2: "Mars"}).tolist() == [3, 0, 5]  # all numbers: ids
