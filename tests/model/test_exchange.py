import pytest
import torch

from aef_model.attention import attend, rotate_2d
from aef_model.exchange import Up, enlarge, tent


@pytest.mark.parametrize("width", [2, 4])
def test_tent_removes_what_repeats_with_the_coarse_cell_and_keeps_ramps(width):
    pattern = torch.randn(1, 1, width, width, generator=torch.Generator().manual_seed(0))
    smooth = tent(pattern.repeat(1, 1, 8, 8), width)[..., width:-width, width:-width]
    torch.testing.assert_close(smooth, pattern.mean().expand_as(smooth), atol=1e-6, rtol=0)
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    torch.testing.assert_close(tent(ramp, width)[..., width:-width], ramp[..., width:-width])


@pytest.mark.parametrize("kind", ["smoothed", "bilinear"])
def test_uniform_coarse_cells_stay_uniform_whatever_is_learned(kind):
    torch.manual_seed(0)
    up = Up((6, 5, 4), (2, 4), kind, 1.0)
    for p in up.parameters():
        torch.nn.init.normal_(p)
    y = up(torch.randn(6).expand(1, 6, 6, 6))[:, 8:-8, 8:-8]
    torch.testing.assert_close(y, y[:, :1, :1].expand_as(y), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
def test_what_is_compiled_in_place_of_torchs_kernels_is_the_same(size, monkeypatch):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for resample in (lambda x: enlarge(x, 8), lambda x: tent(x, 4)):
        found = []
        for compiling in (False, True):
            monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
            y = resample(x)
            found.append((y, torch.autograd.grad(y.sin().sum(), x)[0]))
        torch.testing.assert_close(*found)


def test_both_forms_of_attention_agree_and_skip_absent_keys():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 5, 4, 7, 8).unbind(0)
    keys = torch.rand(2, 1, 1, 1, 7) < 0.6
    keys[0] = False
    plain, fused = attend(q, k, v, keys, "matmul"), attend(q, k, v, keys, "fused")
    assert plain.isfinite().all()
    torch.testing.assert_close(plain, fused, atol=1e-5, rtol=1e-5)
    k2, v2 = (torch.where(keys[..., 0, :, None], x, 1e4) for x in (k, v))
    torch.testing.assert_close(attend(q, k2, v2, keys, "matmul")[1], plain[1])
    sub = keys[1].flatten()
    torch.testing.assert_close(attend(q[1], k[1][..., sub, :], v[1][..., sub, :]), plain[1], atol=1e-5, rtol=1e-5)


def test_rotation_tells_offsets_not_places():
    torch.manual_seed(0)
    q, k = torch.randn(8).expand(35, 8), torch.randn(8).expand(35, 8)
    product = (rotate_2d(q, 5, 7) @ rotate_2d(k, 5, 7).T).view(5, 7, 5, 7)
    torch.testing.assert_close(product[0, 0, 2, 3], product[2, 3, 4, 6])
    torch.testing.assert_close(product[1, 1, 1, 1], product[4, 6, 4, 6])
    assert not torch.isclose(product[0, 0, 2, 3], product[0, 0, 3, 2])
    torch.testing.assert_close(rotate_2d(q, 5, 7).norm(dim=-1), q.norm(dim=-1))
