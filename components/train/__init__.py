"""Training: TFRecords in, the SavedModel of the most accurate evaluation out."""
