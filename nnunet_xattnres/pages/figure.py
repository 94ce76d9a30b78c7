"""Figures that are drawn into files, in which a name is only a name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_xattnres.common.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Chinese, Japanese and Korean, which matplotlib's own font lacks: of Linux, Windows and macOS
_FURTHER = (
    *("Noto Sans CJK SC", "Noto Sans CJK TC", "Noto Sans CJK JP", "Noto Sans CJK KR", "WenQuanYi Micro Hei"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic"),
    *("PingFang HK", "Hiragino Sans GB", "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS"),
)


@contextmanager
def new_figure(width: float, height: float) -> Iterator["Figure"]:
    """An empty figure of so many inches, to be filled inside the block; it needs no screen."""
    from matplotlib import rc_context, rcParams
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import get_font_names

    there = set(get_font_names())  # matplotlib complains of one that is not there
    families = [*rcParams["font.family"], *(name for name in _FURTHER if name in there)]
    with rc_context({"text.parse_math": False, "font.family": families}):  # a label may have a $ in its name
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def save(figure: "Figure", path: Path, dpi: int = 130) -> None:
    """Write a figure in the format that the ending of ``path`` says, whole or not at all."""
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:] or "png", dpi=dpi)
