"""Facts out of texts with ONNX Runtime and numpy: an exported extractor, read as the page on ONNX says, without torch.

    tianwen export onnx --model my-extractor --out exported/extractor.onnx
    python examples/8888_onnx.py [exported/extractor.onnx]

Without a file the bundled extractor is exported first, by another process; that and ONNX Runtime are the extra `export`
(`pip install 'tianwen[export]'`). The tokenizer needs numpy alone; everything else is written out here, as it would be
in any other language.

Post: 8888
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tianwen.text import Tokenizer

try:
    import onnxruntime
except ImportError:
    print("This example needs onnxruntime: pip install 'tianwen[export]'")
    sys.exit(0)

TEXTS = ["战神I-X从肯尼迪航天中心升空。", "《白蛇：缘起》由黄家康、赵霁执导。"]


class Reader:
    """An exported extractor and what lies beside it."""

    def __init__(self, file: Path) -> None:
        self.session = onnxruntime.InferenceSession(file)
        self.tokenizer = Tokenizer.load(file.with_name("tokenizer.json"))
        known = self.session.get_modelmeta().custom_metadata_map
        labels, self.settings = json.loads(known["labels"]), json.loads(known["settings"])
        self.classes, self.predicates = labels["entities"], labels["predicates"]
        told = json.loads(file.with_name("schema.json").read_text(encoding="utf-8"))["relations"]
        self.allowed = {(one["subject_type"], one["predicate"], one["object_type"]) for one in told}
        if self.classes == ["subject", "object"]:  # the labelled data knew no types
            self.allowed = {("subject", predicate, "object") for predicate in self.predicates}

    def allows(self, subject: str, predicate: str, object: str) -> bool:
        """Whether the schema has such a fact; its type "" is any, and an empty one forbids nothing."""
        known = ((a, predicate, b) in self.allowed for a in (subject, "") for b in (object, ""))
        return not self.allowed or any(known)

    def margins(self, names: list[str]) -> np.ndarray:
        """The score that each name's threshold stands for: log(p / (1 - p))."""
        share = np.array([self.settings["thresholds"].get(name, self.settings["threshold"]) for name in names])
        return np.log(share / (1 - share))[:, None, None]  # [names, 1, 1]

    def maps(self, texts: list[str]) -> list[dict[str, np.ndarray]]:
        """The three maps of each text, [classes, tokens, tokens], by name; all texts go through the network at once."""
        rows = [[self.tokenizer.cls_id, *self.tokenizer.ids(text), self.tokenizer.sep_id] for text in texts]
        lengths = np.array([len(row) for row in rows])
        ids = np.full((len(rows), lengths.max()), self.tokenizer.pad_id)  # [batch, length]
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        names = [output.name for output in self.session.get_outputs()]
        made = dict(zip(names, self.session.run(names, {"ids": ids, "lengths": lengths}), strict=True))
        found = []
        for i, length in enumerate(lengths):
            inner = slice(1, length - 1)  # without [CLS] and [SEP]
            maps = {}
            for name in ("entity", "head", "tail"):
                parts = (made[f"{name}_{part}"][i] for part in ("queries", "keys", "starts", "ends"))
                queries, keys, starts, ends = parts
                scores = queries @ keys.swapaxes(-1, -2) + starts[:, :, None] + ends[:, None, :]
                maps[name] = scores[:, inner, inner]
            found.append(maps)
        return found

    def facts(self, text: str, maps: dict[str, np.ndarray]) -> list[tuple[str, str, str, float]]:
        """(subject, predicate, object, probability) of one text."""
        offsets = self.tokenizer.encode(text).offsets
        spans = np.triu(np.ones(maps["entity"].shape[1:], bool))  # a mention ends where it begins, or later
        label, first, last = np.nonzero((maps["entity"] > self.margins(self.classes)) & spans)
        if self.settings["longest"]:
            short = last - first < np.array(self.settings["longest"])[label]
            label, first, last = label[short], first[short], last[short]
        sure = maps["entity"][label, first, last]
        head, tail = maps["head"][:, first[:, None], first], maps["tail"][:, last[:, None], last]  # [predicates, S, O]
        least = np.minimum(np.minimum(head, tail), np.minimum(sure[:, None], sure))
        found = []
        for p, s, o in np.argwhere(least > self.margins(self.predicates)):
            if self.allows(self.classes[label[s]], self.predicates[p], self.classes[label[o]]):
                subject, object = (text[offsets[first[m], 0] : offsets[last[m], 1]] for m in (s, o))
                found.append((subject, self.predicates[p], object, float(1 / (1 + np.exp(-least[p, s, o])))))
        return found


def main() -> None:
    with TemporaryDirectory() as folder:
        file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "extractor.onnx"
        if len(sys.argv) < 2:
            command = [sys.executable, "-m", "tianwen", "export", "onnx", "--out", str(file)]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            print(done.stdout)
        reader = Reader(file)
    for text, maps in zip(TEXTS, reader.maps(TEXTS), strict=True):
        for subject, predicate, object, probability in reader.facts(text, maps):
            print(f"{subject}  {predicate}  {object}  {probability:.2f}")
    print(f"torch was {'' if 'torch' in sys.modules else 'not '}imported")


if __name__ == "__main__":
    main()
