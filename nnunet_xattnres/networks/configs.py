"""What can be chosen about our networks. Imports no torch: plans are written without it."""

from dataclasses import asdict, dataclass

from nnunet_xattnres.common.errors import UserError

SKIP_MODES = ("add", "replace", "none", "plain")
READ_GATES = ("none", "zero")
MEMORIES = ("all", "as_published")


class ConfigError(UserError, ValueError):
    """Values, or a pair of them, that no network can have."""


@dataclass(frozen=True)
class Config:
    """The arguments of a network beyond upstream's."""

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class ReadConfig(Config):
    """The arguments of our U-Nets with reads beyond upstream's; ``networks.unet.XAttnResUNet`` says what they do.

    Raises:
        ConfigError: for values, or a pair of them, that no network can have.
    """

    skip_mode: str = "add"
    encoder_reads: bool = True
    read_gate: str = "none"

    def __post_init__(self) -> None:
        check_reads(self.skip_mode, self.read_gate)


def check_reads(skip_mode: str, read_gate: str) -> None:
    """Raise ConfigError, naming the argument, for what no network can have."""
    for name, value, choices in (("skip_mode", skip_mode, SKIP_MODES), ("read_gate", read_gate, READ_GATES)):
        if value not in choices:
            raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")
    if read_gate != "none" and skip_mode != "add":
        raise ConfigError(f"read_gate is {read_gate!r}: it needs skip_mode 'add', but that is {skip_mode!r}")


@dataclass(frozen=True)
class UNet3PlusConfig(Config):
    """The argument of ``networks.unet3plus.UNet3Plus`` beyond upstream's.

    Attributes:
        width: c, the channels of each reduction in the decoder; None lets the network choose by its cost.

    Raises:
        ConfigError: for a width below one.
    """

    width: int | None = None

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise ConfigError(f"width is {self.width}; it must be 1 or more")


@dataclass(frozen=True)
class UCTransNetConfig(Config):
    """The argument of ``networks.uctransnet.UCTransNet`` beyond upstream's.

    Attributes:
        patch_size: what the position tables are made for; from the plans, where it is None.
    """

    patch_size: tuple[int, ...] | None = None


@dataclass(frozen=True)
class BlockConfig(Config):
    """The arguments of ``networks.block_unet.XAttnResBlockUNet`` beyond upstream's.

    Attributes:
        memory: what a block reads in its stage: ``"all"`` its input and the outputs so far, each once;
            ``"as_published"`` as the authors' code does.
        encoder_isar: whether blocks of the encoder read, too.

    Raises:
        ConfigError: for another memory.
    """

    memory: str = "all"
    encoder_isar: bool = False

    def __post_init__(self) -> None:
        if self.memory not in MEMORIES:
            raise ConfigError(f"memory is {self.memory!r}; it must be one of {', '.join(map(repr, MEMORIES))}")


@dataclass(frozen=True)
class EMCADConfig(Config):
    """The arguments of ``networks.emcad.EMCAD`` that a trainer chooses.

    Attributes:
        encoder: timm's name of a PVTv2.
        reads: whether the decoder reads the history.
    """

    encoder: str = "pvt_v2_b2"
    reads: bool = False
