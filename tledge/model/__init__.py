"""VGG16 as a Keras model; any Keras classifier as a graph of calls, and the form of it that gets exported."""
