"""Decodes image files inside the TensorFlow graph.

``training_decoder`` decodes the images in records, which the convert step has prepared: it rotates photos
upright, composites transparency on white, and reduces 16-bit pixels to 8 bits. Clients of a served model
send unprepared files; ``serving_decoder`` decodes them to the same pixels.
"""
