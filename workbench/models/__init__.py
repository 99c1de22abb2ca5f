"""Models of cells: one protocol for all of them, one function that reads any, and a folder per architecture.

What works on a model takes its type from here: a stage's code then counts the code of the architectures, too.
"""

from workbench.lazy import lazily
from workbench.models.load import load_model
from workbench.models.protocol import Block, CellModel, CellTokenizer, ModelShape

__all__ = ["Block", "CellModel", "CellTokenizer", "ModelShape", "load_model"]

__getattr__, __dir__ = lazily(__name__, inspection="describe describe_text")
