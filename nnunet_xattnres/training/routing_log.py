"""How the reads of a network develop while it trains: a table and a picture in the fold's folder."""

import csv
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_xattnres.common.files import open_table, replacing
from nnunet_xattnres.common.order import merged
from nnunet_xattnres.ops.choice import CUSTOM_OPS
from nnunet_xattnres.reads.history import reads_of, source_names
from nnunet_xattnres.reads.recorder import recorded
from nnunet_xattnres.training.base import GuardedTrainer, n_parameters

TABLE, PICTURE = "xattnres_routing.csv", "xattnres_routing.png"
ROUTING_EVERY = 10  # epochs
_COLUMNS = ("epoch", "read", "source", "mean_weight")


class RoutingLogTrainer(GuardedTrainer):
    """Logs what the reads of its network cost, and what they read."""

    routing_logged_in = -1  # the last epoch in which it was

    def _do_i_compile(self) -> bool:
        """Not without torch's custom operators: where it compiles, nnU-Net gives the outputs other weights."""
        return CUSTOM_OPS and bool(super()._do_i_compile())

    def _parameter_line(self) -> str:
        network = self._bare_network()
        n_plain, n = n_parameters(self._plain_network()), n_parameters(network)
        n_reads = sum(map(n_parameters, reads_of(network).values()))
        line = f"Parameters: plain network {n_plain:,}, reads {n_reads:,} (+{n_reads / n_plain:.2%})"
        if n != n_plain + n_reads:
            line += f", this network {n:,} ({n / n_plain - 1:+.2%})"
        return line

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        found = super().validation_step(batch)
        due = self.current_epoch % ROUTING_EVERY == 0 or self.current_epoch == self.num_epochs - 1
        if due and self.local_rank == 0 and self.routing_logged_in != self.current_epoch:
            self.routing_logged_in = self.current_epoch
            self._log_routing(batch["data"])
        return found

    def _log_routing(self, images: Tensor) -> None:
        try:
            network = self._bare_network()
            if not reads_of(network):
                return
            with torch.autocast("cuda") if self.device.type == "cuda" else nullcontext():
                log_routing(network, images.to(self.device), self.current_epoch, Path(self.output_folder))
        except Exception as error:  # it is not worth a training
            self.print_to_log_file(f"The weights of the reads were not logged: {type(error).__name__}: {error}")


def log_routing(network: nn.Module, images: Tensor, epoch: int, folder: Path) -> None:
    """Add the mean weights of every read over a batch to the folder's table, and draw the picture anew.

    Args:
        network: one with reads; it computes once.
        images: the batch, on the network's device.
        epoch: rows of this one and of later ones, of a training that has been taken up again, are replaced.
    """
    means: dict[str, list[float]] = {}

    def average(read: str, weights: Tensor) -> None:
        means[read] = weights.float().mean(dim=(0, *range(2, weights.ndim))).tolist()

    with torch.no_grad(), recorded(network, average):
        network(images)
    sources = source_names(network)
    rows = [row for row in _read(folder / TABLE) if int(row["epoch"]) < epoch]
    rows += [
        dict(zip(_COLUMNS, (epoch, read, source, weight), strict=True))
        for read in reads_of(network)
        for source, weight in zip(sources[read], means[read], strict=True)
    ]
    with replacing(folder / TABLE) as partial, open_table(partial) as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    from matplotlib import style

    with style.context("default"):  # nnU-Net's own progress.png sets large fonts for the whole process
        _draw(rows, folder / PICTURE)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel for each read: the weights of its sources over the epochs."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    reads = list(dict.fromkeys(row["read"] for row in rows))
    order = merged(list(dict.fromkeys(row["source"] for row in rows if row["read"] == read)) for read in reads)
    color = {source: colormaps["turbo"](i / max(1, len(order) - 1)) for i, source in enumerate(order)}
    columns = min(4, len(reads))
    lines = -(-len(reads) // columns)
    figure = Figure(figsize=(3.0 * columns + 1.2, 2.2 * lines + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(reads) :]:
        axis.axis("off")
    for axis, read in zip(axes, reads, strict=False):
        here = [row for row in rows if row["read"] == read]
        for source in dict.fromkeys(row["source"] for row in here):
            points = [(int(row["epoch"]), float(row["mean_weight"])) for row in here if row["source"] == source]
            axis.plot(*zip(*points, strict=True), marker=".", color=color[source], label=source)
        n = len({row["source"] for row in here})
        axis.axhline(1 / n, color="0.6", linewidth=1, linestyle="--")
        axis.set_title(f"{read} (dashed: uniform)", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("epoch", fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = {h.get_label(): h for axis in axes for h in axis.get_lines() if h.get_label() in color}
    figure.legend([handles[s] for s in order], order, loc="outside right upper", title="source")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
