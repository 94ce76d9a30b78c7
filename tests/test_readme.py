"""The README: its links lead somewhere, here and on an index page."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from benchmarks.cost.configurations import RESENC_BLOCKS, Configuration

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)(?:#[^)]*)?\)")
TO_SECTION = re.compile(r"\[[^\]]*\]\(([^)#:]*)#([^)]*)\)")  # of a file here
PAGES = [
    "README.md",
    *(str(path.relative_to(ROOT)) for folder in ("docs", "benchmarks") for path in (ROOT / folder).rglob("*.md")),
]


@pytest.fixture(scope="module")
def build():
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(path):
    """Without code: a call is no link, a comment no heading."""
    return re.sub("```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def sections(path):
    """As GitHub names them in links."""
    headings = re.findall(r"^#+ (.*)$", text_of(path), flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_section(page):
    text, folder = text_of(ROOT / page), (ROOT / page).parent
    missing = [t for t in LINK.findall(text) if not t.startswith("http") and not (folder / t).exists()]
    missing += [
        f"{file}#{section}"
        for file, section in TO_SECTION.findall(text)
        if section not in sections(folder / file if file else ROOT / page)
    ]
    assert not missing


def test_the_readme_has_links():
    assert len(LINK.findall(text_of(ROOT / "README.md"))) > 10
    assert len(TO_SECTION.findall(text_of(ROOT / "README.md"))) > 0


def test_on_an_index_page_links_and_pictures_lead_into_the_repository(build):
    text = "[a](docs/a.md#b) ![p](docs/p.png) [w](https://x.org/y) [here](#section)"
    assert build.absolute(text, "https://h.org/o/r") == (
        "[a](https://h.org/o/r/blob/main/docs/a.md#b) ![p](https://h.org/o/r/raw/main/docs/p.png) "
        "[w](https://x.org/y) [here](#section)"
    )


@pytest.mark.parametrize("urls", [{}, {"urls": {"Repository": "https://h.org/o/r/"}}])
def test_the_address_stands_in_pyproject_alone(build, urls):
    metadata = dict(urls)
    build.AbsoluteLinks(str(ROOT), {}).update(metadata)
    text = metadata["readme"]["text"]
    relative = [t for t in LINK.findall(text) if not t.startswith("http")]
    assert bool(relative) != bool(urls)
    assert ("https://h.org/o/r/blob/main/docs/gpu.md" in text) == bool(urls)


FEATURES = {3: (32, 64, 128, 256, 320, 320, 320), 2: (32, 64, 128, 256, 512, 512, 512, 512)}  # nnU-Net's most stages


def shares(dimension, resenc):
    """What skip + read adds to the parameters of nnU-Net's network, in percent, from four stages to the most."""
    features = FEATURES[dimension]
    blocks = (*RESENC_BLOCKS, 6, 6) if resenc else None
    for n in range(4, len(features) + 1):
        strides = ((2,) * dimension,) * (n - 1)
        plan = Configuration("", 1, (64,) * dimension, features[:n], strides, blocks=blocks and blocks[:n])
        with torch.device("meta"):
            plain, ours = (sum(p.numel() for p in plan.build(mode).parameters()) for mode in (None, "add"))
        yield 100 * (ours - plain) / plain


def test_the_share_of_the_parameters_is_what_the_readme_says():
    text = " ".join(text_of(ROOT / "README.md").split())
    said = re.search(
        r"get (\d+)% to (\d+)% more parameters in 3D and (\d+)% to (\d+)% in 2D, ResEnc networks (\d+)% to (\d+)% and "
        r"(\d+)% to (\d+)%",
        text,
    )
    found = [list(shares(dimension, resenc)) for resenc in (False, True) for dimension in (3, 2)]
    assert [int(n) for n in said.groups()] == [round(f(of)) for of in found for f in (min, max)]
