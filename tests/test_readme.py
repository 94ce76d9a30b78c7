"""The README: its links lead somewhere, here and on an index page."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def build():
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_every_link_leads_to_a_file(page):
    text = re.sub("```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)  # a call is no link
    targets = LINK.findall(text)
    missing = [t for t in targets if not t.startswith("http") and not ((ROOT / page).parent / t).exists()]
    assert targets and not missing


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
