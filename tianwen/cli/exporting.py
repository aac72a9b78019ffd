"""The commands that write a model for other runtimes: export onnx.

Post: 8998, 8888, 8802
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tianwen.cli.commands import Json, app, group, say, table

if TYPE_CHECKING:
    from tianwen.backbone.onnx_file import Exported

export = group("Write a model for other runtimes.")
app.add_typer(export, name="export")


@export.command("onnx")
def export_onnx(
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE.onnx", help="The file, in a folder of its own.", show_default=False),
    ],
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="DIR", help="Encoder, extractor or asker; without it the bundled extractor."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an encoder, an extractor or an asker as ONNX, for ONNX Runtime; the extra 'export' is needed.

    Batch and length are free. What the texts are read by, tokenizer.json and schema.json, is written beside the file.
    The graph is run once beside torch, and the largest difference is told. What goes in and comes out, and how facts
    are read from it: docs/onnx.md.
    """
    exported = _exported(model, out)
    told = {
        "file": f"{exported.file} ({exported.bytes / 2**20:.1f} MB)",
        "inputs": ", ".join(exported.inputs),
        "outputs": ", ".join(exported.outputs),
        "difference from torch": "not measured: onnxruntime is not installed"
        if exported.difference is None
        else f"{exported.difference:.1e} of the largest number",
    }
    say(table(told), exported.as_dict(), as_json=as_json)


def _exported(model: Path | None, out: Path) -> Exported:
    """Export by what the folder holds. Raises ModelError where that is something else."""
    from tianwen.ask import model_files as askers
    from tianwen.ask.onnx_export import export_asker
    from tianwen.backbone import encoder_folder, onnx_export
    from tianwen.errors import ModelError
    from tianwen.extract import model_files
    from tianwen.extract.onnx_export import export_extractor
    from tianwen.training.model_folder import WEIGHTS
    from tianwen.training.weights import load_weights

    if model is None:
        return export_extractor(None, out)
    if (model / "vocab.txt").is_file() and not (model / "tokenizer.json").exists():  # published weights
        return onnx_export.export_encoder(model, out)
    match load_weights(model / WEIGHTS).metadata.get("architecture"):
        case encoder_folder.ARCHITECTURE:
            return onnx_export.export_encoder(model, out)
        case model_files.ARCHITECTURE:
            return export_extractor(model, out)
        case askers.ARCHITECTURE:
            return export_asker(model, out)
        case other:
            raise ModelError(
                f"{str(model)!r} holds {other or 'no model of Tianwen'!r}; exported to ONNX are encoders (tianwen "
                "train encoder), extractors (tianwen train extract) and askers (tianwen train ask)."
            )
