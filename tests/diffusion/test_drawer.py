"""A drawer keeps its promises before it has learnt anything: seeds, labels, files, latents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.diffusion.small import SIDE, small_drawer
from tianwen.diffusion.drawer import Drawer, DrawerSettings, How
from tianwen.diffusion.unet_parts import UNetConfig
from tianwen.errors import InputError, ModelError
from tianwen.training.weights import save_weights

QUICK = How(steps=3)


@pytest.mark.parametrize("solver", ["2m", "ddim", "ddpm"])
def test_a_picture_of_a_batch_equals_the_picture_alone_bit_for_bit(solver):
    drawer, how = small_drawer(), How(steps=4, solver=solver)
    options = {"labels": ["black", "white"], "guidance": 2.0, "how": how}
    together = drawer.draw(seeds=[7, 8, 9, 10], **options)
    assert torch.equal(drawer.draw(seeds=[7, 8], **options), together[:2])
    assert torch.equal(drawer.draw(seeds=[9], **options), together[2:3])
    assert torch.equal(drawer.draw(seeds=[10], labels="white", guidance=2.0, how=how), together[3:])


def test_labels_and_guidance_change_what_is_drawn():
    drawer = small_drawer()
    plain = drawer.draw(2, how=QUICK)
    black, white = (drawer.draw(2, labels=label, how=QUICK) for label in ("black", "white"))
    assert not torch.equal(plain, black)
    assert not torch.equal(white, black)
    assert torch.equal(drawer.draw(2, labels="black", guidance=0.0, how=QUICK), plain)
    assert torch.equal(drawer.draw(2, labels=0, how=QUICK), black)
    stronger = drawer.draw(2, labels="black", guidance=1.0001, how=QUICK)
    assert torch.allclose(stronger, black, atol=1e-2)
    assert not torch.equal(stronger, black)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": "green"}, "knows no label 'green': its labels are black, white"),
        ({"labels": 2}, "knows no label 2"),
        ({"guidance": 2.0}, "needs a label to insist on"),
        ({"labels": "black", "guidance": float("nan")}, "finite number"),
        ({"how": How(steps=101)}, "from 1 to T = 100"),
        ({"how": How(steps=3, solver="euler")}, "no solver 'euler'"),
        ({"how": How(steps=3, grid="leading")}, "no grid 'leading'"),
        ({"seeds": [1, -1]}, "A seed must be"),
        ({"seeds": []}, "No seeds"),
    ],
)
def test_what_cannot_be_drawn(options, said):
    with pytest.raises(InputError, match=said):
        small_drawer().draw(**{"seeds": [1], "how": QUICK, **options})


def test_how_many_is_said_once():
    for wrong in ({"count": 2, "seeds": [1]}, {}, {"count": 0}):
        with pytest.raises(InputError, match=r"one of the two|the least is 1"):
            small_drawer().draw(**wrong)


def test_labels_without_labels():
    with pytest.raises(InputError, match="trained without labels"):
        small_drawer(labels=()).draw(1, labels="black", how=QUICK)
    assert small_drawer(labels=()).draw(1, how=QUICK).shape == (1, 1, SIDE, SIDE)


@pytest.mark.parametrize(("storage", "close"), [("fp32", 0), ("fp16", 0.05), ("int8", 0.5)])
def test_saved_and_loaded_it_draws_the_same(tmp_path, storage, close):
    drawer = small_drawer(schedule="cosine", target="v", zero_terminal_snr=True).with_about(steps=12)
    drawer.save(tmp_path / "g", storage=storage)
    for place in (tmp_path / "g", tmp_path / "g" / "model.safetensors"):
        again = Drawer.load(place)
        assert again.settings == drawer.settings
        x, y = (g.draw(2, labels="white", how=QUICK) for g in (drawer, again))
        assert float((x - y).abs().max()) <= close


def test_files_that_are_no_generator(tmp_path):
    with pytest.raises(ModelError, match="There is no drawer in"):
        Drawer.load(tmp_path / "none")
    (tmp_path / "run").mkdir()
    with pytest.raises(ModelError, match="may not have come to its first evaluation"):
        Drawer.load(tmp_path)
    save_weights(tmp_path / "model.safetensors", {"x": torch.zeros(2)}, {"architecture": "tianwen asker 1"})
    with pytest.raises(ModelError, match="holds 'tianwen asker 1'"):
        Drawer.load(tmp_path)
    small_drawer().save(tmp_path / "g")
    file = tmp_path / "g" / "model.safetensors"
    content = bytearray(file.read_bytes())
    for place in (len(content) // 2, len(content) - 1):
        file.write_bytes(bytes(content[:place]) + bytes([content[place] ^ 1]) + bytes(content[place + 1 :]))
        with pytest.raises(ModelError, match="damaged"):
            Drawer.load(file)
    file.write_bytes(content[:-7])
    with pytest.raises(ModelError, match="damaged"):
        Drawer.load(file)


def test_a_file_whose_weights_do_not_fit(tmp_path):
    drawer = small_drawer()
    other = {"architecture": "tianwen drawer 1", "settings": drawer.settings.as_dict()}
    save_weights(tmp_path / "model.safetensors", {"x": torch.zeros(2)}, other)
    with pytest.raises(ModelError, match="does not fit what it states"):
        Drawer.load(tmp_path)


def test_noise_cannot_be_the_target_where_nothing_of_the_picture_is_left():
    with pytest.raises(InputError, match="zero terminal SNR"):
        small_drawer(zero_terminal_snr=True)
    with pytest.raises(InputError, match="2 labels for a network with 0 classes"):
        DrawerSettings(UNetConfig(side=8, width=32), labels=("a", "b"))


class Quiet(torch.nn.Module):
    """Sees no noise at all: the chain is then a multiplication, and inversion exact."""

    def forward(self, x, t, labels=None):
        return torch.zeros_like(x)


def test_encoding_is_undone_by_decoding():
    trained = small_drawer(labels=())
    drawer = Drawer(Quiet(), trained.settings)
    drawer.net.register_parameter("p", torch.nn.Parameter(torch.zeros(1)))
    x = torch.linspace(-1, 1, 2 * SIDE * SIDE).view(2, 1, SIDE, SIDE)
    latents = drawer.encode(x, how=QUICK)
    assert torch.allclose(drawer.decode(latents, how=QUICK), x, atol=1e-5)
    ends = drawer.between(latents[:1], latents[1:], 3, how=QUICK)
    assert torch.allclose(ends[[0, 2]], x, atol=1e-5)


def test_the_way_between_seeds_begins_and_ends_at_their_pictures():
    drawer, how = small_drawer(), How(steps=3, solver="ddim")
    way = drawer.between(drawer.noise([1]), drawer.noise([2]), 4, labels="black", how=how)
    drawn = drawer.draw(seeds=[1, 2], labels="black", how=how)
    assert torch.allclose(way[[0, 3]], drawn, atol=1e-4)
    with pytest.raises(InputError, match="no two ends"):
        drawer.between(drawer.noise([1]), drawer.noise([2]), 1)


def test_edits_keep_more_of_the_picture_the_weaker_they_are():
    drawer = Drawer(Quiet(), small_drawer(labels=()).settings)
    drawer.net.register_parameter("p", torch.nn.Parameter(torch.zeros(1)))
    x = torch.linspace(-1, 1, SIDE * SIDE).view(1, 1, SIDE, SIDE)
    change = [
        float((drawer.edit(x, strength=s, seeds=[4], how=How(solver="ddim")) - x).abs().mean())
        for s in (0.0, 0.1, 0.3, 0.8)
    ]
    assert change == sorted(change)
    assert change[0] < 0.05
    with pytest.raises(InputError, match="strength=2"):
        drawer.edit(x, strength=2, seeds=[4])
    with pytest.raises(InputError, match="1 pictures need 1 seeds"):
        drawer.edit(x, strength=0.5, seeds=[4, 5])


def test_what_is_kept_under_a_mask_is_kept():
    drawer = small_drawer()
    x = torch.linspace(-1, 1, SIDE * SIDE).view(1, 1, SIDE, SIDE)
    keep = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    keep[:, :3] = True
    made = drawer.fill(x, keep, seeds=[4], labels="black", how=How(steps=2))
    assert torch.equal(made[..., :3], x[..., :3])
    assert not torch.allclose(made[..., 3:], x[..., 3:], atol=0.1)


def test_compressed_pictures_come_back_the_same_for_everybody():
    drawer = small_drawer()
    x = torch.linspace(-1, 1, SIDE * SIDE).view(1, 1, SIDE, SIDE)
    content = drawer.compress(x, entries=8, how=How(steps=5))
    assert torch.equal(drawer.decompress(content), drawer.decompress(content))
    with pytest.raises(InputError, match="no file of compressed pictures"):
        drawer.decompress(content[:-1])
    with pytest.raises(InputError, match="use the model that compressed them"):
        small_drawer(target="v").decompress(content)


def test_pictures_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"works on \[pictures, 1, 8, 8\]; given \[1, 3, 8, 8\]"):
        small_drawer().encode(torch.zeros(1, 3, 8, 8))


def test_unexplained_variances_are_used_by_ddpm_alone():
    drawer = small_drawer(unexplained=tuple(np.linspace(0.1, 0.9, 100)))
    without = small_drawer()
    ddpm, ddim = How(steps=3, solver="ddpm"), How(steps=3, solver="ddim")
    assert not torch.equal(drawer.draw(1, how=ddpm), without.draw(1, how=ddpm))
    assert torch.equal(drawer.draw(1, how=ddim), without.draw(1, how=ddim))
