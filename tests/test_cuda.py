"""What only CUDA has: its schedules, streams, graphs and devices, and what it refuses."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from cases import CELLS, DTYPES, assert_close, tolerance
from layer_cases import CELL_VARIANTS, VARIANTS, Layer, make_layer, operator, oracle
from torch import Tensor

import fusedrnn
from fusedrnn import _library, ops

OPS = torch.ops.fusedrnn
SCHEDULES = ("per_step/product", "per_step/fused", "single_block")
# seq_len, batch_size, input_size, hidden_size: ones, primes, one over each tile.
SHAPES = [(1, 1, 1, 1), (2, 17, 3, 31), (7, 5, 33, 33), (13, 9, 8, 65), (3, 33, 65, 17)]

pytestmark = pytest.mark.usefixtures("cuda")


def possible(layer: Layer, schedule: str) -> bool:
    packed, projected = layer.batch_sizes is not None, layer.weights.weight_hr is not None
    if schedule == "single_block":
        return not packed and not projected
    return schedule == "per_step/product" or not projected


def assert_matches_oracle(layer: Layer, schedule: str) -> None:
    actual, expected = operator(layer), oracle(layer)
    assert OPS.last_cuda_plan() == schedule
    allowed = tolerance(layer.input.dtype, 2 * 13)
    for name, result in actual.items():
        assert result.dtype == layer.input.dtype and result.is_cuda, name
        assert_close(result, expected[name], allowed, name)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("cell", "variant"), CELL_VARIANTS)
def test_every_variant_under_each_schedule(
    cell: str, variant: str, dtype: torch.dtype, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(cell, dtype, **VARIANTS[variant], device="cuda")
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", schedule)
    if possible(layer, schedule):
        assert_matches_oracle(layer, schedule)
    else:
        with pytest.raises(RuntimeError, match=f"schedule {schedule}: .*(packed|projection)"):
            operator(layer)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_every_shape_under_each_schedule(
    cell: str,
    dtype: torch.dtype,
    sizes: tuple[int, ...],
    schedule: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", schedule)
    assert_matches_oracle(
        make_layer(cell, dtype, sizes=sizes, bidirectional=True, device="cuda"), schedule
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_every_shape_with_lengths_and_resets(
    cell: str, sizes: tuple[int, ...], schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", schedule)
    options = {"lengths": True, "reset": True, "return_c": True, "bidirectional": True}
    layer = make_layer(cell, torch.float32, sizes=sizes, device="cuda", **options)
    assert_matches_oracle(layer, schedule)


def test_lengths_are_clamped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSEDRNN_DEBUG", raising=False)
    layer = make_layer("lstm", torch.float32, bidirectional=True, device="cuda")
    inside = torch.tensor([4, 0, 2], device="cuda")
    outside = torch.tensor([9, -7, 2], device="cuda")
    expected = operator(layer._replace(lengths=inside))
    actual = operator(layer._replace(lengths=outside))
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    monkeypatch.setenv("FUSEDRNN_DEBUG", "1")
    with pytest.raises(ValueError, match="lengths: expected values from 0 to seq_len = 4"):
        operator(layer._replace(lengths=outside))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("variant", ["both", "packed", "everything"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_recomputation_gives_the_same_bits(
    cell: str,
    dtype: torch.dtype,
    variant: str,
    schedule: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", schedule)
    layer = make_layer(cell, dtype, sizes=(13, 9, 8, 65), **VARIANTS[variant], device="cuda")
    if not possible(layer, schedule):
        pytest.skip("this schedule takes no packed input")
    kept = operator(layer._replace(recompute=0))
    for recompute in (1, 5, 13, 100):
        again = operator(layer._replace(recompute=recompute))
        assert all(torch.equal(kept[name], again[name]) for name in kept), recompute


def test_gradients_of_each_sample() -> None:
    module = fusedrnn.GRU(3, 5, bidirectional=True, device="cuda")
    parameters = dict(module.named_parameters())
    samples = torch.randn(4, 6, 3, device="cuda")

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        output, _ = torch.func.functional_call(module, parameters, (sample,))
        return output.square().sum()

    actual = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, samples)
    for i, sample in enumerate(samples):
        expected = torch.func.grad(loss)(parameters, sample)
        for name, wanted in expected.items():
            assert_close(actual[name][i], wanted.double(), tolerance(torch.float32, 12), name)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_same_inputs_give_the_same_bits(
    cell: str, dtype: torch.dtype, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", schedule)
    layer = make_layer(cell, dtype, sizes=(9, 33, 17, 65), bidirectional=True, device="cuda")
    first = operator(layer)
    for _ in range(3):
        again = operator(layer)
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_more_steps_than_a_grid_dimension_has(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", schedule)
    layer = make_layer("gru", torch.float32, sizes=(70_000, 1, 2, 5), device="cuda")
    on_cpu = layer.map(Tensor.cpu)
    actual, expected = layer.run(ops.layer_forward), on_cpu.run(ops.layer_forward)
    for result, wanted in zip(actual, expected, strict=True):
        assert_close(result, wanted, tolerance(torch.float32, 16))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_every_family_of_kernels_passes_its_self_test(
    cell: str, dtype: torch.dtype, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", schedule)
    monkeypatch.setenv("FUSEDRNN_CUDA_SELFTEST", "1")
    operator(make_layer(cell, dtype, device="cuda"))
    assert OPS.last_cuda_plan() == schedule
    name = f"{cell} {str(dtype).removeprefix('torch.')} {schedule}"
    tested = OPS.cuda_self_tests(torch.cuda.current_device())
    for test_pass in ("forward", "backward"):
        assert f"{name} {test_pass}: passed" in tested


def forced_graph(monkeypatch: pytest.MonkeyPatch, graph: bool) -> None:
    """Each step is a kernel of ours, and all of them are recorded, or none."""
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", "per_step/fused")
    monkeypatch.setenv("FUSEDRNN_CUDA_GRAPH", str(int(graph)))


def assert_same_bits(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, wanted in expected.items():
        assert torch.equal(actual[name], wanted), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("cell", "variant"), CELL_VARIANTS)
def test_recorded_steps_give_the_same_bits(
    cell: str, variant: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(cell, dtype, **VARIANTS[variant], device="cuda")
    if not possible(layer, "per_step/fused"):
        pytest.skip("only torch's products run this, and they are not recorded")
    forced_graph(monkeypatch, False)
    expected = operator(layer)
    assert not OPS.last_cuda_graph()
    forced_graph(monkeypatch, True)
    for _ in range(3):
        assert_same_bits(operator(layer), expected)
        assert OPS.last_cuda_graph()


def test_steps_that_come_again_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", "per_step/fused")
    layer = make_layer("gru", torch.float32, sizes=(300, 2, 8, 600), device="cuda")
    recorded = []
    for _ in range(8):
        ops.layer_forward(*layer)
        recorded.append(OPS.last_cuda_graph())
    assert not recorded[0] and recorded[-1]


def test_recorded_steps_read_the_weights_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make_layer("lstm", torch.float32, sizes=(20, 3, 8, 40), device="cuda")
    for _ in range(4):
        for tensor in (layer.weights.weight_ih, layer.weights.weight_hh, layer.input):
            tensor.mul_(0.5)
        forced_graph(monkeypatch, False)
        expected = operator(layer)
        forced_graph(monkeypatch, True)
        assert_same_bits(operator(layer), expected)
    # Another tensor in the place of a weight.
    moved = layer.replace(weight_hh=layer.weights.weight_hh * 2)
    actual = operator(moved)
    forced_graph(monkeypatch, False)
    assert_same_bits(actual, operator(moved))


def test_recorded_steps_run_on_the_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make_layer("gru", torch.float32, sizes=(50, 4, 16, 64), device="cuda")
    forced_graph(monkeypatch, True)
    expected = operator(layer)
    torch.cuda.synchronize()
    for _ in range(3):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)  # work on another stream would overtake this
            actual = operator(layer.replace(input=layer.input * 1))
        stream.synchronize()
        assert_same_bits(actual, expected)


def test_threads_record_and_launch_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [
        make_layer(cell, torch.float32, sizes=(40, 3, 8, 33), device="cuda")
        for cell in ("lstm", "gru")
    ]
    forced_graph(monkeypatch, False)
    expected = [operator(layer) for layer in layers]
    forced_graph(monkeypatch, True)
    torch.cuda.synchronize()
    failures: list[Exception] = []

    def work(idx: int) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for i in range(20):
                    which = (idx + i) % 2
                    assert_same_bits(operator(layers[which]), expected[which])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(idx,)) for idx in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def test_work_runs_on_the_current_stream() -> None:
    layer = make_layer("lstm", torch.float32, sizes=(50, 16, 64, 64), device="cuda")
    expected = operator(layer)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # work on another stream would overtake this
        changed = layer.replace(input=layer.input * 1)
        actual = operator(changed)
    stream.synchronize()
    for name, wanted in expected.items():
        assert torch.equal(actual[name], wanted), name


def captured(step: Any) -> torch.cuda.CUDAGraph:
    """A graph of `step`, which is run a few times before, as torch asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


@pytest.mark.parametrize(
    ("schedule", "graph"), [*((schedule, "0") for schedule in SCHEDULES), ("per_step/fused", "1")]
)
def test_inference_is_captured_in_a_graph(
    schedule: str, graph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", schedule)
    monkeypatch.setenv("FUSEDRNN_CUDA_GRAPH", graph)
    module = fusedrnn.LSTM(8, 32, 2, bidirectional=True, device="cuda").eval()
    input, output = torch.zeros(7, 3, 8, device="cuda"), torch.zeros(7, 3, 64, device="cuda")

    @torch.no_grad()
    def step() -> None:
        output.copy_(module(input)[0])

    graph = captured(step)
    for _ in range(2):
        input.normal_()
        graph.replay()
        with torch.no_grad():
            assert torch.equal(output, module(input)[0])


def test_a_training_step_is_captured_in_a_graph() -> None:
    module = fusedrnn.GRU(8, 32, 2, device="cuda")
    input = torch.zeros(7, 3, 8, device="cuda")

    def step() -> None:
        for parameter in module.parameters():
            parameter.grad = None
        module(input)[0].square().sum().backward()

    graph = captured(step)
    input.normal_()
    graph.replay()
    replayed = [parameter.grad.clone() for parameter in module.parameters()]
    step()
    for actual, parameter in zip(replayed, module.parameters(), strict=True):
        assert torch.equal(actual, parameter.grad)


@pytest.mark.parametrize("variant", ["both", "everything"])
def test_nothing_waits_for_the_device(variant: str) -> None:
    sizes = (20, 4, 8, 16)
    layer = make_layer("lstm", torch.float32, sizes=sizes, **VARIANTS[variant], device="cuda")
    leaves = layer.leaves()
    leaves.run(ops.layer_forward)[0].sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        leaves.run(ops.layer_forward)[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_device_of_the_tensors_is_used() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    layer = make_layer("gru", torch.float32, device="cuda:1")
    for name, result in operator(layer).items():
        assert result.device.index == 1, name
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("moved", ["input", "h_0", "weight_hh", "bias_ih"])
def test_tensors_on_different_devices_are_named(moved: str) -> None:
    layer = make_layer("gru", device="cuda")
    mixed = layer.replace(**{moved: layer.present[moved].cpu()})
    with pytest.raises(RuntimeError, match=r"expected device (cpu|cuda:0) as input's, got"):
        mixed.run(ops.layer_forward)


def test_a_schedule_that_does_not_fit_gives_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", "single_block")
    layer = make_layer("lstm", torch.float32, sizes=(2, 2, 8, 1024), device="cuda")
    with pytest.raises(RuntimeError, match="schedule single_block: .* KiB of shared memory"):
        operator(layer)
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", "per_step/product")
    monkeypatch.setenv("FUSEDRNN_CUDA_GRAPH", "1")
    with pytest.raises(RuntimeError, match="FUSEDRNN_CUDA_GRAPH=1: torch's products"):
        operator(layer)
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", "per_step/fused")
    with pytest.raises(RuntimeError, match="70000 kernels, a graph has 16384 at most"):
        ops.layer_forward(*make_layer("gru", sizes=(70_000, 1, 2, 5), device="cuda"))


@pytest.mark.parametrize("training", [False, True])
def test_explain_names_the_device_and_each_pass(
    training: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    module = fusedrnn.LSTM(8, 32, device="cuda").requires_grad_(training)
    fusedrnn.explain(module, torch.zeros(50, 4, 8, device="cuda"))
    text = capsys.readouterr().out
    assert f"forward on {torch.cuda.get_device_name()}: " in text
    assert ("backward on " in text) == training
    assert OPS.cuda_architectures() and _library.has_cuda_kernels()
