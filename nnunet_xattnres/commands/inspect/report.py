"""The page of an inspection: one HTML file that needs no other."""

import base64
import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nnunet_xattnres.common.files import replacing
from nnunet_xattnres.nnunet.checkpoints import origin_of, read_checkpoint

_STYLE = """
body { font-family: sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; font-size: 90% }
th, td { border-bottom: 1px solid #ddd; padding: 0.2em 0.7em; text-align: right }
th:first-child, td:first-child, td:nth-child(2), td:nth-child(3) { text-align: left }
img { max-width: 100% }
"""


def identity_of(model_folder: Path, checkpoints: Sequence[Path]) -> dict[str, str]:
    """What the model is: its training, its files by their hash, and the versions that computed."""
    origin = origin_of(read_checkpoint(checkpoints[0]))
    versions = {name: importlib.metadata.version(name) for name in ("nnunet-xattnres", "nnunetv2", "torch")}
    return {
        "model": model_folder.name,
        **origin._asdict(),
        **{f"{file.parent.name}/{file.name}": f"sha256 {_sha256(file)}" for file in checkpoints},
        **versions,
    }


def write_page(path: Path, identity: Mapping[str, str], parts: Sequence[tuple[str, str, Any]]) -> None:
    """Write the page.

    Args:
        identity: the table at its top.
        parts: headings, texts, and under each a picture's file, the rows of a table, or None.
    """
    body = ["<h1>What the network reads</h1>", _table([{"": key, " ": value} for key, value in identity.items()])]
    for heading, text, content in parts:
        body.append(f"<h2>{escape(heading)}</h2><p>{escape(text)}</p>")
        if isinstance(content, Path):
            data = base64.b64encode(content.read_bytes()).decode()
            body.append(f'<img alt="{escape(heading)}" src="data:image/png;base64,{data}">')
        elif content is not None:
            body.append(_table(content))
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(identity["model"])}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in rows[0])
    lines = ("".join(f"<td>{escape(_cell(value))}</td>" for value in row.values()) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    return digest.hexdigest()
