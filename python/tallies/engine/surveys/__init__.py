"""One file a survey: statistics that a combine needs first."""
