"""Labelled faces, and how training changes their pictures."""
