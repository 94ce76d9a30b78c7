"""What can be chosen about the networks beside those with reads. Imports no torch: plans are written without it."""

from dataclasses import dataclass

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
        return f"width {self.width}"
