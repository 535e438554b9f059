"""The checks of a whole run in its first seconds: arguments, data, folders, permissions."""
