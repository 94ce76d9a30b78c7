"""Runs a command that ends with whoever started it, however that ends: ``python leash.py COMMAND ...``

Whoever starts it keeps the other end of its standard input; when that is closed, by a SIGKILL too, the whole process
group is killed, and no training goes on that nobody watches. Standard library only.
"""

import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_the_starter, args=(process,), daemon=True).start()
    sys.exit(process.wait())


def _end_with_the_starter(process: "subprocess.Popen[bytes]") -> None:
    sys.stdin.read()
    if os.name == "posix":
        os.killpg(0, signal.SIGKILL)
    process.kill()
    os._exit(1)


if __name__ == "__main__":
    main()
