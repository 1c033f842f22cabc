"""Photos in folders to a file for a phone, and what was lost on the way.

    python examples/photos_to_phone_file.py PHOTOS OUT [SIDE]

PHOTOS holds one folder per class, OUT becomes the run, SIDE is the input of the model in pixels (224).
"""

from __future__ import annotations

import sys
from pathlib import Path

import tledge


def main(photos: Path, out: Path, side_px: int) -> int:
    """Train, export one file for phones, check it; exit code 1 if it lost too much."""
    trained = tledge.train(photos, technique="feature-extraction", out=out, image_size=side_px)
    tledge.export(trained, recipes=["tflite-int8"])
    checked = tledge.check(trained, on_undecided="pass")
    (file,) = checked.artefacts
    lost = f"{file.drop.value:+.3f} ({file.drop.low:+.3f} to {file.drop.high:+.3f})"
    print(f"{file.path}: {file.size_bytes / 1e6:.1f} MB, accuracy {file.accuracy.value:.3f}, n = {checked.n}")
    print(f"lost against the Keras model: {lost}; verdict: {file.verdict}")
    for gate in file.gates:
        if gate.verdict != "pass":
            print(f"  {gate.name}: {gate.verdict}, {gate.note}")

    # What the app should answer for one picture.
    picture = next(path for path in sorted(photos.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    (prediction,) = tledge.predict(file.path, [picture])
    print(f"{picture}: {prediction}")
    return 0 if checked.passed else 1


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else 224))
