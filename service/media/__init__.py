"""Photos and clips from bytes to pixels, and people drawn. Pixels are (height, width, 3) uint8 RGB, upright."""
