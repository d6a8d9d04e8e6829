"""Join the tokenizers of models, and map the rows of their embeddings."""
