"""From a face and a question to a checked answer: question encoder, generation, claims, guard."""
