"""What the LLM is taught to answer: concepts, wordings, answers, and questions that no report answers."""
