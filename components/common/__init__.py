"""Code that several steps share: the data contract, errors, logs, arguments, report pages."""
