"""The same modules as subclasses of torch.nn's, for code that tests the type.

`isinstance(fusedrnn.compat.LSTM(5, 3), torch.nn.LSTM)` holds. `fusedrnn.replace` and `patch` make
these, since code about a model may rest on that test. The price is paid under `torch.compile`:
Dynamo applies the same test to `nn.RNN`, `nn.LSTM` and `nn.GRU`, runs the frame that calls one in
eager mode, and refuses `fullgraph=True`. There are two ways out. `torch._dynamo.config.allow_rnn =
True` lets Dynamo trace them, into one graph with one operator a layer; torch.nn's own layers in the
model are then unrolled. `fusedrnn.LSTM` and the others compile so without it; `replace(model,
compat=False)` makes these where no code tests the type. The cells compile either way.

No class has both. The `isinstance` tests in a user's code are traced by Dynamo from what its own
test sees: a class that passed them in eager mode and not there would make the compiled model take
another branch, silently.

Constructors, results and errors are those of the torch.nn class; everything else is said at
the class of the same name in `fusedrnn`.

Examples:
    >>> import torch
    >>> isinstance(LSTM(5, 3), torch.nn.LSTM)
    True
"""

from __future__ import annotations

from torch import nn

from fusedrnn.modules.base import (
    GRUCellMixin,
    GRUMixin,
    LSTMCellMixin,
    LSTMMixin,
    RNNCellMixin,
    RNNMixin,
)

__all__ = ["GRU", "GRUCell", "LSTM", "LSTMCell", "RNN", "RNNCell"]


class RNN(RNNMixin, nn.RNN):
    """`fusedrnn.RNN` as a subclass of `torch.nn.RNN`."""


class LSTM(LSTMMixin, nn.LSTM):
    """`fusedrnn.LSTM` as a subclass of `torch.nn.LSTM`."""


class GRU(GRUMixin, nn.GRU):
    """`fusedrnn.GRU` as a subclass of `torch.nn.GRU`."""


class RNNCell(RNNCellMixin, nn.RNNCell):
    """`fusedrnn.RNNCell` as a subclass of `torch.nn.RNNCell`."""


class LSTMCell(LSTMCellMixin, nn.LSTMCell):
    """`fusedrnn.LSTMCell` as a subclass of `torch.nn.LSTMCell`."""


class GRUCell(GRUCellMixin, nn.GRUCell):
    """`fusedrnn.GRUCell` as a subclass of `torch.nn.GRUCell`."""
