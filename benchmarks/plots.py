"""The pictures of a run: one question each, drawn for a page that is 800 pixels wide."""

import statistics
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullLocator

COLOURS = {"fp32": "#0072b2", "int8": "#d55e00"}
"""Two of Okabe and Ito's colours, which everybody can tell apart."""
NAMES = {"fp32": "float32", "int8": "int8"}
MARKERS = {"fp32": "o", "int8": "s"}
ABOVE, BELOW = (0, 10), (0, -18)
"""Where a number stands, in points from its point."""
ENDS = {"fp32": (24, -4), "int8": (24, 4)}
"""Where a line's name stands, from its last point."""
GREY, PALE, INK = "#9a9a9a", "#d4d4d4", "#333333"
PIXELS = 200
STYLE = {
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.dpi": PIXELS,
}
Results = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lines:
    """A curve to draw.

    Attributes:
        curve: its name in the results.
        key: `rates` (windows a second) or `peaks` (bytes).
        title: what the picture answers.
        along: what the horizontal axis is.
        logarithmic: the vertical axis too.
    """

    curve: str
    key: str
    title: str
    along: str
    logarithmic: bool = False


LINES = {
    "windows": Lines("windows", "rates", "Speed by the size of the input", "windows in the input (M: million)"),
    "memory": Lines("windows", "peaks", "Memory by the size of the input", "windows in the input (M: million)"),
    "horizon": Lines("horizon", "rates", "Speed by the horizon", "horizon, steps"),
    "units": Lines("units", "rates", "Speed by the size of the LSTM", "LSTM units", logarithmic=True),
    "files": Lines("files", "rates", "Speed by the number of files that hold the same windows", "files"),
    "workers": Lines("workers", "rates", "Speed by the number of worker threads", "workers"),
}


def draw_all(results: Results, folder: Path) -> None:
    """Write every picture as a PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        throughput(results["contestants"], folder / "throughput.png")
        for name, lines in LINES.items():
            curve(results["curves"][lines.curve], lines, folder / f"{name}.png")


@contextmanager
def picture(path: Path, height: float) -> Any:
    """Give axes to draw on, and save them."""
    figure, axes = plt.subplots(figsize=(8, height), layout="constrained")
    yield axes
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def throughput(contestants: dict[str, Any], path: Path) -> None:
    """Draw a bar for each contestant, the fastest at the bottom; a thin line spans its rounds."""
    ran = [(name, one) for name, one in contestants.items() if one["rates"]]
    ran.sort(key=lambda entry: statistics.median(entry[1]["rates"]), reverse=True)
    with picture(path, 0.9 + 0.42 * len(ran)) as axes:
        for row, (name, one) in enumerate(ran):
            rates, middle = one["rates"], statistics.median(one["rates"])
            bold = "bold" if name.startswith("freerun") else "normal"
            axes.barh(row, middle, height=0.66, color=colour(name))
            axes.plot([min(rates), max(rates)], [row, row], color=INK, linewidth=1.5, solid_capstyle="butt")
            axes.text(max(rates), row, f"  {middle:,.0f}", va="center_baseline", weight=bold)
        axes.set_yticks(range(len(ran)), [one["label"] for _, one in ran])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.14, y=0.02)
        axes.xaxis.set_major_formatter(FuncFormatter(grouped))
        axes.set_xlabel("windows a second (bar: median, thin line: range over the rounds)")
        axes.figure.suptitle("Who scores how fast", x=0.01, ha="left", size=13, weight="bold")


def colour(name: str) -> str:
    """Return freerun's colours for freerun, pale for the limit, grey for the others."""
    return {"limit": PALE, "freerun_fp32": COLOURS["fp32"], "freerun_int8": COLOURS["int8"]}.get(name, GREY)


def curve(found: dict[str, list[dict[str, Any]]], lines: Lines, path: Path) -> None:
    """Draw a line for each precision, named at its end."""
    with picture(path, 4.2) as axes:
        places: list[float] = []
        for precision, points in found.items():
            measured = [point for point in points if point[lines.key]]
            if measured:
                line(axes, precision, measured, value_of(lines), above=precision == upper(found, lines))
            places += [point["x"] for point in points]
        axes_of(axes, sorted(set(places)), lines)


def upper(found: dict[str, list[dict[str, Any]]], lines: Lines) -> str:
    """Return the precision whose line lies higher where all of them end: its numbers stand above, the other's below."""
    ends = {name: [point["x"] for point in points if point[lines.key]] for name, points in found.items()}
    last = min(places[-1] for places in ends.values() if places)
    heights = {
        name: statistics.median(point[lines.key])
        for name, points in found.items()
        for point in points
        if point["x"] == last and point[lines.key]
    }
    return max(heights, key=lambda name: heights[name])


def value_of(lines: Lines) -> Callable[[dict[str, Any]], list[float]]:
    """Return what takes a point's values: windows a second, or megabytes."""
    divisor = 1e6 if lines.key == "peaks" else 1
    return lambda point: [value / divisor for value in point[lines.key]]


def line(
    axes: Any, precision: str, points: list[dict[str, Any]], values: Callable[..., list[float]], *, above: bool
) -> None:
    """Draw one line with its numbers; a pale stroke behind each point spans its rounds."""
    places, middles = [point["x"] for point in points], [statistics.median(values(point)) for point in points]
    shade = COLOURS[precision]
    axes.plot(places, middles, color=shade, linewidth=2, marker=MARKERS[precision], markersize=6)
    note = {"textcoords": "offset points", "color": shade, "annotation_clip": False}
    halo = [withStroke(linewidth=3, foreground="white")]
    for place, middle, point in zip(places, middles, points, strict=True):
        span = [min(values(point)), max(values(point))]
        axes.plot([place, place], span, color=shade, linewidth=5, alpha=0.3, solid_capstyle="butt")
        shift = ABOVE if above else BELOW
        axes.annotate(f"{middle:,.0f}", (place, middle), shift, ha="center", path_effects=halo, **note)
    axes.annotate(NAMES[precision], (places[-1], middles[-1]), ENDS[precision], va="center", weight="bold", **note)


def axes_of(axes: Any, places: list[float], lines: Lines) -> None:
    """Label the axes; the points themselves are the ticks."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(places, [short(place) for place in places])
    if lines.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.12, y=0.15)
    else:
        axes.margins(x=0.12)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
    axes.yaxis.set_major_formatter(FuncFormatter(grouped))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(lines.along)
    axes.set_ylabel("windows a second" if lines.key == "rates" else "peak over the imports, MB")
    axes.set_title(lines.title)


def grouped(value: float, _position: int = 0) -> str:
    """Return a whole number with commas."""
    return f"{value:,.0f}"


def short(value: float) -> str:
    """Return a whole number with commas, and millions as M: 1,000,000 and 2,000,000 would run into each other."""
    return f"{value / 1e6:g} M" if value >= 1e6 else grouped(value)
