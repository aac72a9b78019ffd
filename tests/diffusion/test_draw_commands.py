"""`tianwen draw ...` as a person at a shell has it: pages appear, the output is right, every mistake is a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.diffusion.small import SIDE, small_drawer
from tianwen.cli import app
from tianwen.cli import draw as draw_commands
from tianwen.diffusion import learning
from tianwen.diffusion.grid_images import GAP, png_bytes

Image = pytest.importorskip("PIL.Image", reason="the commands on pictures need Pillow")


def run(*words: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command."""
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, ["draw", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    small_drawer().save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    ramp = np.linspace(0, 255, SIDE * SIDE).astype(np.uint8).reshape(1, SIDE, SIDE)
    (tmp_path / "ramp.png").write_bytes(png_bytes(ramp))
    return tmp_path / "ramp.png"


def size(path: Path) -> tuple[int, int]:
    """How many pictures of the small side fit a page: (columns, rows)."""
    with Image.open(path) as image:
        return (image.width - GAP) // (SIDE + GAP), (image.height - GAP) // (SIDE + GAP)


def test_sample_writes_a_page_and_the_way_there(model, tmp_path):
    out, gif = tmp_path / "a.png", tmp_path / "a.gif"
    code, said, _ = run("sample", model, "--count", 6, "--steps", 3, "--out", out, "--gif", gif, "--label", "black")
    assert code == 0
    assert "6 pictures in" in said
    assert size(out) == (3, 2)
    with Image.open(gif) as image:
        assert 2 <= image.n_frames <= 4, "the noise and every step; pages that are equal are one, shown longer"
    before = out.read_bytes()
    options = ("sample", model, "--count", 6, "--steps", 3, "--out", out)
    code, said, _ = run(*options, "--label", "black", "--json")
    assert json.loads(said) == {"page": str(out), "pictures": 6, "seeds": [0, 5], "labels": ["black"]}
    assert out.read_bytes() == before, "the same seeds, the same pictures"
    run(*options, "--label", "black", "--seed", 1)
    assert out.read_bytes() != before
    assert run(*options, "--grid", "99,40,7")[0] == 0


def test_the_bundled_generator_is_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said, _ = run("sample", "--count", 2, "--steps", 2, "--label", "7")
    assert (code, said) == (0, "2 pictures in drawn.png\n")
    assert (tmp_path / "drawn.png").is_file()


def test_interpolate_between_seeds_and_pictures(model, picture, tmp_path):
    out = tmp_path / "between.png"
    assert run("interpolate", "3", picture, "--model", model, "--count", 5, "--steps", 2, "--out", out)[0] == 0
    assert size(out) == (5, 1)


def test_encode_and_decode(model, picture, tmp_path):
    latents, shown, out = tmp_path / "x.latents", tmp_path / "page.png", tmp_path / "back.png"
    words = ("encode", picture, "--model", model, "--steps", 3, "--out", latents)
    code, said, _ = run(*words, "--page", shown, "--json")
    told = json.loads(said)
    assert (code, told["pictures"], len(told["error"])) == (0, 1, 1)
    assert size(shown) == (2, 1)
    assert run("decode", latents, "--model", model, "--out", out)[0] == 0
    with Image.open(shown) as both, Image.open(out) as back:
        right = np.asarray(both)[:, SIDE + GAP :]
        assert np.array_equal(right, np.asarray(back)), "decoding gives what encoding has shown"


def test_compress_and_decode(model, picture, tmp_path):
    picks, out = tmp_path / "x.picks", tmp_path / "back.png"
    words = ("encode", picture, "--model", model, "--steps", 4, "--out", picks)
    assert run(*words, "--compress", 16)[0] == 0
    assert picks.stat().st_size < 300
    assert run("decode", picks, "--model", model, "--out", out)[0] == 0
    assert size(out) == (1, 1)
    code, _, told = run(*words, "--compress", 10)
    assert (code, "power of two" in told) == (1, True)


def test_edit_keeps_what_it_should(model, picture, tmp_path):
    out, mask = tmp_path / "e.png", tmp_path / "mask.png"
    words = ("edit", picture, "--model", model, "--steps", 2, "--count", 2, "--columns", 3, "--out", out)
    half = np.zeros((1, SIDE, SIDE), np.uint8)
    half[:, :, SIDE // 2 :] = 255
    mask.write_bytes(png_bytes(half))
    assert run(*words, "--mask", mask)[0] == 0
    with Image.open(out) as image:
        pages = np.asarray(image)[GAP:-GAP]
    given, first, second = (pages[:, GAP + k * (SIDE + GAP) :][:, :SIDE] for k in range(3))
    assert np.array_equal(first[:, : SIDE // 2], given[:, : SIDE // 2]), "black under the mask stays"
    assert not np.array_equal(first[:, SIDE // 2 :], second[:, SIDE // 2 :])
    assert run(*words, "--strength", 0.3, "--label", "white", "--guidance", 2)[0] == 0
    assert run(*words, "--strength", 0.3, "--mask", mask)[0] == 2


def test_train_names_what_it_could_not_read_and_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "SHOWN", 1)
    folder, out = tmp_path / "pictures", tmp_path / "model"
    for name in ("a/1.png", "b/2.png"):
        (folder / name).parent.mkdir(parents=True)
        Image.new("L", (9, 9), 40).save(folder / name)
    (folder / "a/x.jpg").write_bytes(b"no picture")
    shape = ("--side", 8, "--width", 8, "--blocks", 1, "--batch", 2, "--samples-every", 9)
    code, said, told = run("train", folder, "--out", out, "--steps", 1, *shape)
    assert code == 0, told
    assert "tianwen draw sample" in said
    assert "2 pictures with 2 labels" in told
    assert "a/x.jpg: not a picture that Pillow can read" in told
    code, said, told = run("train", folder, "--out", out, "--steps", 2, *shape, "--json", "-q")
    assert (code, json.loads(said), told) == (0, {"model": str(out), "pictures": 2, "unreadable": 1}, "")
    assert run("sample", out, "--label", "b", "--count", 1, "--steps", 1, "--out", tmp_path / "x.png")[0] == 0
    code, _, told = run("train", folder, "--out", out, "--steps", 3, *shape, "--target", "eps")
    assert (code, "data.target was 'v', is 'eps'" in told) == (1, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("sample", "MODEL", "--steps", 101), 1, "from 1 to T = 100"),
        (("sample", "MODEL", "--label", "green"), 1, "its labels are black, white"),
        (("sample", "MODEL", "--grid", "leading"), 1, "no grid 'leading'"),
        (("sample", "MODEL", "--grid", "99,x"), 2, "whole numbers with commas"),
        (("sample", "MODEL", "--grid", "50,0"), 1, "A grid starts at T-1 = 99"),
        (("sample", "MODEL", "--solver", "euler"), 2, "euler"),
        (("sample", "MODEL", "--guidance", 2), 1, "needs a label to insist on"),
        (("sample", "MODEL", "--eta", -1), 1, "eta"),
        (("sample", "MODEL", "--count", 0), 2, "'--count'"),
        (("sample", "MODEL", "--count", 10**7), 1, "too large a page"),
        (("interpolate", "²", "1", "--model", "MODEL"), 1, "² cannot be read: no such file"),
        (
            ("encode", "x.png", "--model", "MODEL", "--out", "x", "--compress", 4, "--label", "black"),
            2,
            "leave --label",
        ),
        (("sample", "nothing"), 1, "There is no drawer in 'nothing'"),
        (("sample", "MODEL", "--steps", 1, "--out", "."), 1, "is a folder: name a file"),
        (("sample", "MODEL", "--steps", 1, "--out", "page.jpg"), 2, "page.png instead of page.jpg"),
        (("interpolate", "1", "none.png", "--model", "MODEL"), 1, "none.png cannot be read: no such file"),
        (("encode", "none.png", "--model", "MODEL", "--out", "x"), 1, "no such file"),
        (("decode", "none.bin", "--model", "MODEL"), 1, "cannot be read"),
        (("decode", "MODEL/model.safetensors", "--model", "MODEL"), 1, "holds no latents"),
        (("train", "none", "--out", "m"), 1, "does not exist: give a folder with pictures"),
        (("train", "empty", "--out", "m"), 1, "it is empty"),
        (("train", "empty", "--out", "m", "--target", "eps", "--zero-terminal-snr"), 1, "zero terminal SNR"),
        (("train", "empty", "--out", "m", "--side", 30), 1, "take a multiple of 4, as 32"),
        (("train", "empty"), 2, "--out"),
    ],
)
def test_mistakes(model, tmp_path, monkeypatch, words, code, said):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    given = [str(word).replace("MODEL", str(model)) for word in words]
    found, out, told = run(*given)
    assert (found, out) == (code, "")
    assert said in told
    assert "Traceback" not in told


def test_a_picture_at_every_corner_is_refused_with_its_name(model, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    for command in (("edit", tmp_path / "bad.png"), ("interpolate", "1", tmp_path / "bad.png")):
        code, _, told = run(*command, "--model", model)
        assert (code, "bad.png cannot be read: not a picture" in told) == (1, True)


def test_many_pictures_are_drawn_in_parts_that_change_nothing(model, picture, tmp_path, monkeypatch):
    options = ("--count", 5, "--steps", 2, "--label", "black", "--label", "white", "--columns", 5)
    found = []
    for at_once in (64, 2):
        monkeypatch.setattr(draw_commands, "AT_ONCE", at_once)
        out, gif, edited = (tmp_path / f"{at_once}.{name}" for name in ("png", "gif", "edited.png"))
        assert run("sample", model, *options, "--out", out, "--gif", gif)[0] == 0
        assert run("edit", picture, "--model", model, *options, "--out", edited)[0] == 0
        found.append([path.read_bytes() for path in (out, gif, edited)])
    assert found[0] == found[1]


def test_an_edit_in_more_steps_than_there_are_times_is_refused(model, picture):
    code, _, told = run("edit", picture, "--model", model, "--steps", 101)
    assert (code, "from 1 to T = 100" in told) == (1, True)
