"""One or more select.json as CSV: a line for each trunk and depth.

python benchmarks/select_to_csv.py SELECT_JSON... > benchmarks/results/NAME.csv
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

HEADER = (
    "data,images,classes,image_size_px,compute,weights,depth,logme,linear_probe,linear_low,linear_high,five_nearest,"
    "nearest_low,nearest_high,seconds_of_trunk,cached_images,recommended_weights,recommended_technique,cpu,cores,"
    "tensorflow"
)


def main() -> None:
    """Print the lines."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(HEADER.split(","))
    for path in sys.argv[1:]:
        found = json.loads(Path(path).read_text())
        data, settings, advice = found["data"], found["settings"], found["recommendation"]
        head = (Path(data["path"]).name, found["sample"]["images"], len(data["training_images_per_class"]))
        where = (found["machine"]["cpu"], found["machine"]["cores"], found["versions"]["tensorflow"])
        for trunk in found["candidates"]:
            for one in trunk["depths"]:
                shares = [one[probe][key] for probe in ("linear_probe", "nearest_neighbours") for key in SHARE]
                line = (*head, settings["image_size"], settings["compute"], trunk["name"], one["depth"], one["logme"])
                end = (trunk["seconds"], trunk["cached_images"], advice["weights"], advice["technique"])
                writer.writerow((*line, *shares, *end, *where))


SHARE = ("value", "low", "high")

if __name__ == "__main__":
    main()
