"""What is wrong with a machine's set-up, which versions work, and whether a bundle fits into its memory."""
