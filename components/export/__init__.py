"""Export: the trained model as it is served, checked in a process of its own."""
