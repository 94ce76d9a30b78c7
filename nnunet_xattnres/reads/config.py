"""What can be chosen about a network's reads. Imports no torch: plans are written without it."""

from dataclasses import asdict, dataclass

from nnunet_xattnres.common.errors import UserError

SKIP_MODES = ("add", "replace", "none", "plain")
READ_GATES = ("none", "zero")


class ConfigError(UserError, ValueError):
    """Values, or a pair of them, that no network can have."""


@dataclass(frozen=True)
class ReadConfig:
    """The arguments of our U-Nets with reads beyond upstream's; ``networks.unet.XAttnResUNet`` says what they do.

    Raises:
        ConfigError: for values, or a pair of them, that no network can have.
    """

    skip_mode: str = "add"
    encoder_reads: bool = True
    read_gate: str = "none"

    def __post_init__(self) -> None:
        check_reads(self.skip_mode, self.read_gate)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


def check_reads(skip_mode: str, read_gate: str) -> None:
    """Raise ConfigError, naming the argument, for what no network can have."""
    for name, value, choices in (("skip_mode", skip_mode, SKIP_MODES), ("read_gate", read_gate, READ_GATES)):
        if value not in choices:
            raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")
    if read_gate != "none" and skip_mode != "add":
        raise ConfigError(f"read_gate is {read_gate!r}: it needs skip_mode 'add', but that is {skip_mode!r}")
