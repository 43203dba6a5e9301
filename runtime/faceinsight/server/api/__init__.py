"""The endpoints: what each path reads, and what it answers."""
