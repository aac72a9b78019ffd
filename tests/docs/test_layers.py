"""Who may import whom: bottom to top, never upward, sideways only where said here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "tianwen"
LAYERS = [
    {"errors", "counting", "lazy"},
    {"not_text"},
    {"vocabulary"},
    {"cutting"},
    {"codepoints"},
    {"text", "optim", "sentences"},
    {"training"},
    {"recurrent", "diffusion"},
    {"backbone"},
    {"words"},
    {"extract", "ask", "write"},
    {"pretrain"},
    {"cli", "terminal", "demonstration", "__main__"},
]
SIDEWAYS = {
    ("__main__", "cli"),
    ("cli", "terminal"),
    ("cli", "demonstration"),
    ("demonstration", "terminal"),
}
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}


def imports() -> Iterator[tuple[Path, str, str]]:
    """(file, part it belongs to, part it imports) for every import of ours, those inside functions too."""
    for file in sorted(PACKAGE.rglob("*.py")):
        if file == PACKAGE / "__init__.py":  # the lazy public names point at every layer
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: a relative import hides its layer"
                modules = [node.module] if node.module != "tianwen" else [f"tianwen.{a.name}" for a in node.names]
            for part in (m.split(".")[1] for m in modules if m and m.startswith("tianwen.")):
                if part != "__version__":
                    yield file, file.relative_to(PACKAGE).parts[0].removesuffix(".py"), part


def test_no_import_goes_upward_or_sideways():
    wrong = [
        f"{file.relative_to(PACKAGE.parent)} imports tianwen.{target}"
        for file, own, target in imports()
        if own != target and HEIGHT[target] >= HEIGHT[own] and (own, target) not in SIDEWAYS
    ]
    assert not wrong, "\n".join(wrong)


def test_every_part_has_its_layer():
    parts = {
        path.name.removesuffix(".py")
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert parts - {"__init__"} <= HEIGHT.keys(), "name the layer of a new part in LAYERS"
