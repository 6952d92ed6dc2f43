"""The whole encoder again, in numpy: float64, loops where they are clearer, one frame, cell and head at a time.

Written from the formulas in the docstrings of ``aef_model``, with other means wherever there are any: time as exact
fractions, rotations as complex numbers, attention one query at a time with keys and values projected for every frame,
filters as explicit kernels. Arrays are ``(h, w, C)``; weights come by name from a module's ``state_dict``.
"""

from fractions import Fraction
from math import cos, log, log1p, pi, sin

import numpy as np
from scipy.ndimage import convolve1d
from scipy.special import erf

DAY = 86_400_000
START_2017 = 1_483_228_800_000
YEAR = Fraction("365.2425")
CYCLES = [Fraction(k) / YEAR for k in (1, 2, 3, 4, 6, 8, 12, 16)] + [1 / (k * YEAR) for k in (3, 7, 17, 41)]


def weights_of(module):
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def below(w, name):
    return {key[len(name) + 1 :]: value for key, value in w.items() if key.startswith(name + ".")}


# -- layers ------------------------------------------------------------------------------------------------------------


def linear(w, x):
    return x @ w["weight"].T + w.get("bias", 0.0)


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def softmax(x):
    x = np.exp(x - x.max())
    return x / x.sum()


def layer_norm(w, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w["weight"] + w["bias"]


def group_norm(w, x, groups=8):
    rows, cols, dim = x.shape
    x = x.reshape(rows, cols, groups, dim // groups)
    x = x - x.mean((0, 1, 3), keepdims=True)
    x = x / np.sqrt((x**2).mean((0, 1, 3), keepdims=True) + 1e-5)
    return x.reshape(rows, cols, dim) * w["weight"] + w["bias"]


def dated_norm(w, x, code, norm=layer_norm):
    return norm(below(w, "norm"), x) * (1 + linear(below(w, "scale"), code)) + linear(below(w, "shift"), code)


def convolve(w, x, stride=1):
    """Kernel ``(out, in, k, k)``; zeros around for k = 3 at stride 1, none for k = stride."""
    size = w["weight"].shape[-1]
    if stride == 1:
        x = np.pad(x, [(size // 2,) * 2, (size // 2,) * 2, (0, 0)])
    rows, cols = ((n - size) // stride + 1 for n in x.shape[:2])
    out = np.zeros((rows, cols, len(w["weight"]))) + w["bias"]
    for y, z in np.ndindex(rows, cols):
        window = x[y * stride : y * stride + size, z * stride : z * stride + size]
        out[y, z] += np.einsum("yxc,ocyx->o", window, w["weight"])
    return out


def mlp(w, x):
    return linear(below(w, "narrow"), gelu(linear(below(w, "widen"), layer_norm(below(w, "norm"), x))))


# -- time --------------------------------------------------------------------------------------------------------------


def time_code(time_ms):
    days = Fraction(int(time_ms) - START_2017, DAY)
    turns = [float(days * rate % 1) * 2 * pi for rate in CYCLES]
    return np.array([sin(t) for t in turns] + [cos(t) for t in turns])


def period_code(period):
    days = (int(period[1]) - int(period[0])) / DAY
    return np.concatenate([time_code(period[0]), time_code(period[1]), [log(days / float(YEAR))]])


def relative_code(time_ms, period):
    start, end = map(int, period)
    since, length = (int(time_ms) - start) / DAY, (end - start) / DAY
    before, after = max(-since, 0), max(since - length, 0)
    position = min(max(since / length, 0), 1) * 2 - 1
    return np.array([position, 0 <= since < length, min(log1p(before / 8), 4), min(log1p(after / 8), 4)], float)


def decode_time_code(time_ms, period):
    start, end = map(int, period)
    position = min(max((int(time_ms) - start) / (end - start), 0), 1)
    waves = [pi * position * k for k in (1, 2, 4, 8, 16)]
    return np.array([position * 2 - 1] + [sin(p) for p in waves] + [cos(p) for p in waves])


# -- parts -------------------------------------------------------------------------------------------------------------


def project(w, pixels, code):
    """``(C, H, W)`` with NaN to cells ``(H/2, W/2, dim)`` and which of them measured anything."""
    known = np.isfinite(pixels)
    both = np.concatenate([np.where(known, pixels, 0), known]).transpose(1, 2, 0)
    x = convolve(below(w, "patch"), both, stride=2) + linear(below(w, "date"), code)
    seen = np.array([[known[:, y : y + 2, x : x + 2].any() for x in range(0, known.shape[2], 2)]
                     for y in range(0, known.shape[1], 2)])  # fmt: skip
    hidden = gelu(linear(below(w, "widen"), layer_norm(below(w, "norm"), x)))
    return x + linear(below(w, "narrow"), hidden), seen


def coarser(seen, factor):
    rows, cols = seen.shape
    return seen.reshape(rows // factor, factor, cols // factor, factor).any((1, 3))


def space(w, x, code, seen, heads):
    rows, cols, dim = x.shape
    depth = dim // heads
    cells = list(np.ndindex(rows, cols))
    q, k, v = np.split(linear(below(w, "qkv"), dated_norm(below(w, "norm"), x, code)), 3, axis=-1)
    quarter = depth // 4
    rate = 16.0 ** (-np.arange(quarter) / quarter)
    out = np.zeros_like(x)
    for head in range(heads):
        own = slice(head * depth, (head + 1) * depth)

        def turned(y, z, vector):
            pairs = vector[: depth // 2] + 1j * vector[depth // 2 :]
            return pairs * np.exp(1j * np.concatenate([y * rate, z * rate]))

        keys = [(y, z, turned(y, z, k[y, z, own])) for y, z in cells if seen[y, z]]
        for y, z in cells if keys else []:
            query = turned(y, z, q[y, z, own])
            slope = np.exp(w["log_slope"][head])
            logits = [
                (query * key.conj()).real.sum() / np.sqrt(depth) - slope * np.hypot(y - a, z - b) for a, b, key in keys
            ]
            out[y, z, own] = softmax(np.array(logits)) @ np.array([v[a, b, own] for a, b, _ in keys])
    x = x + linear(below(w, "out"), out)
    return x + mlp(below(w, "mlp"), x)


def time(w, xs, codes, seen, heads):
    """All frames ``(N, h, w, C)`` of one sequence."""
    depth = xs.shape[-1] // heads
    qkv = np.stack(
        [linear(below(w, "qkv"), dated_norm(below(w, "norm"), x, c)) for x, c in zip(xs, codes, strict=True)]
    )
    q, k, v = np.split(qkv, 3, axis=-1)
    out = np.zeros_like(xs)
    for y, z in np.ndindex(xs.shape[1:3]):
        there = np.flatnonzero(seen[:, y, z])
        for head in range(heads if len(there) else 0):
            own = slice(head * depth, (head + 1) * depth)
            for frame in range(len(xs)):
                logits = k[there, y, z, own] @ q[frame, y, z, own] / np.sqrt(depth)
                out[frame, y, z, own] = softmax(logits) @ v[there, y, z, own]
    xs = xs + linear(below(w, "out"), out)
    return xs + mlp(below(w, "mlp"), xs)


def precision(w, x, code, norm="pixel"):
    y = dated_norm(below(w, "norm"), x, code, group_norm if norm == "group" else layer_norm)
    return x + convolve(below(w, "narrow"), gelu(convolve(below(w, "widen"), y)))


def down(w, x, factors):
    for i, factor in enumerate(factors):
        x = convolve(below(w, str(i)), x, stride=factor)
    return x


def enlarge(x, factor):
    """Bilinear, pixel centres at halves, constant beyond the outermost."""
    for axis in (0, 1):
        n = x.shape[axis]
        at = (np.arange(n * factor) + 0.5) / factor - 0.5
        x = np.apply_along_axis(lambda line, at=at, n=n: np.interp(at, np.arange(n), line), axis, x)
    return x


def up(w, x, factors, kind):
    w = below(w, "steps")
    if kind == "bilinear":
        return enlarge(convolve(below(w, "0"), x), int(np.prod(factors)))
    for i, factor in enumerate(factors):
        kernel, bias = w[f"{i}.weight"], w[f"{i}.bias"]  # (in, out, f, f)
        rows, cols, _ = x.shape
        y = np.zeros((rows * factor, cols * factor, kernel.shape[1])) + bias
        for a, b in np.ndindex(factor, factor):
            y[a::factor, b::factor] += x @ kernel[:, :, a, b]
        x = y
        if kind == "smoothed":
            tent = (factor - np.abs(np.arange(1 - factor, factor))) / factor**2
            for axis in (0, 1):
                x = convolve1d(x, tent, axis=axis, mode="nearest")
    return x


def exchange(w, p, t, s, kind, last):
    """The nine paths (three at the end); s may be None."""
    to = {name: below(w, name) for name in {key.split(".")[0] for key in w}}
    fine = linear(to["precision_to_precision"], p) + up(to["time_to_precision"], t, (4,), kind)
    if s is not None:
        fine = fine + up(to["space_to_precision"], s, (2, 4), kind)
    if last:
        return fine, t, s
    middle = linear(to["time_to_time"], t) + down(to["precision_to_time"], p, (4,))
    if s is None:
        return fine, middle, None
    middle = middle + up(to["space_to_time"], s, (2,), kind)
    coarse = linear(to["space_to_space"], s) + down(to["precision_to_space"], p, (4, 2))
    return fine, middle, coarse + down(to["time_to_space"], t, (2,))


def pool(w, frames, times, seen, period, heads):
    """``(N, h, w, C)`` to ``(h, w, heads * depth)``."""
    dim, depth = frames.shape[-1], w["value"].shape[-1]
    length = (int(period[1]) - int(period[0])) / DAY
    query = linear(below(w, "query"), gelu(linear(below(w, "period"), period_code(period)))).reshape(heads, dim)
    out = np.zeros((*frames.shape[1:3], heads, depth))
    for y, x in np.ndindex(out.shape[:2]):
        there = np.flatnonzero(seen[:, y, x])
        keys = layer_norm(below(w, "norm"), frames[there, y, x])
        for head in range(heads if len(there) else 0):
            logits = keys @ query[head] / np.sqrt(dim)
            for i, frame in enumerate(there):
                since = (int(times[frame]) - int(period[0])) / DAY
                spread = (np.exp(w["log_width"][head]) * length) ** 2 + np.exp(w["log_floor_days"][head]) ** 2
                logits[i] -= (since - w["centre"][head] * length) ** 2 / spread / 2
            told = [np.concatenate([key, relative_code(times[f], period)]) for key, f in zip(keys, there, strict=True)]
            out[y, x, head] = softmax(logits) @ (np.array(told) @ w["value"][head])
    return layer_norm(below(w, "out_norm"), out.reshape(*out.shape[:2], -1))


def upsample(w, x, kind, dim):
    x = gelu(linear(below(w, "enter"), x))
    x = convolve(below(w, "kernel"), x)
    if kind == "bilinear":
        x = enlarge(x, 2)
    else:
        fine = np.zeros((2 * x.shape[0], 2 * x.shape[1], dim))
        for a, b in np.ndindex(2, 2):
            fine[a::2, b::2] = x[..., 2 * a + b :: 4]
        x = fine
    if kind == "blurred_shuffle":
        for axis in (0, 1):
            x = convolve1d(x, [0.25, 0.5, 0.25], axis=axis, mode="mirror")
    x = linear(below(w, "leave"), x)
    if "norm.mean" in w:
        x = x - w["norm.mean"]
        if "norm.whitening" in w:
            x = x @ w["norm.whitening"]
        x = x / np.sqrt(w["norm.variance"] + 1e-5)
    return x


def decode(w, code, time_ms, period, geometry):
    """``(H, W, D)`` to ``(H, W, outputs)``."""
    told = np.concatenate([decode_time_code(time_ms, period), np.where(np.isnan(geometry), 0, geometry)])
    x = gelu(linear(below(w, "code"), code * np.sqrt(code.shape[-1])) + linear(below(w, "frame"), told))
    return linear(below(w, "out"), gelu(linear(below(w, "middle"), x)))


def read_text(w, vector, period):
    x = vector / np.linalg.norm(vector) * np.sqrt(len(vector))
    x = gelu(linear(below(w, "text"), x) + linear(below(w, "period"), period_code(period)))
    x = linear(below(w, "out"), gelu(linear(below(w, "middle"), x)))
    return x / np.linalg.norm(x)


# -- all of it ---------------------------------------------------------------------------------------------------------


def embed(model, frames, period_ms, sample):
    """One sequence's ``(H, W, 64)``: its present frames only, one after the other."""
    cfg, w = model.cfg, weights_of(model)
    cells, seen, times = [], [], []
    for source in cfg.inputs:
        for n in np.flatnonzero(frames.present[source.name][sample]):
            times.append(int(frames.time_ms[source.name][sample, n]))
            pixels = frames.pixels[source.name][sample, n].double().numpy()
            x, known = project(below(w, f"projectors.{source.name}"), pixels, time_code(times[-1]))
            cells.append(x)
            seen.append(known)
    embedded = [linear(below(w, "code.2"), gelu(linear(below(w, "code.0"), time_code(t)))) for t in times]
    codes = [gelu(x) for x in embedded]
    seen = np.stack(seen)
    seen_time = np.stack([coarser(x, 4) for x in seen])
    seen_space = [coarser(x, 2) for x in seen_time]
    p = cells
    t = [down(below(w, "spread.to_time"), x, (4,)) for x in p]
    s = [down(below(w, "spread.to_space"), x, (4, 2)) if cfg.space_operator else None for x in p]
    for i in range(cfg.blocks):
        own = below(w, f"blocks.{i}")
        p = [precision(below(own, "precision"), x, c, cfg.norm) for x, c in zip(p, codes, strict=True)]
        t = time(below(own, "time"), np.stack(t), codes, seen_time, cfg.time_heads)
        if cfg.space_operator:
            s = [
                space(below(own, "space"), x, c, there, cfg.space_heads)
                for x, c, there in zip(s, codes, seen_space, strict=True)
            ]
        done = [
            exchange(below(own, "exchange"), *grids, cfg.exchange_up, i + 1 == cfg.blocks)
            for grids in zip(p, t, s, strict=True)
        ]
        p, t, s = (list(x) for x in zip(*done, strict=True))
    pooled = pool(below(w, "pooling"), np.stack(p), times, seen, period_ms[sample].tolist(), cfg.pool_heads)
    x = upsample(below(w, "upsampler"), pooled, cfg.upsampling, cfg.embedding_dim)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
