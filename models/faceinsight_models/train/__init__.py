"""Training: the steps of a recipe, each resumable, and the loop that runs them."""
