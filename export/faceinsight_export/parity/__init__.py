"""Whether an export computes what the original does, stage by stage."""
