"""The contract on disk: the manifest, and a folder verified against it."""
