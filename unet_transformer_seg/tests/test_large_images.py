"""TIFFs that are read and written window by window: equal to those held whole, and bounded in memory."""

import itertools
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from own_process import in_own_process
from seg.classes import make_class_table
from seg.config import Config, DataConfig, InferenceConfig, ModelConfig
from seg.config.reader import override_config
from seg.data.image_file import read_image
from seg.data.images.large_image import GEO_TAGS, opened_large
from seg.data.images.remarks import log_remark
from seg.data.images.tiff_windows import TiffWindows
from seg.inference.done_record import DoneRecord
from seg.inference.mask_tiff import write_mask_tiff
from seg.inference.output import plan_jobs
from seg.inference.predictor import Predictor
from seg.inference.segment_files import Options, Outcome, segment_files

CLASSES = make_class_table(("dark", "light"))
CONFIG = Config(
    model=ModelConfig(num_classes=2),
    data=DataConfig(size=(64, 64), fit="crop", max_pixels=10_000),
    inference=InferenceConfig(overlap=0.25, batch_size=3),
)
GEO = [
    (33550, "d", 3, (0.5, 0.5, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 440720.0, 3751320.0, 0.0), True),
    (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633), True),
]


def windows_forward(windows_bhwc):
    """A model whose answer depends on its window, so that blending matters."""
    light = (windows_bhwc[..., 0] / 255.0 + windows_bhwc.mean((1, 2, 3))[:, None, None] / 255.0) / 2
    return np.stack([1 - light, light], -1).astype(np.float32)


def predictor_with(*settings):
    return Predictor(override_config(CONFIG, settings), CLASSES, None, windows_forward)


def draw(height, width, channels=1, dtype=np.uint8, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(dtype)
    return values if channels > 1 else values[..., 0]


def infer(predictor, source, out, *, values=(), probabilities=False):
    """Segment one file; return the outcome and the path of its mask."""
    jobs = plan_jobs([source], out, predictor.config.data)
    outcome = Outcome()
    options = Options(probabilities=probabilities, values=values)
    segment_files(predictor, jobs, options, DoneRecord(out, "model"), outcome)
    assert outcome.num_done + outcome.num_bad == 1
    return outcome, jobs[0].mask


LAYOUTS = [{"tile": (32, 48)}, {"rowsperstrip": 7}, {}]


@pytest.mark.parametrize("channels, plane", [(1, "contig"), (3, "contig"), (3, "separate")])
def test_windows_hold_the_values_of_the_page(tmp_path, channels, plane):
    random = np.random.default_rng(1)
    for layout, compression, dtype, order in itertools.product(LAYOUTS, (None, "zlib"), ("u1", "u2", "f4"), "<>"):
        array = draw(90, 101, channels, dtype)
        stored = np.moveaxis(array, -1, 0) if plane == "separate" else array
        look = {"photometric": "rgb", "planarconfig": plane} if channels == 3 else {"photometric": "minisblack"}
        tifffile.imwrite(tmp_path / "x.tif", stored, compression=compression, byteorder=order, **look, **layout)
        with open(tmp_path / "x.tif", "rb") as file:
            windows = TiffWindows(file, tifffile.TiffFile(file).pages[0], cache_bytes=5000)
            assert windows.shape == (90, 101, channels) and windows.dtype == dtype
            for _ in range(3):
                top, left = random.integers(0, 80), random.integers(0, 90)
                window = np.s_[top : top + 40, left : left + 300]
                np.testing.assert_array_equal(windows[window], array.reshape(90, 101, channels)[window])


def test_each_tile_is_decoded_once_where_the_kept_ones_fill_two_rows_of_windows(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "x.tif", draw(256, 256), tile=(32, 32), compression="zlib")
    decoded = []
    with open(tmp_path / "x.tif", "rb") as file:
        windows = TiffWindows(file, tifffile.TiffFile(file).pages[0], cache_bytes=24 << 10)
        decode = windows._decode
        monkeypatch.setattr(windows, "_decode", lambda index: decoded.append(index) or decode(index))
        for top, left in itertools.product(range(0, 225, 32), range(0, 225, 32)):
            windows[top : top + 64, left : left + 64]
            assert sum(segment.nbytes for segment in windows._kept.values()) <= 24 << 10
    assert sorted(decoded) == list(range(64))


@pytest.mark.parametrize("shape", [(150, 131), (300, 40), (40, 300)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_image_read_by_windows_gets_the_mask_of_one_held_whole(tmp_path, shape, dtype):
    source = tmp_path / "scan.tif"
    tifffile.imwrite(source, draw(*shape, dtype=dtype) << (8 * (dtype == np.uint16)), tile=(32, 32), compression="zlib")
    outcome, mask = infer(predictor_with(), source, tmp_path / "windows", probabilities=True)
    assert outcome.num_done == 1 and mask.suffix == ".tif"
    _, whole = infer(predictor_with("data.max_pixels=100000"), source, tmp_path / "whole", probabilities=True)
    assert whole.suffix == ".png"
    with tifffile.TiffFile(mask) as file:
        page = file.pages[0]
        assert page.is_tiled and page.compression == 8 and page.photometric == 3
        labels_hw = page.asarray()
        np.testing.assert_array_equal(page.colormap[:, :2] >> 8, np.array(CLASSES.palette).T)
    np.testing.assert_array_equal(labels_hw, np.array(Image.open(whole)))
    assert 0 < labels_hw.mean() < 1
    one, other = (np.load(path.with_name("scan_probabilities.npz"))["probabilities"] for path in (mask, whole))
    np.testing.assert_array_equal(one, other)
    assert mask.with_name("scan_overlay.png").read_bytes() == whole.with_name("scan_overlay.png").read_bytes()


def test_the_overlay_of_a_large_image_shows_every_nth_pixel(tmp_path, monkeypatch):
    monkeypatch.setattr("seg.inference.output.MAX_OVERLAY_SIDE", 60)
    image_hwc = draw(150, 131, 3)
    tifffile.imwrite(tmp_path / "scan.tif", image_hwc, tile=(32, 32), photometric="rgb")
    _, mask = infer(predictor_with(), tmp_path / "scan.tif", tmp_path / "out")
    overlay_hwc = np.array(Image.open(mask.with_name("scan_overlay.png")))
    labels_hw = tifffile.imread(mask)[::3, ::3]
    expected = (image_hwc[::3, ::3] * 0.5 + np.array(CLASSES.palette)[labels_hw] * 0.5).round().astype(np.uint8)
    np.testing.assert_array_equal(overlay_hwc, expected)


def peak_bytes(predictor, folder, height, **layout):
    folder.mkdir(exist_ok=True)
    source = folder / f"{height}.tif"
    strip = draw(100, 500)
    tifffile.imwrite(source, np.tile(strip, (height // 100, 1)), **layout)
    tracemalloc.start()
    try:
        outcome, _ = infer(predictor, source, folder / f"out_{height}")
        assert outcome.num_done == 1
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


COMMON_LAYOUTS = {
    "tiles": {"tile": (64, 64), "compression": "zlib"},
    "strips": {"rowsperstrip": 5, "compression": "zlib"},
    "raw": {},
}


def measure_layouts(folder):
    """Return the peak for a small and a large image of each layout, with small buffers."""
    peaks = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seg.data.images.tiff_windows.CACHE_BYTES", 1 << 17)
        patch.setattr("seg.data.images.tiff_windows.STRIP_BYTES", 1 << 14)
        patch.setattr("seg.inference.output.MAX_OVERLAY_SIDE", 500)
        for name, layout in COMMON_LAYOUTS.items():
            predictor = predictor_with("inference.batch_size=1")
            # The first image compiles, which takes some memory once.
            _, *peaks[name] = (peak_bytes(predictor, folder / name, height, **layout) for height in (500, 1000, 6000))
    return peaks


def test_memory_does_not_grow_with_the_height_of_the_image(tmp_path):
    peaks = in_own_process(measure_layouts, tmp_path)
    assert peaks.keys() == COMMON_LAYOUTS.keys()
    for name, (small, large) in peaks.items():
        assert large < 1.25 * small + 200_000 < 3_000_000, name


@pytest.mark.parametrize("max_pixels", [100, 100_000])
def test_the_mask_of_a_geotiff_has_its_place_on_the_earth(tmp_path, max_pixels):
    source = tmp_path / "field.tif"
    tifffile.imwrite(source, draw(70, 90), extratags=GEO, metadata=None)
    _, mask = infer(predictor_with(f"data.max_pixels={max_pixels}"), source, tmp_path / "out")
    with tifffile.TiffFile(mask) as file, tifffile.TiffFile(source) as original:
        for code in GEO_TAGS:
            assert file.pages[0].tags.valueof(code) == original.pages[0].tags.valueof(code)
    rasterio = pytest.importorskip("rasterio", reason="the peer that reads the place")
    with rasterio.open(mask) as one, rasterio.open(source) as other:
        assert one.transform == other.transform and one.crs == other.crs and one.crs.to_epsg() == 32633
        np.testing.assert_array_equal(one.read(1), tifffile.imread(mask))


@pytest.mark.parametrize("values", [(0, 300), ((1, 2, 3), (4, 5, 6))])
def test_a_mask_in_tiff_holds_the_values_that_are_asked_for(tmp_path, values):
    tifffile.imwrite(tmp_path / "scan.tif", draw(150, 131))
    _, mask = infer(predictor_with(), tmp_path / "scan.tif", tmp_path / "out", values=values)
    _, plain = infer(predictor_with(), tmp_path / "scan.tif", tmp_path / "plain")
    np.testing.assert_array_equal(tifffile.imread(mask), np.array(values)[tifffile.imread(plain)])


def test_bands_of_any_height_make_the_same_tiles(tmp_path):
    labels_hw = draw(700, 300)
    for heights in ([700], [1] * 700, [255, 1, 257, 187], [512, 188]):
        bands = np.split(labels_hw, np.cumsum(heights)[:-1])
        write_mask_tiff(tmp_path / "m.tif", [bands, bands], (2, 700, 300), None, np.uint8, [])
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "m.tif"), [labels_hw, labels_hw])


def test_a_finished_large_image_is_done(tmp_path):
    source = tmp_path / "scan.tif"
    tifffile.imwrite(source, draw(150, 131), tile=(32, 32))
    infer(predictor_with(), source, tmp_path / "out")
    (job,) = plan_jobs([source], tmp_path / "out", CONFIG.data)
    assert DoneRecord(tmp_path / "out", "model").is_done(source, Options().results(job))
    job.mask.write_bytes(b"")
    assert not DoneRecord(tmp_path / "out", "model").is_done(source, Options().results(job))


def refused(capsys, tmp_path, source, *settings):
    outcome, mask = infer(predictor_with(*settings), source, tmp_path / "out")
    assert outcome.num_bad == 1 and not mask.exists()
    assert not list((tmp_path / "out").glob(".*.part"))
    message = capsys.readouterr().err
    assert f"error: {source}: " in message
    return message


def test_what_cannot_be_read_by_windows_is_refused_by_name(tmp_path, capsys, monkeypatch):
    scan = tmp_path / "scan.tif"
    tifffile.imwrite(scan, draw(150, 131))
    message = refused(capsys, tmp_path, scan, "data.fit=resize")
    assert "150×131 pixels would be shrunk into 64×64" in message and "add inference.scale=native" in message
    assert "inference.scale=0.5" in refused(capsys, tmp_path, scan, "inference.scale=0.5")
    tifffile.imwrite(scan, np.stack([draw(150, 131)] * 2))
    assert "several pages" in refused(capsys, tmp_path, scan)
    tifffile.imwrite(scan, draw(150, 131), extratags=[(274, "H", 1, 6, True)])
    assert "orientation tag is 6" in refused(capsys, tmp_path, scan)
    tifffile.imwrite(scan, draw(150, 131, dtype=np.float32))
    assert "data.value_range" in refused(capsys, tmp_path, scan)
    monkeypatch.setattr("seg.data.images.tiff_windows.MAX_SEGMENT_BYTES", 1000)
    tifffile.imwrite(scan, draw(150, 131), compression="zlib", rowsperstrip=150)
    assert "strips of 150×131 pixels are too large" in refused(capsys, tmp_path, scan)


@pytest.mark.parametrize("max_pixels", [100, 100_000])
def test_a_missing_decoder_is_named_with_the_line_to_type(tmp_path, capsys, monkeypatch, max_pixels):
    def decode(*_, **__):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    tifffile.imwrite(tmp_path / "scan.tif", draw(150, 131, 5), planarconfig="contig", compression="zlib")
    monkeypatch.setattr(tifffile.TiffPage, "decode", property(lambda page: decode))
    settings = f"data.max_pixels={max_pixels}", "data.channels=5"
    message = refused(capsys, tmp_path, tmp_path / "scan.tif", *settings)
    assert 'ADOBE_DEFLATE: pip install "unet-transformer-seg[tiff]" adds the decoder' in message


def test_a_circle_of_pages_is_refused_by_name(tmp_path, capsys):
    scan = tmp_path / "scan.tif"
    tifffile.imwrite(scan, draw(150, 131))
    content = scan.read_bytes()
    offset = int.from_bytes(content[4:8], "little")
    end = offset + 2 + 12 * int.from_bytes(content[offset : offset + 2], "little")
    scan.write_bytes(content[:end] + content[4:8] + content[end + 4 :])
    assert "circle" in refused(capsys, tmp_path, scan)


def test_a_damaged_large_image_is_refused_by_name(tmp_path, capsys):
    scan = tmp_path / "scan.tif"
    tifffile.imwrite(scan, draw(150, 131), tile=(32, 32), compression="zlib")
    content = scan.read_bytes()
    with tifffile.TiffFile(scan) as file:
        offset, count = file.pages[0].dataoffsets[7], file.pages[0].databytecounts[7]
        table = file.pages[0].tags[325].valueoffset
    scan.write_bytes(content[: offset + 10])
    refused(capsys, tmp_path, scan)
    scan.write_bytes(content[:offset] + bytes(count) + content[offset + count :])
    assert "damaged" in refused(capsys, tmp_path, scan)
    bomb = zlib.compress(bytes(4 << 20))
    scan.write_bytes(content[:offset] + bomb[:count].ljust(count, b"\0") + content[offset + count :])
    assert "damaged" in refused(capsys, tmp_path, scan)
    width = 2 if file.pages[0].tags[325].dtype == 3 else 4
    scan.write_bytes(content[: table + 7 * width] + b"\xff" * width + content[table + 8 * width :])
    assert "damaged" in refused(capsys, tmp_path, scan)


@pytest.mark.parametrize(
    "settings, stored",
    [
        (("data.normalise=image", "data.precision=float32"), draw(150, 131).astype(np.int16) - 90),
        (("data.channel_ranges=[[0,9],[0,99],[0,999]]", "data.range=percentiles"), draw(150, 131, 3, np.uint16)),
        (("data.value_range=[-50,300]", "data.precision=float32"), draw(150, 131).astype(np.float32)),
        (("data.channels=4", "data.precision=float32"), draw(150, 131, 4, np.uint16) * 257),
        (("data.channels=1",), draw(150, 131, 3)),
    ],
)
def test_windows_are_prepared_as_whole_images_are(tmp_path, settings, stored):
    look = {"photometric": "rgb"} if stored.ndim == 3 and stored.shape[2] == 3 else {"photometric": "minisblack"}
    tifffile.imwrite(
        tmp_path / "scan.tif", stored, tile=(32, 32), planarconfig="contig" if stored.ndim == 3 else None, **look
    )
    config = override_config(CONFIG, settings)
    whole = read_image(tmp_path / "scan.tif", override_config(config, ["data.max_pixels=100000"]).data)
    with opened_large(tmp_path / "scan.tif", config, log_remark) as image:
        window = np.s_[30:99, 70:131]
        assert image.shape == whole.shape and image.dtype == whole.dtype
        np.testing.assert_allclose(image[window], whole[window], atol=1e-5)


def test_inverted_and_indexed_large_images_are_shown_as_whole_ones_are(tmp_path):
    grey_hw, colours_3n = draw(150, 131), np.random.default_rng(3).integers(0, 256, (3, 256)).astype(np.uint16) * 257
    for name, look in (("white.tif", {"photometric": "miniswhite"}), ("index.tif", {"colormap": colours_3n})):
        tifffile.imwrite(tmp_path / name, grey_hw, tile=(32, 32), **look)
        whole = read_image(tmp_path / name, DataConfig(channels=3))
        with opened_large(tmp_path / name, CONFIG, log_remark) as image:
            np.testing.assert_array_equal(image[0:150, 0:131], whole)


def test_a_tile_that_is_not_stored_is_empty(tmp_path):
    scan = tmp_path / "scan.tif"
    tiles = itertools.chain([np.full((64, 64), 9, np.uint8)], itertools.repeat(None, 3))
    tifffile.imwrite(scan, tiles, shape=(128, 128), dtype=np.uint8, tile=(64, 64), compression="zlib")
    with open(scan, "rb") as file:
        values = TiffWindows(file, tifffile.TiffFile(file).pages[0])[0:128, 0:128]
    np.testing.assert_array_equal(values[..., 0], np.pad(np.full((64, 64), 9), ((0, 64), (0, 64))))
