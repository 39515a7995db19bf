"""Anchors and contours on annotated photos, through the front door: python benchmarks/photos_acenet.py FOLDER

FOLDER is what photos.py takes: ``val.csv``, 68 landmarks a row, and ``images/``. The 68 landmarks are the only truth
there is: 10 anchors and points on the contours. How contours run between them nobody has annotated, so look, too:
--sheet draws the best, the middle and the worst faces.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facealign_lite import markups, metrics, records, zoo
from facealign_lite.align import Alignment, align
from facealign_lite.data import Sample, box_of, load_image, read_csv

PARTS = {**metrics.PARTS, "brows": tuple(name for name in markups.CONTOURS if "brow" in name)}
COUNTED = [name for names in metrics.PARTS.values() for name in names]
CURVES = markups.get("68").curves
LISTED = 5


def main() -> int:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="acenet")
    parser.add_argument("--beside", default="hourglass", help="a network of 68 landmarks, drawn through by lines")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", help="of the record in results/, photos_MODEL if not given")
    parser.add_argument("--sheet", type=Path, help="draw the best, middle and worst faces here, as PNG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    samples = read_csv(options.folder / "val.csv", options.folder / "images")
    network, beside = (zoo.load(name, options.device) for name in (options.model, options.beside))
    figures, rows = {}, {Path(options.model).stem: measured(samples, network),
                         f"lines through {options.beside}": measured(samples, beside)}
    print(f"{'NME^AC by outer eye corners, %':32s}{'mean':>7}{'median':>8}{'fail':>6}"
          + "".join(f"{part:>7}" for part in PARTS) + f"{'back':>7}{'found':>7}")
    for name, each in rows.items():
        figures[name] = row = reduced(each)
        print(f"{name:32s}{row['mean']:7.2f}{row['median']:8.2f}{row['failures']:6.1f}"
              + "".join(f"{row[part]:7.2f}" for part in PARTS) + f"{row['back']:7.2f}{row['found']['all']:7.1f}")
    found = rows[Path(options.model).stem]
    order = np.argsort([one["error"] for one in found])
    middle = len(order) // 2 - LISTED // 2
    chosen = {"best": order[:LISTED], "middle": order[middle:middle + LISTED], "worst": order[:-LISTED - 1:-1]}
    for word, rows in chosen.items():
        print(f"{word:8s}" + "".join(f"  row {i}: {100 * found[i]['error']:.1f} %" for i in rows))
    figures["cases"] = {word: {f"row {i}": round(100 * found[i]["error"], 2) for i in rows}
                        for word, rows in chosen.items()}
    path = records.write_record(options.name or f"photos_{Path(options.model).stem}", {
        "what": "NME^AC in percent against given 68 landmarks through align, box: that of the landmarks; a landmark of "
                "a contour that was not found costs 10; failures: share of faces over 10; back: mean distance of the "
                "predicted contours from lines through the landmarks; found: share of faces, in percent; errors: of "
                "each face; cases: rows of the table, 0 the first; ms: processor time, one thread",
        "data": f"{len(samples)} validation photos, nothing fitted to photos", "seeds": [],
        "budget": {"photos": len(samples)}, "commit": records.commit(),
        "device": records.describe_device(options.device), "seconds": round(time.perf_counter() - start, 1),
        "figures": figures, "training": zoo.read(zoo.FOLDER / f"{options.model}.safetensors"
                                                 if options.model in zoo.names() else options.model)[1]})
    print(f"wrote {path.name}")
    if options.sheet:
        draw(samples, found, np.concatenate(list(chosen.values())), options.sheet)
    return 0


def measured(samples: list[Sample], network: torch.nn.Module) -> list[dict[str, Any]]:
    """What was found on each photo and how wrong it is."""
    rows = []
    for sample in samples:
        picture, start = load_image(sample.image), time.process_time()
        found = align(picture, box_of(sample.landmarks), network)
        spent = time.process_time() - start
        found = found if found.contours is not None else through(found)
        length = float(metrics.normalizing_length(sample.landmarks, "inter_ocular")[0])
        errors = metrics.anchor_contour_errors(found.anchors, found.contours,
                                               *metrics.landmarks_as_ac(sample.landmarks), length)
        drawn = {name: sample.landmarks[list(CURVES[name])] for name in markups.CONTOURS}
        rows.append({"error": metrics.nme_ac(errors), "errors": errors, "ms": 1e3 * spent, "found": found,
                     "back": metrics.reverse_errors(found.contours, drawn, length)})
    return rows


def through(found: Alignment) -> Alignment:
    """Anchors and straight lines through 68 landmarks; the iris centres, which no landmark marks, amid the eyes."""
    points, table = found.landmarks, markups.get("68")
    middle = {"right_iris_center": points[36:42].mean(0), "left_iris_center": points[42:48].mean(0)}
    anchors = [middle[name] if name in middle else points[table.anchors[name]] for name in markups.ANCHORS]
    return Alignment(points, found.scores, found.box, np.array(anchors),
                     {name: points[list(table.curves[name])] for name in markups.CONTOURS})


def reduced(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one network, in percent."""
    errors = np.array([row["error"] for row in rows])
    figures = {"mean": errors.mean(), "median": np.median(errors), "failures": metrics.failure_rate(errors, 0.1)}
    each = {part: [metrics.nme_ac(row["errors"], names) for row in rows] for part, names in PARTS.items()}
    # as the paper counts, section 5.4
    each["without brows"] = [metrics.nme_ac(row["errors"], COUNTED) for row in rows]
    figures |= {part: np.mean(some) for part, some in each.items()}
    figures["back"] = np.mean([np.mean(list(row["back"].values())) for row in rows if row["back"]])
    figures = {name: round(100 * float(value), 3) for name, value in figures.items()}
    found = {name: round(100 * float(np.mean([name in row["found"].contours for row in rows])), 1)
             for name in markups.CONTOURS}
    kept = {part: np.round(100 * np.array(some), 3).tolist() for part, some in {"all": errors, **each}.items()}
    return figures | {"errors": kept, "found": {"all": round(float(np.mean(list(found.values()))), 1), **found},
                      "ms_per_face": round(float(np.mean([row["ms"] for row in rows])), 1)}


def draw(samples: list[Sample], rows: list[dict[str, Any]], chosen: np.ndarray, path: Path) -> None:
    """The chosen faces with their contours and anchors."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from facealign_lite import plots
    figure, axes = plt.subplots(-(-len(chosen) // LISTED), LISTED, figsize=(3 * LISTED, 3 * len(chosen) // LISTED),
                                layout="constrained", squeeze=False)
    for ax, i in zip(axes.flat, chosen):
        found, (left, top, right, bottom) = rows[i]["found"], box_of(samples[i].landmarks)
        plots.contours(load_image(samples[i].image), found.contours, found.anchors, 10,
                       f"row {i}: {100 * rows[i]['error']:.1f} %", ax)
        room = 0.25 * max(right - left, bottom - top)
        ax.set(xlim=(left - room, right + room), ylim=(bottom + room, top - room))
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    sys.exit(main())
