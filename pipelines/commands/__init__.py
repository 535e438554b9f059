"""The commands of ``imgpipe`` for jobs on any target."""
