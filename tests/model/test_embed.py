"""What an embedding may and may not depend on.

Tolerance 2e-5 on unit vectors in float32: reordering sums changes the last bits (1e-7) and eight layers amplify them.
What must hold for any weights is asked of three unlike models with weights off their starting values.
"""

import pytest
import torch
from conftest import COUNTS, DAY, YEAR_2021, make_frames, ms, year

from aef_model import AlphaEarth, FrameSequence, ModelConfig

TOLERANCE = 2e-5


def close(a, b, tolerance=TOLERANCE):
    assert (a - b).abs().max() < tolerance


def replaced(frames, **changes):
    return FrameSequence(**{**vars(frames), **changes})


VARIANTS = {
    "tiny": {},
    "sandbox": {"space_operator": False, "code_norm": "half_white"},
    "smoothed": {"exchange_up": "smoothed", "conv_expansion": 1.0, "blocks": 3, "time_heads": 8, "space_heads": 6},
}


@pytest.fixture(scope="module", params=VARIANTS)
def model(request):
    torch.manual_seed(2)
    net = AlphaEarth(ModelConfig.named("tiny", **VARIANTS[request.param])).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        if net.cfg.code_norm == "half_white":
            net.upsampler.norm.whitening.add_(0.1 * torch.randn(64, 64))
            net.upsampler.norm.mean.normal_(std=0.3)
            net.upsampler.norm.variance.uniform_(0.2, 2)
    return net


def test_embedding_is_of_unit_length_at_full_resolution(tiny):
    frames = make_frames(tiny.cfg, size=(32, 48))
    for amp in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            emb = tiny.embed(frames, year(2))
        assert emb.shape == (2, 32, 48, 64) and emb.dtype == torch.float32
        close(emb.norm(dim=-1), torch.ones(2, 32, 48))
    assert torch.equal(tiny.embed(frames, year(2)), tiny.embed(frames, year(2)))


@pytest.mark.parametrize("side", [16, 32, 64, 128])
def test_every_multiple_of_16_works(tiny, side):
    frames = make_frames(tiny.cfg, batch=1, size=(side, 16))
    assert tiny.embed(frames, year(1)).isfinite().all()


def test_order_of_frames_changes_nothing(model):
    frames = make_frames(model.cfg)
    orders = {name: torch.randperm(n, generator=torch.Generator().manual_seed(n)) for name, n in COUNTS.items()}
    shuffled = FrameSequence(
        *(
            {name: x[:, orders[name]] for name, x in part.items()}
            for part in (frames.pixels, frames.time_ms, frames.present)
        )
    )
    close(model.embed(frames, year(2)), model.embed(shuffled, year(2)))


def test_order_of_sources_changes_nothing(model):
    frames = make_frames(model.cfg)
    turned = FrameSequence(*(dict(reversed(part.items())) for part in vars(frames).values()))
    close(model.embed(frames, year(2)), model.embed(turned, year(2)))


def with_padding(frames, count, filler):
    """So many absent frames before those of each source."""
    return FrameSequence(
        {k: torch.cat([torch.full_like(x[:, :count], filler), x], 1) for k, x in frames.pixels.items()},
        {k: torch.cat([x[:, :count] * 0 - 7, x], 1) for k, x in frames.time_ms.items()},
        {k: torch.cat([torch.zeros_like(x[:, :count]), x], 1) for k, x in frames.present.items()},
    )


@pytest.mark.parametrize("count", [1, 2])  # 10 frames of 13 are kept in the padded layout, 10 of 16 are listed
@pytest.mark.parametrize("filler", [float("nan"), float("inf"), 1e30])
def test_padding_changes_nothing_whatever_it_holds(model, filler, count):
    frames = make_frames(model.cfg)
    close(model.embed(frames, year(2)), model.embed(with_padding(frames, count, filler), year(2)))


def test_padding_changes_nothing_beside_ground_that_nobody_measured(model):
    frames = make_frames(model.cfg, size=(64, 64))
    for pixels in frames.pixels.values():
        pixels[..., :24] = float("nan")
    close(model.embed(frames, year(2)), model.embed(with_padding(frames, 1, float("nan")), year(2)))


def test_an_absent_frame_is_as_one_that_never_was(model):
    frames = make_frames(model.cfg)
    present = {name: x.clone() for name, x in frames.present.items()}
    present["sentinel2"][:, 2] = False
    kept = [0, 1, 3, 4]
    without = FrameSequence(
        *({**part, "sentinel2": part["sentinel2"][:, kept]} for part in (frames.pixels, frames.time_ms, frames.present))
    )
    gone = model.embed(replaced(frames, present=present), year(2))
    close(gone, model.embed(without, year(2)))
    assert (gone - model.embed(frames, year(2))).abs().max() > 1e-2


def test_an_absent_source_is_as_one_not_given(model):
    frames = make_frames(model.cfg)
    absent = {name: x & (name != "landsat") for name, x in frames.present.items()}
    given = {k: {n: x for n, x in part.items() if n != "landsat"} for k, part in vars(frames).items()}
    close(model.embed(replaced(frames, present=absent), year(2)), model.embed(FrameSequence(**given), year(2)))


def test_other_samples_change_nothing(model):
    frames = make_frames(model.cfg, batch=3)
    frames.present["sentinel2"][1, 1:] = False  # uneven lengths
    together = model.embed(frames, year(3))
    close(model.embed(frames, year(3), max_patches=2), together)
    alone = FrameSequence(*({k: x[1:2] for k, x in part.items()} for part in vars(frames).values()))
    close(model.embed(alone, year(1)), together[1:2])


def test_the_rest_of_the_tile_changes_nothing(model):
    """Without the space operator a pixel sees some 40 px around it; with it, what is far counts ever less."""
    frames = make_frames(model.cfg, batch=1, size=(64, 128))
    before = model.embed(frames, year(1))
    for pixels in frames.pixels.values():
        pixels[..., :32] = pixels[..., :32] * 5 + 3
    change = (model.embed(frames, year(1)) - before)[0].norm(dim=-1).mean(dim=0)
    assert change[:32].min() > 0.1
    assert change[96:].max() < (1e-2 if model.cfg.space_operator else 1e-6)


@pytest.mark.parametrize("model", ["sandbox"], indirect=True)
def test_the_code_norms_running_means_are_used_alone(model):
    """At inference the code norm is one fixed map: neither the batch nor the tile is looked at, nor remembered."""
    kept = {name: x.clone() for name, x in model.state_dict().items()}
    frames = make_frames(model.cfg, batch=3)
    together = model.embed(frames, year(3))
    for pixels in frames.pixels.values():
        pixels[1:] = pixels[1:] * 20 + 10
    close(model.embed(frames, year(3))[0], together[0])
    assert all(torch.equal(x, kept[name]) for name, x in model.state_dict().items())


def test_the_layout_of_accelerators_gives_the_same_numbers(tiny, monkeypatch):
    """Listing only present frames (CPU) against keeping the padding (accelerators, compiled), both attention forms."""
    frames = make_frames(tiny.cfg)
    frames.present["sentinel2"][0, 1:] = False
    frames.present["landsat"][1] = False
    frames.pixels["landsat"][1] = float("nan")
    expected = tiny.embed(frames, year(2))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    close(tiny.embed(frames, year(2)), expected)
    for module in tiny.modules():
        if hasattr(module, "form"):
            monkeypatch.setattr(module, "form", "fused")
    close(tiny.embed(frames, year(2)), expected)


def test_no_frame_at_all_is_finite_and_constant(tiny):
    frames = make_frames(tiny.cfg)
    for mask in frames.present.values():
        mask[0] = False
    emb = tiny.embed(frames, year(2))
    assert emb.isfinite().all()
    close(emb[0], emb[0, :1, :1].expand_as(emb[0]))
    nothing = replaced(frames, present={k: torch.zeros_like(x) for k, x in frames.present.items()})
    close(tiny.embed(nothing, year(2))[0], emb[0])


def test_unmeasured_pixels_are_not_average_pixels(tiny):
    frames = make_frames(tiny.cfg)
    missing, average = ({k: x.clone() for k, x in frames.pixels.items()} for _ in range(2))
    missing["sentinel1"][:, :, 2:4] = float("nan")
    average["sentinel1"][:, :, 2:4] = 0.0
    a, b = tiny.embed(replaced(frames, pixels=missing), year(2)), tiny.embed(replaced(frames, pixels=average), year(2))
    assert a.isfinite().all() and (a - b).abs().max() > 1e-3


@pytest.mark.parametrize("source", COUNTS)
@pytest.mark.parametrize("place", [(20, 40), (0, 0), (47, 13)])
def test_a_changed_pixel_matters_most_where_it_is(model, source, place):
    """One frame's 4 x 4 pixels: the embedding moves most there, and ten times less in the rest of the tile's mean."""
    frames = make_frames(model.cfg, batch=1, size=(64, 64))
    before = model.embed(frames, year(1))
    row, col = place
    frames.pixels[source][0, 1, :, row : row + 4, col : col + 4] += 3
    change = (model.embed(frames, year(1)) - before)[0].norm(dim=-1)
    most_row, most_col = divmod(int(change.argmax()), 64)
    assert row - 2 <= most_row <= row + 5 and col - 2 <= most_col <= col + 5
    far = torch.ones_like(change, dtype=torch.bool)
    far[max(row - 16, 0) : row + 20, max(col - 16, 0) : col + 20] = False
    assert change[far].mean() < 0.1 * change[row : row + 4, col : col + 4].mean()


def alike(a, b):
    return float((a * b).sum(-1).mean())


def test_period_decides_what_is_summarised(tiny):
    frames = make_frames(tiny.cfg, batch=1, counts={"sentinel2": 24, "sentinel1": 12, "landsat": 8})
    five_weeks = torch.tensor([[ms(2021, 5, 1), ms(2021, 6, 5)]])
    next_day = five_weeks + DAY
    autumn = five_weeks + 150 * DAY
    features = tiny.encode(frames)
    periods = torch.stack([year(1), five_weeks, next_day, autumn], 1)
    with torch.no_grad():
        whole, short, near, far = tiny.summarise(features, periods)[0]
    for i in range(4):  # pooled together or alone
        close(tiny.embed(frames, periods[:, i])[0], (whole, short, near, far)[i])

    assert alike(short, near) > 0.99
    assert alike(whole, short) < 0.98 and alike(short, far) < alike(short, near) - 0.02


@pytest.mark.parametrize("seed", range(3))
def test_neighbouring_periods_are_more_alike_than_distant_or_shorter_ones(tiny, seed):
    """Two years of frames: years that overlap ever less; a year against the next and against five weeks of it (the mean
    of ten); months side by side against months far apart.

    What an untrained model can show: that pooling looks at time. Pixels are noise, another in every frame, so
    neighbours have nothing in common but their dates. How alike neighbouring periods of a real place are is learned.
    """
    frames = make_frames(tiny.cfg, batch=1, seed=seed, counts={"sentinel2": 48, "sentinel1": 24, "landsat": 16})
    for name, time_ms in frames.time_ms.items():
        frames.time_ms[name] = YEAR_2021[0] + torch.linspace(0, 729, time_ms.shape[1]).long()[None] * DAY

    def periods(starts, days):
        return [[YEAR_2021[0] + start * DAY, YEAR_2021[0] + (start + days) * DAY] for start in starts]

    years, short, months = (
        periods((0, 14, 91, 365), 365),
        periods(range(0, 330, 35), 35),
        periods(range(0, 720, 30), 30),
    )
    with torch.no_grad():
        found = tiny.summarise(tiny.encode(frames), torch.tensor([[*years, *short, *months]]))[0]
    (year_1, two_weeks_on, a_season_on, year_2), five_weeks, monthly = found.split([4, len(short), len(months)])
    assert 1 > alike(year_1, two_weeks_on) > alike(year_1, a_season_on) + 0.03
    assert alike(year_1, year_2) > sum(alike(year_1, part) for part in five_weeks) / len(short) + 0.02

    def apart(count):
        return sum(alike(a, b) for a, b in zip(monthly, monthly[count:], strict=False)) / (len(monthly) - count)

    assert apart(1) > max(apart(count) for count in (3, 6, 18)) + 0.02


def test_periods_outside_the_frames_are_answered(tiny):
    frames = make_frames(tiny.cfg, batch=1)
    for date in ((1990, 1, 1), (2045, 1, 1)):
        period = torch.tensor([[ms(*date), ms(date[0], 2, 1)]])
        assert tiny.embed(frames, period).isfinite().all()


def test_forecast_leans_on_the_nearest_frames(tiny):
    """Asked about the month after the last frame, the last frame counts for more than the first."""
    frames = make_frames(tiny.cfg, batch=1, counts={"sentinel2": 6, "sentinel1": 1, "landsat": 1})
    frames.time_ms["sentinel2"][0] = YEAR_2021[0] + torch.arange(6) * 30 * DAY
    frames.present["sentinel1"][:] = frames.present["landsat"][:] = False
    period = torch.tensor([[YEAR_2021[0] + 200 * DAY, YEAR_2021[0] + 230 * DAY]])
    plain = tiny.embed(frames, period)
    moved = []
    for index in (0, 5):
        pixels = {k: x.clone() for k, x in frames.pixels.items()}
        pixels["sentinel2"][:, index] += 1.0
        moved.append((tiny.embed(replaced(frames, pixels=pixels), period) - plain).norm(dim=-1).mean())
    assert moved[1] > 1.2 * moved[0]


def test_overlapping_patches_agree_away_from_their_edges(tiny):
    """Random pixels, untrained: the cosine by distance to the nearer edge grows and is high in the middle."""
    frames = make_frames(tiny.cfg, batch=1, size=(64, 96))
    left, right = (
        tiny.embed(replaced(frames, pixels={k: x[..., cut] for k, x in frames.pixels.items()}), year(1))[0]
        for cut in (slice(0, 64), slice(32, 96))
    )
    cosine = (left[:, 32:] * right[:, :32]).sum(-1)[16:48]  # columns 0 and 31 are at an edge of one patch
    by_distance = [float(cosine[:, [d, 31 - d]].mean()) for d in range(16)]
    assert by_distance[0] < min(by_distance[8:])
    assert min(by_distance[8:]) > 0.998


def test_a_frame_that_ends_within_the_patch_is_absent_beyond_its_edge(tiny):
    """What a cell is told must not depend on how much of a swath lies in the rest of its patch."""
    frames = make_frames(tiny.cfg, size=(96, 96))
    short = frames.pixels["sentinel2"][:, ::2]
    short[..., 48:] = float("nan")  # every other frame ends in the middle of the patch
    whole = tiny.embed(frames, year(2))
    right = FrameSequence(
        {name: x[..., 48:] for name, x in frames.pixels.items()},
        frames.time_ms,
        {**frames.present, "sentinel2": torch.tensor([[False, True, False, True, False]] * 2)},
    )
    away = (whole[:, 24:72, 72:] * tiny.embed(right, year(2))[:, 24:72, 24:]).sum(-1)
    assert away.min() > 0.9999


def test_an_orbit_that_ends_within_the_patch_leaves_no_stripe_but_its_own(tiny):
    """Left of a swath's edge the code is that with the orbit, right of it that without it."""
    frames = make_frames(tiny.cfg, batch=1, size=(64, 128), counts={"sentinel2": 8, "sentinel1": 3, "landsat": 2})
    every_second = torch.arange(8)[None] % 2 == 0
    with_orbit = tiny.embed(frames, year(1))
    without = tiny.embed(
        replaced(frames, present={**frames.present, "sentinel2": frames.present["sentinel2"] & ~every_second}), year(1)
    )
    frames.pixels["sentinel2"][:, ::2, :, :, 64:] = float("nan")
    crossed = tiny.embed(frames, year(1))
    for expected, side in ((with_orbit, slice(0, 40)), (without, slice(88, 128))):
        assert (crossed * expected).sum(-1)[..., side].min() > 0.999
    assert (with_orbit * without).sum(-1).mean() < 0.99  # the orbit does matter


@pytest.mark.parametrize("seed", range(2))
def test_a_random_half_of_the_frames_gives_nearly_the_code_of_all(tiny, seed):
    """Two places seen 76 times with noise of 0.7 of their pattern: untrained, by averaging alone."""
    counts = {"sentinel2": 40, "sentinel1": 20, "landsat": 16}
    frames, g = make_frames(tiny.cfg, seed=seed, counts=counts), torch.Generator().manual_seed(seed)
    for pixels in frames.pixels.values():
        place = torch.randn(2, 1, pixels.shape[2], 8, 8, generator=g)
        pixels.mul_(0.7).add_(place.repeat_interleave(4, -1).repeat_interleave(4, -2))

    def some(share):
        left = {name: torch.rand(x.shape, generator=g) < share for name, x in frames.present.items()}
        return tiny.embed(replaced(frames, present=left), year(2))

    everything = tiny.embed(frames, year(2))
    halves, fifths = [some(0.5) for _ in range(3)], [some(0.2) for _ in range(3)]
    assert min(alike(everything, half) for half in halves) > 0.93 > max(alike(everything, fifth) for fifth in fifths)
    assert alike(halves[0], halves[1]) > 0.88 > 0.7 > alike(everything[0], everything[1])


def test_bfloat16_agrees_with_float32(model):
    """bfloat16 keeps 8 bits: a relative error of 0.2 % a layer, as a random walk over some ten layers under 1 %."""
    frames = make_frames(model.cfg, size=(64, 64))
    exact = model.embed(frames, year(2))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.embed(frames, year(2))
    assert not torch.equal(exact, rounded)
    assert (exact * rounded).sum(-1).min() > 0.999


@pytest.mark.parametrize("setting", ["random", "started"])
def test_uniform_ground_has_no_checkerboard(setting):
    """Whatever the kernel has learned, a uniform patch gets one code (away from the padding at its edges)."""
    torch.manual_seed(1)
    model = AlphaEarth(ModelConfig.named("tiny")).eval()
    if setting == "random":
        torch.nn.init.normal_(model.upsampler.kernel.weight, std=0.05)
    frames = make_frames(model.cfg, batch=1, size=(64, 64))
    flat = {k: x[..., :1, :1].expand_as(x).contiguous() for k, x in frames.pixels.items()}
    model.blocks = torch.nn.ModuleList()  # zero padding at the patch's edge is not what is tested
    inner = model.embed(replaced(frames, pixels=flat), year(1))[0, 4:-4, 4:-4]
    close(inner, inner[:1, :1].expand_as(inner))


def test_thirteen_band_sentinel2_and_chosen_sources():
    from aef_model.config import SENTINEL2_BANDS_13

    cfg = ModelConfig.named(
        "tiny", inputs={"sentinel2": SENTINEL2_BANDS_13, "sentinel1": ("vv", "vh")}, targets=("gedi",)
    )
    model = AlphaEarth(cfg)
    frames = make_frames(cfg)
    assert frames.pixels["sentinel2"].shape[2] == 13
    assert model.embed(frames, year(2)).isfinite().all()
    assert set(model.decoders) == {"sentinel2", "sentinel1", "gedi"}
    assert model.decoders["sentinel2"].out.out_features == 13


@pytest.mark.parametrize(
    "override", [{"space_operator": False}, {"norm": "group"}, {"exchange_up": "transposed"},
                 {"exchange_up": "smoothed"}, {"upsampling": "bilinear"},
                 {"upsampling": "shuffle"}, {"attention": "fused"}, {"text_dim": 0}, {"kappa": None}]
)  # fmt: skip
def test_every_option_embeds_and_survives_a_checkpoint(override, tmp_path):
    cfg = ModelConfig.named("tiny", **override)
    model = AlphaEarth(cfg)
    frames = make_frames(cfg)
    emb = model.embed(frames, year(2))
    torch.save({"config": cfg.to_dict(), "weights": model.state_dict()}, tmp_path / "model.pt")
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    again = AlphaEarth(ModelConfig.from_dict(saved["config"]))
    again.load_state_dict(saved["weights"])
    assert again.cfg == cfg and torch.equal(again.embed(frames, year(2)), emb)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_agrees_with_eager():
    """All of tiny, three sources, two periods: fused kernels round otherwise, within the bounds of bfloat16, and with
    float32 far better.
    """
    torch.manual_seed(0)
    model = AlphaEarth(ModelConfig.named("tiny")).eval()
    frames = make_frames(model.cfg)
    frames.present["landsat"][0, 0] = False
    periods = torch.stack([year(2), year(2) + 30 * DAY], dim=1)
    compiled = torch.compile(lambda f, p: model.summarise(model.encode(f), p))
    for amp, least in ((False, 0.99999), (True, 0.999)):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
            found = compiled(frames, periods)
            assert (found * model.summarise(model.encode(frames), periods)).sum(-1).min() > least
