"""The sources of the paper's Tables S1 and S2 (SPEC 1.2, 3.1, 3.3), written down a second time."""

from aef_model.config import PAPER_SOURCES, SENTINEL2_BANDS_13, ModelConfig

# name: bands or classes, numbers of acquisition geometry, shift px, cell px, weight, one value a patch
TABLE = {
    "sentinel2": (5, 0, 2, 0, 1.0, False),  # 20 m shift; blue, green, red, near and short-wave infrared
    "sentinel1": (5, 3, 2, 0, 1.0, False),  # four polarisations and the angle; heading as sine and cosine, inclination
    "landsat": (7, 0, 0, 3, 1.0, False),  # 30 m cells
    "palsar2": (3, 3, 0, 3, 1.0, False),  # HH, HV, incidence; pass direction as sine and cosine, antenna pointing
    "era5": (12, 0, 0, 0, 1.0, True),
    "gedi": (101, 0, 0, 2, 1.0, False),  # RH0 to RH100, 20 m cells
    "grace": (1, 0, 0, 128, 0.5, True),  # 1280 m: the whole patch
    "elevation": (5, 0, 0, 3, 1.0, False),  # height, and slope and aspect as sine and cosine
    "nlcd": (16, 0, 0, 3, 0.25, False),  # v2.1 halved the weight
    "cdl": (132, 0, 0, 3, 0.25, False),  # v2.1 added it
}
CATEGORICAL = {"nlcd", "cdl"}


def test_sources_are_the_papers():
    assert [source.name for source in PAPER_SOURCES] == list(TABLE)
    for source in PAPER_SOURCES:
        outputs, geometry, shift, cell, weight, one_value = TABLE[source.name]
        assert source.is_input == (source.name in ("sentinel2", "sentinel1", "landsat"))
        assert source.outputs == outputs
        assert (source.geometry_dim, source.shift_px, source.regrid_px) == (geometry, shift, cell)
        assert source.loss_weight == weight and source.extent != one_value
        assert source.metric == ("cross_entropy" if source.name in CATEGORICAL else "l1")


def test_no_climate_elevation_or_place_is_ever_encoded():
    assert {source.name for source in ModelConfig.named("base").inputs} == {"sentinel2", "sentinel1", "landsat"}


def test_the_student_loses_what_the_paper_says():
    rates = {s.name: (s.drop_source, s.drop_frames) for s in PAPER_SOURCES if s.is_input}
    assert rates == {"sentinel2": (0.0, 0.5), "sentinel1": (0.3, 0.3), "landsat": (0.3, 0.3)}
    assert all(s.drop_source == s.drop_frames == 0 for s in PAPER_SOURCES if not s.is_input)


def test_loss_weights_and_bottleneck_are_the_papers():
    for name in ("small", "base", "large"):
        cfg = ModelConfig.named(name)
        terms = (cfg.reconstruction_weight, cfg.uniformity_weight, cfg.consistency_weight, cfg.text_weight)
        assert terms == (1.0, 0.05, 0.02, 0.001)
        assert (cfg.kappa, cfg.embedding_dim, cfg.teacher_drop, cfg.consistency_every) == (8000.0, 64, 1.0, 1)
    assert ModelConfig.named("base").decoder_hidden == 512


def test_names_are_unique_and_both_band_lists_are_whole():
    for source in PAPER_SOURCES:
        assert len(set(source.bands)) == len(source.bands)
        assert source.classes is None or len(set(source.classes)) == len(source.classes)
    assert len(set(SENTINEL2_BANDS_13)) == 13
    assert ModelConfig.named("tiny", inputs={"sentinel2": SENTINEL2_BANDS_13}).source("sentinel2").outputs == 13
    cdl = ModelConfig.named("tiny").source("cdl").classes
    assert {1, 5, 24, 36, 61, 176, 254} <= set(cdl)  # maize, soybeans, winter wheat, alfalfa, fallow, pasture, last
    assert not {0, 81} & set(cdl)  # background; clouds or no data
