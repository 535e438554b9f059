"""The step that reads every record before a machine is rented."""
