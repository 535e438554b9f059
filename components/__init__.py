"""The steps of the image classification pipeline, one folder per step.

Each folder's ``component.py`` is the step's interface; everything else in it is plain Python
that knows nothing of Kubeflow Pipelines and can be tested by calling it.
"""
