"""Classifiers as people make them in tutorials, trained for a minute on handwritten digits."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import write_digits

SEEN = 60
"""Images of each class that a model is trained on."""


@dataclass(frozen=True)
class Tutorial:
    """How a tutorial makes a model, and what its user has to say when it is adopted.

    `make` gets the number of classes and returns an untrained model of the `library`; `input` is what it takes.
    """

    name: str
    side_px: int
    make: Callable[[int], Any]
    input: str
    epochs: int = 12
    rate: float = 1e-3
    suffix: str = ".keras"
    output: str | None = None
    library: str = "keras"


def _imagenet() -> Any:
    """VGG16 with its top, the trunk with ImageNet's weights."""
    import keras

    from tledge.model.vgg16 import CONV_LAYERS
    from tledge.model.weights import resolve

    vgg = keras.applications.VGG16(weights=None)
    trunk = resolve("imagenet")
    assert trunk is not None
    for name in CONV_LAYERS:
        vgg.get_layer(name).set_weights(list(trunk.tensors[name]))
    return vgg


def vgg_on_flatten(classes: int) -> Any:
    """The first listing: VGG16's architecture, two new layers on `layers[-4]`."""
    import keras

    vgg = _imagenet()
    x = keras.layers.Dense(100, activation="relu", name="fc1_new")(vgg.layers[-4].output)
    return keras.Model(vgg.input, keras.layers.Dense(classes, activation="softmax", name="out")(x))


def vgg_frozen(classes: int) -> Any:
    """The second listing: the same model, its first 15 layers frozen."""
    model = vgg_on_flatten(classes)
    for layer in model.layers[:15]:
        layer.trainable = False
    return model


def vgg_features(classes: int) -> Any:
    """The third listing: VGG16 without its top and a head of its own, as one model."""
    import keras

    vgg = _imagenet()
    base = keras.Model(vgg.input, vgg.get_layer("block5_pool").output, name="vgg16")
    base.trainable = False
    x = keras.layers.GlobalAveragePooling2D()(base.output)
    return keras.Model(base.input, keras.layers.Dense(classes, activation="softmax")(x))


def sequential_vgg(classes: int) -> Any:
    """VGG16 inside a Sequential, at 64 px; pixels are divided by 255 outside."""
    import keras

    trunk = _trunk(64)
    layers = [keras.Input((64, 64, 3)), trunk, keras.layers.Flatten(), keras.layers.Dense(32, activation="relu")]
    return keras.Sequential([*layers, keras.layers.Dropout(0.2), keras.layers.Dense(classes, activation="softmax")])


def sequential_rescaling(classes: int) -> Any:
    """The same with the scaling inside."""
    import keras

    inner = sequential_vgg(classes)
    return keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Rescaling(1 / 255), *inner.layers])


def _trunk(side: int) -> Any:
    import keras

    from tledge.model.vgg16 import CONV_LAYERS

    full, trunk = _imagenet(), keras.applications.VGG16(include_top=False, weights=None, input_shape=(side, side, 3))
    for name in CONV_LAYERS:
        trunk.get_layer(name).set_weights(full.get_layer(name).get_weights())
    trunk.trainable = False
    return trunk


def mobilenet_v2(classes: int) -> Any:
    """Transfer learning as in Keras's guide: augmentation and preprocessing inside, logits out."""
    import keras

    base = keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, include_top=False, weights=None)
    pixels = keras.Input((96, 96, 3))
    x = keras.layers.RandomTranslation(0.05, 0.05)(pixels)
    x = keras.applications.mobilenet_v2.preprocess_input(x)
    x = keras.layers.GlobalAveragePooling2D()(base(x))
    return keras.Model(pixels, keras.layers.Dense(classes)(keras.layers.Dropout(0.2)(x)))


def mobilenet_v3(classes: int) -> Any:
    """MobileNetV3Small, which scales its pixels itself."""
    import keras

    return keras.applications.MobileNetV3Small((96, 96, 3), weights=None, classes=classes)


def efficientnet(classes: int) -> Any:
    """EfficientNetB0, which scales its pixels itself."""
    import keras

    return keras.applications.EfficientNetB0(input_shape=(96, 96, 3), weights=None, classes=classes)


def resnet_v2(classes: int) -> Any:
    """ResNet50V2 at 64 px; pixels are scaled to -1..1 outside."""
    import keras

    return keras.applications.ResNet50V2(input_shape=(64, 64, 3), weights=None, classes=classes)


def one_sigmoid(_: int) -> Any:
    """Two classes, one sigmoid."""
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((48, 48, 3)),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.GlobalMaxPooling2D(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )


def keras_2(classes: int) -> Any:
    """Convolutions and dense layers in Keras 2, whose `.h5` files are what most tutorials left behind."""
    import tf_keras

    layers = tf_keras.layers
    return tf_keras.Sequential(
        [
            tf_keras.Input((48, 48, 3)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(classes, activation="softmax"),
        ]
    )


TUTORIALS = (
    Tutorial("vgg-on-flatten", 224, vgg_on_flatten, "caffe", epochs=3, rate=1e-4),
    Tutorial("vgg-frozen", 224, vgg_frozen, "caffe", epochs=2, rate=1e-4),
    Tutorial("vgg-features", 224, vgg_features, "caffe", epochs=8),
    Tutorial("sequential-vgg", 64, sequential_vgg, "0..1"),
    Tutorial("sequential-rescaling", 64, sequential_rescaling, "0..255"),
    Tutorial("mobilenet-v2", 96, mobilenet_v2, "0..255", epochs=25, output="logits"),
    Tutorial("mobilenet-v3", 96, mobilenet_v3, "0..255", epochs=40),
    Tutorial("efficientnet-b0", 96, efficientnet, "0..255", epochs=15),
    Tutorial("resnet50-v2", 64, resnet_v2, "-1..1", epochs=12),
    Tutorial("one-sigmoid", 48, one_sigmoid, "0..1", epochs=25),
    Tutorial("keras-2-h5", 48, keras_2, "0..1", suffix=".h5", library="tf_keras"),
)


def images_of(data: Path, side_px: int, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Every image of a folder, resized, and its class."""
    from tledge.data import open_rgb, resize

    pairs = [(path, index) for index, name in enumerate(classes) for path in sorted((data / name).iterdir())]
    pixels = np.stack([np.asarray(resize(open_rgb(path), side_px)) for path, _ in pairs])
    return pixels, np.asarray([index for _, index in pairs])


def write_pictures(folder: Path, classes: tuple[int, ...], first: int, count: int) -> Path:
    """A data folder of handwritten digits as `write_digits` makes it: of each class `count` from the `first` on."""
    write_digits(folder, first + count, classes)
    for each in folder.iterdir():
        for path in sorted(each.iterdir())[:first]:
            path.unlink()
    return folder


def data_of(tutorial: Tutorial, folder: Path) -> tuple[Path, Path]:
    """Images to train on, 60 of each class, and others that neither training nor export sees: 100, of 224 px 40."""
    classes = (0, 1) if tutorial.make is one_sigmoid else (0, 1, 7)
    seen, unseen = folder / f"{len(classes)}-classes", folder / f"{len(classes)}-classes-{tutorial.side_px}px-unseen"
    if not seen.is_dir():
        write_pictures(seen, classes, 0, SEEN)
    if not unseen.is_dir():
        write_pictures(unseen, classes, SEEN, 40 if tutorial.side_px > 200 else 100)
    return seen, unseen


def trained(tutorial: Tutorial, data: Path, folder: Path) -> Path:
    """The model's file after a short training on a folder of images."""
    from tledge.runtimes.declared import parse_input

    keras: Any = importlib.import_module(tutorial.library)

    keras.utils.set_random_seed(0)
    classes = tuple(sorted(path.name for path in data.iterdir()))
    model = tutorial.make(len(classes))
    for layer in model._flatten_layers():
        if type(layer).__name__ == "BatchNormalization":
            layer.momentum = 0.8  # a minute's training has few steps for the averages to settle in
    pixels, labels = images_of(data, tutorial.side_px, classes)
    form = parse_input(tutorial.input)
    assert form.scaling is not None
    x = pixels[..., ::-1] if form.scaling.channels == "bgr" else pixels
    x = ((x - np.asarray(form.scaling.mean)) / np.asarray(form.scaling.std)).astype(np.float32)
    single = model.output_shape[-1] == 1
    loss = (
        keras.losses.BinaryCrossentropy()
        if single
        else keras.losses.SparseCategoricalCrossentropy(from_logits=tutorial.output == "logits")
    )
    model.compile(keras.optimizers.Adam(tutorial.rate), loss, metrics=["accuracy"])
    order = np.random.default_rng(0).permutation(len(x))
    model.fit(x[order], labels[order], batch_size=8, epochs=tutorial.epochs, verbose=0)
    path = folder / f"{tutorial.name}{tutorial.suffix}"
    model.save(path)
    return path
