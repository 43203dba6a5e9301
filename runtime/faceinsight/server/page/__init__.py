"""The page for the public and the page to try it, and their words."""
