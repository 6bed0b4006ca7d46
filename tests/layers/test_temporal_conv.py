"""Convolution along time against a Fourier transform written out, and what it must commute with."""

import cmath
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoeq.layers import TemporalConv
from geoeq.layers.temporal_conv import frame_embedding

SIZES = [(1, 1), (2, 1), (2, 2), (3, 2), (4, 3), (5, 1), (5, 2), (5, 3), (8, 5), (9, 4)]
every_size = pytest.mark.parametrize(("n_frames", "modes"), SIZES)


def random_conv(channels_in, channels_out, n_frames, modes):
    conv = TemporalConv(channels_in, channels_out, n_frames=n_frames, modes=modes).double()
    with torch.no_grad():
        for weight in conv.parameters():
            weight.copy_(torch.randn(weight.shape))
    return conv


def complex_weight(conv):
    """[M, C_in, C_out], real where a frequency has no sine."""
    missing = conv.modes - 1 - len(conv.imag)
    return torch.complex(conv.real, torch.nn.functional.pad(conv.imag, (0, 0, 0, 0, 1, missing)))


@every_size
def test_same_as_torchs_transform(n_frames, modes):
    conv, x = random_conv(3, 2, n_frames, modes), torch.randn(n_frames, 4, 3).double()
    spectrum = torch.einsum("kni,kio->kno", torch.fft.rfft(x, dim=0)[:modes], complex_weight(conv))
    assert torch.allclose(conv(x), torch.fft.irfft(spectrum, n=n_frames, dim=0), atol=1e-12)


@every_size
def test_same_as_a_transform_written_out(n_frames, modes):
    conv, x = random_conv(1, 1, n_frames, modes), torch.randn(n_frames, 1).double()
    weight, signal = complex_weight(conv).flatten().tolist(), x.flatten().tolist()
    wanted = []
    for t in range(n_frames):
        total = 0.0
        for k in range(modes):
            x_k = sum(signal[s] * cmath.exp(-2j * math.pi * k * s / n_frames) for s in range(n_frames))
            c_k = 1 if k in (0, n_frames / 2) else 2
            total += (c_k * x_k * weight[k] * cmath.exp(2j * math.pi * k * t / n_frames)).real / n_frames
        wanted.append(total)
    assert torch.allclose(conv(x).flatten(), torch.tensor(wanted).double(), atol=1e-12)


@every_size
def test_constant_signals_pass_through_the_weights_of_frequency_zero(n_frames, modes):
    conv, x = random_conv(3, 2, n_frames, modes), torch.randn(4, 3).double()
    wanted = (x @ conv.real[0]).expand(n_frames, 4, 2)
    assert torch.allclose(conv(x.expand(n_frames, 4, 3)), wanted, atol=1e-12)


def test_with_unit_weights_it_is_a_low_pass_filter():
    conv = random_conv(1, 1, 6, 2)
    with torch.no_grad():
        conv.real.fill_(1.0)
        conv.imag.zero_()
    t = torch.arange(6).double() * (2 * math.pi / 6)
    slow, fast = (2 + t.cos() + 3 * t.sin()).unsqueeze(1), (2 * t).cos().unsqueeze(1)
    assert torch.allclose(conv(slow + fast), slow, atol=1e-12)


@given(st.sampled_from(SIZES), st.integers(0, 8))
def test_commutes_with_cyclic_shifts_and_with_maps_of_components(size, shift):
    conv, x = random_conv(2, 3, *size), torch.randn(size[0], 4, 3, 2).double()
    assert torch.allclose(conv(x.roll(shift, 0)), conv(x).roll(shift, 0), atol=1e-12)
    rotation = torch.linalg.qr(torch.randn(3, 3).double())[0]
    assert torch.allclose(conv(rotation @ x), rotation @ conv(x), atol=1e-12)


@every_size
def test_every_weight_counts(n_frames, modes):
    conv, x = random_conv(2, 2, n_frames, modes), torch.randn(n_frames, 7, 2).double()
    (conv(x) * torch.randn(n_frames, 7, 2)).sum().backward()
    assert all((weight.grad != 0).all() for weight in conv.parameters())


def test_gradients():
    conv, x = random_conv(2, 2, 4, 3), torch.randn(4, 2, 2).double().requires_grad_()
    real, imag = conv.real.detach().requires_grad_(), conv.imag.detach().requires_grad_()

    def run(x, real, imag):
        return torch.func.functional_call(conv, {"real": real, "imag": imag}, (x,))

    assert torch.autograd.gradcheck(run, (x, real, imag))
    assert torch.autograd.gradgradcheck(run, (x, real, imag))


@pytest.mark.parametrize("shape", [(5, 0, 2), (5, 2), (5, 1, 3, 2)])
def test_any_axes_between(shape):
    assert TemporalConv(2, 4, n_frames=5, modes=2)(torch.randn(shape)).shape == (*shape[:-1], 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dtype(dtype):
    assert TemporalConv(2, 2, n_frames=5, modes=2).to(dtype)(torch.randn(5, 3, 2, dtype=dtype)).dtype == dtype


def test_autocast_does_not_round():
    conv, x = TemporalConv(2, 2, n_frames=5, modes=2), torch.randn(5, 3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(conv(x), conv(x.clone()))
        assert conv(x.bfloat16()).dtype == torch.float32
        found = conv(x)
    assert torch.equal(found, conv(x))


def test_tables_have_double_precision_in_a_double_module():
    conv = TemporalConv(1, 1, n_frames=7, modes=4).double()
    assert torch.allclose(conv.synthesis @ conv.analysis, torch.eye(7).double(), atol=1e-15)
    assert set(conv.state_dict()) == {"real", "imag"}


def test_compiled():
    torch.compiler.reset()
    conv, x = TemporalConv(2, 3, n_frames=5, modes=2), torch.randn(5, 4, 3, 2)
    assert torch.allclose(torch.compile(conv, fullgraph=True, backend="aot_eager")(x), conv(x), atol=1e-6)


def test_repr_and_reset():
    conv = TemporalConv(2, 3, n_frames=5, modes=2)
    assert repr(conv) == "TemporalConv(2, 3, n_frames=5, modes=2)"
    before = conv.real.clone()
    conv.reset_parameters()
    assert not torch.equal(before, conv.real)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 1, 5, 2), "sizes must be >= 1, got 0, 1 and 5"),
        ((1, 1, 0, 1), "sizes must be >= 1, got 1, 1 and 0"),
        ((1, 1, 5, 4), r"modes must lie in \[1, 3\] for 5 frames, got 4"),
        ((1, 1, 5, 0), r"modes must lie in \[1, 3\] for 5 frames, got 0"),
    ],
)
def test_unusable_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        TemporalConv(*sizes[:2], n_frames=sizes[2], modes=sizes[3])


@pytest.mark.parametrize("shape", [(4, 3, 2), (5, 3, 3), (5,)])
def test_wrong_input(shape):
    with pytest.raises(ValueError, match=r"x must be \[5, ..., 2\], got"):
        TemporalConv(2, 2, n_frames=5, modes=2)(torch.randn(shape))


def test_embedding_tells_frames_apart():
    embedding = frame_embedding(20, 32)
    assert embedding.shape == (20, 32)
    assert torch.pdist(embedding).min() > 0.5
    assert torch.equal(embedding[0], torch.cat([torch.zeros(16), torch.ones(16)]).double())
    for dim in (0, 3):
        with pytest.raises(ValueError, match=f"dim must be even and at least 2, got {dim}"):
            frame_embedding(5, dim)
