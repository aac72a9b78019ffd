"""The command health: a doctor for the embedding tables of a checkpoint.

Post: 9736
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tianwen.cli.commands import Json, Quiet, app


@app.command()
def health(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A weights file, or the folder that holds it.")
    ],
    optimizer: Annotated[
        Path | None,
        typer.Option("--optimizer", metavar="FILE", help="Its saved state; looked for beside the weights."),
    ] = None,
    counts: Annotated[
        Path | None, typer.Option("--counts", metavar="FILE", help="How often each token was seen in training.")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option("--weight-decay", metavar="X", help="Of the training; 0.01 is assumed.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", metavar="X", help="Of the training, to tell the steps left.")
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option("--table", metavar="NAME", help="A table not found by itself; may be given several times."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", metavar="FILE", help="Names the ids; looked for beside the weights.")
    ] = None,
    worst: Annotated[int, typer.Option("--worst", metavar="N", min=1, help="How many rows to show a table.")] = 20,
    repair: Annotated[
        Path | None, typer.Option("--repair", metavar="OUT", help="Write a repaired copy to this new place.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw the rows, as SVG.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Look for embedding rows that drift to 1/wd, as sign optimisers make them.

    Reads safetensors and torch checkpoints, single or sharded, of any size; a pickle is never executed. Names the
    tokens whose rows have drifted, how far, and what to do. Exit code 1 if a table has errors.
    """
    from tianwen.optim.embedding_health import EmbeddingHealth
    from tianwen.terminal import progress

    with progress("Reading", quiet=quiet) as bar:
        found = EmbeddingHealth.of(
            checkpoint,
            optimizer=optimizer,
            counts=counts,
            weight_decay=weight_decay,
            lr=lr,
            tokenizer=tokenizer,
            tables=table or (),
            progress=bar,
        )
    if plot is not None:
        found.plot(plot)
    typer.echo(found.json() if as_json else found.text(worst=worst))
    if repair is not None:
        files = found.repair(repair)
        if not quiet:
            typer.echo("Written: " + ", ".join(map(str, files)), err=True)
    if found.verdict == "error":
        raise typer.Exit(1)
