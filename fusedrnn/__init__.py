"""Recurrent layers for PyTorch with fused kernels; drop-in for those of torch.nn.

`fusedrnn.RNN`, `LSTM`, `GRU`, `RNNCell`, `LSTMCell` and `GRUCell` take the place of torch.nn's.
`PeepholeLSTM` is none of torch.nn's, and `RecurrentBase` makes layers of any registered cell.
Three ways to adopt them: use the classes; `fusedrnn.replace(model)` for a model that exists;
`with fusedrnn.patch():` around code that looks the classes up in torch.nn, or
`python -m fusedrnn.run train.py` around a whole program.
`fusedrnn.quantize(model, dtype)` is for inference on weights in fewer bytes.
"""

from fusedrnn import compat, functional
from fusedrnn._library import library_path, reload_environment
from fusedrnn._machine import Machine
from fusedrnn.convert import replace, to_torch
from fusedrnn.modules import (
    GRU,
    LSTM,
    RNN,
    GRUCell,
    LSTMCell,
    PeepholeLSTM,
    RecurrentBase,
    RNNCell,
)
from fusedrnn.patching import patch
from fusedrnn.planning import explain
from fusedrnn.quantization import quantize

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "GRUCell",
    "LSTM",
    "LSTMCell",
    "Machine",
    "PeepholeLSTM",
    "RNN",
    "RNNCell",
    "RecurrentBase",
    "__version__",
    "compat",
    "explain",
    "functional",
    "library_path",
    "patch",
    "quantize",
    "reload_environment",
    "replace",
    "to_torch",
]
