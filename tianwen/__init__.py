"""Tianwen 天问: ask your own knowledge; every answer exists.

The public names below are imported on first use: `import tianwen` costs nothing and needs neither torch nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tianwen.lazy import lazy_names

if TYPE_CHECKING:
    from tianwen.ask.asker import Answer as Answer
    from tianwen.ask.asker import Asker as Asker
    from tianwen.ask.facts import Fact as Fact
    from tianwen.ask.huggingface import CatalogueLogitsProcessor as CatalogueLogitsProcessor
    from tianwen.ask.huggingface import tokenized_catalogue as tokenized_catalogue
    from tianwen.ask.knowledge_base import KnowledgeBase as KnowledgeBase
    from tianwen.diffusion.drawer import Drawer as Drawer
    from tianwen.extract.extractor import Extractor as Extractor
    from tianwen.optim.embedding_health import EmbeddingHealth as EmbeddingHealth
    from tianwen.optim.lion import Lion as Lion
    from tianwen.optim.param_groups import param_groups_for as param_groups_for
    from tianwen.optim.tiger import Tiger as Tiger
    from tianwen.text import Tokenizer as Tokenizer
    from tianwen.write.writer import Writer as Writer

__version__ = "0.1.0"

_HOME = {
    "Answer": "tianwen.ask.asker",
    "Asker": "tianwen.ask.asker",
    "CatalogueLogitsProcessor": "tianwen.ask.huggingface",
    "Drawer": "tianwen.diffusion.drawer",
    "EmbeddingHealth": "tianwen.optim.embedding_health",
    "Extractor": "tianwen.extract.extractor",
    "Fact": "tianwen.ask.facts",
    "KnowledgeBase": "tianwen.ask.knowledge_base",
    "Lion": "tianwen.optim.lion",
    "Tiger": "tianwen.optim.tiger",
    "Tokenizer": "tianwen.text",
    "Writer": "tianwen.write.writer",
    "param_groups_for": "tianwen.optim.param_groups",
    "tokenized_catalogue": "tianwen.ask.huggingface",
}

__all__ = [
    "Answer",
    "Asker",
    "CatalogueLogitsProcessor",
    "Drawer",
    "EmbeddingHealth",
    "Extractor",
    "Fact",
    "KnowledgeBase",
    "Lion",
    "Tiger",
    "Tokenizer",
    "Writer",
    "__version__",
    "param_groups_for",
    "tokenized_catalogue",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME, also=["__version__"])
