"""A training script of one's own: Keras's data sets and `fit`, with tledge's techniques, check and export as functions.

    python examples/own_training_script.py PHOTOS OUT [SIDE]

PHOTOS holds one folder per class, OUT becomes a folder of files, SIDE is the input of the model in pixels (224). The
first technique (`feature_extraction`) is where the other two begin: VGG16's last block is then fine-tuned (`freeze`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras

import tledge


def main(photos: Path, out: Path, side_px: int) -> None:
    """Train with an eye on the int8 file, then write it."""
    keras.utils.set_random_seed(0)
    training, validation = keras.utils.image_dataset_from_directory(
        photos, label_mode="int", image_size=(side_px, side_px), validation_split=0.3, subset="both", seed=0
    )
    classes = training.class_names

    # Any classifier of Keras would do; this one has its preprocessing inside.
    model = tledge.training.vgg16_classifier(len(classes), side_px)
    tledge.training.feature_extraction(model, training, validation, epochs=30, patience=5)

    # `tledge.training.fine_tune(model, training, validation)` would do this too, and stop in time.
    tledge.training.freeze(model, until="block4_pool")
    model.compile(keras.optimizers.Adam(5e-5), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(
        training,
        validation_data=validation,
        epochs=2,
        callbacks=[tledge.quantized_check(training, validation, every=2)],
        verbose=0,
    ).history
    print(f"validation accuracy {history['val_accuracy'][-1]:.3f}, of the int8 file", end=" ")
    print(f"{history['val_int8_accuracy'][-1]:.3f} (n = {history['val_int8_images'][-1]})")

    exported = tledge.export_model(model, training, classes, out, ["tflite-int8"])
    for file in exported.artefacts:
        answers = file.sidecar.verification
        print(f"{file.path}: {file.sidecar.size_bytes / 1e6:.1f} MB,", end=" ")
        print(f"the model's class in {answers.agreement:.0%} of {answers.images} training images")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else 224)
