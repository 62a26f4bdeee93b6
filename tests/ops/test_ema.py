# SPDX-License-Identifier: Apache-2.0
"""The moving average: worked numbers, kernel against definition, layouts, dtypes, refusals."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from effdet.ops import ema_update_
from effdet.ops.ema import joined_averages, reference, split_averages

OP = torch.ops.effdet.ema_update_.default
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
SHAPES = ((), (1,), (7,), (3, 1, 5), (0,), (2, 0, 3), (8, 4, 3, 3), (70_001,))
Function = Callable[..., None]


def count(updates: int = 0, device: str = "cpu") -> Tensor:
    return torch.tensor([updates, 0], device=device)


def example(device: str = "cpu") -> tuple[list[Tensor], list[Tensor]]:
    """Averages and values of every shape and dtype."""
    generator = torch.Generator().manual_seed(0)
    averages, values = [], []
    for shape in SHAPES:
        for dtype in FLOATS:
            average = torch.float64 if dtype == torch.float64 else torch.float32
            averages.append(torch.randn(shape, generator=generator, dtype=average))
            values.append(torch.randn(shape, generator=generator).to(dtype))
        for dtype in INTEGERS:
            averages.append(torch.zeros(shape, dtype=dtype))
            values.append(torch.randint(0, 100, shape, generator=generator).to(dtype))
    return [t.to(device) for t in averages], [t.to(device) for t in values]


def clones(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def restored_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# --- numbers worked by hand ---


@pytest.mark.parametrize("function", [OP, reference])
def test_the_first_updates_by_hand(function: Function) -> None:
    average, updates = torch.tensor([10.0]), count()
    expected = (19.0, 18 + 2 / 11 * 1.0 + 9 / 11 * 2.0)  # d = 1 / 10, then 2 / 11
    function([average], [torch.tensor([20.0])], updates, None, 0.9998)
    assert average.item() == pytest.approx(expected[0])
    function([average], [torch.tensor([20.0])], updates, None, 0.9998)
    assert average.item() == pytest.approx(2 / 11 * 19 + 9 / 11 * 20)
    assert updates.tolist() == [2, 0]


@pytest.mark.parametrize("function", [OP, reference])
@pytest.mark.parametrize(
    ("updates", "decay", "expected"),
    [
        (0, 0.9998, 0.1),
        (8, 0.9998, 0.5),
        (90, 0.9998, 0.91),
        (10**6, 0.9998, 0.9998),
        (2**62, 0.5, 0.5),
        (8, 0.0, 0.0),
        (-5, 0.9998, 0.1),
    ],
)
def test_decay_of_an_update(
    function: Function, updates: int, decay: float, expected: float
) -> None:
    average, state = torch.tensor([1.0, 1.0], dtype=torch.float64), count(updates)
    function([average], [torch.zeros(2, dtype=torch.float64)], state, None, decay)
    assert average.tolist() == pytest.approx([expected] * 2, rel=1e-12)
    assert state[0] == updates + 1


@pytest.mark.parametrize("function", [OP, reference])
def test_a_decay_of_0_gives_the_value_itself(function: Function) -> None:
    average, value = torch.tensor([1e30, 0.3, -7.0]), torch.tensor([1.0, 0.1, 1e-20])
    function([average], [value], count(), None, 0.0)
    assert torch.equal(average, value)


@pytest.mark.parametrize("updates", [0, 7, 8, 9, 10**9])
def test_agrees_with_the_lerp_of_torch(updates: int) -> None:
    average, value = torch.randn(2, 1000)
    expected = torch.lerp(average, value, max(1 - 0.99, 9 / (10 + updates)))
    ema_update_([average], [value], count(updates), decay=0.99)
    torch.testing.assert_close(average, expected, rtol=1e-6, atol=1e-7)


# --- invariants ---


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("function", [OP, reference])
@pytest.mark.parametrize("found_inf", [1.0, float("inf"), float("nan")])
def test_a_skipped_step_changes_nothing(function: Function, found_inf: float, device: str) -> None:
    averages, values = example(device)
    before, updates = clones(averages), count(3, device)
    function(averages, values, updates, torch.tensor([found_inf], device=device), 0.9)
    assert same(averages, before)
    assert updates.tolist() == [3, 0]
    function(averages, values, updates, torch.zeros(1, device=device), 0.9)
    assert not same(averages, before)
    assert updates.tolist() == [4, 0]


def test_integers_are_copied() -> None:
    values = [torch.tensor([5, -(2**60)]), torch.tensor([True]), torch.tensor(7, dtype=torch.int8)]
    averages = [torch.zeros_like(value) for value in values]
    ema_update_(averages, values, count(), decay=0.9)
    assert same(averages, values)


def test_nothing_to_average_is_counted() -> None:
    updates = count(5)
    ema_update_([], [], updates, decay=0.9)
    assert updates.tolist() == [6, 0]


@pytest.mark.parametrize("function", [OP, reference])
def test_nan_and_infinity_go_through(function: Function) -> None:
    average = torch.tensor([torch.nan, 1.0, 1.0, torch.inf, 1.0])
    value = torch.tensor([1.0, torch.nan, torch.inf, 1.0, 2.0])
    function([average], [value], count(1000), None, 0.5)
    assert average[:2].isnan().all()
    assert not average[2:4].isfinite().any()
    assert average[4] == 1.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_number_is_read_right(dtype: torch.dtype) -> None:
    value = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    average = torch.full((2**16,), 0.25)
    ema_update_([average], [value], count(), decay=0.0)
    finite = value.isfinite()
    assert torch.equal(average[finite], value[finite].float())
    assert not average[~finite].isfinite().any()


def test_values_are_left_alone() -> None:
    averages, values = example()
    before = clones(values)
    ema_update_(averages, values, count(), decay=0.9)
    assert same(values, before)


# --- kernel = definition ---


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("updates", [0, 8, 10**6])
def test_kernel_equals_reference_to_the_bit(updates: int, device: str) -> None:
    averages, values = example(device)
    expected, state = clones(averages), count(updates, device)
    OP(averages, values, state, None, 0.9998)
    reference(expected, values, count(updates, device), None, 0.9998)
    assert same(averages, expected)
    assert state.tolist() == [updates + 1, 0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("average_layout", ["contiguous", "channels last", "strided"])
@pytest.mark.parametrize("value_layout", ["contiguous", "channels last", "strided", "expanded"])
def test_any_strides(
    average_layout: str, value_layout: str, dtype: torch.dtype, device: str
) -> None:
    def laid_out(tensor: Tensor, layout: str) -> Tensor:
        if layout == "channels last":
            return tensor.contiguous(memory_format=torch.channels_last)
        if layout == "expanded":
            return tensor[:, :1].expand_as(tensor)
        if layout == "strided":
            return torch.stack((tensor, tensor), -1)[..., 0]
        return tensor.clone()

    average = torch.randn(4, 6, 3, 5, dtype=torch.float64 if dtype == torch.float64 else None)
    values = laid_out(torch.randn(4, 6, 3, 5).to(device, dtype), value_layout)
    averages = [laid_out(average.to(device), average_layout) for _ in range(2)]
    around = averages[0]._base.clone() if average_layout == "strided" else None
    OP([averages[0]], [values], count(5, device), None, 0.99)
    reference([averages[1]], [values], count(5, device), None, 0.99)
    assert torch.equal(*averages)
    if around is not None:
        assert torch.equal(averages[0]._base[..., 1], around[..., 1])


@pytest.mark.parametrize("device", DEVICES)
def test_views_of_one_buffer_with_gaps(device: str) -> None:
    buffer, sizes = torch.randn(4000, device=device), (40, 1, 64, 700, 3, 1201)
    before, starts = buffer.clone(), (0, 64, 80, 160, 1000, 1024)
    averages = [buffer[start : start + size] for start, size in zip(starts, sizes)]
    values = [torch.randn(size, device=device) for size in sizes]
    expected = clones(averages)
    order = [3, 0, 5, 1, 4, 2]
    OP([averages[i] for i in order], [values[i] for i in order], count(5, device), None, 0.9)
    reference(expected, values, count(5, device), None, 0.9)
    assert same(averages, expected)
    for start, size in zip(starts, sizes):
        before[start : start + size] = buffer[start : start + size]
    assert torch.equal(buffer, before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("function", [OP, reference])
def test_joined_averages_are_those_of_the_single_tensors(function: Function, device: str) -> None:
    singles, values = example(device)
    more = torch.randn(4, 6, 3, 5, device=device)
    layouts = (more.to(memory_format=torch.channels_last), more[..., ::2], more.transpose(0, 1))
    values += [*layouts, layouts[1].half(), more[:, :1].expand_as(more)]
    buffers = joined_averages(values)
    assert len({buffer.dtype for buffer in buffers}) == len(buffers) == 8
    averages = split_averages(buffers, values)
    singles += [torch.randn_like(a) for a in averages[len(singles) :]]
    for average, single in zip(averages, singles, strict=True):
        average.copy_(single)
    function(buffers, values, count(30, device), None, 0.9998, True)
    reference(singles, values, count(30, device), None, 0.9998)
    assert same(averages, singles)
    assert all(a.data_ptr() % 64 == 0 for a in averages)


def test_joined_averages_lie_as_their_values() -> None:
    channels_last = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    values = [torch.zeros(3, 2).half(), channels_last, torch.zeros(()), torch.zeros(2).long()]
    floats, integers = joined_averages(values)
    assert (floats.dtype, floats.shape) == (torch.float32, (16 + 128 + 1,))
    assert (integers.dtype, integers.shape) == (torch.int64, (2,))
    averages = split_averages([floats, integers], values)
    assert [a.storage_offset() for a in averages] == [0, 16, 144, 0]
    assert averages[1].stride() == channels_last.stride()
    assert joined_averages([]) == []


def test_same_bits_on_any_number_of_threads(restored_threads: None) -> None:
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        averages, values = example()
        OP(averages, values, count(20), None, 0.9998)
        results.append(averages)
    assert all(same(result, results[0]) for result in results[1:])


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device: str) -> None:
    averages, values = example(device)
    found_inf = torch.zeros(1, device=device)
    torch.library.opcheck(OP, (averages, values, count(5, device), None, 0.9))
    torch.library.opcheck(OP, (averages[:8], values[:8], count(5, device), found_inf, 0.9))
    buffers = joined_averages(values)
    torch.library.opcheck(OP, (buffers, values, count(5, device), found_inf, 0.9, True))


def test_compiles_in_one_graph() -> None:
    def step(average: Tensor, value: Tensor, updates: Tensor) -> Tensor:
        ema_update_([average], [value.half()], updates, decay=0.9)
        return average * 2

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    average, value = torch.randn(2, 40)
    expected, states = average.clone(), (count(3), count(3))
    doubled = compiled(average, value, states[0])
    assert torch.equal(doubled, step(expected, value, states[1]))
    assert torch.equal(average, expected)
    assert torch.equal(*states)


def test_saved_tensors_notice_the_update() -> None:
    average, x = torch.ones(3), torch.ones(3, requires_grad=True)
    loss = (average * x).sum()
    ema_update_([average], [torch.zeros(3)], count(), decay=0.9)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_parameters_are_followed_without_a_graph() -> None:
    average, value = (torch.nn.Parameter(torch.full((2,), x)) for x in (0.0, 1.0))
    ema_update_([average], [value], count(), decay=0.9)
    assert average.tolist() == pytest.approx([0.9, 0.9])
    assert average.grad_fn is None


@pytest.mark.gpu
def test_cuda_graph_counts_and_skips_without_a_sync() -> None:
    averages, values = example("cuda")
    updates, found_inf = count(0, "cuda"), torch.zeros(1, device="cuda")
    OP(averages, values, updates, found_inf, 0.9)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        OP(averages, values, updates, found_inf, 0.9)
    expected, state = clones(averages), updates.clone()
    for skip in (0.0, 1.0, 0.0):
        found_inf.fill_(skip)
        graph.replay()
        reference(expected, values, state, found_inf, 0.9)
    assert same(averages, expected)
    assert updates.tolist() == state.tolist() == [3, 0]


# --- refusals ---


@pytest.mark.parametrize("function", [ema_update_, reference])
@pytest.mark.parametrize(
    ("average", "value", "message"),
    [
        (torch.zeros(3), torch.zeros(4), r"averages\[1\] must be \[4\] as values\[1\], got \[3\]"),
        (torch.zeros(3).half(), torch.zeros(3).half(), r"must be torch\.float32 for values of"),
        (torch.zeros(3), torch.zeros(3).double(), r"must be torch\.float64.*got torch\.float32"),
        (torch.zeros(3), torch.zeros(3).long(), r"must be torch\.int64 for values of torch\.int64"),
        (torch.zeros(3), torch.zeros(3) + 1j, r"values\[1\] must be float16.*got torch\.complex64"),
        (torch.zeros(3), torch.zeros(3, device="meta"), r"values\[1\] must be on .*got meta"),
    ],
)  # fmt: skip
def test_pairs_that_do_not_fit_are_named(
    function: Function, average: Tensor, value: Tensor, message: str
) -> None:
    updates, good = count(), torch.zeros(2)
    settings = (updates, None, 0.9) if function is reference else (updates,)
    with pytest.raises(ValueError, match=message):
        function([good, average], [good + 1, value], *settings, **keywords(function))
    assert not good.any()
    assert updates.tolist() == [0, 0]


def keywords(function: Function) -> dict[str, float]:
    return {} if function is reference else {"decay": 0.9}


def test_another_number_of_values_is_refused() -> None:
    with pytest.raises(ValueError, match="as many, got 2 and 1"):
        ema_update_([torch.zeros(1), torch.zeros(1)], [torch.zeros(1)], count(), decay=0.9)


@pytest.mark.parametrize(
    ("buffers", "message"),
    [
        ([], r"averages of torch\.float32 must have 17 numbers, got 0"),
        ([torch.zeros(16)], r"averages of torch\.float32 must have 17 numbers, got 16"),
        ([torch.zeros(17, dtype=torch.float64)], r"averages of torch\.float32 must have 17"),
        ([torch.zeros(17), torch.zeros(17)], "of different dtypes"),
        ([torch.zeros(1, 17)], "must be 1-D"),
        ([torch.zeros(34)[::2]], "must be 1-D, contiguous"),
    ],
)
def test_buffers_that_do_not_fit_are_refused(buffers: list[Tensor], message: str) -> None:
    values, updates = [torch.ones(2), torch.ones(1)], count()
    with pytest.raises(ValueError, match=message):
        ema_update_(buffers, values, updates, decay=0.9, joined=True)
    with pytest.raises((ValueError, RuntimeError)):
        OP(buffers, values, updates, None, 0.9, True)
    assert updates[0] == 0
    assert not any(buffer.any() for buffer in buffers)


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\]"):
        ema_update_([], [], count(), decay=decay)
    with pytest.raises(RuntimeError, match=r"decay must be in \[0, 1\]"):
        OP([], [], count(), None, decay)


@pytest.mark.parametrize(
    "updates", [torch.zeros(2), torch.zeros(1).long(), torch.zeros(4).long()[::2]]
)
def test_wrong_updates_are_refused(updates: Tensor) -> None:
    with pytest.raises(ValueError, match=r"updates must be int64 \[2\]"):
        ema_update_([], [], updates, decay=0.9)
    with pytest.raises(RuntimeError, match=r"updates must be int64 \[2\]"):
        OP([], [], updates, None, 0.9)


@pytest.mark.parametrize("found_inf", [torch.zeros(2), torch.zeros(1).half(), torch.zeros(0)])
def test_wrong_found_inf_is_refused(found_inf: Tensor) -> None:
    with pytest.raises(ValueError, match="found_inf must be one float32"):
        ema_update_([], [], count(), decay=0.9, found_inf=found_inf)
    with pytest.raises(RuntimeError, match="found_inf must be one float32"):
        OP([], [], count(), found_inf, 0.9)


@pytest.mark.skipif("not __import__('effdet.ops').ops.build_info()['cpu_kernels']")
@pytest.mark.parametrize(
    "averages",
    [
        [torch.zeros(1).expand(5)],
        [torch.zeros(9).as_strided((2, 2, 2), (1, 3, 3))],
        [(memory := torch.zeros(9))[:5], memory[4:]],
    ],
)
def test_averages_that_share_memory_are_refused(averages: list[Tensor]) -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"must not (share memory|overlap itself)"):
        ema_update_(averages, [torch.zeros(t.shape) for t in averages], count(), decay=0.9)
