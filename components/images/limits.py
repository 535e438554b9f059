"""How large an image may be, where the user sets no other limit."""

# 100 megapixels take 300 MB when they are decoded; no camera of today makes more. A few kilobytes can claim
# gigapixels ("decompression bomb").
DEFAULT_MAX_IMAGE_PIXELS = 100_000_000
DEFAULT_MAX_IMAGE_BYTES = 100_000_000
