"""Lines as they come, and tables in Markdown of all of them."""

from collections.abc import Iterator, Sequence
from typing import Any

_GB = 1e9
_TIMINGS = ("configuration", "compiled", "network", "training", "inference", "training memory", "inference memory", "")
_CHOICES = ("configuration", "read", "forward", "backward", "forward of each", "backward of each", "")
_PROOFS = ("path", "dtype", "channels", "size", "result", "worst error")


def line(what: str, row: dict[str, Any]) -> str:
    """One result as a line of text."""
    cells = {"proofs": _proof, "choices": _choice, "timings": _timing}[what](row)
    return f"{what}: " + ", ".join(cell for cell in cells if cell)


def tables(result: dict[str, Any]) -> str:
    """The whole result; what was wrong or failed stands first."""
    machine = result["machine"]
    head = f"{machine['gpu'] or machine['cpu']}, torch {machine['torch']}, triton {machine['triton']}"
    parts = [
        f"# The paths of the reads on {head}",
        f"Commit {machine['commit']}, code of the paths {machine['ops']}. {_proved(result['proofs'])}",
    ]
    if bad := [row for row in result["proofs"] if row["status"] not in ("ok", "no time")]:
        parts.append(_table(_PROOFS, map(_proof, bad)))
    if result["choices"]:
        parts.append("The path of each read that a training takes here, and the ms of each path.")
        parts.append(_table(_CHOICES, map(_choice, result["choices"])))
    if result["timings"]:
        parts.append(
            "Medians; in brackets the median ratio over the plain network's steps, which alternate. Memory is the peak "
            "beyond what was there before the network."
        )
        parts.append(_table(_TIMINGS, map(_timing, _sorted(result["timings"]))))
    return "\n\n".join(parts) + "\n"


def _sorted(timings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """They came in the order of their importance."""
    order = {row["configuration"]: k for k, row in reversed(list(enumerate(timings)))}
    return sorted(timings, key=lambda row: (order[row["configuration"]], row["compiled"]))


def _proved(proofs: Sequence[dict[str, Any]]) -> str:
    tried = [row for row in proofs if row["status"] != "no time"]
    n_ok = sum(row["status"] == "ok" for row in tried)
    rest = len(proofs) - len(tried)
    return f"Proofs: {n_ok} of {len(tried)} ok" + (f", {rest} not tried for want of time." if rest else ".")


def _table(header: Sequence[str], rows: Iterator[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(header), ["---"] * len(header), *rows])


def _proof(row: dict[str, Any]) -> list[str]:
    error = f"{row['worst_error']:.1e} ({row['worst']})" if "worst_error" in row else row.get("why", "")
    size = "x".join(map(str, row["size"]))
    return [row["path"], row["dtype"], f"{row['channels']} channels", size, row["status"], error]


def _choice(row: dict[str, Any]) -> list[str]:
    found = row["results"]
    times = [
        ", ".join(f"{path} {1e3 * result[phase]:.3g}" for path, result in found.items() if phase in result)
        for phase in ("forward", "backward")
    ]
    failed = [f"{path} {r['status']}: {r.get('why', '')}" for path, r in found.items() if r["status"] != "ok"]
    return [row["configuration"], row["read"], row["forward"], row["backward"], *times, "; ".join(failed)]


def _timing(row: dict[str, Any]) -> list[str]:
    name = [row["configuration"], "compiled" if row["compiled"] else "eager", row["kind"]]
    if row["status"] != "ok":
        return [*name, *[row["status"]] * 4, row.get("why", "")]
    phases = [row[phase] for phase in ("training", "inference")]
    times = [f"{1e3 * phase['seconds']:.4g} ms{_ratio(phase['ratio'])}" for phase in phases]
    memory = [_memory(phase) for phase in phases]
    return [*name, *times, *memory, "not proved" if row["proved"] is False else ""]


def _memory(phase: dict[str, Any]) -> str:
    return f"{phase['memory'] / _GB:.2f} GB{_ratio(phase['memory_ratio'])}" if phase["memory"] else ""


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f" ({ratio:.2f})"
