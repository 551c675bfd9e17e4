"""Makes the Keras models of this folder: `pip install tensorflow-cpu tf2onnx`, then run it here.

The models are tiny networks with fixed weights; `scores.json` holds what Keras itself gives for the images that
`images()` makes, so that a test can tell whether `evaluate` reads the exported files as Keras meant them.
"""
import json
import numpy as np
import keras
import onnx
import tensorflow as tf
import tf2onnx

HEIGHT, WIDTH = 8, 4


def images(n=40):
    """Raw ADC: pixel (t, c) of image i is ((7 i + 3 t + 5 c) mod 11) * 60."""
    i, t, c = np.ogrid[:n, :HEIGHT, :WIDTH]
    return (((7 * i + 3 * t + 5 * c) % 11) * 60).astype(np.float32)


def network(last):
    keras.utils.set_random_seed(1)
    return keras.Sequential([
        keras.Input((HEIGHT, WIDTH, 1), name="pixels"),
        keras.layers.Rescaling(1 / 1000),
        keras.layers.Conv2D(3, (3, 1), activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        *last,
    ])


def export(name, model, shape):
    spec = (tf.TensorSpec((None, *shape), tf.float32, name="pixels"),)
    proto, _ = tf2onnx.convert.from_function(tf.function(lambda pixels: model(pixels)), spec, opset=18)
    onnx.save(proto, f"{name}.onnx")
    return model.predict(images().reshape(-1, *shape), verbose=0).tolist()


nhwc = (HEIGHT, WIDTH, 1)
flat = keras.Sequential([keras.Input((HEIGHT * WIDTH,)), keras.layers.Rescaling(1 / 1000), keras.layers.Dense(4, "relu"), keras.layers.Dense(1, "sigmoid")])
json.dump({
    "keras_sigmoid": export("keras_sigmoid", network([keras.layers.Dense(1, activation="sigmoid")]), nhwc),
    "keras_logit": export("keras_logit", network([keras.layers.Dense(1)]), nhwc),
    "keras_softmax": export("keras_softmax", network([keras.layers.Dense(2, activation="softmax")]), nhwc),
    "keras_flat": export("keras_flat", flat, (HEIGHT * WIDTH,)),
}, open("keras_scores.json", "w"))
