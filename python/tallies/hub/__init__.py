"""Models of the Hugging Face Hub: their headers from afar, and their files in the shared cache."""
