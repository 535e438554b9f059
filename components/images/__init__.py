"""What an image file is: reading, checking and decoding it, in Python and in the served graph."""
