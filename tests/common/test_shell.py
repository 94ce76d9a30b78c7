"""Command lines as the user's shell takes them."""

import ast
import shlex
from pathlib import Path

import nnunet_xattnres
from nnunet_xattnres.common import shell

PACKAGE = Path(nnunet_xattnres.__file__).parent


def test_a_shell_of_posix(monkeypatch):
    monkeypatch.setattr("os.name", "posix")
    words = ["cd", "/a b/it's", "$HOME"]
    assert shlex.split(shell.command(*words)) == words
    assert shell.put_first_on_path("/a b") == """export PATH='/a b':"$PATH\""""
    assert shell.export("X", "/a b") == "export X='/a b'" and shell.unset("X") == "unset X"


def test_windows(monkeypatch):
    """Its shell knows no single quotes."""
    monkeypatch.setattr("os.name", "nt")
    assert shell.command("cd", r"C:\a b") == r'cd "C:\a b"'
    assert shell.command("pip", "install", "nnunetv2<3,>=2.8.1", "x") == 'pip install "nnunetv2<3,>=2.8.1" x'
    quoted = r"""'C:\a b\python.exe' '-m' 'pip'"""
    assert shell.command(r"C:\a b\python.exe", "-m", "pip").endswith(f" -m pip   (PowerShell: & {quoted})")
    assert shell.command("cd", "C:\\a&b\\") == 'cd "C:\\a&b\\\\"'
    assert shell.export("X", r"C:\a b") == r"""set "X=C:\a b"   (PowerShell: $env:X = 'C:\a b')"""
    assert shell.export("X", "it's").endswith("= 'it''s')")
    assert shell.unset("X") == 'set "X="   (PowerShell: Remove-Item Env:X)'
    path = r"""set "PATH=C:\a b;%PATH%"   (PowerShell: $env:PATH = 'C:\a b;' + $env:PATH)"""
    assert shell.put_first_on_path(r"C:\a b") == path


def test_nothing_else_quotes_for_one_shell_alone():
    """What is quoted elsewhere would be for POSIX only."""
    found = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import) and any(alias.name == "shlex" for alias in node.names):
                found.append(file.relative_to(PACKAGE).as_posix())
    assert found == ["common/shell.py"]
