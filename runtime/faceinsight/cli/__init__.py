"""The command `faceinsight`: what it takes, and what it prints."""
