"""What the data is called by a cache: a new name whenever it has changed."""
