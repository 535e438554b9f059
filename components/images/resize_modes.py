"""How an image that is not square becomes a square."""

STRETCH, CROP, LETTERBOX = "stretch", "crop", "letterbox"
RESIZE_MODES = (STRETCH, CROP, LETTERBOX)
