"""Evaluation: how good the model is, class by class, and where it errs."""
