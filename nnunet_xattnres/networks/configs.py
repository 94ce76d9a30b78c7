"""What can be chosen about the networks beside those with reads. Imports no torch: plans are written without it."""

from dataclasses import asdict, dataclass

from nnunet_xattnres.reads.config import ConfigError


@dataclass(frozen=True)
class UNet3PlusConfig:
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

    def __str__(self) -> str:
        return _words(self)


@dataclass(frozen=True)
class UCTransNetConfig:
    """The argument of ``networks.uctransnet.UCTransNet`` beyond upstream's.

    Attributes:
        patch_size: what the position tables are made for; from the plans, where it is None.
    """

    patch_size: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return _words(self)


MEMORIES = ("all", "as_published")


@dataclass(frozen=True)
class BlockConfig:
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

    def __str__(self) -> str:
        return _words(self)


@dataclass(frozen=True)
class EMCADConfig:
    """The arguments of ``networks.emcad.EMCAD`` that a trainer chooses.

    Attributes:
        encoder: timm's name of a PVTv2.
        reads: whether the decoder reads the history.
    """

    encoder: str = "pvt_v2_b2"
    reads: bool = False

    def __str__(self) -> str:
        return _words(self)


def _words(config: UNet3PlusConfig | UCTransNetConfig | BlockConfig | EMCADConfig) -> str:
    return ", ".join(f"{name} {value}" for name, value in asdict(config).items())
