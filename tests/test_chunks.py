"""Chunks of time steps: FUSEDRNN_CHUNK_BYTES makes many of small layers, on every device."""

from __future__ import annotations

import pytest
import torch
from cases import CELLS, DTYPES, assert_close, tolerance
from layer_cases import VARIANTS, make_layer, operator, oracle

OPS = torch.ops.fusedrnn

pytestmark = pytest.mark.usefixtures("compiled_part")

SEQ_LEN, BATCH_SIZE, INPUT_SIZE, HIDDEN_SIZE = SIZES = (13, 9, 8, 33)


def steps_at_once(device: str, dtype: torch.dtype) -> set[int]:
    """Of the plans of either pass, as they are printed."""
    sizes = ("lstm", dtype, SEQ_LEN, BATCH_SIZE, INPUT_SIZE, HIDDEN_SIZE, 0, 2, True)
    if device == "cuda":
        passes = OPS.explain_layer_cuda(*sizes, False, 0)
    else:
        passes = OPS.explain_layer(*sizes, None)
    facts = [text for *_, facts in passes for _, text in facts]
    return {int(text.split()[0]) for text in facts if text.endswith("at once")}


@pytest.mark.parametrize("variant", ["both", "packed", "everything"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_add_up_over_several_chunks(
    cell: str, dtype: torch.dtype, variant: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cell == "rnn_relu" and dtype.itemsize == 2:
        pytest.skip("rounding to 16 bits moves values over the bend of relu")
    layer = make_layer(cell, dtype, sizes=SIZES, **VARIANTS[variant], device=device)
    expected = oracle(layer)
    for chunk_bytes in (1, 100_000):
        monkeypatch.setenv("FUSEDRNN_CHUNK_BYTES", str(chunk_bytes))
        for name, result in operator(layer).items():
            assert_close(result, expected[name], tolerance(dtype, 2 * SEQ_LEN), name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bytes_of_a_chunk_decide_how_many_there_are(
    dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FUSEDRNN_CHUNK_BYTES", raising=False)
    assert steps_at_once(device, dtype) == {SEQ_LEN}
    monkeypatch.setenv("FUSEDRNN_CHUNK_BYTES", "1")
    assert steps_at_once(device, dtype) == {1}


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e6", "1 "])
def test_bytes_that_are_no_number_are_an_error(
    text: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer("gru", torch.float32, device=device)
    monkeypatch.setenv("FUSEDRNN_CHUNK_BYTES", text)
    with pytest.raises(ValueError, match=f"FUSEDRNN_CHUNK_BYTES: expected .*'{text}'"):
        operator(layer)
