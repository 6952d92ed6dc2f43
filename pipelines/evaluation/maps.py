"""Maps made from embeddings and a few labels, and maps of change. Arrays in, arrays out; NaN vectors give no data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.probes import knn, least_squares

Vectors = NDArray[np.float32]
BLOCK = 65_536  # pixels classified at once


def classify(
    embedding_HWD: Vectors, train_PD: Vectors, labels_P: NDArray, head: str = "knn", k: int = 3, nodata: int = 0
) -> NDArray:
    """Class of every pixel from labelled vectors.

    Args:
        embedding_HWD: unit vectors.
        train_PD: vectors at the labelled points.
        labels_P: integer codes of the labelled points, not ``nodata``.
        head: ``knn`` (majority of k; on unit vectors Euclidean and cosine neighbours are the same) or ``linear``
            (one-vs-rest least squares).
        k: neighbours.
        nodata: code of pixels without a vector.

    Raises:
        ValueError: for an unknown head.
    """
    if head not in ("knn", "linear"):
        raise ValueError(f"map head {head!r}: choose knn or linear")
    flat = embedding_HWD.reshape(-1, embedding_HWD.shape[-1])
    train = np.asarray(train_PD, np.float64)
    labels_P = np.asarray(labels_P)
    out = np.full(len(flat), nodata, labels_P.dtype)
    valid = np.flatnonzero(np.isfinite(flat).all(1))
    classes = np.unique(labels_P)
    slopes = intercepts = None
    if head == "linear":
        slopes, intercepts = least_squares(train, np.where(labels_P[:, None] == classes, 1.0, -1.0))
    everyone = [np.arange(len(train))]
    for start in range(0, len(valid), BLOCK):
        part = valid[start : start + BLOCK]
        vectors = flat[part].astype(np.float64)
        if slopes is None or intercepts is None:
            out[part] = knn(train, labels_P, vectors, everyone, (k,))[k][0]
        else:
            out[part] = classes[(vectors @ slopes + intercepts).argmax(1)]
    return out.reshape(embedding_HWD.shape[:2])


def regress(embedding_HWD: Vectors, train_PD: Vectors, values_P: NDArray) -> NDArray[np.float32]:
    """Value of every pixel by least squares; NaN without a vector."""
    flat = embedding_HWD.reshape(-1, embedding_HWD.shape[-1]).astype(np.float64)
    slopes, intercepts = least_squares(np.asarray(train_PD, np.float64), np.asarray(values_P, np.float64)[:, None])
    return (flat @ slopes + intercepts)[:, 0].reshape(embedding_HWD.shape[:2]).astype(np.float32)


def change(before_HWD: Vectors, after_HWD: Vectors) -> NDArray[np.float32]:
    """``(1 - cos) / 2`` of every pixel, NaN where a year has no vector."""
    dot = np.einsum("hwd,hwd->hw", before_HWD, after_HWD, dtype=np.float64)
    length = np.linalg.norm(before_HWD, axis=-1) * np.linalg.norm(after_HWD, axis=-1)
    return ((1 - dot / np.maximum(length, 1e-12)) / 2).astype(np.float32)


def pick_labels(codes_P: NDArray, per_class: int, seed: int, nodata: int = 0) -> NDArray[np.intp]:
    """Positions of up to ``per_class`` labelled points of every class, drawn at random."""
    rng = np.random.default_rng(seed)
    picked = [
        rng.permutation(np.flatnonzero(codes_P == code))[:per_class] for code in np.unique(codes_P) if code != nodata
    ]
    return np.concatenate(picked) if picked else np.array([], np.intp)


def agreement(truth_HW: NDArray, predicted_HW: NDArray, nodata: int = 0) -> tuple[float, float]:
    """Overall and balanced accuracy of a map over the pixels that both know."""
    known = (truth_HW != nodata) & (predicted_HW != nodata)
    if not known.any():
        raise ValueError("truth and map have no pixel in common")
    right = (truth_HW == predicted_HW)[known]
    truth = truth_HW[known]
    return float(right.mean()), float(np.mean([right[truth == code].mean() for code in np.unique(truth)]))
