"""Default limits for images."""

# 100 megapixels, more than today's cameras produce, take 300 MB when decoded. A few kilobytes can declare
# gigapixels ("decompression bomb").
DEFAULT_MAX_IMAGE_PIXELS = 100_000_000
DEFAULT_MAX_IMAGE_BYTES = 100_000_000
