"""What a page shows of images, read back from it."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from nnunet_xattnres.pages import slices
from nnunet_xattnres.pages.slices import IGNORED, Layout, colors_of, fullest, heat_sheet, image_sheet, labels_sheet
from nnunet_xattnres.pages.viewer import Case, case_html

SIZE, SPACING = (7, 20, 30), (2.0, 1.0, 1.5)


def picture(uri):
    """What a data URI holds, (height, width, channels) between 0 and 255."""
    kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", uri).groups()
    found = imread(io.BytesIO(base64.b64decode(data)), format=kind)
    return found * 255 if found.dtype == np.float32 else found.astype(np.float32)


def shown(uri, layout, view):
    """The part of a sheet that a viewBox shows."""
    sheet = picture(uri)
    height, width = layout.shape
    x, y, w, h = map(float, view.split())
    assert (w, h) == pytest.approx((width, height), rel=1e-4)
    scale = sheet.shape[0] / (layout.rows * height), sheet.shape[1] / (layout.columns * width)
    top, left = round(y * scale[0]), round(x * scale[1])
    return sheet[top : top + layout.pixels[0], left : left + layout.pixels[1]]


def test_every_slice_is_where_its_view_is():
    """Slice z is of the grey z, and all of it is on the page."""
    layout = Layout.of(SIZE, SPACING, cases=1)
    image = np.broadcast_to(np.arange(7.0)[:, None, None], SIZE)[None]
    sheet = image_sheet(image, layout, (0, 6))
    mask = np.zeros(SIZE, dtype=np.uint8)
    for z in range(7):
        mask[z, : 2 * z, :10] = 1
    masks = labels_sheet(mask, layout, {1: "#e69f00"})
    heats = heat_sheet(image[0].astype(np.float32), layout, (0, 6))
    for z in range(7):
        part = shown(sheet, layout, layout.view(z))
        assert part.shape[:2] == layout.pixels and np.abs(part - 255 * z / 6).max() < 4
        there = shown(masks, layout, layout.view(z))[..., 3] > 0
        assert there.mean() == pytest.approx(2 * z / 20 / 3, abs=0.02)
        assert there[: there.shape[0] // 20, : there.shape[1] // 4].all() == (z > 0)
    brightness = [shown(heats, layout, layout.view(z)).mean() for z in range(7)]
    assert brightness == sorted(brightness)


def test_a_slice_has_the_proportions_of_the_body():
    layout = Layout.of(SIZE, SPACING, cases=1)
    assert layout.shape == pytest.approx((100 * 20 / 45, 100))
    assert layout.pixels[0] / layout.pixels[1] == pytest.approx(20 / 45, abs=0.03)


@pytest.mark.parametrize("cases", [1, 10, 100, 1000])
def test_the_page_stays_small(cases):
    for size in ((400, 512, 512), (35, 50, 36), (1, 3000, 4000)):
        layout = Layout.of(size, (1, 1, 1), cases)
        pixels = layout.slices * layout.pixels[0] * layout.pixels[1]
        assert max(layout.pixels) <= 256 and pixels <= max(slices._PIXELS[1], slices._PIXELS[2] / cases) * 1.2
        assert layout.columns * layout.rows >= layout.slices
        small = Layout.of(size, (1, 1, 1), cases, sheets=8)  # maps: the same grid, for the same view
        assert (small.columns, small.view(0), small.shape) == (layout.columns, layout.view(0), layout.shape)


def test_labels_have_colours_of_their_own():
    for n in (1, 7, 8, 118):
        colors = colors_of(range(1, n + 1))
        assert len(set(colors.values())) == n and IGNORED not in colors.values()
        assert list(colors.values())[:7] == list(slices._COLORS)[:n]
        assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors.values())


def test_a_label_is_painted_in_its_colour_with_an_outline():
    layout = Layout.of((1, 40, 40), (1, 1, 1), cases=1)
    mask = np.zeros((1, 40, 40), dtype=np.uint8)
    mask[0, 10:30, 10:30], mask[0, 15:25, 15:25] = 1, 2
    painted = picture(labels_sheet(mask, layout, {1: "#e69f00", 2: "#56b4e9"}))
    n = layout.pixels[0]
    assert painted[n // 3, n // 3].tolist() == [0xE6, 0x9F, 0x00, 90]
    assert painted[n // 2, n // 2].tolist() == [0x56, 0xB4, 0xE9, 90]
    assert painted[n // 2, n // 4, 3] == 255 and painted[0, 0, 3] == 0


def test_colours_and_grey():
    layout = Layout.of((1, 16, 16), (1, 1, 1), cases=1)
    red = np.zeros((3, 1, 16, 16))
    red[0] = 1
    r, g, b = picture(image_sheet(red, layout, (0, 1))).mean(axis=(0, 1))
    assert r > 240 and g < 15 and b < 15
    nothing = picture(image_sheet(np.full((1, 1, 16, 16), np.nan), layout, None))
    assert np.ptp(nothing) < 4


def case(**changes):
    generator = np.random.default_rng(0)
    prediction, truth = np.zeros(SIZE, dtype=np.uint8), np.zeros(SIZE, dtype=np.uint8)
    prediction[5, 5:15, 5:15] = 1
    truth[5, 5:15, 8:15] = 2
    maps = generator.random((3, *SIZE), dtype=np.float32)
    maps /= maps.sum(axis=0)
    given = {
        "name": "case <1>",
        "image": generator.random((1, *SIZE)),
        "spacing": SPACING,
        "window": None,
        "masks": {"prediction": prediction, "truth": truth},
        "first": 5,
        "maps": {"d2": (["e1", "e2", "d1"], maps)},
        "dice": {"big & round": 0.75, "other": float("nan")},
    }
    return Case(**given | changes)


def test_means_and_colours_of_maps_are_those_where_the_network_has_looked():
    """Elsewhere all sources have the same weight, by which nothing is said."""
    maps = np.full((2, *SIZE), 0.5, dtype=np.float32)
    seen = (slice(2, 6), slice(3, 9), slice(4, 12))
    maps[0][seen], maps[1][seen] = 0.9, 0.1
    html = case_html(case(maps={"d2": (["e1", "e2"], maps)}, seen=seen), 0, 1, {}, opened=True)
    assert re.findall("<figcaption>(e.*?)</figcaption>", html) == ["e1: 0.90", "e2: 0.10"]
    assert "<b>0.10</b><i></i><b>0.90</b>" in html


def test_a_case_on_the_page():
    html = case_html(case(), 3, 5, {1: "#e69f00", 2: "#56b4e9"}, opened=True)
    captions = re.findall("<figcaption>(.*?)</figcaption>", html)
    assert captions[:3] == ["image", "prediction", "truth"]
    assert [text.split(":")[0] for text in captions[3:]] == ["e1", "e2", "d1"]
    assert sum(float(text.split(":")[1]) for text in captions[3:]) == pytest.approx(1, abs=0.02)
    assert "case &lt;1&gt;" in html and "Dice 0.750 (big &amp; round 0.750, other nan)" in html
    # one slice shows without the script; the slider is for the script to show
    layout = Layout.of(SIZE, SPACING, 5)
    views = set(re.findall('viewBox="(.*?)"', html))
    assert views == {layout.view(5)} and "slice <output>5</output> of 0 to 6" in html
    assert re.search('<input type="range" min="0" max="6" value="5"[^>]* hidden>', html)
    assert html.count('href="data:image/jpeg') == 1 + 3 and html.count('href="data:image/png') == 2
    assert html.count('<use href="#image3"/>') == 2 + 3


@pytest.mark.parametrize("cases", [1, 50])
def test_all_maps_of_a_case_together_have_no_more_pixels_than_an_image_may_have(cases):
    size, sources = (60, 128, 128), [f"e{i}" for i in range(6)]
    big = case(
        image=np.zeros((1, *size)),
        masks={"prediction": np.zeros(size, dtype=np.uint8)},
        maps={read: (sources, np.full((6, *size), 1 / 6, dtype=np.float32)) for read in ("d1", "d2", "d3", "d4")},
        first=0,
    )
    html = case_html(big, 0, cases, {}, opened=False)
    sheets = [picture(uri) for uri in re.findall('class="heat"[^>]* href="(.*?)"', html)]
    most, least, page = slices._PIXELS
    assert len(sheets) == 24
    assert sum(sheet.shape[0] * sheet.shape[1] for sheet in sheets) < 1.3 * max(least, min(most, page / cases))


def test_the_slice_with_the_most_foreground():
    one, other = np.zeros(SIZE, dtype=np.float32), np.zeros(SIZE, dtype=np.float32)
    assert fullest([one, other]) == 3  # the middle one
    one[1, :4], other[2, :3], one[2, :2] = 1, 2, 2
    assert fullest([one]) == 1 and fullest([one, other]) == 2
    one[6] = 3
    assert fullest([one, other]) == 6 and fullest([one, other], ignored=3) == 2


def test_no_slider_for_one_slice():
    nothing = np.zeros(SIZE, dtype=np.uint8)
    html = case_html(case(masks={"prediction": nothing}, maps={}, dice={}), 0, 1, {}, opened=False)
    assert "slice <output>5</output>" in html and "truth" not in html and "Dice" not in html
    flat = case(image=np.zeros((1, 1, 20, 30)), masks={"prediction": np.zeros((1, 20, 30))}, first=0, maps={}, dice={})
    html = case_html(flat, 0, 1, {}, opened=False)
    assert "<input" not in html and "slice" not in html


def test_a_picture_is_as_wide_as_the_slice():
    """In a wider one the sheet would show the neighbours of the slice."""
    tall = case(image=np.zeros((1, 7, 40, 20)), spacing=(2.0, 1.0, 1.0), masks={}, maps={})
    html = case_html(tall, 3, 5, {}, opened=True)
    assert re.findall(r'style="--ratio:(.*?)"', html) == ["0.5"]
    style = (Path(slices.__file__).parent / "page.css").read_text()
    of_slices = re.findall(r"figure svg \{(.*?)\}", style)
    assert len(of_slices) == 3 and sum("var(--ratio)" in rule for rule in of_slices) == 2
    assert not any("max-height" in rule for rule in of_slices)


def test_the_blocks_of_a_colour_are_of_one_slice():
    maps = np.zeros((8, 24, 24), np.float32)
    maps[::2] = 1
    sheet = picture(heat_sheet(maps, Layout(8, 8, (24, 24), (100, 100)), (0.0, 1.0)))
    for k in range(8):
        of_slice = sheet[:24, 24 * k : 24 * (k + 1)]
        assert np.abs(of_slice - of_slice[12, 12]).max() < 12
