"""EGNO: one frame is an EGNN, several follow the docstring frame by frame, and symmetries of time and space."""

import pytest
import torch
import torch.nn.functional as F
from torch_geometric.data import Data

from geoeq.audit import orbit_error
from geoeq.groups import E, S
from geoeq.layers import EGNN, EGNO


def bodies(n=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    edges = torch.tensor([(j, i) for i in range(n) for j in range(n) if i != j], dtype=torch.int64).reshape(-1, 2).T

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    attr = draw(edges.shape[1], 1)
    return Data(pos=draw(n, 3), vel=draw(n, 3), x=draw(n, 2), history=draw(n, 3, 3), edge_index=edges, edge_attr=attr)


def lively(model, seed=0):
    """Weights large enough that every term counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.7 * noise * parameter.shape[-1] ** -0.5)
    return model


def test_one_frame_is_an_egnn():
    egnn, egno = lively(EGNN(hidden=8, node_dim=2).double()), EGNO(1, hidden=8, node_dim=2).double()
    egno.load_state_dict(egnn.state_dict())
    assert torch.equal(egno(bodies()), egnn(bodies()))


def frame_by_frame(model, data):
    """The docstring, with torch's Fourier transform, and messages of one frame after another."""

    def convolved(conv, x):
        imag = F.pad(conv.imag, (0, 0, 0, 0, 1, conv.modes - 1 - len(conv.imag)))
        spectrum = torch.fft.rfft(x, dim=0)[: conv.modes]
        mixed = torch.einsum("k...i,kio->k...o", spectrum, torch.complex(conv.real, imag))
        return torch.fft.irfft(mixed, n=len(x), dim=0)

    frames = range(model.io.n_frames)
    steps = data.history.diff(dim=1)
    norms = torch.cat([data.vel.norm(dim=1, keepdim=True), steps.norm(dim=2)], 1)
    changes = steps.diff(dim=1).norm(dim=2)
    h = model.embedding(torch.cat([norms, data.x, changes], 1)) + model.time(model.frames).unsqueeze(1)  # [F, N, H]
    x = data.pos.expand(len(frames), -1, -1)
    rest = torch.cat([data.vel.unsqueeze(2), steps.mT], 2).expand(len(frames), -1, -1, -1)
    sender, receiver = data.edge_index
    attr = torch.cat([data.edge_attr, (data.pos[receiver] - data.pos[sender]).square().sum(1, keepdim=True)], 1)
    for mix, mix_vectors, layer in zip(model.mix, model.mix_vectors, model.layers):
        h = h + F.silu(convolved(mix, h))
        channels = torch.cat([(x - data.pos).unsqueeze(3), rest], 3)
        channels = channels + convolved(mix_vectors, channels)
        x, rest = data.pos + channels[..., 0], channels[..., 1:]
        steps = [layer(h[t], x[t], data.edge_index, attr, rest[t, :, :, 0]) for t in frames]
        h, x = torch.stack([s[0] for s in steps]), torch.stack([s[1] for s in steps])
    return x.transpose(0, 1)


@pytest.mark.parametrize(("n_frames", "modes"), [(2, 2), (5, 2), (6, 4)])
def test_same_as_frame_by_frame(n_frames, modes):
    model, data = lively(EGNO(n_frames, hidden=8, n_layers=3, modes=modes, node_dim=2, history=3).double()), bodies()
    found = model(data)
    assert found.shape == (4, n_frames, 3)
    assert torch.allclose(found, frame_by_frame(model, data), atol=1e-10)
    assert (found.diff(dim=1).norm(dim=2) > 1e-4).all()


def test_symmetry():
    model, data = lively(EGNO(5, hidden=8, node_dim=2, history=3).double()), bodies()
    assert orbit_error(model, data, E(3)) < 1e-10
    assert orbit_error(model, data, S(4)) < 1e-10


def test_without_time_embedding_all_frames_are_one():
    """All frames start alike, and neither messages nor convolutions tell them apart."""
    model, data = lively(EGNO(5, hidden=8).double()), bodies()
    torch.nn.init.zeros_(model.time.weight)
    frames = model(data)
    assert torch.allclose(frames, frames[:, :1].expand(-1, 5, -1), atol=1e-12)


def test_far_nodes_do_not_matter():
    """Without edges between them, two groups of bodies are forecast as if the other were not there."""
    model, near = lively(EGNO(3, hidden=8).double()), bodies()
    both = near.clone()
    for name in ("pos", "vel"):
        both[name] = torch.cat([near[name], near[name] + 1000])
    both.edge_index = torch.cat([near.edge_index, near.edge_index + 4], 1)
    both.edge_attr = near.edge_attr.repeat(2, 1)
    assert torch.allclose(model(both)[:4], model(near), atol=1e-12)


def test_dtype_autocast_and_state_dict():
    data = bodies(dtype=torch.float32)
    model, other = EGNO(4, hidden=8), EGNO(4, hidden=8)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(data), other(data))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(data)
    assert rough.dtype == torch.float32
    assert torch.allclose(rough, model(data), rtol=0.02, atol=0.05)
    assert EGNO(4, hidden=8).bfloat16()(bodies(dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_reset_parameters():
    model = lively(EGNO(4, hidden=8))
    before = [p.clone() for p in model.parameters()]
    model.reset_parameters()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    fresh, again = EGNO(4, hidden=64), EGNO(4, hidden=64)
    again.reset_parameters()
    for new, old in zip(fresh.parameters(), again.parameters(), strict=True):
        if new.numel() > 500:
            assert float(old.detach().std()) == pytest.approx(float(new.detach().std()), rel=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_frames": 0}, "n_frames >= 1"),
        ({"n_layers": 0}, "n_layers must be >= 1, got 0"),
        ({"n_frames": 2, "modes": 3}, r"modes must lie in \[1, 2\] for 2 frames, got 3"),
        ({"time_dim": 7}, "dim must be even and at least 2, got 7"),
    ],
)
def test_unusable_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        EGNO(**options)
