"""Heat maps that come with proof: explain what a CLIP-like model saw and read."""

__version__ = "0.1.0"
