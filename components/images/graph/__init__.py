"""Inside the served graph: from an image file as a client has it to the pixels of training.

The convert step prepares images before they are trained on: it turns photos upright, lays transparency
on white, brings 16-bit pixels to 8 bits. A client of the served model sends files as they are, so the
graph does the same.
"""
