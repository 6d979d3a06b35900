"""The picture of time and memory over the pixels computed."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MARKERS = {"tiles": "o", "whole": "s", "train": "^"}


def curves(record: dict) -> dict[str, list[dict]]:
    """Return the measured rows of each kind by rising size; kinds without one are left out."""
    rows = [row for row in record["rows"] if "failed" not in row]
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in MARKERS}
    return {kind: sorted(some, key=lambda row: row["megapixels"]) for kind, some in by_kind.items() if some}


def describe(kind: str, settings: dict) -> str:
    """Return what the legend calls a kind of points."""
    window = f"{settings['window']}²"
    return {
        "tiles": f"image, in windows of {window}",
        "whole": "image, whole",
        "train": f"training step with its state, images of {window}",
    }[kind]


def memory(row: dict) -> float:
    """Return gigabytes: of the device if it has its own memory, else of the process."""
    return (row.get("device_bytes") or row["memory_bytes"]) / 1e9


def draw(record: dict, path: Path) -> None:
    """Draw time and memory of each kind of points, both axes logarithmic.

    Args:
        record: content of a file of points.
        path: PNG file, replaced at once.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    time, space = figure.subplots(1, 2)
    on_device = False
    for kind, rows in curves(record).items():
        megapixels = [row["megapixels"] for row in rows]
        style = {
            "marker": MARKERS[kind],
            "markersize": 4,
            "linewidth": 1.2,
            "label": describe(kind, record["settings"]),
        }
        time.plot(megapixels, [row["seconds"] for row in rows], **style)
        space.plot(megapixels, [memory(row) for row in rows], **style)
        on_device |= any(row.get("device_bytes") for row in rows)
    where = "largest memory on the device, model included" if on_device else "largest memory above the model"
    time.set(xlabel="megapixels", ylabel="seconds", title="time")
    space.set(xlabel="megapixels", ylabel="GB", title=where)
    for axes in (time, space):
        axes.set(xscale="log", yscale="log")
        axes.grid(alpha=0.3)
    if time.lines:
        figure.legend(handles=time.lines, loc="outside lower center", ncols=3, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    figure.savefig(part, format="png", dpi=110)
    part.replace(path)
