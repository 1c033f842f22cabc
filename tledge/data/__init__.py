"""Images on disk: list them, decode them once, split them."""
