"""The network `simple_cnn` in Keras."""

import keras


def simple_cnn(height, width, filters, kernel, conv_layers, dense_layers, units, dropout=None, activation="sigmoid"):
    """Not compiled; without `dropout` it has no such layers, `activation` is that of the output."""
    layers = keras.layers
    model = keras.Sequential([layers.Input((height, width, 1)), layers.Conv2D(filters, (kernel, 1), activation="relu")])
    for i in range(conv_layers):
        model.add(layers.Conv2D(filters // (i + 1), (kernel, 1), activation="relu"))
        model.add(layers.MaxPooling2D(2))
    model.add(layers.Flatten())
    for i in range(dense_layers):
        model.add(layers.Dense(units // (i + 1), activation="relu"))
        if dropout is not None:
            model.add(layers.Dropout(dropout))
    model.add(layers.Dense(1, activation=activation))
    return model
