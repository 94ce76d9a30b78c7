import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from nnunet_xattnres.common.processes import sigterm_as_interrupt


def test_sigterm_interrupts_the_block_and_then_means_what_it_meant():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_nothing_is_changed():
    def handler():
        with sigterm_as_interrupt():
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handler).result() is signal.getsignal(signal.SIGTERM)
