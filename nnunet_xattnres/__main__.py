"""``python -m nnunet_xattnres``, where the command itself is not on PATH."""

from nnunet_xattnres.cli import app

if __name__ == "__main__":
    app(prog_name="nnunet-xattnres")
