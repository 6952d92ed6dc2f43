"""Every part of the encoder and the decoders against the same thing in numpy (plain.py), float64 against float32.

Tolerances are relative to the size of the result, about 1: float32 rounds at 6e-8 and the longest sums have 1000
terms, so single parts agree to 2e-5; the whole network of two blocks to 1e-4.
"""

import numpy as np
import plain
import pytest
import torch
from conftest import DAY, YEAR_2021, make_batch, make_frames, ms, year

from aef_model import AlphaEarth, ModelConfig
from aef_model.blocks import PrecisionOperator, SpaceOperator, TimeOperator
from aef_model.decoders import Decoder, TextHead
from aef_model.exchange import Exchange, Grids, Spread
from aef_model.project import Projector
from aef_model.summary import PeriodPooling, Upsampler
from aef_model.timeaxis import Measured, TimeAxis, pack_sources
from aef_model.timecode import TIME_DIM, decode_time_code, period_code, relative_code, relative_days, time_code

SMALL = {"precision_dim": 16, "time_dim": 24, "space_dim": 32, "time_heads": 3, "space_heads": 4, "blocks": 2,
         "pool_heads": 6, "pool_dim": 4, "decoder_hidden": 20, "text_dim": 12, "text_hidden": 18}  # fmt: skip


def config(**overrides):
    return ModelConfig.named("tiny", **{**SMALL, **overrides})


def made(build, *arguments):
    """A module none of whose parameters is at a special value, so that nothing can hide behind a zero or a one."""
    torch.manual_seed(0)
    module = build(*arguments).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module, plain.weights_of(module)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def agree(ours, independent, tolerance=2e-5):
    ours = ours.detach().double().numpy()
    assert ours.shape == independent.shape
    assert np.abs(independent).max() > 0.1  # something is compared
    assert np.abs(ours - independent).max() < tolerance * max(np.abs(independent).max(), 1)


def test_time_codes():
    """Exact fractions of a turn against float64: 28 years from the epoch lose nothing."""
    times = [ms(1985, 2, 3), ms(2017, 1, 1), ms(2020, 1, 1) - 1, ms(2024, 2, 29, 13, 5, 7) + 123, ms(2045, 12, 31)]
    agree(time_code(torch.tensor(times)), np.stack([plain.time_code(t) for t in times]), 1e-6)
    periods = [(times[0], times[1]), (times[3], times[3] + 5 * DAY), (times[1], times[4])]
    agree(period_code(torch.tensor(periods)), np.stack([plain.period_code(p) for p in periods]), 1e-6)
    since, length = relative_days(torch.tensor([times]), torch.tensor([periods]))
    expected = [[plain.relative_code(t, p) for t in times] for p in periods]
    agree(relative_code(since, length)[0], np.array(expected), 1e-5)
    pairs = [(t, p) for t in times for p in periods]
    got = decode_time_code(torch.tensor([t for t, _ in pairs]), torch.tensor([p for _, p in pairs]))
    agree(got, np.stack([plain.decode_time_code(*pair) for pair in pairs]), 1e-6)


@pytest.mark.parametrize("bands", [1, 5, 13])
def test_projector(bands):
    projector, w = made(Projector, bands, 16)
    pixels, code = noise(3, bands, 8, 12), noise(3, TIME_DIM, seed=1)
    pixels[0, bands // 2] = float("nan")  # a missing band (the only one: nothing measured)
    pixels[1, :, :, 5:] = float("nan")  # a swath edge within a cell
    cells, seen = projector(pixels, torch.tensor([True, True, True]), code)
    for i in range(3):
        expected, measured = plain.project(w, pixels[i].double().numpy(), code[i].double().numpy())
        agree(cells[i], expected)
        assert (seen[i].numpy() == measured).all()
    assert seen[1, :, :3].all() and not seen[1, :, 3:].any() and seen[0].any() == (bands > 1)
    absent, seen = projector(pixels, torch.tensor([True, False, True]), code)
    assert not seen[1].any() and torch.equal(absent[0], cells[0])
    agree(absent[1], plain.project(w, np.full((bands, 8, 12), np.nan), code[1].double().numpy())[0])


@pytest.mark.parametrize("form", ["matmul", "fused"])
@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (8, 8)])
def test_space_operator(form, grid):
    """Any grid; some cells unmeasured, and a frame with none."""
    operator, w = made(SpaceOperator, config(attention=form))
    x, code = noise(3, *grid, 32), noise(3, 24, seed=1)
    seen = noise(3, *grid, seed=2) < 0.5
    seen[1], seen[2] = True, False
    got = operator(x, code, seen)
    for i in range(3):
        agree(got[i], plain.space(w, x[i].double().numpy(), code[i].double().numpy(), seen[i].numpy(), heads=4))


@pytest.mark.parametrize("form", ["matmul", "fused"])
def test_time_operator(form):
    """Two sequences of five and three frames on one padded axis, some cells unmeasured, one cell by every frame."""
    operator, w = made(TimeOperator, config(attention=form))
    x, code = noise(10, 2, 3, 24), noise(10, 24, seed=1)
    present = torch.tensor([[True] * 5, [True, False, True, False, True]])
    seen = (noise(10, 2, 3, seed=2) < 0.5) & present.flatten()[:, None, None]
    seen[:, 0, 0] = False
    axis = TimeAxis(torch.zeros(2, 5, dtype=torch.int64), present, None, Measured(seen, seen, seen))
    got = operator(x, code, axis)
    for sequence in range(2):
        own = 5 * sequence + present[sequence].nonzero()[:, 0]
        agree(got[own], plain.time(w, *(a[own].double().numpy() for a in (x, code, seen)), heads=3))
    listed = present.flatten().nonzero()[:, 0]
    short = TimeAxis(axis.time_ms, present, listed, Measured(*(part[listed] for part in axis.measured)))
    torch.testing.assert_close(operator(x[listed], code[listed], short), got[listed], atol=2e-5, rtol=0)


@pytest.mark.parametrize("norm", ["pixel", "group"])
def test_precision_operator(norm):
    """With "group", x + Conv3x3(GELU(Conv3x3(GroupNorm(x)))), the date's scale and shift after the norm."""
    operator, w = made(PrecisionOperator, config(norm=norm, conv_expansion=4.0))
    assert operator.widen.out_channels == 64
    x, code = noise(2, 6, 8, 16), noise(2, 24, seed=1)
    got = operator(x, code)
    for i in range(2):
        agree(got[i], plain.precision(w, x[i].double().numpy(), code[i].double().numpy(), norm))


@pytest.mark.parametrize("norm", ["pixel", "group"])
def test_only_group_norm_looks_at_the_whole_tile(norm):
    operator, _ = made(PrecisionOperator, config(norm=norm))
    x, code = noise(1, 16, 16, 16), noise(1, 24, seed=1)
    changed = x.clone()
    changed[:, :4, :4] += 5
    moved = (operator(changed, code) - operator(x, code))[0, 6:, 6:].abs().max()
    assert (moved > 1e-3) if norm == "group" else (moved == 0)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["smoothed", "transposed", "bilinear"])
def test_exchange(kind, last):
    paths, w = made(Exchange, config(exchange_up=kind), last)
    p, t, s = noise(2, 16, 24, 16), noise(2, 4, 6, 24, seed=1), noise(2, 2, 3, 32, seed=2)
    got = paths(Grids(p, t, s))
    for i in range(2):
        expected = plain.exchange(w, *(x[i].double().numpy() for x in (p, t, s)), kind, last)
        for ours, independent in zip(got, expected, strict=True):
            agree(ours[i], independent)


@pytest.mark.parametrize("kind", ["smoothed", "transposed", "bilinear"])
def test_each_of_the_nine_paths_carries_something(kind):
    """Every operator's state reaches all three operators of the next block, at the place where it is."""
    paths, _ = made(Exchange, config(exchange_up=kind))
    grids = Grids(noise(1, 64, 64, 16), noise(1, 16, 16, 24, seed=1), noise(1, 8, 8, 32, seed=2))
    before = paths(grids)
    for i, side in enumerate((64, 16, 8)):
        changed = list(grids)
        changed[i] = changed[i].clone()
        changed[i][0, side // 2, side // 4] += 3
        for ours, plain_state, of_side in zip(paths(Grids(*changed)), before, (64, 16, 8), strict=True):
            effect = (ours - plain_state)[0].norm(dim=-1)
            row, col = divmod(int(effect.argmax()), of_side)
            reach = of_side // min(side, of_side)  # cells of this grid in one of the coarser
            assert effect.max() > 1e-3
            assert abs(row - of_side / 2) <= reach and abs(col - of_side / 4) <= reach


def test_first_state_of_the_coarser_grids():
    spread, w = made(Spread, config())
    x = noise(1, 16, 24, 16)
    grids = spread(x)
    agree(grids.time[0], plain.down(plain.below(w, "to_time"), x[0].double().numpy(), (4,)))
    agree(grids.space[0], plain.down(plain.below(w, "to_space"), x[0].double().numpy(), (4, 2)))


def test_one_time_axis_from_sources_of_unequal_length():
    """Listed or padded, every present frame stands at its own time, whatever the sources' band counts are."""
    g = torch.Generator().manual_seed(0)
    pixels = [torch.randn(2, n, c, 16, 16, generator=g) for n, c in ((4, 5), (3, 2), (1, 7))]
    times = [torch.randint(1, 10**12, (2, n), generator=g) for n in (4, 3, 1)]
    for share in (0.3, 0.9):  # below three quarters there is a list
        present = [torch.rand(2, n, generator=g) < share for n in (4, 3, 1)]
        axis, listed = pack_sources(pixels, times, present)
        assert (axis.slots is not None) == (share < 0.5)
        for sequence in range(2):
            expected = sorted(
                t for time, here in zip(times, present, strict=True) for t in time[sequence][here[sequence]]
            )
            assert sorted(axis.time_ms[sequence][axis.present[sequence]].tolist()) == expected
        if axis.slots is not None:
            for x, all_of_source, here in zip(listed, pixels, present, strict=True):
                assert torch.equal(x, torch.cat([all_of_source[b][here[b]] for b in range(2)]))


def test_pooling():
    """Inside, before and after the frames; cells that some or all frames did not measure."""
    pooling, w = made(PeriodPooling, config())
    frames, seen = noise(2, 4, 3, 2, 16), noise(2, 4, 3, 2, seed=1) < 0.7
    seen[:, :, 0, 0] = False
    times = YEAR_2021[0] + torch.tensor([[3, 90, 200, 350], [10, 20, 30, 40]]) * DAY + 12_345_678
    spans = [
        YEAR_2021,
        (ms(2021, 6, 1), ms(2021, 7, 6)),
        (ms(2020, 3, 1), ms(2020, 3, 9)),
        (ms(2022, 5, 1), ms(2023, 5, 1)),
    ]
    got = pooling(frames, times, seen, torch.tensor([spans] * 2))
    for i, j in np.ndindex(2, len(spans)):
        expected = plain.pool(w, frames[i].double().numpy(), times[i].tolist(), seen[i].numpy(), spans[j], heads=6)
        agree(got[i, j], expected, 5e-5)


@pytest.mark.parametrize("kind", ["blurred_shuffle", "shuffle", "bilinear"])
def test_a_young_codes_neighbours_have_little_say(kind):
    """Of the kernel's power, which is that of any other layer, each of the eight cells around has a thousandth."""
    torch.manual_seed(0)
    upsampler = Upsampler(config(upsampling=kind))
    weight = upsampler.kernel.weight.detach()
    power = weight.square().mean(dim=(0, 1))
    np.testing.assert_allclose(float(power.sum() * weight.shape[1]), 1.4**2, rtol=0.1)
    np.testing.assert_allclose(power[1, 1] / power.sum(), 1 - 8 * 0.01 / 9, rtol=0.01)


@pytest.mark.parametrize("kind", ["blurred_shuffle", "shuffle", "bilinear"])
def test_upsampler(kind):
    upsampler, w = made(Upsampler, config(upsampling=kind))
    x = noise(2, 5, 7, 24)
    got = upsampler(x)
    for i in range(2):
        agree(got[i], plain.upsample(w, x[i].double().numpy(), kind, 64))


def test_decoder_and_text_head():
    cfg = config()
    source = cfg.source("palsar2")
    decoder, w = made(Decoder, cfg, source)
    code = torch.nn.functional.normalize(noise(2, 3, 4, 64), dim=-1)
    period = torch.tensor([YEAR_2021, (ms(2021, 6, 1), ms(2021, 7, 6))])
    times = torch.tensor([ms(2021, 2, 3), ms(2021, 12, 3), ms(2021, 6, 2), ms(2022, 1, 1)])  # two of each sequence
    geometry = noise(4, source.geometry_dim, seed=3)
    geometry[1, 0] = float("nan")
    got = decoder(code, times, period, geometry)
    for i in range(4):
        own = (x[i // 2].double().numpy() for x in (code,))
        expected = plain.decode(w, *own, times[i], period[i // 2].tolist(), geometry[i].double().numpy())
        agree(got[i], expected)
    head, w = made(TextHead, cfg)
    vectors = noise(2, 12, seed=4) * 30
    expected = np.stack([plain.read_text(w, vectors[i].double().numpy(), period[i].tolist()) for i in range(2)])
    agree(head(vectors, period), expected)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"exchange_up": "smoothed", "norm": "group", "attention": "fused", "conv_expansion": 1.0},
        {"exchange_up": "transposed", "upsampling": "shuffle"},
        {"space_operator": False, "code_norm": "half_white", "upsampling": "bilinear"},
        {"code_norm": "batch"},
    ],
    ids=lambda overrides: "-".join(map(str, overrides.values())) or "default",
)
def test_the_whole_embedding(overrides):
    """Uneven sequences with an absent source, missing polarisations, swath edges and a hole that nobody measured."""
    model, _ = made(AlphaEarth, config(**overrides))
    if model.cfg.code_norm == "half_white":
        model.upsampler.norm.whitening.copy_(noise(64, 64) / 8)
    if model.cfg.code_norm != "none":
        model.upsampler.norm.mean.copy_(noise(64))
        model.upsampler.norm.variance.copy_(noise(64).square() + 0.1)
    frames = make_frames(model.cfg, batch=2, size=(32, 48), counts={"sentinel2": 3, "sentinel1": 2, "landsat": 1})
    frames.pixels["sentinel1"][:, 0, 2:4] = float("nan")
    frames.pixels["sentinel2"][0, 1, :, 20:] = float("nan")
    frames.present["sentinel2"][1, 2] = frames.present["landsat"][1, 0] = False
    for pixels in frames.pixels.values():
        pixels[..., :8, 40:] = float("nan")
    period = torch.tensor([YEAR_2021, (ms(2021, 6, 1), ms(2021, 7, 6))])
    got = model.embed(frames, period)
    for sample in range(2):
        agree(got[sample], plain.embed(model, frames, period, sample), 1e-4)


def test_what_each_source_is_decoded_from():
    """Time within the period and, where a source has one, acquisition geometry change what is decoded; nothing else."""
    torch.manual_seed(0)
    model = AlphaEarth(ModelConfig.named("tiny")).eval()
    code = torch.nn.functional.normalize(noise(2, 4, 4, 64), dim=-1)
    early, late = (torch.tensor([t] * 2) for t in (ms(2021, 2, 1), ms(2021, 9, 1)))
    for source in model.cfg.sources:
        decoder, geometry = model.decoders[source.name], noise(2, source.geometry_dim)
        plain_result = decoder(code, early, year(2), geometry)
        assert plain_result.shape == (2, 4, 4, source.outputs)
        assert (decoder(code, late, year(2), geometry) - plain_result).abs().max() > 0.05
        if source.geometry_dim:
            assert (decoder(code, early, year(2), geometry + 1) - plain_result).abs().max() > 0.05
        elsewhere = code.clone()
        elsewhere[:, 0, 0] = code[:, 1, 1]
        changed = (decoder(elsewhere, early, year(2), geometry) != plain_result).any(-1).nonzero()[:, 1:]
        assert changed.tolist() == [[0, 0], [0, 0]]


def test_text_is_compared_at_its_pixel_and_over_its_period():
    """The CLIP term again from the model's own embedding and texts, at the rows and columns given."""
    torch.manual_seed(0)
    model = AlphaEarth(ModelConfig.named("tiny")).eval()
    batch = make_batch(model.cfg)
    batch.periods_ms["text"] = batch.periods_ms["rest"].clone()
    found = model(batch).losses["text"].item()
    embedded = model.embed(batch.frames, batch.periods_ms["text"]).double().numpy()
    w = plain.weights_of(model.text_head)
    rows = [
        (embedded[i, batch.text.row[i], batch.text.col[i]],
         plain.read_text(w, batch.text.vector[i].double().numpy(), batch.periods_ms["text"][i].tolist()))
        for i in range(3)  # the fourth has no text
    ]  # fmt: skip
    cosine = np.array([[place @ text for _, text in rows] for place, _ in rows]) * np.exp(w["log_scale"])
    losses = [-np.log(plain.softmax(line)[i]) for matrix in (cosine, cosine.T) for i, line in enumerate(matrix)]
    assert abs(found - np.mean(losses)) < 1e-4


def test_the_contrasts_temperature_is_learned_up_to_a_hundred():
    head = TextHead(config())
    assert abs(head.temperature().item() - 1 / 0.07) < 1e-4
    with torch.no_grad():
        head.log_scale.fill_(9.0)
    assert abs(head.temperature().item() - 100) < 1e-3
