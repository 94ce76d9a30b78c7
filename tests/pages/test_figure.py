"""The figures of every page."""

import io
import warnings

from nnunet_xattnres.pages import figure as module
from nnunet_xattnres.pages.figure import new_figure


def test_letters_that_matplotlibs_own_font_lacks_are_those_of_a_font_that_is_there(monkeypatch, caplog):
    monkeypatch.setattr(module, "_FURTHER", ("a font that is not there", "STIXGeneral"))
    with warnings.catch_warnings(), new_figure(2, 1) as figure:
        warnings.simplefilter("error")
        text = figure.text(0.5, 0.5, "a letter: \N{LATIN SMALL LETTER D WITH PALATAL HOOK}")
        figure.savefig(io.BytesIO())
    assert text.get_fontfamily() == ["sans-serif", "STIXGeneral"] and not caplog.records
