"""Adapters as results: merged with each other, taken out of a fine-tune, written for PEFT."""
