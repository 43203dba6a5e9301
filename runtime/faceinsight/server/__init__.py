"""The local server: a parent process that speaks HTTP, and a worker process that owns the one FaceInsight."""
