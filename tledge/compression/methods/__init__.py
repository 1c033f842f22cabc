"""One module per method of compression."""
