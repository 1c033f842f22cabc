"""VGG16 as a Keras model: preprocessing, trunk, head, weights, and the form that gets exported."""
