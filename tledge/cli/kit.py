"""`tledge kit`."""

from __future__ import annotations

from pathlib import Path

import click

from tledge.cli.options import data_option, run_argument, target_option
from tledge.cli.progress import progress
from tledge.reporting.tables import Table
from tledge.reporting.terminal import render, say


@click.command("kit")
@run_argument
@target_option
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), metavar="ZIP", help="Where the kit goes.")
@click.option("--images", default=6, show_default=True, help="Test images to take along, evenly over the classes.")
@data_option
def command(run: Path, target: str | None, out: Path, images: int, data: Path | None) -> None:
    """Pack RUN's files for a device with test images, the answers expected, and code that runs and measures them.

    Without --target, everything that RUN has exported. With --target browser, the kit is a web page that classifies.
    """
    from tledge.deployment.kit import build_kit

    with progress() as show:
        kit = build_kit(run, out, target=target, images=images, data=data, progress=show)
    rows = [
        (item["name"], item["runtime"], f"{item['size_bytes'] / 1e6:.2f}", f"{item['tolerance']:g}")
        for item in kit.manifest["artefacts"]
    ]
    render(Table(("artefact", "runtime", "size MB", "tolerance"), rows))
    say(f"{kit.path}: {kit.size_bytes / 1e6:.2f} MB, {len(kit.manifest['images'])} images, SHA-256 {kit.sha256}")
    for item in kit.manifest["artefacts"]:
        if "arena" in item:
            parts = f"tensors {item['arena']['activations']:,}, LiteRT Micro's own data {item['arena']['persistent']:,}"
            say(f"{item['name']}: flash {item['size_bytes']:,} bytes, arena {item['arena']['bytes']:,} ({parts})")
            say(f"operators: {', '.join(item['operators'])}")
    if kit.form == "micro":
        say("Next: add its sources to a project with LiteRT Micro; main.cc compares every answer (README.md)")
    elif kit.form == "device":
        say("Next, on the device: unzip it, then `python3 tledge_device.py bench`")
    else:
        if taken := len(kit.manifest["images"]):
            say(f"It shows {taken} of your test images to whoever opens it; --images 0 leaves them out")
        say("Next: unzip it, then `python3 -m http.server` in its folder, or put that on a web server")
