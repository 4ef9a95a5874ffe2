"""The plot that the documentation shows: requests a second, load by load, of all contenders."""

from __future__ import annotations

import math
from pathlib import Path

from benchmarks.figures import Row
from benchmarks.machine import Machine

_WIDTH_INCHES, _HEIGHT_INCHES, _DOTS_PER_INCH = 9.0, 4.5, 120
_GROUP = 0.8  # of the space of a load, taken by its bars


def draw(rows: list[Row], machine: Machine, path: Path) -> None:
    """Write the plot of the section of requests and replies as a PNG.

    Args:
        rows: of that section.
        machine: named below.
        path: where to.
    """
    import matplotlib

    matplotlib.use("agg")  # no screen is needed
    from matplotlib import pyplot

    loads, contenders = grouped(rows)
    figure, axes = pyplot.subplots(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), layout="constrained")
    width = _GROUP / len(contenders)
    for number, (contender, rates) in enumerate(contenders.items()):
        shift = (number - (len(contenders) - 1) / 2) * width
        bars = axes.bar([place + shift for place in range(len(loads))], rates, width, label=contender)
        axes.bar_label(bars, labels=[_shown(rate) for rate in rates], fontsize=6, rotation=90, padding=3)
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.set_xticks(range(len(loads)), [f"{load} in flight" for load in loads])
    axes.set_ylabel("requests a second, answered")
    axes.set_title("Request and reply, medians; 150 to 200 bytes each way, one broker")
    axes.legend(fontsize=8, ncols=2)
    axes.grid(axis="y", alpha=0.3)
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    figure.supxlabel(
        f"{machine.cores} cores, {machine.system}, Python {machine.python}; {versions}", fontsize=6, wrap=True
    )
    figure.savefig(path, dpi=_DOTS_PER_INCH)
    pyplot.close(figure)


def grouped(rows: list[Row]) -> tuple[list[str], dict[str, list[float]]]:
    """Give the loads, and each contender's requests a second under them in the same order; not a number where it has
    none."""
    loads = list(dict.fromkeys(row.load for row in rows))
    rates = {(row.load, row.contender): row.figures["requests_per_second"] for row in rows}
    return loads, {
        contender: [rates.get((load, contender), float("nan")) for load in loads]
        for contender in dict.fromkeys(row.contender for row in rows)
    }


def _shown(rate: float) -> str:
    return "" if math.isnan(rate) else f"{rate:,.0f}"
