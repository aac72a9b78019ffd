"""Linear recurrent units: one operator, the layers made of it, and what they can do that attention cannot.

Post: 9554 (kexue.fm, 28 March 2023), on "Resurrecting Recurrent Neural Networks for Long Sequences" (arXiv 2303.06349).
"""

from tianwen.recurrent.bidirectional import Bidirectional
from tianwen.recurrent.complex_rwkv import ComplexRWKV
from tianwen.recurrent.lru import LRU
from tianwen.recurrent.parameter_groups import parameter_groups
from tianwen.recurrent.rwkv import RWKV
from tianwen.recurrent.scan import linear_scan
from tianwen.recurrent.slru import SLRU
from tianwen.recurrent.wkv import wkv

__all__ = ["LRU", "RWKV", "SLRU", "Bidirectional", "ComplexRWKV", "linear_scan", "parameter_groups", "wkv"]
