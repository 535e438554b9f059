"""Audits a data set: likely wrong labels, copies, useless images, and labels that the files give away."""
