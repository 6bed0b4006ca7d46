"""geoeq.ops.tensor_product against e3nn, known products, and its own unrolled form."""

import copy
import pickle
import subprocess
import sys
from shutil import which

import pytest
import torch
from e3nn import o3

from geoeq.ops import TensorProduct, tensor_product_scatter
from geoeq.ops.channelwise_product import ChannelwiseProduct
from geoeq.ops.clebsch_gordan import all_instructions, coupling_terms, wigner_3j
from geoeq.ops.prepared_product import prepare
from geoeq.ops.tensor_product_code import Coupling, Plan, forward_source, starts

NEEDS_COMPILER = pytest.mark.skipif(not (which("g++") or which("c++")), reason="inductor needs a C++ compiler")
CASES = {
    "uuu": ("4x0e + 4x1o", "4x0e + 4x1o", "4x0e + 4x1o + 4x1e + 4x2e", "uuu"),
    "uuu, two multiplicities": ("4x0e + 3x1o", "4x0e + 3x1o", "4x0e + 4x1o + 3x1e + 3x0e", "uuu"),
    "uvu, one harmonic": ("4x0e + 3x1o", "0e + 1o + 2e", "4x0e + 4x1o + 3x1e + 3x0e + 3x3o", "uvu"),
    "uvu": ("4x0e + 3x1o", "2x0e + 3x1o", "4x0e + 4x1o + 3x1e + 3x0e", "uvu"),
    "uvw, one harmonic": ("4x0e + 3x1o", "0e + 1o + 2e", "5x0e + 4x1o + 3x1e + 3x0e", "uvw"),
    "uvw": ("4x0e + 3x1o", "2x0e + 3x1o + 2e", "5x0e + 4x1o + 3x1e + 3x0e", "uvw"),
    "repeated entries": ("2x0e + 2x1o + 2x0e", "0e + 1o", "2x1o + 2x0e + 2x1o", "uvu"),
}
MIXED = [
    (0, 0, 0, "uuu", True),
    (1, 1, 0, "uuu", False, 2.0),
    (0, 1, 2, "uvu", True),
    (1, 0, 1, "uvw", True, 0.5),
    (0, 1, 1, "uvu", False),
    (1, 0, 1, "uuu", True),
]
every_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
either_weight = pytest.mark.parametrize("shared", [True, False], ids=["shared", "per row"])
either_layout = pytest.mark.parametrize("layout", ["mul_ir", "channels_last"])


def peer(product, instructions, shared):
    """e3nn's module, its constants in float64."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    module = o3.TensorProduct(
        product.irreps1,
        product.irreps2,
        product.irreps_out,
        instructions,
        irrep_normalization="component",
        path_normalization="element",
        shared_weights=shared,
        internal_weights=False,
    )
    torch.set_default_dtype(default)
    return module


def inputs(product, shared, rows=(5,), dtype=torch.float64):
    weight_rows = () if shared else rows
    return (
        torch.randn(*rows, product.irreps1.dim, dtype=dtype),
        torch.randn(*rows, product.irreps2.dim, dtype=dtype),
        torch.randn(*weight_rows, product.weight_numel, dtype=dtype),
    )


def moved(feature, irreps, channels_last):
    """The same feature in the other layout."""
    blocks = []
    for (mul, ir), part in zip(irreps, feature.split([block.dim for block in irreps], -1)):
        shape = (mul, ir.dim) if channels_last else (ir.dim, mul)
        blocks.append(part.unflatten(-1, shape).transpose(-1, -2).flatten(-2))
    return torch.cat(blocks, -1)


def plan(lmax, weighted=True):
    """All paths of degrees up to lmax, each factor another."""
    degrees = tuple(range(lmax + 1))
    paths = [(i, j, k) for i in degrees for j in degrees for k in degrees if abs(i - j) <= k <= i + j]
    return Plan(
        degrees, degrees, degrees, tuple(Coupling(*p, n if weighted else -1, 1 + n) for n, p in enumerate(paths))
    )


def test_wigner_3j_known_answers():
    assert wigner_3j(1, 1, 1)[0, 1, 2].item() == pytest.approx(6**-0.5, abs=1e-15)
    for degrees in [(0, 0, 0), (1, 2, 3), (2, 2, 1), (6, 6, 6)]:
        assert wigner_3j(*degrees).norm().item() == pytest.approx(1, abs=1e-12)
    assert [sum(len(coupling_terms(i, j, k)) for i, j, k in _triples(lmax)) for lmax in (1, 2, 3, 4)] == [
        16,
        137,
        611,
        2052,
    ]
    with pytest.raises(ValueError, match=r"l3 must lie in \[1, 3\] for l1 = 1 and l2 = 2, got 0"):
        wigner_3j(1, 2, 0)


def _triples(lmax):
    r = range(lmax + 1)
    return [(i, j, k) for i in r for j in r for k in r if abs(i - j) <= k <= i + j]


@every_case
@either_weight
def test_equals_e3nn(case, shared):
    product = TensorProduct(*case)
    instructions = all_instructions(product.irreps1, product.irreps2, product.irreps_out, case[3])
    reference = peer(product, instructions, shared)
    assert reference.weight_numel == product.weight_numel
    x, y, w = inputs(product, shared)
    torch.testing.assert_close(product(x, y, w), reference(x, y, w), rtol=1e-12, atol=1e-13)


@either_weight
def test_mixed_instructions_equal_e3nn(shared):
    irreps = "4x0e + 4x1o"
    product = TensorProduct(irreps, irreps, "4x0e + 4x1o + 4x1o", instructions=MIXED)
    x, y, w = inputs(product, shared)
    torch.testing.assert_close(product(x, y, w), peer(product, MIXED, shared)(x, y, w), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("lmax", range(7))
def test_all_degrees_equal_e3nn(lmax):
    irreps = o3.Irreps([(2, (degree, 1)) for degree in range(lmax + 1)])
    product = TensorProduct(irreps, irreps, irreps)
    reference = peer(product, all_instructions(irreps, irreps, irreps, "uuu"), True)
    x, y, w = inputs(product, True, rows=(3,))
    expected = reference(x, y, w)
    torch.testing.assert_close(product(x, y, w), expected, rtol=1e-12, atol=1e-13)
    single = product(x.float(), y.float(), w.float()).double()
    assert (single - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("lmax", [1, 2, 3, 4])
def test_unrolled_code_equals_e3nn_in_single_precision(lmax):
    irreps = o3.Irreps([(2, (degree, 1)) for degree in range(lmax + 1)])
    product = TensorProduct(irreps, irreps, irreps, layout="channels_last")
    x, y, w = inputs(product, True, rows=(50,))
    expected = peer(product, all_instructions(irreps, irreps, irreps, "uuu"), True)(
        moved(x, irreps, False), moved(y, irreps, False), w
    )
    (group,) = prepare(product._recipe).groups
    operands = (group.first(x.float()), *group.second(y.float(), w.float()))
    got = group.product.unrolled(*operands).flatten(1).double()
    want = moved(expected, irreps, True)
    assert (got - want).norm() < 2e-7 * want.norm()


@either_weight
@pytest.mark.parametrize("lmax", [1, 2])
def test_gradients_of_unrolled_code(lmax, shared):
    product = ChannelwiseProduct(plan(lmax))
    size, rows = (lmax + 1) ** 2, () if shared else (2,)
    shapes = [(2, size, 1), (2, size, 1), (*rows, len(product.plan.couplings), 1)]
    arguments = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(product.unrolled, arguments)
    assert torch.autograd.gradgradcheck(product.unrolled, arguments)


@every_case
@either_weight
def test_layouts_agree(case, shared):
    product, last = TensorProduct(*case), TensorProduct(*case, layout="channels_last")
    x, y, w = inputs(product, shared)
    got = last(moved(x, product.irreps1, True), moved(y, product.irreps2, True), w)
    torch.testing.assert_close(got, moved(product(x, y, w), product.irreps_out, True), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("lmax", [0, 1, 2, 3])
@pytest.mark.parametrize("weights", ["shared", "per row", "none"])
@pytest.mark.parametrize("wide", [True, False], ids=["y of all channels", "y of one channel"])
def test_unrolled_equals_blocks_to_second_order(lmax, weights, wide):
    product = ChannelwiseProduct(plan(lmax, weights != "none"))
    n_components, n_paths = (lmax + 1) ** 2, len(product.plan.couplings)
    x = torch.randn(4, n_components, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(4, n_components, 3 if wide else 1, dtype=torch.float64, requires_grad=True)
    rows = () if weights == "shared" else (4,)
    w = None if weights == "none" else torch.randn(*rows, n_paths, 3, dtype=torch.float64, requires_grad=True)
    over = [tensor for tensor in (x, y, w) if tensor is not None]
    results = []
    for form in (product.unrolled, product.blocks):
        out = form(x, y, w)
        first = torch.autograd.grad(out.sin().sum(), over, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), over)
        results.append([out, *first, *second])
    for got, expected in zip(*results):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_known_products():
    """Two vectors: the dot product over sqrt 3 and the cross product over sqrt 2, each with unit variance."""
    product = TensorProduct("1o", "1o", "0e + 1e")
    x, y = torch.randn(2, 5, 3, dtype=torch.float64)
    out = product(x, y, torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(out[:, 0], (x * y).sum(1) / 3**0.5)
    torch.testing.assert_close(out[:, 1:], torch.linalg.cross(x, y) / 2**0.5)


@every_case
@either_weight
def test_equivariance(case, shared):
    product = TensorProduct(*case)
    x, y, w = inputs(product, shared)
    rotation = -o3.rand_matrix().double()
    d1, d2, d_out = (i.D_from_matrix(rotation) for i in (product.irreps1, product.irreps2, product.irreps_out))
    got, expected = product(x @ d1.T, y @ d2.T, w), product(x, y, w) @ d_out.T
    assert (got - expected).norm() < 1e-6 * expected.norm()  # e3nn's rotation is of float32 precision


@either_weight
@pytest.mark.parametrize("name", ["uuu", "uvu", "uvw"])
def test_gradients(name, shared):
    irreps = {"uuu": "2x0e + 2x1o", "uvu": "0e + 2x1o", "uvw": "0e + 1o"}[name]
    product = TensorProduct("2x0e + 2x1o", irreps, "2x0e + 2x1o", name)
    arguments = [tensor.requires_grad_() for tensor in inputs(product, shared, rows=(2,))]
    assert torch.autograd.gradcheck(product, arguments)
    assert torch.autograd.gradgradcheck(product, arguments)


@every_case
@either_layout
def test_empty_and_leading_axes(case, layout):
    product = TensorProduct(*case, layout=layout)
    for shared in (True, False):
        assert product(*inputs(product, shared, rows=(0,))).shape == (0, product.irreps_out.dim)
        x, y, w = inputs(product, shared, rows=(2, 3))
        flat = product(x.flatten(0, 1), y.flatten(0, 1), w if shared else w.flatten(0, 1))
        torch.testing.assert_close(product(x, y, w).flatten(0, 1), flat)
        torch.testing.assert_close(product(x[0, 0], y[0, 0], w if shared else w[0, 0]), flat[0])


def test_outputs_that_no_path_reaches_are_zero():
    product = TensorProduct("2x0e", "2x0e", "2x0e + 3x1o + 2x0e", instructions=[(0, 0, 2, "uuu", False)])
    x, y, _ = inputs(product, True)
    torch.testing.assert_close(product(x, y), torch.cat([torch.zeros(5, 11, dtype=torch.float64), x * y], 1))
    nothing = TensorProduct("2x0e", "2x0e", "2x1o")
    assert torch.equal(nothing(x, y), torch.zeros(5, 6, dtype=torch.float64))
    assert TensorProduct("", "0e", "").forward(torch.zeros(3, 0), torch.zeros(3, 1)).shape == (3, 0)


def test_dtypes_and_autocast():
    product = TensorProduct(*CASES["uvu"])
    x, y, w = inputs(product, True, dtype=torch.float32)
    assert product(x.bfloat16(), y, w.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(product(x, y, w), product(x.double(), y, w).float(), rtol=1e-5, atol=1e-5)


def test_modules_are_copied_and_pickled():
    product = TensorProduct(*CASES["uuu"])
    arguments = inputs(product, True)
    expected = product(*arguments)
    for other in (copy.deepcopy(product), pickle.loads(pickle.dumps(product))):
        assert torch.equal(other(*arguments), expected)
    assert not product.state_dict()
    assert "13 paths" not in repr(product)
    assert f"{len(product.paths)} paths" in repr(product)


@either_weight
def test_scatter_equals_a_loop(shared):
    product = TensorProduct("3x0e + 3x1o", "0e + 1o", "3x0e + 3x1o", "uvu")
    sender, receiver = edge_index = torch.tensor([[0, 1, 3, 3], [1, 0, 0, 2]])  # node 3 receives nothing
    x, (_, y, w) = torch.randn(4, 12, dtype=torch.float64), inputs(product, shared, rows=(4,))
    out = tensor_product_scatter(product, x, y, w, edge_index, 4)
    expected = torch.zeros(4, 12, dtype=torch.float64)
    for e in range(4):
        expected[receiver[e]] += product(x[sender[e]], y[e], w if shared else w[e])
    torch.testing.assert_close(out, expected)
    assert not out[3].any()
    none = torch.zeros(2, 0, dtype=torch.int64)
    assert not tensor_product_scatter(product, x, y[:0], w if shared else w[:0], none, 4).any()


@every_case
@either_weight
def test_pieces_of_edges_change_nothing(case, shared, monkeypatch):
    product = TensorProduct(*case)
    edge_index = torch.randint(0, 4, (2, 7))
    _, y, w = inputs(product, shared, rows=(7,))
    arguments = [t.requires_grad_() for t in (torch.randn(4, product.irreps1.dim, dtype=torch.float64), y, w)]
    results = []
    for tile in (1 << 22, 3 * product.irreps_out.dim):
        monkeypatch.setattr("geoeq.ops.tensor_product.TILE", tile)
        out = tensor_product_scatter(product, *arguments, edge_index, 4)
        first = torch.autograd.grad(out.sin().sum(), arguments, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), arguments)
        results.append([out, *first, *second])
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)


def test_pieces_keep_no_messages(monkeypatch):
    product = TensorProduct("4x0e + 4x1o", "0e + 1o", "4x0e + 4x1o", "uvu")
    arguments = (torch.randn(3, 16, requires_grad=True), torch.randn(100, 4), torch.randn(100, product.weight_numel))
    edge_index = torch.randint(0, 3, (2, 100))
    kept = []
    monkeypatch.setattr("geoeq.ops.tensor_product.TILE", 10 * 16)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        tensor_product_scatter(product, *arguments, edge_index, 3).sum()
    assert max(tensor.numel() for tensor in kept) <= max(t.numel() for t in arguments)


@every_case
def test_traces_without_graph_break(case):
    shared = case[3] == "uuu"
    torch.compiler.reset()
    product = TensorProduct(*case)
    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    arguments = [tensor.requires_grad_() for tensor in inputs(product, shared)]
    out, expected = compiled(*arguments), product(*arguments)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    got = torch.autograd.grad(out.sin().sum(), arguments)
    for gradient, reference in zip(got, torch.autograd.grad(expected.sin().sum(), arguments)):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10)


def test_traces_where_it_is_too_large_to_unroll(monkeypatch):
    monkeypatch.setattr("geoeq.ops.channelwise_product.UNROLL_LIMIT", 10)
    torch.compiler.reset()
    irreps = "2x0e + 2x1o + 2x2e"
    product = TensorProduct(irreps, irreps, irreps + " + 2x3o")  # of no other test, so that nothing is cached
    arguments = [tensor.requires_grad_() for tensor in inputs(product, True)]
    out = torch.compile(product, fullgraph=True, backend="aot_eager")(*arguments)
    expected = product(*arguments)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    for got, want in zip(*(torch.autograd.grad(o.sin().sum(), arguments) for o in (out, expected))):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@NEEDS_COMPILER
@pytest.mark.parametrize("lmax", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_inductor_equals_eager(lmax):
    torch.compiler.reset()
    irreps = o3.Irreps([(16, (degree, 1)) for degree in range(lmax + 1)])
    product = TensorProduct(irreps, irreps, irreps, layout="channels_last")
    compiled = torch.compile(product, fullgraph=True)
    arguments = [tensor.requires_grad_() for tensor in inputs(product, True, dtype=torch.float32)]
    out, expected = compiled(*arguments), product(*arguments)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    for got, reference in zip(*(torch.autograd.grad(o.square().sum(), arguments) for o in (out, expected))):
        torch.testing.assert_close(got, reference, rtol=1e-4, atol=1e-4)


def test_generated_code_shares_products():
    source = forward_source(plan(2))
    assert source.count("x1y1 = ") == 1
    assert source.count(".select(") == 9 + 9 + 15  # of x, y and the weights
    assert starts(plan(2).out) == [0, 1, 4, 9]


def test_import_needs_no_e3nn():
    code = "import sys; import geoeq.ops; print('e3nn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "uuv"}, "mode must be one of uuu, uvu, uvw, got 'uuv'"),
        ({"layout": "ir"}, "layout must be one of mul_ir, channels_last, got 'ir'"),
        ({"instructions": [(0, 3, 0, "uuu", True)]}, r"an instruction must name an entry of 2x0e\+2x1o, got 3"),
        ({"instructions": [(0, 0, 1, "uuu", True)]}, "couple 0e and 0e to one of their products, got 1o"),
        ({"instructions": [(0, 0, 0, "uvw", False)]}, "has_weight must be true in mode uvw"),
        ({"instructions": [(0, 0, 0)]}, r"an instruction must be \(i1, i2, i_out, mode, has_weight"),
        (
            {"irreps2": "3x0e", "instructions": [(0, 0, 0, "uuu", True)]},
            "multiplicities must fit mode uuu, got 2, 3 to 2",
        ),
    ],
)
def test_bad_arguments(change, message):
    irreps = "2x0e + 2x1o"
    with pytest.raises(ValueError, match=message) as error:
        TensorProduct(**({"irreps1": irreps, "irreps2": irreps, "irreps_out": irreps} | change))
    assert "\n" not in str(error.value)


def test_bad_shapes():
    product = TensorProduct("2x0e + 2x1o", "0e", "2x0e + 2x1o", "uvu")
    x, y, w = inputs(product, True)
    for arguments, message in [
        ((x[:, :7], y, w), r"x must be \[..., 8\] for 2x0e\+2x1o, got \[5, 7\]"),
        ((x, y[:4], w), r"y must be \[5, 1\] for 1x0e, got \[4, 1\]"),
        ((x, y, w[:3]), r"weight must be \[4\] or \[5, 4\], got \[3\]"),
        ((x, y), r"weight must be \[4\] or one such row for each of x, got None"),
    ]:
        with pytest.raises(ValueError, match=message):
            product(*arguments)
    with pytest.raises(ValueError, match=r"edge_index must be \[2, E\], got \[3\]"):
        tensor_product_scatter(product, x, y, w, torch.zeros(3, dtype=torch.int64), 5)
