"""The three steps in training loops that are somebody else's: a plain loop, Lightning, Transformers.

`adasap.integrations.lightning` and `adasap.integrations.transformers` import the package that they are named after.
"""

from adasap.integrations.loop import LoopCompression

__all__ = ["LoopCompression"]
