"""The page that a run writes: what was to be reached and what was, who scored how fast, and how it was measured."""

import statistics
from collections.abc import Iterable
from typing import Any

from goals import quotients, size, spread

Results = dict[str, Any]
SPEED_HEAD = ["contestant", "windows a second", "float32 / it", "int8 / it", "differs by", "how"]
LEGEND = (
    "`float32 / it` and `int8 / it`: how many times as fast `freerun score` is, the median over the rounds. "
    "`differs by`: the largest difference of the forecasts from freerun's in float32, in deviations of these."
)
REACHED = {True: "yes", False: "**no**", None: "not measured"}
PICTURES = {
    "windows": "Windows a second by the size of the input. Opening the bundle is in it, and weighs on a small input.",
    "memory": "Peak memory over the imports, by the size of the input.",
    "horizon": "Windows a second by the horizon: a window costs its context once, then a step each.",
    "units": "Windows a second by the units of the LSTM, both axes logarithmic; arithmetic grows with their square.",
    "files": "Windows a second by the number of files that hold them all: each becomes a part, hashed and synced.",
    "workers": "Windows a second by the number of worker threads.",
}


def page(results: Results) -> str:
    """Return the page as Markdown."""
    about = results["about"]
    blocks = [
        "# Benchmarks",
        origin(about),
        "## To reach, and reached",
        table(["what", "to reach", "found", "reached"], goal_rows(results)),
        limits(results),
        "## Who scores how fast",
        shape_text(about["shape"]),
        "![Windows a second by contestant](plots/throughput.png)",
        table(SPEED_HEAD, speed_rows(results)),
        LEGEND,
        "## Along the curves",
        *(f"![{text}](plots/{name}.png)\n\n{text}\n\n{curve_table(results, name)}" for name, text in PICTURES.items()),
        "## How it was measured",
        "\n".join(f"- {line}" for line in [*speed_method(results), *process_method(results)]),
        "## Machine and versions",
        table(["", ""], [*about["machine"].items(), *about["versions"].items()]),
    ]
    return "\n\n".join(blocks) + "\n"


def origin(about: Results) -> str:
    """Say where the numbers come from."""
    return (
        f"Written by `{about['command']}` in {about['seconds'] / 60:.0f} minutes on {about['date']}. Every number "
        "comes from that run, and [benchmarks.json](benchmarks.json) has them all. Ratios are taken within a round, in "
        "which the contestants take turns, so they say more than the speeds themselves. Brackets hold the smallest and "
        "the largest value, before them stands the median."
    )


def table(head: list[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def goal_rows(results: Results) -> list[list[str]]:
    """Return a row for each number to reach."""
    return [[goal["what"], goal["goal"], goal["found"], REACHED[goal["reached"]]] for goal in results["goals"]]


def limits(results: Results) -> str:
    """Say what stands in the way of the two numbers that depend on the machine and on the length of a run."""
    rates = {name: one["rates"] for name, one in results["contestants"].items()}
    ceiling = statistics.median(quotients(rates["limit"], rates["keras_default"]))
    longest = results["curves"]["windows"]["fp32"][-1]
    part = statistics.median(longest["rates"]) / statistics.median(rates["memory_fp32"])
    return (
        "How far Keras' default batch lies below the limit of float32 matrix products is the machine's: "
        f"{ceiling:.1f} times in this run; float32 cannot be faster by more. What I/O costs depends on a run's length: "
        "planning, opening, the last row group and the syncs at the end take some tenths of a second in any. On "
        f"{longest['x']:,} windows `freerun score` made {part:.3f} of the windows a second of the loop in memory."
    )


def speed_rows(results: Results) -> list[list[str]]:
    """Return a row for each contestant, in the order of their turns."""
    contestants = results["contestants"]
    return [
        [
            one["label"],
            spread(one["rates"]) if one["rates"] else "-",
            ratio(contestants["freerun_fp32"], one),
            ratio(contestants["freerun_int8"], one),
            "-" if one["difference"] is None else f"{one['difference']:.1g}",
            one["skipped"] or one["note"],
        ]
        for one in contestants.values()
    ]


def ratio(mine: Results, theirs: Results) -> str:
    """Return how many times as fast one is as the other, the median over the rounds."""
    if mine is theirs or not (mine["rates"] and theirs["rates"]):
        return "-"
    return f"{statistics.median(quotients(mine['rates'], theirs['rates'])):.2f}"


def shape_text(shape: dict[str, int]) -> str:
    """Say which forecaster runs, and what a window of it costs."""
    return (
        f"Context {shape['context']}, horizon {shape['horizon']}, {shape['features']} past features, {shape['units']} "
        f"LSTM units, no covariates, float32, target with mask: {shape['flop'] / 1e6:.3g} MFLOP a window in matrix "
        "products."
    )


def curve_table(results: Results, name: str) -> str:
    """Return the numbers behind a picture."""
    key, curve, divisor = ("peaks", "windows", 1e6) if name == "memory" else ("rates", name, 1)
    rows = []
    for precision, points in results["curves"][curve].items():
        for point in points:
            values = [value / divisor for value in point[key]]
            text = spread(values) if values else "stopped, it took too long"
            rows.append([precision, f"{point['x']:,}", f"{point['windows']:,}", text, len(values)])
    what = "peak over the imports, MB" if key == "peaks" else "windows a second"
    return table(["precision", curve, "windows scored", what, "rounds"], rows)


def speed_method(results: Results) -> list[str]:
    """Say how speeds were measured."""
    rounds = max(len(one["rates"]) for one in results["contestants"].values())
    throughput = (
        f"Throughput: {rounds} rounds, A B C A B C ...; each contestant has a process of its own that sleeps while "
        "another runs, and a first run to warm up that does not count."
    )
    parquet = (
        "`freerun score` and the plain loop (`benchmarks/plain_onnxruntime.py`) go from the same Parquet file to "
        "Parquet, timed inside one process from the call to its return: opening the model is in it, imports are not. "
        "freerun validates, scores, hashes and syncs in that time; the plain loop does none of it."
    )
    tuned = (
        "`freerun bench` has measured each bundle once before, as a first large run does by itself: it chooses batch "
        "size and threads. Keras and PyTorch run at the best of several batch sizes, where the table does not say 32."
    )
    arrays = (
        "Keras, PyTorch and the loop in memory take arrays and return arrays: no Parquet, which is to their advantage. "
        "PyTorch runs with as many threads as there are processors."
    )
    bound = (
        "The limit is the faster of numpy's and onnxruntime's float32 product of square matrices, turned into windows "
        "a second. What works in int8 may exceed it."
    )
    return [throughput, parquet, tuned, arrays, bound]


def process_method(results: Results) -> list[str]:
    """Say how curves, memory and start-up were measured."""
    start, bomb = results["start"], results["memory"]["bomb"]
    curves = (
        "Curves: a fresh process for each run, imports not counted; the points take turns, and those that take minutes "
        "get one. Inputs of more than 65,536 windows repeat them, a row group each."
    )
    memory = (
        "Memory: the largest resident set (VmHWM, MB of 10^6 bytes) of such a process, less that of a process that "
        f"only imports what a run imports ({results['memory']['imports'] / 1e6:,.0f} MB). The file that decodes to "
        f"{size(bomb['decoded'])} has {size(bomb['file'])} and one row group; it is held against a usual file of "
        f"{bomb['usual_windows']:,} windows and the same forecaster."
    )
    started = (
        f"Start to finish: whole processes as cron starts them, {len(start['score'])} turns after one that does not "
        "count."
    )
    return [curves, memory, started]
