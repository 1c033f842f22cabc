"""Which trunk suits images: features at several depths, evidence from them, and the rules that turn it into advice."""
