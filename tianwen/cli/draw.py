"""Commands that learn pictures and draw new ones: draw train, sample, interpolate, encode, decode, edit.

Post: 9152, 9181
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tianwen.cli.commands import Json, Quiet, app, group, say, unless_bundled
from tianwen.counting import count

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from tianwen.diffusion.drawer import Drawer, How

draw = group("Draw pictures with a diffusion model, or train one on a folder of your own.")
app.add_typer(draw, name="draw")


AT_ONCE = 64
"""Most pictures that are drawn as one batch."""


class Net(str, Enum):
    light = "light"
    paper = "paper"


class Target(str, Enum):
    eps = "eps"
    x0 = "x0"
    v = "v"


class Amplitudes(str, Enum):
    post = "post"
    paper = "paper"
    cosine = "cosine"


class Solver(str, Enum):
    two_m = "2m"
    ddim = "ddim"
    ddpm = "ddpm"


class Square(str, Enum):
    crop = "crop"
    pad = "pad"
    stretch = "stretch"


class Loss(str, Enum):
    mean = "mean"
    sum = "sum"


class Colours(str, Enum):
    auto = "auto"
    gray = "gray"
    rgb = "rgb"


class Precision(str, Enum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Storage(str, Enum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


Model = Annotated[
    Path | None,
    typer.Option(
        "--model", metavar="DIR", callback=unless_bundled, help="A drawer of your own instead of the bundled one."
    ),
]
Steps = Annotated[int | None, typer.Option("--steps", metavar="N", min=1, help="Steps from noise to picture.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Picture k has this seed plus k.")]
Label = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="NAME", help="What to draw; given several times, pictures take them in turn."),
]
Guidance = Annotated[float, typer.Option("--guidance", metavar="X", help="Above 1 insists on the label, 0 ignores it.")]
How_ = Annotated[Solver, typer.Option("--solver", help="2m: best at few steps; ddim: deterministic; ddpm: the post's.")]
Grid = Annotated[
    str,
    typer.Option(
        "--grid", metavar="GRID", help="logsnr, uniform, trailing, quadratic, or times of your own as 999,500,0."
    ),
]
Eta = Annotated[
    float | None, typer.Option("--eta", metavar="X", help="Fresh noise in every step: 0 none, 1 as much as DDPM.")
]


def _png(file: Path) -> Path:
    if file.suffix.lower() != ".png" and not file.is_dir():
        raise typer.BadParameter(f"A page of pictures is a PNG: {file.with_suffix('.png')} instead of {file}.")
    return file


Out = Annotated[Path, typer.Option("--out", metavar="FILE", callback=_png, help="The PNG to write.")]
Zoom = Annotated[int, typer.Option("--zoom", metavar="N", min=1, help="Repeat every pixel so many times.")]
Columns = Annotated[int | None, typer.Option("--columns", metavar="N", min=1, help="Pictures in a row of the page.")]


@draw.command("train")
def draw_train(
    pictures: Annotated[Path, typer.Argument(metavar="PICTURES", help="A folder; its subfolders become labels.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Folder for the drawer.", show_default=False)
    ],
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="How long to train.")] = 10_000,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Pictures in a step.")] = 32,
    learning_rate: Annotated[float, typer.Option("--learning-rate", metavar="X", help="Of AdamW.")] = 1e-3,
    side: Annotated[int, typer.Option("--side", metavar="N", min=1, help="Pictures become squares of N pixels.")] = 32,
    colours: Annotated[Colours, typer.Option("--colours", help="auto: gray if every file is.")] = Colours.auto,
    square: Annotated[Square, typer.Option("--fit", help="How a picture becomes a square.")] = Square.crop,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror every other picture.")] = False,
    labels: Annotated[bool, typer.Option("--labels/--no-labels", help="Learn the subfolders as labels.")] = True,
    net: Annotated[Net, typer.Option("--net", help="The post's light network or the paper's.")] = Net.light,
    width: Annotated[int, typer.Option("--width", metavar="N", help="Channels of the first level.")] = 32,
    blocks: Annotated[int, typer.Option("--blocks", metavar="N", min=1, help="Blocks at each level.")] = 2,
    attention: Annotated[
        list[int] | None, typer.Option("--attention", metavar="N", help="Attention where the side is N.")
    ] = None,
    schedule: Annotated[Amplitudes, typer.Option("--schedule", help="How noise grows.")] = Amplitudes.post,
    zero_terminal_snr: Annotated[
        bool, typer.Option("--zero-terminal-snr", help="Nothing is left at the last time; not with --target eps.")
    ] = False,
    target: Annotated[Target, typer.Option("--target", help="What is predicted: noise, picture or v.")] = Target.v,
    loss: Annotated[Loss, typer.Option("--loss", help="Over the pixels of a picture.")] = Loss.mean,
    ema: Annotated[float, typer.Option("--ema", metavar="X", help="Decay of the average of the weights.")] = 0.999,
    precision: Annotated[Precision, typer.Option("--precision", help="auto: bf16 where quick.")] = Precision.auto,
    samples_every: Annotated[
        int | None, typer.Option("--samples-every", metavar="N", min=1, help="Steps between pages of samples.")
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option("--checkpoint-every", metavar="N", min=1, help="Steps between states to go on from.")
    ] = 500,
    analytic: Annotated[
        bool, typer.Option("--analytic", help="At the end measure the variances of Analytic-DPM for --solver ddpm.")
    ] = False,
    storage: Annotated[Storage, typer.Option("--storage", help="How weights are stored.")] = Storage.fp32,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another number, another course.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a drawer on the pictures of a folder.

    Pictures of any size and kind; what cannot be read is named and left out. Started again with the same folder,
    training goes on where it was stopped; pages of samples appear in DIR/samples.
    """
    from tianwen.diffusion import learning
    from tianwen.terminal import progress

    how = learning.TrainDrawSettings(
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        side=side,
        gray={"auto": None, "gray": True, "rgb": False}[colours.value],
        fit=square.value,
        net=net.value,
        width=width,
        blocks=blocks,
        attention=tuple(attention or ()),
        schedule=schedule.value,
        zero_terminal_snr=zero_terminal_snr,
        target=target.value,
        loss=loss.value,
        flip=flip,
        use_labels=labels,
        ema_decay=ema,
        precision=None if precision is Precision.auto else precision.value,
        samples_every=samples_every,
        storage=storage.value,
        seed=seed,
        analytic=analytic,
    )
    with progress("Reading pictures", quiet=quiet) as bar:
        known = learning.read_folder(pictures, out, how, progress=bar)
    if not quiet:
        typer.echo("\n".join(known.report.sentences()), err=True)
    learning.train_drawer(known, out, settings=how, quiet=quiet, checkpoint_every=checkpoint_every)
    told = {"model": str(out), "pictures": len(known), "unreadable": len(known.report.unreadable)}
    say(f"The drawer is in {out}. Draw with it: tianwen draw sample {out}", told, as_json=as_json)


@draw.command("sample")
def draw_sample(
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="Folder of a drawer; without it the bundled one, digits.")
    ] = None,
    number: Annotated[int, typer.Option("--count", metavar="N", min=1, help="How many pictures.")] = 16,
    steps: Steps = None,
    seed: Seed = 0,
    label: Label = None,
    guidance: Guidance = 1.0,
    solver: How_ = Solver.two_m,
    grid: Grid = "logsnr",
    eta: Eta = None,
    out: Out = Path("drawn.png"),
    gif: Annotated[
        Path | None, typer.Option("--gif", metavar="FILE", help="Also the way from noise, as a GIF.")
    ] = None,
    columns: Columns = None,
    zoom: Zoom = 1,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Draw new pictures and put them on one page.

    A picture depends on its seed alone: the same seed gives the same picture in any batch.
    """
    import numpy as np

    from tianwen.diffusion.grid_images import page, page_size, to_bytes, write_gif, write_png
    from tianwen.terminal import progress

    how = _how(steps, solver, grid, eta)
    drawer = _load(model)
    page_size(number, drawer.shape, columns=columns, zoom=zoom)
    seeds = range(seed, seed + number)
    parts = _parts(number)
    states: list[list[np.ndarray]] = []  # per part: its pictures after every step; without a GIF the last alone
    done = 0

    with progress("Drawing", quiet=quiet) as bar:

        def watch(x: Tensor, t: int) -> None:
            nonlocal done
            states[-1][len(states[-1]) if gif else 0 :] = [to_bytes(x)]
            done += 1
            if bar:
                bar(done, _steps_of(how) * len(parts))

        for part in parts:
            states.append([])
            labels = [label[k % len(label)] for k in part] if label else None
            drawer.draw(seeds=seeds[part.start : part.stop], labels=labels, guidance=guidance, how=how, watch=watch)
    frames = [np.concatenate(one) for one in zip(*states, strict=True)]  # each [pictures, channels, side, side]
    write_png(out, page(frames[-1], columns=columns, zoom=zoom))
    told = {"page": str(out), "pictures": number, "seeds": [seed, seed + number - 1], "labels": label or []}
    if gif:
        frames.insert(0, to_bytes(drawer.noise(seeds)))
        write_gif(gif, [page(frame, columns=columns, zoom=zoom) for frame in frames])
        told["gif"] = str(gif)
    say(f"{count(number, 'picture')} in {out}" + (f", the way there in {gif}" if gif else ""), told, as_json=as_json)


@draw.command("interpolate")
def draw_interpolate(
    first: Annotated[str, typer.Argument(metavar="FIRST", help="A seed or a picture file.")] = "0",
    second: Annotated[str, typer.Argument(metavar="SECOND", help="A seed or a picture file.")] = "1",
    model: Model = None,
    number: Annotated[int, typer.Option("--count", metavar="N", min=2, help="Pictures, both ends included.")] = 8,
    steps: Steps = None,
    label: Label = None,
    grid: Grid = "logsnr",
    out: Out = Path("between.png"),
    columns: Columns = None,
    zoom: Zoom = 1,
    as_json: Json = False,
) -> None:
    """Draw the way from one picture to another, along the sphere on which noise lies.

    Pictures are encoded first, so that the ends come out as about what was given.
    """
    from tianwen.diffusion.grid_images import page, page_size, to_bytes, write_png

    how = _how(steps, Solver.ddim, grid, None)
    drawer = _load(model)
    page_size(number, drawer.shape, columns=columns or number, zoom=zoom)
    ends = [_latent(drawer, end, label, how) for end in (first, second)]
    x = drawer.between(ends[0], ends[1], number, labels=label, how=how)
    write_png(out, page(to_bytes(x), columns=columns or number, zoom=zoom))
    told = {"page": str(out), "pictures": number, "from": first, "to": second}
    say(f"{count(number, 'picture')} from {first} to {second} in {out}", told, as_json=as_json)


@draw.command("encode")
def draw_encode(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURES...", help="Picture files.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file of latents or picks to write.")],
    model: Model = None,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="More steps, a smaller error.")] = 50,
    label: Label = None,
    compress: Annotated[
        int | None,
        typer.Option("--compress", metavar="N", help="Instead of latents: picks from codebooks of N noises, tiny."),
    ] = None,
    shown: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="Also a PNG: each picture beside what comes back.")
    ] = None,
    zoom: Zoom = 1,
    as_json: Json = False,
) -> None:
    """Turn pictures into latents (or a very small file), and tell how well they come back.

    Latents are the noises from which the deterministic chain draws the pictures again; `draw decode` does.
    """
    import torch

    from tianwen.diffusion.grid_images import page, to_bytes, write_png
    from tianwen.diffusion.latent_files import save_latents
    from tianwen.training.atomic import write_file

    if compress is not None and label:
        raise typer.BadParameter("--compress makes picks for pictures without labels: leave --label out.")
    how = _how(steps, Solver.ddim, "logsnr", None)
    drawer = _load(model)
    x = _read(drawer, pictures)
    if compress is not None:
        content = drawer.compress(x, entries=compress, how=how)
        write_file(out, content)
        back = drawer.decompress(content)
    else:
        latents = drawer.encode(x, labels=label, how=how)
        save_latents(out, latents, labels=label or [], steps=steps)
        back = drawer.decode(latents, labels=label, how=how)
    error = [float(one) for one in (back.clamp(-1, 1) - x).square().flatten(1).mean(1).sqrt() * 127.5]
    if shown is not None:
        beside = torch.stack([x, back], dim=1).flatten(0, 1)  # [2 pictures, channels, side, side]
        write_png(shown, page(to_bytes(beside), columns=2, zoom=zoom))
    told = {"file": str(out), "pictures": len(pictures), "bytes": out.stat().st_size, "error": error}
    text = f"{count(len(pictures), 'picture')} in {out}, {count(out.stat().st_size, 'byte')}; decoded, they are off by "
    say(text + f"{sum(error) / len(error):.2f} of 255 levels (root mean square)", told, as_json=as_json)


@draw.command("decode")
def draw_decode(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `draw encode` wrote.", show_default=False)],
    model: Model = None,
    out: Out = Path("decoded.png"),
    columns: Columns = None,
    zoom: Zoom = 1,
    as_json: Json = False,
) -> None:
    """Draw the pictures of a file that `draw encode` wrote, with the model that wrote it."""
    from tianwen.diffusion.grid_images import page, to_bytes, write_png
    from tianwen.diffusion.latent_files import read_latents, read_picks

    drawer = _load(model)
    content = read_picks(file)
    if content is not None:
        x = drawer.decompress(content)
    else:
        found = read_latents(file)
        x = drawer.decode(
            found.latents, labels=found.labels or None, how=_how(found.steps, Solver.ddim, "logsnr", None)
        )
    write_png(out, page(to_bytes(x), columns=columns, zoom=zoom))
    say(f"{count(len(x), 'picture')} in {out}", {"page": str(out), "pictures": len(x)}, as_json=as_json)


@draw.command("edit")
def draw_edit(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A picture file.", show_default=False)],
    model: Model = None,
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength", metavar="P", min=0, max=1, help="0 keeps the picture, 1 keeps nothing; .5 unless given."
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", metavar="FILE", help="Draw anew only where this picture is white.")
    ] = None,
    number: Annotated[int, typer.Option("--count", metavar="N", min=1, help="How many variants.")] = 7,
    steps: Steps = None,
    seed: Seed = 0,
    label: Label = None,
    guidance: Guidance = 1.0,
    out: Out = Path("edited.png"),
    columns: Columns = None,
    zoom: Zoom = 1,
    as_json: Json = False,
) -> None:
    """Draw variants of a picture: all of it from half-way noise, or a part of it under a mask.

    The page begins with the picture as it was given.
    """
    import numpy as np

    from tianwen.diffusion.grid_images import page, page_size, to_bytes, write_png

    if mask is not None and strength is not None:
        raise typer.BadParameter("--mask draws a part anew and all of that part: leave --strength out.")
    how = _how(steps, Solver.two_m, "logsnr", None)
    drawer = _load(model)
    page_size(number + 1, drawer.shape, columns=columns, zoom=zoom)
    x = _read(drawer, [picture])
    keep = None if mask is None else _read(drawer, [mask]).mean(1, keepdim=True) < 0  # [1, 1, side, side]
    pages = [to_bytes(x)]
    for part in _parts(number):
        many = x.expand(len(part), -1, -1, -1)
        labels = [label[k % len(label)] for k in part] if label else None
        options: dict[str, Any] = {
            "seeds": [seed + k for k in part],
            "labels": labels,
            "guidance": guidance,
            "how": how,
        }
        if keep is not None:
            pages.append(to_bytes(drawer.fill(many, keep, **options)))
        else:
            pages.append(to_bytes(drawer.edit(many, strength=0.5 if strength is None else strength, **options)))
    write_png(out, page(np.concatenate(pages), columns=columns, zoom=zoom))
    told = {"page": str(out), "pictures": number, "seeds": [seed, seed + number - 1]}
    say(f"{picture} and {count(number, 'variant')} in {out}", told, as_json=as_json)


def _how(steps: int | None, solver: Solver, grid: str, eta: float | None) -> How:
    from tianwen.diffusion.drawer import How

    times: Any = grid
    if "," in grid or grid.strip().isdigit():
        try:
            times = [int(t) for t in grid.split(",") if t.strip()]
        except ValueError:
            raise typer.BadParameter(f"--grid {grid}: times are whole numbers with commas, as 999,500,0.") from None
    return How(steps, solver.value, times, eta)


def _parts(number: int) -> list[range]:
    """The pictures in batches that any memory holds; a picture does not depend on its batch."""
    return [range(first, min(first + AT_ONCE, number)) for first in range(0, number, AT_ONCE)]


def _steps_of(how: How) -> int:
    from tianwen.diffusion.grids import DEFAULT_STEPS

    return how.steps or (DEFAULT_STEPS if isinstance(how.grid, str) else len(list(how.grid)))


def _load(model: Path | None) -> Drawer:
    from tianwen.diffusion.drawer import Drawer
    from tianwen.training import local_device

    drawer = Drawer.load(model)
    drawer.net.to(local_device())
    return drawer


def _read(drawer: Drawer, paths: list[Path]) -> Tensor:
    """Picture files as the drawer wants them: [pictures, channels, side, side]."""
    import numpy as np

    from tianwen.diffusion.grid_images import from_bytes
    from tianwen.diffusion.pictures import PictureShape, read_picture

    channels, side, _ = drawer.shape
    shape = PictureShape(side, channels == 1)
    return from_bytes(np.stack([read_picture(path, shape) for path in paths])).to(drawer.device)


def _latent(drawer: Drawer, end: str, label: list[str] | None, how: How) -> Tensor:
    """A seed's noise or a picture's latent."""
    if end.isdecimal() and end.isascii() and len(end) < 100:
        return drawer.noise([int(end)])
    return drawer.encode(_read(drawer, [Path(end)]), labels=label, how=how)
