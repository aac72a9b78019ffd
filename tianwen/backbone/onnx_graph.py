"""An ONNX graph, written node by node: the extra `export` is needed, torch's own exporter is not.

Post: 8998 (the model that is written so)

PyTorch has two exporters. Both stop at RoPE's complex numbers; the newer one also turns the length of a cached table
into a limit of the graph, needs one more package, and writes another graph in each version. A RoFormerV2 layer is some
thirty plain operators, the same ones everywhere, so they are named here instead, and each export is compared with torch
before it is kept (`onnx_file.py`).

Operator set 17, which ONNX Runtime reads since 1.12 (2022) and every later one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from torch import Tensor

from tianwen.errors import MissingExtra, ModelError

OPERATORS = 17
FORMAT = 8
"""IR version of the file: the one of operator set 17."""

MOST_BYTES = (1 << 31) - (1 << 20)
"""A file in one piece cannot be larger than 2 GiB."""

Value = str
"""The name of a tensor in the graph."""

Described = tuple[Value, Sequence[str | int] | None, str]
"""A value with its axes (None: any) and the name of its type."""


def onnx_package(name: str = "onnx") -> Any:
    """The module `onnx`, or another one of the extra. Raises MissingExtra with the command that installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(name.partition(".")[0], "export") from error


class Graph:
    """Nodes, weights, inputs and outputs in the order in which they were added; a value is its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.onnx = onnx_package()
        self._nodes: list[Any] = []
        self._weights: dict[str, Any] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._count = 0
        self._prefix = ""

    def __contains__(self, name: object) -> bool:
        """Whether there is a weight of this name."""
        return name in self._weights

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what goes in."""
        return tuple(one.name for one in self._inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what comes out."""
        return tuple(one.name for one in self._outputs)

    def input(self, name: str, axes: Sequence[str | int], *, kind: str = "INT64") -> Value:
        """An input; an axis that is a name has any size, the same wherever the name stands."""
        self._inputs.append(self._described(name, axes, kind))
        return name

    def output(self, name: str, value: Value, axes: Sequence[str | int], *, kind: str = "FLOAT") -> None:
        """Give a value out under this name."""
        self._nodes.append(self.onnx.helper.make_node("Identity", [value], [name], name=f"give_{name}"))
        self._outputs.append(self._described(name, axes, kind))

    def _described(self, name: str, axes: Sequence[str | int] | None, kind: str) -> Any:
        number = getattr(self.onnx.TensorProto, kind)
        return self.onnx.helper.make_tensor_value_info(name, number, axes)

    def add(self, kind: str, *inputs: Value, **attributes: Any) -> Value:
        """One node with one output; an input "" is left out."""
        return self.several(kind, 1, *inputs, **attributes)[0]

    def several(self, kind: str, outputs: int, *inputs: Value, **attributes: Any) -> list[Value]:
        """One node with several outputs."""
        self._count += 1
        label = f"{self._prefix}{kind.lower()}_{self._count}"
        names = [label if outputs == 1 else f"{label}_{i}" for i in range(outputs)]
        self._nodes.append(self.onnx.helper.make_node(kind, list(inputs), names, name=label, **attributes))
        return names

    def weight(self, name: str, content: Tensor | np.ndarray) -> Value:
        """A tensor of the model, as it is; float16 and bfloat16 become float32."""
        array = content.detach().cpu().float().numpy() if isinstance(content, Tensor) else content
        if name in self._weights or name in self.inputs:
            raise ValueError(f"The graph already has a tensor {name!r}.")
        self._weights[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def whole(self, *numbers: int) -> Value:
        """A list of whole numbers; equal ones are kept once."""
        return self._constant("whole", np.array(numbers, np.int64))

    def scalar(self, number: float | int | bool) -> Value:
        """A single number: float32, int64 or bool."""
        kinds = {float: np.float32, int: np.int64, bool: np.bool_}
        return self._constant("scalar", np.array(number, kinds[type(number)]))

    def _constant(self, prefix: str, array: np.ndarray) -> Value:
        name = f"{prefix}_{array.dtype}_" + "_".join(str(number) for number in array.reshape(-1).tolist())
        if name not in self._weights:
            self._weights[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def bytes(self, metadata: Mapping[str, str]) -> bytes:
        """The model as the content of a file. Raises ModelError where it is too large for one."""
        helper = self.onnx.helper
        size = sum(len(weight.raw_data) for weight in self._weights.values())
        if size > MOST_BYTES:
            raise ModelError(
                f"The weights take {size / 2**30:.1f} GiB; an ONNX file in one piece holds 2. Export a smaller model."
            )
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, list(self._weights.values()))
        operators = [helper.make_opsetid("", OPERATORS)]
        model = helper.make_model(graph, opset_imports=operators, ir_version=FORMAT, producer_name="tianwen")
        helper.set_model_props(model, dict(metadata))
        self.onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)

    def inner(self, name: str) -> Graph:
        """An empty graph for the body of a loop; its weights are kept in this one, whose values it may use."""
        child = Graph(name)
        child._weights, child._prefix = self._weights, f"{name}_"
        return child

    def body(self, inputs: Iterable[Described], outputs: Iterable[Described]) -> Any:
        """These nodes as the body of a loop."""
        given, told = ([self._described(*one) for one in ends] for ends in (inputs, outputs))
        return self.onnx.helper.make_graph(self._nodes, self.name, given, told)
