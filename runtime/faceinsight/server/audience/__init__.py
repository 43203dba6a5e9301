"""Audience figures: counted, corrected, and shown only of several people."""
